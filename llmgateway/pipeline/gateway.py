"""The conductor: authenticate → route → admit → upstream → stream back → meter → settle.

One `Gateway` per process, made by `llmgateway.wiring` and used from the event loop alone. It reads configuration
from a snapshot that is swapped under it; a request keeps the one it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec

from llmgateway.pipeline import stand_ins
from llmgateway.pipeline.admission import Admission, AdmissionDesk
from llmgateway.pipeline.attempts import Attempts
from llmgateway.pipeline.authentication import Authenticator
from llmgateway.pipeline.caching import Caching
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.conditions import BudgetsNeededError, BudgetUsed
from llmgateway.pipeline.departure import was_sent
from llmgateway.pipeline.errors import APITimeoutError, ConfigurationStaleError, GatewayError, LedgerUnavailableError
from llmgateway.pipeline.exchanges import Exchanges, total_s
from llmgateway.pipeline.failures import report
from llmgateway.pipeline.health import Health
from llmgateway.pipeline.kept_objects import MemoryBook
from llmgateway.pipeline.metering import opening
from llmgateway.pipeline.mirroring import Mirroring
from llmgateway.pipeline.own_headers import gateway_lines
from llmgateway.pipeline.parameters import with_parameters
from llmgateway.pipeline.protocols import AdmissionStore, Clock, CountersAwayError, Ledger
from llmgateway.pipeline.reading_on import ReadingOn
from llmgateway.pipeline.requests import Client, ModelRequest, Presence
from llmgateway.pipeline.response_state import ResponseState, held
from llmgateway.pipeline.route_rules import FallbackCause
from llmgateway.pipeline.routing import AllOutError, Routed, Router
from llmgateway.pipeline.rules import NO_VIA, BudgetIndex, RuleBook, Rules
from llmgateway.pipeline.snapshot import (
    Alias,
    BudgetRule,
    ConfigProblem,
    Deployment,
    Key,
    KeyDigest,
    Limit,
    Snapshot,
)
from llmgateway.pipeline.streaming import Answer, deliver
from llmgateway.pipeline.telemetry import Telemetry
from llmgateway.pipeline.traffic import Traffic
from llmgateway.pipeline.turns import Turns
from llmgateway.pipeline.upstream import Upstream

BUDGETS_READY_S = 2.0
"""How long a request waits for a new budget to be counted."""


class Gateway:
    """Answers requests for models. Everything it needs is handed in; nothing is global.

    Example:
        key = await gateway.authenticate(secret, client_ip="192.0.2.7")
        await gateway.complete(request, key, client, presence)
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        authenticator: Authenticator,
        store: AdmissionStore,
        ledger: Ledger,
        upstream: Upstream,
        telemetry: Telemetry,
        clock: Clock,
        is_stale: Callable[[], bool] = lambda: False,
        responses: ResponseState | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.generation = 0
        """Grows with every snapshot that comes into use."""
        self._budgets = BudgetIndex(snapshot.budgets)
        self.exchanges = Exchanges(clock)
        self.health = Health(clock)
        self.health.use(snapshot)
        self.followers: list[Callable[[Snapshot], None]] = []
        """Told of each snapshot that comes into use."""
        self.traffic = Traffic()
        self.reading_on = ReadingOn()
        self.telemetry = telemetry
        self.responses = responses or ResponseState(MemoryBook())
        self.clock = clock
        self.store = store
        self.ledger = ledger
        self._authenticator = authenticator
        self._rules = RuleBook()
        self.desk = AdmissionDesk(store, clock, self._rules)
        self.router = Router(self.health, self.traffic, self.desk.terms)
        self.upstream = upstream
        self.attempts = Attempts(self)
        self.mirroring = Mirroring(self)
        self.turns = Turns(clock, snapshot.load)
        self.caching: Caching | None = None
        """None: no answers are kept here."""
        self.is_stale = is_stale
        """Whether the configuration is too old to answer by."""
        self.budgets_ready = asyncio.Event()
        """Cleared while a new budget is being counted from the ledger; requests wait for it."""
        self.budgets_ready.set()

    def use(self, snapshot: Snapshot, budgets: BudgetIndex) -> None:
        """From now on requests begin with `snapshot`; those that run keep theirs."""
        self.snapshot = snapshot
        self.generation += 1
        self._budgets = budgets
        self.health.use(snapshot)
        for follower in self.followers:
            follower(snapshot)
        self._rules.forget()
        self.turns.use(snapshot.load)
        if self.caching is not None:
            self.caching.use(snapshot)

    @property
    def problems(self) -> tuple[ConfigProblem, ...]:
        """What is configured and cannot be used as it stands."""
        return self.snapshot.problems + self.router.conditions.problems(self.snapshot.aliases)

    @property
    def budget_index(self) -> BudgetIndex:
        return self._budgets

    def authenticate(self, secret: bytes | None, *, client_ip: str, takes_foreign: bool = False) -> Awaitable[Key]:
        """The key of a secret, if it may be used from there now. With `takes_foreign` it may be one of a provider.

        Raises:
            AuthenticationError, PermissionDeniedError: it may not; see `Authenticator`.
            ConfigurationStaleError: the database has been away for longer than the operator allows.
        """
        if self.is_stale():
            raise ConfigurationStaleError(
                "The gateway has not been able to read its configuration for too long. Try again later.",
                headers=((b"retry-after", b"5"),),
            )
        return self._authenticator.authenticate(
            secret,
            client_ip=client_ip,
            now=self.clock.time(),
            snapshot=self.snapshot,
            takes_foreign=takes_foreign,
        )

    def with_own_key(self, key: Key, secret: bytes, provider: str) -> Awaitable[Key]:
        """`key` with the caller's own at `provider`, which pays there; raises what `Authenticator.with_own_key` raises."""
        return self._authenticator.with_own_key(key, secret, provider=provider, snapshot=self.snapshot)

    def known_key(self, secret: bytes) -> KeyDigest | None:
        """The key of a secret, if the first source that keys are looked up in knows it, whether or not it may be used."""
        return self._authenticator.known(secret, self.snapshot)

    def plain_rules(self, key: Key, alias: Alias) -> Rules:
        """`rules` before it is known who asks."""
        return self._rules.plain(key, alias)

    async def complete(self, request: ModelRequest, key: Key, client: Client, presence: Presence) -> None:
        """Answer `request` on `client` and settle it, exactly once, whoever leaves first. It may wait for its turn first.

        Raises:
            GatewayError: it was refused before any upstream call; nothing was taken and nothing is settled.
            CancelledError: the client left or the process stops; it is settled. `QueueLeftError`: before its turn came.
        """
        if self.snapshot.cache.enabled and self.caching is not None:
            await self.caching.complete(request, key, client, presence)
        else:
            await self.ask(request, key, client, presence)

    async def ask(
        self,
        request: ModelRequest,
        key: Key,
        client: Client,
        presence: Presence,
        *,
        routed: Routed | None = None,
        began: Callable[[Call], None] | None = None,
    ) -> Call:
        """The same of the providers alone, whatever answers are kept. `began` is told when it is admitted."""
        if not self.turns.take():
            waited = await self.turns.wait(key, presence)
            request = msgspec.structs.replace(request, queued_s=waited)
        try:
            call = await self._admitted(request, key, presence, routed)
        except BaseException:
            self.turns.give_back()
            raise
        await self._answered(call, client, presence, began)
        return call

    async def resume(self, call: Call, client: Client, presence: Presence) -> None:
        """Go on with a call that `Express` has begun, which has its turn."""
        was_sent.set(call.sent is not None and call.sent.connection is not None)
        await self._answered(call, client, presence)

    async def _answered(
        self, call: Call, client: Client, presence: Presence, began: Callable[[Call], None] | None = None
    ) -> None:
        """Answer an admitted request, settle it, and give its turn back."""
        try:
            if began is not None:
                began(call)
            if call.others:
                self.desk.extend(call.admission, call.request, Routed(call.alias, call.others))
            result = call.begun or await self.attempts.first_answer(call)
            if isinstance(result, Answer):
                if call.alias.mirror is not None:
                    self.mirroring.copy(call)
                state = call.request.state
                witness = None if state is None else state.witness
                await deliver(call, client if witness is None else witness.client(client, call, result), result)
            else:
                await report(call, client, result)
        except asyncio.CancelledError:
            if not call.take_timeout():
                call.settle_cancelled("client_left" if presence.client_left else "shutdown")
                raise
            await self._out_of_time(call, client)
        except GatewayError as error:
            call.progress.http_status = error.status
            call.settle("failed", error_type=error.code, refund_limits=True)
            await client.error(error, gateway_lines(call))
        except BaseException:
            call.progress.http_status = call.progress.http_status or 500
            call.settle("failed", error_type="internal_error")
            raise
        finally:
            self.turns.give_back()
            self.exchanges.end(call.exchange)

    async def _out_of_time(self, call: Call, client: Client) -> None:
        """A deadline passed where no attempt was to blame: between attempts, or while the client would not read."""
        if call.progress.http_status:
            call.settle_cancelled("timeout")
            return
        call.exchange.allow_last_words(self.clock.monotonic())
        error = APITimeoutError(f"The model '{call.alias.name}' did not answer in time. Try again.")
        call.progress.http_status = error.status
        call.settle("failed", error_type=error.code, refund_limits=not call.has_spent)
        await client.error(error, gateway_lines(call))

    def budgets_since(
        self,
        index: BudgetIndex,
        key: Key,
        alias: Alias,
        deployment: Deployment | None,
        via: tuple[Alias, ...] = (),
    ) -> tuple[BudgetRule, ...]:
        """Budgets that a request counts for now, if they have changed since it was admitted under `index`."""
        return () if index is self._budgets else self._budgets.of(key, alias, deployment, via)

    async def _admitted(
        self, request: ModelRequest, key: Key, presence: Presence, routed: Routed | None = None
    ) -> Call:
        if routed is None:
            try:
                routed = self.route(request, key)
            except (BudgetsNeededError, AllOutError):
                presence.watch()  # Nobody waits for a target on behalf of a client that has left.
                routed = await self.routed(request, key)
        try:
            return await self._admitted_as(routed, request, key, presence)
        except stand_ins.REFUSALS as refusal:
            if not routed.reached.fallbacks:
                raise
            return await self._admitted_instead(routed, request, key, presence, refusal)

    async def _admitted_as(self, routed: Routed, request: ModelRequest, key: Key, presence: Presence) -> Call:
        done = self.clock.monotonic()
        if routed.alias.parameters is not None:
            request = with_parameters(request, (routed.alias,))
        rules = self.rules(request, key, routed.alias, routed.via)
        call = await self.admit(request, rules, routed.candidates, presence, routed=done)
        call.reached = routed.reached
        if routed.of_fallbacks:
            call.of_fallbacks = True
            self.telemetry.figures.fallbacks[FallbackCause.ERROR.value] += 1
        return call

    async def _admitted_instead(
        self, routed: Routed, request: ModelRequest, key: Key, presence: Presence, refusal: GatewayError
    ) -> Call:
        """As the first of the fallbacks that has room; raises the refusal if there is none."""
        cause, now = stand_ins.cause_of(refusal), self.clock.time()
        others = None
        if cause is not None:
            others = self.router.fallbacks(self.snapshot, key, request, routed.reached, cause, now=now)
        for other in stand_ins.each_alias(others) if others is not None else ():
            with contextlib.suppress(*stand_ins.REFUSALS):  # What is told in the end is why the first had none.
                call = await self._admitted_as(other, request, key, presence)
                call.stands_in_for, call.fallback = routed.alias.name, other.alias.name
                self.telemetry.figures.fallbacks[str(cause)] += 1
                return call
        raise refusal

    def route(
        self, request: ModelRequest, key: Key, *, budget_used: BudgetUsed | None = None, dry_run: bool = False
    ) -> Routed:
        """Where the request may go, best first; raises what `Router.route` raises."""
        now = self.clock.time()
        found = self.router.route(self.snapshot, key, request, now=now, budget_used=budget_used, dry_run=dry_run)
        return held(found, request)

    async def routed(self, request: ModelRequest, key: Key) -> Routed:
        """The same for those who can wait: for what rules want to know, and a moment for somebody to be well again.

        Raises:
            GatewayError: what `Router.route` raises.
        """
        used: BudgetUsed | None = None
        until: float | None = None
        while True:
            try:
                return self.route(request, key, budget_used=used)
            except BudgetsNeededError:
                used = await self.budget_used(request, key)
            except AllOutError as error:
                loop_time = asyncio.get_running_loop().time()
                if until is None:
                    until = loop_time + self.snapshot.circuit.wait_s
                # Others may have come before us to whom is back; there may be time for the next.
                if not await self.health.wait_for_any(error.deployments, until - loop_time):
                    raise self.health.refusal(error.alias.name, error.deployments) from None

    async def budget_used(self, request: ModelRequest, key: Key) -> BudgetUsed:
        """Of the budgets of the caller and of the alias that is asked for."""
        alias = self.snapshot.aliases[request.head.model]
        budgets, now = self.rules(request, key, alias).budgets, self.clock.time()
        try:
            states = await asyncio.gather(*[self.store.state(budget) for budget in budgets])
        except CountersAwayError:
            return BudgetUsed(None)
        used = [
            (state.settled_pico_usd + state.held_pico_usd, budget.limit_at(now))
            for state, budget in zip(states, budgets, strict=True)
        ]
        return BudgetUsed(max([spent / limit if limit else 1.0 for spent, limit in used], default=0.0))

    def rules(
        self, request: ModelRequest, key: Key, alias: Alias, via: Mapping[int, tuple[Alias, ...]] = NO_VIA
    ) -> Rules:
        """Which limits and budgets a request counts for, those of the aliases on its way included."""
        return self._rules.through(self._rules.of(request, key, alias), request, via)

    async def admit(
        self,
        request: ModelRequest,
        rules: Rules,
        candidates: tuple[Deployment, ...],
        presence: Presence,
        *,
        routed: float,
    ) -> Call:
        """Take what the request needs and write that it was admitted. Whoever gets the call settles it and ends its exchange.

        Raises:
            GatewayError: it is refused, or cannot be written down; nothing is taken then.
        """
        clock = self.clock
        if (rules.budgets or rules.added) and not self.budgets_ready.is_set():
            await self._budgets_counted()
        index = self._budgets
        admission = await self.desk.admit(request, rules, candidates, self.snapshot.admission)
        self.count_shadowed((*admission.reservation.shadowed, *admission.oversized))
        admitted = clock.monotonic()
        call = Call(
            request,
            rules.key,
            rules.alias,
            admission,
            gateway=self,
            budget_index=index,
            presence=presence,
            exchange=self.exchanges.begin(
                request.id, presence, total_s=total_s(request, rules.alias, candidates, now=admitted)
            ),
            admitted_at=clock.time(),
            via=rules.via,
        )
        call.phases["auth"] = request.authenticated - request.received
        call.phases["route"] = routed - request.authenticated - request.queued_s
        call.phases["admit"] = admitted - routed
        try:
            self._open(call, admission)
        except BaseException:
            call.abandon()
            raise
        return call

    def count_shadowed(self, limits: Iterable[Limit]) -> None:
        """Limits in shadow mode that would have refused a request."""
        for limit in limits:
            self.telemetry.figures.shadow_refusals[limit.scope, limit.name] += 1

    async def _budgets_counted(self) -> None:
        try:
            await asyncio.wait_for(self.budgets_ready.wait(), BUDGETS_READY_S)
        except TimeoutError:
            raise LedgerUnavailableError(
                "A new budget is still being counted from the ledger. Try again in a moment.",
                headers=((b"retry-after", b"1"),),
            ) from None

    def _open(self, call: Call, admission: Admission) -> None:
        record = opening(
            call.asked, call.held_pico_usd, admission.reservation, call.begin_attempt(admission.deployment)
        )
        before = self.clock.monotonic()
        self.ledger.open(record)
        call.phases["ledger"] = self.clock.monotonic() - before
