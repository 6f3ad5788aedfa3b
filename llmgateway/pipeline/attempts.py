"""One target after the other, and those worth it again after a wait, until one answers."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

from llmgateway.pipeline.call import Call
from llmgateway.pipeline.snapshot import Deployment, Retries
from llmgateway.pipeline.streaming import Answer, Failure, obtain
from llmgateway.pipeline.upstream import FailureCause

if TYPE_CHECKING:
    from llmgateway.pipeline.gateway import Gateway

MOST_ROUNDS_APART = 300
"""Waits grow no further then: a factor of ten would leave what a float can hold."""


class Attempts:
    """Makes the upstream calls of admitted requests. One per process, used from the event loop alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def first_answer(self, call: Call) -> Answer | Failure:
        """Try the candidates in order, then those worth it again after a wait, until one answers.

        The first one's counters are taken already; another is passed over if its own have no room.
        """
        retries, remaining = self._gateway.snapshot.retries, call.admission.in_order
        last: Failure | None = None
        for rounds in itertools.count(1):
            failures: list[Failure] = []
            for deployment in remaining:
                if deployment is not call.admission.deployment and not await self._moved(call, deployment):
                    continue
                result = await self._attempt(call, deployment)
                if isinstance(result, Answer) or not result.worth_another_target:
                    return result
                failures.append(result)
            last = failures[-1] if failures else last
            if last is None:
                raise AssertionError("the first candidate has room")
            remaining = tuple(failure.deployment for failure in failures if failure.worth_a_retry)
            pause_s = pause(retries, rounds, last)
            if not remaining or rounds > retries.attempts or pause_s is None:
                return last
            call.exchange.wait(call.now(), pause_s + 1)
            await asyncio.sleep(pause_s)
        raise AssertionError("counting never ends")

    async def _moved(self, call: Call, deployment: Deployment) -> bool:
        if not await self._gateway.desk.move(call.admission, deployment):
            return False
        call.held_pico_usd = max(call.held_pico_usd, call.admission.held_pico_usd)
        return True

    async def _attempt(self, call: Call, deployment: Deployment) -> Answer | Failure:
        """One upstream call, up to the first piece of its answer: the last moment at which another target can help."""
        gateway = self._gateway
        if not call.running:
            gateway.ledger.attempt(call.request.id, call.begin_attempt(deployment))
        try:
            result = await obtain(call, deployment, gateway.upstream)
        except asyncio.CancelledError:
            if not call.take_timeout():
                raise
            result = Failure(FailureCause.TIMEOUT, deployment, detail="no answer in time")
        if isinstance(result, Answer):
            gateway.health.record(deployment, ok=True)
        else:
            gateway.health.record(
                deployment, ok=not result.blames_provider, kind=result.label, retry_after_s=result.retry_after_s
            )
            cost = call.outcome.cost_pico_usd if result.billed else 0
            call.end_attempt(result.status, result.label, cost_pico_usd=cost)
        return result


def pause(retries: Retries, rounds: int, failure: Failure) -> float | None:
    """Seconds to wait before the next round: its backoff, or what the provider asked for. None: it asks for too long."""
    longest = retries.max_ms / 1000
    backoff = min(longest, retries.initial_ms / 1000 * retries.factor ** min(rounds - 1, MOST_ROUNDS_APART))
    backoff = random.uniform(backoff * (1 - retries.jitter), backoff)  # noqa: S311
    if failure.retry_after_s is None:
        return backoff
    return None if failure.retry_after_s > longest else max(backoff, failure.retry_after_s)
