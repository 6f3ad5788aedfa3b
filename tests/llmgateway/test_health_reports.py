"""What workers write of deployments' health, and what pages make of it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmgateway.health_reports import (
    AT_LEAST_EVERY_S,
    GONE_AFTER_S,
    DeploymentReport,
    Report,
    ReportFile,
    overall_health,
    read_reports,
)
from llmgateway.pipeline.standings import ProbeStanding, Standing
from tests.fakes import FakeClock, ScriptedUpstream
from tests.gateways import House

NOW = 1_773_489_600.0


def write(folder: Path, worker: int, standing: Standing, *, at: float = NOW, in_flight: int = 0) -> None:
    report = Report(at, [DeploymentReport(1, in_flight, standing)])
    (folder / f"health-{worker}.json").write_bytes(msgspec.json.encode(report))


def probe(at: float, **changes: Any) -> ProbeStanding:
    return msgspec.structs.replace(ProbeStanding(True, at, 12.5, "status 200", at), **changes)


def test_the_worst_that_a_worker_says_is_shown(tmp_path: Path) -> None:
    write(tmp_path, 1, Standing("healthy", failures=1, opens=2, probe=probe(5)), in_flight=3)
    write(tmp_path, 2, Standing("open", "timeout", 5, retry_at=NOW + 20, opens=1, probe=probe(9)), in_flight=1)

    found = overall_health(tmp_path, NOW)[1]

    assert (found.state, found.kind, found.retry_at) == ("open", "timeout", NOW + 20)
    assert (found.failures, found.opens, found.in_flight) == (6, 3, 4)
    assert (found.workers, found.workers_out) == (2, 1)
    assert found.probe == probe(9)


def test_workers_that_were_killed_are_not_heard_for_long(tmp_path: Path) -> None:
    write(tmp_path, 1, Standing("open"), at=NOW - GONE_AFTER_S)
    write(tmp_path, 2, Standing("healthy"))

    assert overall_health(tmp_path, NOW)[1].state == "healthy"


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "health-1.json").write_text("{")
    write(tmp_path, 2, Standing("healthy"))

    assert len(read_reports(tmp_path, NOW)) == 1
    assert "health-1.json cannot be read" in caplog.text


def test_without_workers_nothing_is_known(tmp_path: Path) -> None:
    assert overall_health(tmp_path / "run", NOW) == {}


async def test_a_worker_tells_what_it_knows_and_takes_its_file_with_it(tmp_path: Path) -> None:
    house = House(ScriptedUpstream())
    (target,) = house.snapshot.aliases["gpt"].deployments
    house.gateway.health.record(target, ok=False, kind="authentication")
    house.gateway.traffic.began(target)
    file = ReportFile(tmp_path, house.gateway)

    file.start()
    async with asyncio.timeout(5):
        while not overall_health(tmp_path):  # noqa: ASYNC110  # Of files there is no event.
            await asyncio.sleep(0.01)
    found = overall_health(tmp_path)[target.id]
    await file.stop()

    assert (found.state, found.kind, found.in_flight) == ("open", "authentication", 1)
    assert not os.listdir(tmp_path)  # noqa: PTH208  # What pathlib says of it blocks as well.


async def test_nothing_new_is_written_now_and_then_only(tmp_path: Path) -> None:
    clock = FakeClock()
    house = House(ScriptedUpstream())
    file = ReportFile(tmp_path, house.gateway, clock=clock.time)
    (path,) = [tmp_path / f"health-{os.getpid()}.json"]

    async def written() -> bool:
        path.unlink(missing_ok=True)
        await file.write()
        return path.exists()

    assert await written()
    assert not await written()
    house.gateway.traffic.began(house.snapshot.aliases["gpt"].deployments[0])
    assert await written()
    clock.advance(AT_LEAST_EVERY_S)
    assert await written()


async def test_files_of_long_ago_are_cleared_away(tmp_path: Path) -> None:
    old, fresh = tmp_path / "health-1.json", tmp_path / "health-2.json"
    for path in (old, fresh):
        path.write_text("{}")
    os.utime(old, (time.time() - 7200,) * 2)
    file = ReportFile(tmp_path, House(ScriptedUpstream()).gateway)

    file.start()
    await asyncio.sleep(0.1)
    await file.stop()

    assert not old.exists()
    assert fresh.exists()
