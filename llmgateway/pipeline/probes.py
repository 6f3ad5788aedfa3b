"""Asks deployments from time to time whether they are well, so that nobody's request has to find out.

A probe is a `GET` that no model answers: it is no request, is not counted and not billed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

from llmgateway.pipeline.health import Health
from llmgateway.pipeline.protocols import Clock
from llmgateway.pipeline.route_rules import Probe
from llmgateway.pipeline.snapshot import Deployment, Snapshot
from llmgateway.pipeline.standings import ProbeStanding, mark_of
from llmgateway.pipeline.upstream import FailureCause, UpstreamError

logger = logging.getLogger(__name__)

JITTER = 0.1
"""Share of an interval by which probes come sooner or later, so that workers and deployments do not ask in step."""
MISSED = 3
"""Intervals after which another worker probes in the place of one that is gone."""


class Probed(Protocol):
    """`Upstream`, as far as probes need it."""

    async def probe(self, deployment: Deployment, path: str) -> int: ...


class Leases(Protocol):
    """Which of several workers probes a deployment."""

    async def may_probe(self, number: int, lease_s: float) -> bool:
        """Whether this worker does, for the next `lease_s`."""
        ...


class OwnLeases:
    """There are no other workers, or they do not share what they know."""

    async def may_probe(self, number: int, lease_s: float) -> bool:
        return True


class Probes:
    """One task for each deployment that is probed. Belongs to one event loop; configuration comes by `use`."""

    def __init__(self, health: Health, upstream: Probed, clock: Clock, leases: Leases | None = None) -> None:
        self._health = health
        self._upstream = upstream
        self._clock = clock
        self._leases = leases or OwnLeases()
        self._tasks: dict[int, tuple[Deployment, asyncio.Task[None]]] = {}

    def use(self, snapshot: Snapshot) -> None:
        """From now on these are probed. What has not changed goes on as it was."""
        wanted = {
            deployment.id: deployment
            for deployment in snapshot.deployments
            if deployment.probe is not None and not deployment.problem
        }
        for number, (before, task) in list(self._tasks.items()):
            deployment = wanted.get(number)
            if deployment is None or not _asks_the_same(before, deployment):
                task.cancel()
                del self._tasks[number]
        for number, deployment in wanted.items():
            if deployment.probe is not None and number not in self._tasks:
                task = asyncio.create_task(self._watch(deployment, deployment.probe))
                self._tasks[number] = deployment, task

    async def stop(self) -> None:
        tasks = [task for _, task in self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, deployment: Deployment, probe: Probe) -> None:
        verdicts = _Verdicts(probe)
        await asyncio.sleep(random.uniform(0, probe.interval_s))  # noqa: S311  # It spreads load, and hides nothing.
        while True:
            try:
                if await self._leases.may_probe(deployment.id, MISSED * probe.interval_s + probe.timeout_s):
                    await self._probe(deployment, probe, verdicts)
                else:
                    verdicts = _Verdicts(probe)
            except Exception:  # Without this task nobody would put the deployment back.
                logger.exception("deployment %s: probing it met an unexpected error", deployment.name)
            await asyncio.sleep(probe.interval_s * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

    async def _probe(self, deployment: Deployment, probe: Probe, verdicts: _Verdicts) -> None:
        before = self._health.state_of(deployment).probe
        started = self._clock.monotonic()
        ok, detail = await self._ask(deployment, probe)
        latency_ms = (self._clock.monotonic() - started) * 1000
        now = self._clock.time()
        healthy = verdicts.take(ok, was_healthy=before is None or before.healthy)
        changed = before is None or before.healthy != healthy
        self._health.probed(
            deployment,
            ProbeStanding(
                healthy,
                at=now,
                latency_ms=round(latency_ms, 1),
                detail=detail,
                changed_at=now if before is None or changed else before.changed_at,
                back_at=0.0 if healthy else now + probe.interval_s * verdicts.missing,
            ),
        )

    async def _ask(self, deployment: Deployment, probe: Probe) -> tuple[bool, str]:
        """Whether it is well, and why, in a few words that hold no secret."""
        try:
            async with asyncio.timeout(probe.timeout_s):
                status = await self._upstream.probe(deployment, probe.path)
        except TimeoutError:
            return False, f"no answer within {probe.timeout_s:g} s"
        except UpstreamError as error:
            return False, _WORDS.get(error.cause, "the connection broke off")
        return status < 400, f"status {status}"


_WORDS = {
    FailureCause.NOT_CONNECTED: "no connection",
    FailureCause.TIMEOUT: "no connection in time",
    FailureCause.NO_TOKEN: "the credential brought no token",
}


class _Verdicts:
    """Successes and failures in a row, against both thresholds."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._ok = True
        self._in_a_row = 0

    def take(self, ok: bool, *, was_healthy: bool) -> bool:
        """Whether the deployment is healthy after one more verdict."""
        self._in_a_row = self._in_a_row + 1 if ok is self._ok else 1
        self._ok = ok
        if was_healthy:
            return ok or self._in_a_row < self._probe.unhealthy_after
        return ok and self._in_a_row >= self._probe.healthy_after

    @property
    def missing(self) -> int:
        """Successes that are still needed to put it back."""
        return self._probe.healthy_after - (self._in_a_row if self._ok else 0)


def _asks_the_same(before: Deployment, after: Deployment) -> bool:
    return before.probe == after.probe and (before is after or mark_of(before) == mark_of(after))
