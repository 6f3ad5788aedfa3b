"""One target after the other, those worth it again after a wait, then those of other aliases: until one answers, or
time is over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING

from llmgateway.pipeline.call import Call
from llmgateway.pipeline.errors import NoTargetAvailableError
from llmgateway.pipeline.failures import Failure
from llmgateway.pipeline.hedging import Hedging
from llmgateway.pipeline.obtaining import obtain
from llmgateway.pipeline.returning import Returning
from llmgateway.pipeline.route_rules import FallbackCause
from llmgateway.pipeline.snapshot import Deployment, Retries
from llmgateway.pipeline.streaming import Answer
from llmgateway.pipeline.upstream import FailureCause, has_reached_provider
from providers.adapters.types import Operation

if TYPE_CHECKING:
    from llmgateway.pipeline.gateway import Gateway

MOST_ROUNDS_APART = 300
"""Waits grow no further then: a factor of ten would leave what a float can hold."""


class Attempts:
    """Makes the upstream calls of admitted requests. One per process, used from the event loop alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._hedging = Hedging(gateway)

    def first_answer(self, call: Call) -> Awaitable[Answer | Failure]:
        """The first answer of those that may give one; if there is none, why the alias's own targets gave none.

        Raises:
            NoTargetAvailableError: not one of them may be asked now.
            LedgerUnavailableError: an attempt could not be written down, so it was not made.
        """
        candidates = call.admission.in_order
        if call.reached.fallbacks:
            return self._with_others(call, candidates)
        return self._rounds(call, candidates)

    # ── other aliases ──

    async def _with_others(self, call: Call, candidates: tuple[Deployment, ...]) -> Answer | Failure:
        """If they fail too, the client is told why the first ones did: that is what it asked for."""
        first: Failure | NoTargetAvailableError
        cause: FallbackCause | None = FallbackCause.ERROR
        try:
            result = await self._rounds(call, candidates)
        except NoTargetAvailableError as error:
            first = error
        else:
            if isinstance(result, Answer):
                if call.of_fallbacks:
                    call.fallback = call.deciding(call.progress.target)[0].name
                return result
            first, cause = result, result.fallback_cause
        answer = await self._of_others(call, cause)
        if answer is not None:
            return answer
        if isinstance(first, Failure):
            return first
        raise first

    async def _of_others(self, call: Call, cause: FallbackCause | None) -> Answer | None:
        """The answer of the fallbacks of a cause, or of those of the cause for which these fail in turn."""
        asked = set[FallbackCause]()
        while cause is not None and cause not in asked and self._may_go_on(call):
            asked.add(cause)
            others = self._others(call, cause)
            if not others:
                return None
            self._gateway.telemetry.figures.fallbacks[cause.value] += 1
            try:
                result = await self._rounds(call, others)
            except NoTargetAvailableError:
                return None
            if isinstance(result, Answer):
                call.fallback = call.deciding(call.progress.target)[0].name
                return result
            cause = result.fallback_cause
        return None

    def _others(self, call: Call, cause: FallbackCause) -> tuple[Deployment, ...]:
        gateway, admission = self._gateway, call.admission
        tried = {each.id for each in admission.ask.candidates}
        routed = gateway.router.fallbacks(
            gateway.snapshot, call.key, call.request, call.reached, cause, now=call.wall_time(), tried=tried
        )
        if routed is None:
            return ()
        others = gateway.desk.extend(admission, call.request, routed)
        call.via = admission.rules.via
        return others

    @staticmethod
    def _may_go_on(call: Call) -> bool:
        """A strict budget has paid for one attempt only, and nobody waits for ever."""
        if call.has_spent and call.reservation.granted_pico_usd is not None:
            return False
        return call.exchange.left_s(call.now()) > 0

    # ── the targets of one alias ──

    async def _rounds(self, call: Call, candidates: tuple[Deployment, ...]) -> Answer | Failure:
        """Go through the candidates in order, then again through those worth it, after a wait.

        The first one's counters are taken already; another is passed over if its own have no room.
        """
        retries = _retries(call, candidates[0], self._gateway.snapshot.retries)
        last: Failure | None = None
        ready, later = list(candidates), list[tuple[float, Deployment]]()
        out: list[Deployment] = []
        returning: Returning | None = None
        rounds = 0
        while True:
            call.retry = rounds
            while ready and (last is None or self._may_go_on(call)):
                deployment = ready.pop(0)
                if call.sent is None and not self._is_well(call, deployment, out):
                    continue
                if deployment is not call.admission.deployment and not await self._moved(call, deployment):
                    continue
                result = await self._attempt(call, deployment, ready)
                if isinstance(result, Answer):
                    return result
                last = next((each for each in result if not each.worth_another_target), result[-1])
                if not last.worth_another_target:
                    return last
                later += _worth_a_retry(result, retries)
            pause_s = self._pause_s(call, retries, rounds, later)
            if pause_s is None:
                returning = returning or Returning(self._gateway, call)
                ready, out = (await returning.more(out) if self._may_go_on(call) else []), []
                if ready:
                    continue
                if last is None:
                    call.withdraw_attempt()
                    raise self._gateway.health.refusal(call.alias.name, candidates)
                return last
            rounds += 1
            call.exchange.wait(call.now(), pause_s + 1)
            await asyncio.sleep(pause_s)
            ready = [*out, *[deployment for asked_s, deployment in later if asked_s <= pause_s]]
            out = []
            later = [(asked_s - pause_s, deployment) for asked_s, deployment in later if asked_s > pause_s]

    def _pause_s(
        self, call: Call, retries: Retries, rounds: int, later: list[tuple[float, Deployment]]
    ) -> float | None:
        """Seconds until the next round, in which one of them at least may be asked again; None: there is none."""
        if not later or rounds >= retries.attempts or not self._may_go_on(call):
            return None
        pause_s = max(backoff_s(retries, rounds + 1), min([asked_s for asked_s, _ in later]))
        return pause_s if pause_s < call.exchange.left_s(call.now()) else None

    def _is_well(self, call: Call, deployment: Deployment, out: list[Deployment]) -> bool:
        """Whether a deployment may be asked, as far as its health goes. `out` gets those that are left alone."""
        bypass = call.key.may_bypass_health and call.request.bypass_health
        if self._gateway.health.claim(deployment, bypass=bypass):
            return True
        out.append(deployment)
        return False

    async def _moved(self, call: Call, deployment: Deployment) -> bool:
        """Take the deployment's counters in place of the former one's; False: it has no room."""
        if not await self._gateway.desk.move(call.admission, deployment):
            self._gateway.health.release(deployment)
            return False
        call.held_pico_usd = max(call.held_pico_usd, call.admission.held_pico_usd)
        return True

    async def _attempt(
        self, call: Call, deployment: Deployment, others: list[Deployment]
    ) -> Answer | tuple[Failure, ...]:
        """One upstream call, up to the first words of its answer: the last moment at which another target can help.

        Where the first is slow, one of the `others` may be asked too, and is taken out of them then.
        """
        gateway = self._gateway
        if not call.running or call.progress.deployment is not deployment:
            call.withdraw_attempt()
            try:
                gateway.ledger.attempt(call.request.id, call.begin_attempt(deployment))
            except BaseException:
                gateway.health.release(deployment)
                raise
            gateway.telemetry.figures.retries += call.retry > 0
        after_s = self._hedging.after_s(call, deployment) if others else None
        result: Answer | Failure
        also: Failure | None = None
        try:
            if after_s is None:
                cap = call.admission.output_cap
                result = await obtain(call, deployment, gateway.upstream, call.progress, output_cap=cap)
            else:
                result, also = await self._hedging.race(call, deployment, others, after_s)
        except asyncio.CancelledError:
            if not call.take_timeout():
                gateway.health.release(deployment)
                raise
            result = timed_out(call, deployment)
        except BaseException:
            gateway.health.release(deployment)
            raise
        if isinstance(result, Answer):
            self._note_answer(call, result)
            return result
        self._note_failure(call, result)
        call.end_attempt(result.status, result.label, spent=result.spent)
        return (result,) if also is None else (result, also)

    def _note_answer(self, call: Call, answer: Answer) -> None:
        """What an attempt says of its deployment, which another may have taken the place of."""
        deployment = call.progress.target
        if _is_opaque(call):
            self._gateway.health.release(deployment)
            return
        self._gateway.health.record(deployment, ok=True)
        if answer.rest is not None or call.request.dialect.operation is Operation.EMBEDDINGS:
            self._gateway.traffic.first_token(deployment, call.now() - call.progress.attempt_started)

    def _note_failure(self, call: Call, failure: Failure) -> None:
        is_unreached = failure.cause is FailureCause.NOT_CONNECTED
        if (failure.cause is FailureCause.TIMEOUT and call.is_impatient) or (_is_opaque(call) and not is_unreached):
            self._gateway.health.release(failure.deployment)
            return
        self._gateway.health.record(
            failure.deployment,
            ok=not failure.blames_provider,
            kind=failure.label,
            retry_after_s=failure.retry_after_s,
        )
        if failure.blames_provider:
            self._gateway.traffic.failed(failure.deployment)


def _is_opaque(call: Call) -> bool:
    """A call that the gateway does not understand: what a provider says to it tells nothing of its models.

    A path that our credential may not read would else take all of them away from everybody.
    """
    return call.request.dialect.operation is Operation.PASSTHROUGH


def _worth_a_retry(failures: tuple[Failure, ...], retries: Retries) -> list[tuple[float, Deployment]]:
    """Those of whom another answer can be hoped for soon enough, and after how many seconds at the least."""
    asked = [(failure.retry_after_s or 0.0, failure) for failure in failures if failure.worth_a_retry]
    return [(asked_s, failure.deployment) for asked_s, failure in asked if asked_s <= retries.max_ms / 1000]


def _retries(call: Call, first: Deployment, retries: Retries) -> Retries:
    """Everyone's, but as many as the nearest alias says that says anything."""
    if not call.via and call.alias.retries is None:
        return retries
    for alias in call.deciding(first):
        if alias.retries is not None:
            return replace(retries, attempts=alias.retries)
    return retries


def timed_out(call: Call, deployment: Deployment) -> Failure:
    """A target that said nothing in time. The moment that is left is for others, or for telling the client."""
    now = call.now()
    if call.exchange.left_s(now) > 0:
        call.exchange.wait(now, call.exchange.left_s(now))
    else:
        call.exchange.allow_last_words(now)
    spent = call.heard(call.progress)
    if call.is_impatient and (has_reached_provider() or call.progress.upstream_status):
        # It costs what leaving does: else who sets a short time would have providers work for nothing, as often as it likes.
        spent = call.worked_in_vain(call.progress, call.reservation)
    return Failure(FailureCause.TIMEOUT, deployment, detail="no answer in time", spent=spent)


def backoff_s(retries: Retries, rounds: int) -> float:
    """Seconds to wait before a round, as far as we decide: growing by the factor, and left to chance by the jitter."""
    longest = retries.max_ms / 1000
    backoff = min(longest, retries.initial_ms / 1000 * retries.factor ** min(rounds - 1, MOST_ROUNDS_APART))
    return random.uniform(backoff * (1 - retries.jitter), backoff)  # noqa: S311
