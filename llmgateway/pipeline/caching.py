"""Answers given a second time: look up, wait for whoever asks the same already, or ask and keep what comes.

A hit is a request of its own: authenticated, routed, counted for limits of requests, a row that costs nothing. What the
store cannot do in time is a miss, never an error. Used from the event loop alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from llmgateway.pipeline.cache_keys import deciding_fields, digest_of, scope_of, wish_of
from llmgateway.pipeline.cached_answers import AnswerStore, KeptAnswer, Standing, VectorStore
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.conditions import BudgetsNeededError
from llmgateway.pipeline.errors import APITimeoutError, GatewayError
from llmgateway.pipeline.exchanges import Exchange, total_s
from llmgateway.pipeline.flights import SLOW_S, Flight, Flights
from llmgateway.pipeline.hits import HitDesk, Visit
from llmgateway.pipeline.recorder import Recorder
from llmgateway.pipeline.replays import Verdict, judged, replay
from llmgateway.pipeline.requests import Client, ModelRequest, Presence
from llmgateway.pipeline.route_rules import CacheRule
from llmgateway.pipeline.routing import AllOutError, Routed
from llmgateway.pipeline.similar_questions import Question, SimilarQuestions
from llmgateway.pipeline.snapshot import Key, Snapshot

if TYPE_CHECKING:
    from llmgateway.pipeline.gateway import Gateway

POLL_FIRST_S, POLL_MOST_S = 0.02, 0.25
"""How often a worker looks whether another one has the answer by now."""
PATIENCE = 0.5
"""The share of its time for which a request waits for the answer of others: the rest is for asking itself."""


class Plan(msgspec.Struct, frozen=True):
    """How kept answers concern one request."""

    digest: bytes
    reads: bool
    ttl_s: float
    youngest: float
    """Seconds since the epoch: answers that are older are not taken."""
    rule: CacheRule | None
    scope: list[Any]

    def takes(self, answer: KeptAnswer) -> bool:
        return answer.stored_at > self.youngest


class Caching:
    """One per process. `vectors` finds similar questions; None: only the same ones are found."""

    def __init__(
        self, gateway: Gateway, store: AnswerStore, vectors: VectorStore | None = None, *, slow_s: float = SLOW_S
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._slow_s = slow_s
        self._flights = Flights(slow_s)
        self._hits = HitDesk(gateway)
        self._similar = None if vectors is None else SimilarQuestions(gateway, vectors)
        self._claimed: set[Flight] = set()
        """Those for which this process leads among all."""
        self._generations: dict[str, int] = {}
        self._generation = 0
        figures = gateway.telemetry.figures
        figures.kept_answers = store
        self.use(gateway.snapshot)

    def use(self, snapshot: Snapshot) -> None:
        """Free the memory of what nobody can ask for any more."""
        settings = snapshot.cache
        generations = {alias.name: alias.cache.generation for alias in snapshot.aliases.values() if alias.cache}
        self._store.resize(settings.max_mb * 2**20)
        if not settings.enabled or settings.generation != self._generation:
            self._store.forget(None)
        else:
            for name, generation in self._generations.items():
                if generations.get(name, generation) != generation:
                    self._store.forget(name)
        self._generation, self._generations = settings.generation, generations

    def renew_leads(self) -> None:
        """Say to other processes that those who lead here are still there. Called every `RENEW_S`."""
        for flight in self._claimed:
            self._store.renew(flight.digest, flight.claim)

    async def complete(self, request: ModelRequest, key: Key, client: Client, presence: Presence) -> None:
        """As `Gateway.complete`."""
        gateway = self._gateway
        try:
            routed = gateway.route(request, key)
        except AllOutError as error:
            if await self._served_while_out(request, key, client, presence, error):
                return
            routed = await gateway.routed(request, key)
        except BudgetsNeededError:
            routed = await gateway.routed(request, key)
        visit = Visit(request, key, client, presence, routed, gateway.clock.monotonic())
        plan = self.plan(request, key, routed)
        if plan is None:
            await gateway.ask(request, key, client, presence, routed=routed)
        elif plan.reads:
            await self._look_up(visit, plan)
        else:
            await self._ask(visit, plan, "refresh")

    async def _served_while_out(
        self, request: ModelRequest, key: Key, client: Client, presence: Presence, error: AllOutError
    ) -> bool:
        """Nobody can be asked now: what is kept is given at once, without a wait for somebody to be well again."""
        if error.alias.rules:
            return False  # Where they lead is not known.
        routed = Routed(error.alias, error.deployments)
        plan = self.plan(request, key, routed)
        if plan is None or not plan.reads:
            return False
        visit = Visit(request, key, client, presence, routed, self._gateway.clock.monotonic())
        with self._waiting(visit) as exchange:
            await self._served(visit, plan, await self._store.find(plan.digest), exchange)
        return visit.has_begun

    def plan(self, request: ModelRequest, key: Key, routed: Routed) -> Plan | None:
        """None: nothing is looked up or kept."""
        wish = wish_of(request)
        settings = self._gateway.snapshot.cache
        rule = routed.alias.cache or routed.reached.cache
        if not wish.stores or (rule is None and not wish.asks):
            return None
        fields = deciding_fields(request, key)
        if fields is None:
            return None
        ttl_s = settings.ttl_s if rule is None else rule.ttl_s
        oldest_s = ttl_s if wish.max_age_s is None else min(ttl_s, wish.max_age_s)
        scope = scope_of(request, key, routed, settings)
        return Plan(
            digest=digest_of(scope, fields),
            reads=wish.reads,
            ttl_s=ttl_s,
            youngest=self._gateway.clock.time() - oldest_s,
            rule=rule,
            scope=scope,
        )

    @contextlib.contextmanager
    def _waiting(self, visit: Visit) -> Iterator[Exchange]:
        """While no provider is asked: the client is watched, and the request ends in time.

        Raises APITimeoutError: it has not been answered by then.
        """
        request, routed, exchanges = visit.request, visit.routed, self._gateway.exchanges
        left_s = total_s(request, routed.alias, routed.candidates, now=visit.routed_at)
        exchange = exchanges.begin(request.id, visit.presence, total_s=left_s)
        try:
            yield exchange
        except asyncio.CancelledError:
            if not exchange.take_timeout():
                raise
            if visit.has_begun:
                return  # Too late to say so: what is missing must not be taken for the end.
            raise APITimeoutError(f"The model '{routed.alias.name}' did not answer in time. Try again.") from None
        finally:
            exchanges.end(exchange)

    async def _look_up(self, visit: Visit, plan: Plan) -> None:
        outcome: KeptAnswer | Standing = Standing.ALONE
        question: Question | None = None
        with self._waiting(visit) as exchange:
            if await self._served(visit, plan, await self._store.find(plan.digest), exchange):
                return
            flight = self._flights.of(plan.digest)
            outcome = await self._flights.board(flight, PATIENCE * exchange.left_s(self._gateway.clock.monotonic()))
            if outcome is Standing.LEAD:
                outcome = await self._led(flight, plan)
            if outcome is Standing.LEAD and self._similar is not None:
                question, similar = await self._looked_around(visit, plan, flight, self._similar)
                outcome = similar or outcome
            if isinstance(outcome, KeptAnswer):
                if await self._served(visit, plan, outcome, exchange):
                    return
                outcome = Standing.ALONE
        if visit.has_begun:
            return
        if outcome is Standing.LEAD:
            await self._lead(visit, plan, flight, deadline=exchange.deadline, question=question)
        else:
            await self._ask(visit, plan, "miss", deadline=exchange.deadline, question=question)

    async def _served(self, visit: Visit, plan: Plan, answer: KeptAnswer | None, exchange: Exchange) -> bool:
        """Whether the request is answered now."""
        if answer is None or not plan.takes(answer):
            return False
        found = replay(answer, visit.request)
        if found is None:
            return False
        await self._hits.serve(visit, found, exchange)
        return True

    async def _looked_around(
        self, visit: Visit, plan: Plan, flight: Flight, similar: SimilarQuestions
    ) -> tuple[Question | None, KeptAnswer | None]:
        """The question as a vector, and the answer of one like it. All who wait get it too."""
        rule = plan.rule
        if rule is None or rule.mode != "semantic":
            return None, None
        try:
            question = await similar.question(visit, rule, plan.scope)
            nearest = None if question is None else await similar.nearest(question, rule.similarity)
            answer = None if nearest is None else await self._store.find(nearest.digest)
        except BaseException:
            self._leave(flight)
            raise
        if nearest is None or answer is None or not plan.takes(answer):
            return question, None
        answer = msgspec.structs.replace(answer, similarity=nearest.similarity)
        self._store.keep(plan.digest, answer, answer.stored_at + plan.ttl_s - self._gateway.clock.time())
        self._land(flight, answer)
        return question, answer

    # Asking the provider.

    async def _led(self, flight: Flight, plan: Plan) -> KeptAnswer | Standing:
        """Lead among all processes, or wait for the answer that another one is getting, unless that is slow."""
        token, pause_s = secrets.token_bytes(12), POLL_FIRST_S
        loop = asyncio.get_running_loop()
        until = loop.time() + self._slow_s
        try:
            while not flight.claim and loop.time() < until:
                outcome = await self._store.claim(flight.digest, token, plan.youngest)
                if outcome is Standing.LEAD:
                    flight.claim = flight.claim or token
                    self._claimed.add(flight)
                elif outcome is not Standing.WAIT:
                    self._land(flight, outcome)
                    return outcome
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(1.5 * pause_s, POLL_MOST_S)
        except BaseException:
            self._store.release(flight.digest, token, alone=False)
            self._leave(flight)
            raise
        return Standing.LEAD

    async def _lead(
        self, visit: Visit, plan: Plan, flight: Flight, *, deadline: float, question: Question | None
    ) -> None:
        """Ask for all who wait, and give them the answer once it is here, however slowly this client reads it."""
        calls: list[Call] = []
        failed, verdict = False, Verdict.BROKEN

        def land() -> None:
            nonlocal verdict
            (call,) = calls
            verdict, answer = self._kept(visit, plan, call, recorder, question)
            # From here on the client is waited for, and no provider; its connection has a bound of its own.
            call.exchange.wait(call.now(), math.inf)
            if verdict is not Verdict.BROKEN:
                self._land(flight, answer or Standing.ALONE)

        recorder = Recorder(
            visit.client,
            self._lines("miss"),
            on_too_large=lambda: self._land(flight, Standing.ALONE),
            on_complete=land,
            reads_ahead=True,
        )
        try:
            await self._asked(visit, recorder, deadline, calls.append)
            failed = verdict is Verdict.BROKEN
        except GatewayError as error:
            failed = error.status >= 500  # Otherwise it is this caller alone who may not.
            raise
        finally:
            recorder.close()
            self._leave(flight, failed=failed)

    async def _ask(
        self,
        visit: Visit,
        plan: Plan,
        how: str,
        *,
        deadline: float | None = None,
        question: Question | None = None,
    ) -> None:
        """Ask for this request alone."""
        recorder = Recorder(visit.client, self._lines(how))
        call = await self._asked(visit, recorder, deadline)
        self._kept(visit, plan, call, recorder, question)

    def _lines(self, how: str) -> bytes:
        """What the client is told of it, which is counted."""
        self._gateway.telemetry.figures.cache_results[how] += 1
        return b"x-gateway-cache: %b\r\n" % how.encode()

    async def _asked(
        self,
        visit: Visit,
        recorder: Recorder,
        deadline: float | None,
        on_begun: Callable[[Call], None] | None = None,
    ) -> Call:
        def began(call: Call) -> None:
            call.asked["cache"] = "miss"
            if on_begun is not None:
                on_begun(call)
            if deadline is not None:
                call.exchange.deadline = min(call.exchange.deadline, deadline)

        return await self._gateway.ask(
            visit.request, visit.key, recorder, visit.presence, routed=visit.routed, began=began
        )

    def _kept(
        self, visit: Visit, plan: Plan, call: Call, recorder: Recorder, question: Question | None
    ) -> tuple[Verdict, KeptAnswer | None]:
        """What is kept of an answer that is here, if it is one to be given again."""
        deployment, body = call.progress.deployment, recorder.body
        if (
            recorder.status != 200
            or body is None
            or deployment is None
            or call.fallback
            or deployment not in visit.routed.reached.deployments
        ):
            return Verdict.BROKEN, None
        verdict = judged(body, visit.request, capped=call.admission.output_cap is not None)
        if verdict is not Verdict.FINE:
            return verdict, None
        answer = self._hits.answer_of(visit, call, deployment, body, recorder)
        self._store.keep(plan.digest, answer, plan.ttl_s)
        if question is not None and self._similar is not None:
            self._similar.remember(question, plan.digest, plan.ttl_s)
        return verdict, answer

    def _land(self, flight: Flight, outcome: KeptAnswer | Standing) -> None:
        self._release(flight, alone=outcome is Standing.ALONE)
        self._flights.land(flight, outcome)

    def _leave(self, flight: Flight, *, failed: bool = False) -> None:
        self._flights.leave(flight, failed=failed)
        if not flight.leaders:
            self._release(flight, alone=False)

    def _release(self, flight: Flight, *, alone: bool) -> None:
        if flight.claim and flight in self._claimed:
            self._claimed.discard(flight)
            self._store.release(flight.digest, flight.claim, alone=alone)
