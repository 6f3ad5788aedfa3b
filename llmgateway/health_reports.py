"""How deployments are doing, from the workers that know to the pages that show it: one small file per worker.

Workers write it every second in which something has changed. Who reads may be in any process on this host.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.standings import ProbeStanding, Standing

logger = logging.getLogger(__name__)

EVERY_S = 1.0
AT_LEAST_EVERY_S = 5.0
"""A file that says nothing new is written again, so that one of a worker that was killed can be told by its age."""
AT_A_TIME = 200
GONE_AFTER_S = 15.0
FORGOTTEN_AFTER_S = 3600.0
_WORST_FIRST = ("draining", "unhealthy", "open", "half_open", "healthy")


class DeploymentReport(msgspec.Struct, frozen=True):
    """One deployment, as one worker knows it."""

    id: int
    in_flight: int
    """Attempts that run there now."""
    standing: Standing


class Report(msgspec.Struct, frozen=True):
    """All deployments, as one worker knows them."""

    at: float
    """When it was written, in seconds since the epoch."""
    deployments: list[DeploymentReport]


class Overall(msgspec.Struct, frozen=True):
    """One deployment, as all workers of this host know it together."""

    state: str
    """The worst that a worker says, and the rest belongs to it."""
    kind: str
    retry_at: float | None
    failures: int
    """Of all workers, like the numbers below."""
    opens: int
    in_flight: int
    workers: int
    workers_out: int
    """How many leave it alone."""
    enforced: bool
    probe: ProbeStanding | None
    """The latest."""


class ReportFile:
    """Writes a worker's report. Started and stopped on its event loop; writing is done beside it."""

    def __init__(self, folder: Path, gateway: Gateway, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._path = folder / f"health-{os.getpid()}.json"
        self._gateway = gateway
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._written: list[DeploymentReport] | None = None
        self._written_at = 0.0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    async def _run(self) -> None:
        await asyncio.to_thread(_tidy, self._folder, self._clock())
        while True:
            try:
                await self.write()
            except OSError as error:
                logger.warning("the admin cannot show the health of deployments: %s", error)
            await asyncio.sleep(EVERY_S)

    async def write(self) -> None:
        """Write what has changed since the last time."""
        now, found = self._clock(), await report_of(self._gateway)
        if found == self._written and now - self._written_at < AT_LEAST_EVERY_S:
            return
        await asyncio.to_thread(self._replace, Report(now, found))
        self._written, self._written_at = found, now

    def _replace(self, report: Report) -> None:
        """Whoever reads gets the old file or the new one, never half of one."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(report))
        beside.replace(self._path)


async def report_of(gateway: Gateway) -> list[DeploymentReport]:
    """What this process knows, looked at a part at a time, for requests go on meanwhile."""
    found: list[DeploymentReport] = []
    for deployment, standing in gateway.health.standings():
        found.append(DeploymentReport(deployment.id, gateway.traffic.in_flight(deployment.id), standing))
        if len(found) % AT_A_TIME == 0:
            await asyncio.sleep(0)
    return found


def read_reports(folder: Path, now: float) -> list[Report]:
    """Those of all workers of this host that live."""
    found = []
    for path in sorted(folder.glob("health-*.json")):
        try:
            report = msgspec.json.decode(path.read_bytes(), type=Report)
        except FileNotFoundError:
            continue  # Its worker has just stopped.
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("%s cannot be read: %s", path.name, error)
            continue
        if now - report.at < GONE_AFTER_S:
            found.append(report)
    return found


def overall_health(folder: Path, now: float | None = None) -> dict[int, Overall]:
    """How each deployment is doing, by the id of its row. One that no worker speaks of is absent."""
    by_deployment: dict[int, list[DeploymentReport]] = {}
    for report in read_reports(folder, time.time() if now is None else now):
        for each in report.deployments:
            by_deployment.setdefault(each.id, []).append(each)
    return {number: _overall(found) for number, found in by_deployment.items()}


def _overall(found: list[DeploymentReport]) -> Overall:
    standings = [each.standing for each in found]
    worst = min(standings, key=lambda standing: _WORST_FIRST.index(standing.state))
    return Overall(
        state=worst.state,
        kind=worst.kind or next((standing.kind for standing in standings if standing.kind), ""),
        retry_at=worst.retry_at,
        failures=sum(standing.failures for standing in standings),
        opens=sum(standing.opens for standing in standings),
        in_flight=sum(each.in_flight for each in found),
        workers=len(found),
        workers_out=sum(standing.out for standing in standings),
        enforced=worst.enforced,
        probe=_latest(standing.probe for standing in standings),
    )


def _latest(probes: Iterable[ProbeStanding | None]) -> ProbeStanding | None:
    return max((probe for probe in probes if probe is not None), key=lambda probe: probe.at, default=None)


def _tidy(folder: Path, now: float) -> None:
    """Forget files of workers that were killed long ago."""
    for path in folder.glob("health-*"):
        try:
            if now - path.stat().st_mtime > FORGOTTEN_AFTER_S:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # Another worker was quicker.
