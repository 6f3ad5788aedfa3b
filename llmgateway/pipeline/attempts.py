"""One target after the other, and those worth it again after a wait, until one answers or time is over."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from llmgateway.pipeline.call import Call
from llmgateway.pipeline.failures import Failure
from llmgateway.pipeline.obtaining import obtain
from llmgateway.pipeline.snapshot import Deployment, Retries
from llmgateway.pipeline.streaming import Answer
from llmgateway.pipeline.upstream import FailureCause
from providers.adapters.types import Operation

if TYPE_CHECKING:
    from llmgateway.pipeline.gateway import Gateway

MOST_ROUNDS_APART = 300
"""Waits grow no further then: a factor of ten would leave what a float can hold."""


class Attempts:
    """Makes the upstream calls of admitted requests. One per process, used from the event loop alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def first_answer(self, call: Call) -> Awaitable[Answer | Failure]:
        """The first answer of those that may give one; if there is none, why the first of them did not.

        Raises:
            NoTargetAvailableError: not one of them may be asked now.
            LedgerUnavailableError: an attempt could not be written down, so it was not made.
        """
        return self._rounds(call, call.admission.in_order, call.alias.retries)

    async def _rounds(
        self, call: Call, candidates: tuple[Deployment, ...], most_retries: int | None
    ) -> Answer | Failure:
        """Go through the candidates in order, then again through those worth it, after a wait.

        The first one's counters are taken already; another is passed over if its own have no room.
        """
        retries = self._gateway.snapshot.retries
        most = retries.attempts if most_retries is None else most_retries
        last: Failure | None = None
        ready, later = list(candidates), list[tuple[float, Deployment]]()
        for rounds in itertools.count():
            call.retry = rounds
            for deployment in ready:
                if last is not None and call.exchange.left_s(call.now()) <= 0:
                    break
                if not await self._may_ask(call, deployment):
                    continue
                result = await self._attempt(call, deployment)
                if isinstance(result, Answer) or self._is_final(call, result):
                    return result
                last = result
                if result.worth_a_retry and (result.retry_after_s or 0.0) <= retries.max_ms / 1000:
                    later.append((result.retry_after_s or 0.0, deployment))
            if last is None:
                call.withdraw_attempt()
                raise self._gateway.health.refusal(call.alias.name, candidates)
            if not later or rounds >= most:
                return last
            pause_s = max(backoff_s(retries, rounds + 1), min([asked_s for asked_s, _ in later]))
            if pause_s >= call.exchange.left_s(call.now()):
                return last
            call.exchange.wait(call.now(), pause_s + 1)
            await asyncio.sleep(pause_s)
            ready = [deployment for asked_s, deployment in later if asked_s <= pause_s]
            later = [(asked_s - pause_s, deployment) for asked_s, deployment in later if asked_s > pause_s]
        raise AssertionError("counting never ends")

    async def _may_ask(self, call: Call, deployment: Deployment) -> bool:
        """Whether a deployment is well enough and has room; its counters are taken then."""
        health, bypass = self._gateway.health, call.key.may_bypass_health and call.request.bypass_health
        if not health.claim(deployment, bypass=bypass):
            return False
        if deployment is call.admission.deployment or await self._moved(call, deployment):
            return True
        health.release(deployment)
        return False

    async def _moved(self, call: Call, deployment: Deployment) -> bool:
        if not await self._gateway.desk.move(call.admission, deployment):
            return False
        call.held_pico_usd = max(call.held_pico_usd, call.admission.held_pico_usd)
        return True

    @staticmethod
    def _is_final(call: Call, failure: Failure) -> bool:
        """Whether nobody else of the same alias is asked: it makes no sense, or a strict budget has paid for one only."""
        if not failure.worth_another_target:
            return True
        return call.has_spent and call.reservation.granted_pico_usd is not None

    async def _attempt(self, call: Call, deployment: Deployment) -> Answer | Failure:
        """One upstream call, up to the first words of its answer: the last moment at which another target can help."""
        gateway, progress = self._gateway, call.progress
        if not call.running or progress.deployment is not deployment:
            call.withdraw_attempt()
            gateway.ledger.attempt(call.request.id, call.begin_attempt(deployment))
        try:
            result = await obtain(call, deployment, gateway.upstream, progress, output_cap=call.admission.output_cap)
        except asyncio.CancelledError:
            if not call.take_timeout():
                gateway.health.release(deployment)
                raise
            result = timed_out(call, deployment)
        except BaseException:
            gateway.health.release(deployment)
            raise
        self._note(call, deployment, result)
        if isinstance(result, Failure):
            call.end_attempt(result.status, result.label, spent=result.spent)
        return result

    def _note(self, call: Call, deployment: Deployment, result: Answer | Failure) -> None:
        """What an attempt says of its deployment."""
        gateway = self._gateway
        if isinstance(result, Answer):
            gateway.health.record(deployment, ok=True)
            if result.rest is not None or call.request.dialect.operation is Operation.EMBEDDINGS:
                gateway.traffic.first_token(deployment, call.now() - call.progress.attempt_started)
            return
        gateway.health.record(
            deployment, ok=not result.blames_provider, kind=result.label, retry_after_s=result.retry_after_s
        )
        if result.blames_provider:
            gateway.traffic.failed(deployment)


def timed_out(call: Call, deployment: Deployment) -> Failure:
    """A target that said nothing in time. The moment that is left is for others, or for telling the client."""
    now = call.now()
    if call.exchange.left_s(now) > 0:
        call.exchange.wait(now, call.exchange.left_s(now))
    else:
        call.exchange.allow_last_words(now)
    return Failure(FailureCause.TIMEOUT, deployment, detail="no answer in time", spent=call.heard(call.progress))


def backoff_s(retries: Retries, rounds: int) -> float:
    """Seconds to wait before a round, as far as we decide: growing by the factor, and left to chance by the jitter."""
    longest = retries.max_ms / 1000
    backoff = min(longest, retries.initial_ms / 1000 * retries.factor ** min(rounds - 1, MOST_ROUNDS_APART))
    return random.uniform(backoff * (1 - retries.jitter), backoff)  # noqa: S311
