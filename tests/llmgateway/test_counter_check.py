"""Counters that drifted are found and put right, and nothing that is counted meanwhile is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from msgspec import structs

from billing import standing
from billing.journal import Journal
from billing.ledger import JournalDrain
from billing.models import Reconciliation
from llmgateway.conf import Conf
from llmgateway.counter_check import CounterCheck, CounterDrift
from llmgateway.pipeline.protocols import Reservation, TargetTerms, Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Key, KeyDigest, Limit, Snapshot
from llmgateway.pipeline.telemetry import Figures
from llmgateway.seeding import Seeds, WindowLimit
from llmgateway.stores.memory import MemoryStore
from llmgateway.wiring import Runtime
from tests.billing.records import NOON, closed, opened
from tests.fakes import FakeClock

pytestmark = pytest.mark.django_db(transaction=True)

BUDGET = BudgetRule(1, "monthly", "key", "7", "month", 10**15, "UTC")
DAILY = Limit("limit:1", "1000 per day", "key", 1000, 1000, per="day", owner="key:7")
TOKENS = Limit("limit:2", "10^6 tokens", "team", 10**6, 10**6, metric="tokens", per="total", owner="team:3")
EACH = Limit("limit:3", "1000 per day and address", "ip", 1000, 1000, per="day", owner="key:7", each="ip")
KEY = Key("7", "pub", "k", 3, "red", limits=(DAILY, TOKENS), budgets=(BUDGET,))
SNAPSHOT = Snapshot(keys={b"x": KeyDigest(KEY)}, budgets={1: BUDGET})


class Process:
    """A store and a journal that are told the same, as the pipeline does."""

    def __init__(self, root: Path, snapshot: Snapshot = SNAPSHOT) -> None:
        self.clock = FakeClock(NOON)
        self.store = MemoryStore(self.clock)
        self.journal = Journal(root, fsync="never", max_bytes=2**20)
        self.figures = Figures()
        self.snapshot = snapshot
        self.check = CounterCheck(
            self.store, self.journal, lambda: self.snapshot, clock=self.clock, figures=self.figures, every_s=0.01
        )

    async def admit(self, request_id: str, *, limits: tuple[Limit, ...] = (DAILY, TOKENS)) -> Reservation:
        decision = await self.store.admit(
            request_id, demand=Tokens(100, 1000), limits=limits, budgets=(BUDGET,), targets=[TargetTerms()]
        )
        assert isinstance(decision, Reservation)
        self.journal.open(opened(request_id))
        return decision

    def settle(self, decision: Reservation, *, cost: int = 50, **changes: Any) -> None:
        """100 input tokens and 25 output tokens, as `closed` has them."""
        self.journal.close(closed(decision.id, cost_pico_usd=cost, **changes))
        self.store.settle(decision, cost_pico_usd=cost, used=Tokens(100, 25), budgets=())

    async def finish(self, request_id: str, **changes: Any) -> None:
        self.settle(await self.admit(request_id), **changes)

    def drain(self) -> None:
        JournalDrain(self.journal.folder, journal=self.journal).drain()

    async def compare(self) -> list[CounterDrift]:
        return await asyncio.to_thread(in_thread, self.check.run)

    async def counters(self) -> tuple[int, int, int]:
        state = await self.store.state(BUDGET)
        daily, tokens = self.store.limits_settled([DAILY, TOKENS])
        return state.settled_pico_usd, daily, tokens


def in_thread(work: Callable[[], Any]) -> Any:
    try:
        return work()
    finally:
        connections.close_all()


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    process = Process(tmp_path)
    yield process
    process.check.stop()
    process.journal.stop()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():  # noqa: ASYNC110  # It is a thread that is waited for.
            await asyncio.sleep(0.01)


async def test_counters_that_were_told_everything_agree(process: Process) -> None:
    await process.finish("a")
    await asyncio.to_thread(in_thread, process.drain)
    await process.finish("b")
    await process.admit("still running")

    assert await process.compare() == []
    assert await process.counters() == (100, 2, 250)


async def test_a_counter_that_drifted_is_named_logged_and_put_right(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    await process.finish("a")
    running = await process.admit("running")
    process.store.seed(BUDGET, window_start=standing_start(), settled_pico_usd=2_000_000_000_000)
    process.store.seed_limit(DAILY, window_start=NOON - 43_200, used=-1)
    process.store.seed_limit(TOKENS, window_start=0.0, used=40)

    with caplog.at_level(logging.WARNING):
        found = await process.compare()

    assert [(drift.rule, drift.difference) for drift in found] == [
        (BUDGET, -2_000_000_000_000),
        (DAILY, 1),
        (TOKENS, -40),
    ]
    assert "put right: budget monthly (1): counter $2.00" in caplog.text
    assert "put right: limit:1 (1000 per day): counter 0, ledger 1" in caplog.text
    figures = process.figures
    assert (figures.counter_drift_pico_usd, figures.counter_drift_limits) == (2_000_000_000_000, 41)
    assert figures.counter_repairs == 3
    assert await process.counters() == (50, 1, 125)
    assert await process.compare() == []
    assert figures.counter_drift_pico_usd == 0
    process.settle(running)
    assert await process.counters() == (100, 2, 250)


def standing_start() -> float:
    """Of March 2026."""
    return NOON - 12 * 3600 - 13 * 86_400


async def test_what_ends_while_the_ledger_is_summed_is_counted_once(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.finish("a")
    waiting = await process.admit("b")
    loop = asyncio.get_running_loop()
    summed = standing.used

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        found = summed(*arguments, **named)
        loop.call_soon_threadsafe(process.settle, waiting)
        return found

    monkeypatch.setattr("llmgateway.counter_check.used", meanwhile)

    assert await process.compare() == []
    assert await process.counters() == (100, 2, 250)


async def test_traffic_goes_on_while_counters_are_put_right(process: Process) -> None:
    async def traffic() -> None:
        for number in range(200):
            await process.finish(f"req_{number}")
            await asyncio.sleep(0.001)

    running = asyncio.create_task(traffic())
    while not running.done():
        process.store.seed_limit(DAILY, window_start=NOON - 43_200, used=3)
        await process.compare()
        await asyncio.to_thread(in_thread, process.drain)
    await running
    await process.compare()

    assert await process.counters() == (200 * 50, 200, 200 * 125)


async def test_each_address_is_compared(tmp_path: Path) -> None:
    key = structs.replace(KEY, limits=(EACH,), budgets=())
    process = Process(tmp_path, Snapshot(keys={b"x": KeyDigest(key)}))
    bound = structs.replace(EACH, counter="limit:3:ip:192.0.2.1")
    process.settle(await process.admit("a", limits=(bound,)), client_ip="192.0.2.1")
    assert await process.compare() == []
    process.store.seed_limit(bound, window_start=NOON - 43_200, used=7)

    found = await process.compare()

    assert [(drift.rule, drift.difference) for drift in found] == [(bound, -7)]
    assert await process.store.limit_used(bound) == 1
    process.journal.stop()


async def test_names_that_share_a_counter_are_left_alone(tmp_path: Path) -> None:
    """Each would be found to have used nothing of its own, and have all of it added once more."""
    key = structs.replace(KEY, limits=(EACH,), budgets=())
    process = Process(tmp_path, Snapshot(keys={b"x": KeyDigest(key)}))
    process.store._crowd.most = 0
    bound = structs.replace(EACH, counter="limit:3:ip:192.0.2.1")
    process.settle(await process.admit("a", limits=(bound,)), client_ip="192.0.2.1")

    assert await process.compare() == []
    assert await process.store.limit_used(bound) == 1
    process.journal.stop()


async def test_it_compares_again_and_again_and_reads_what_the_night_found(process: Process) -> None:
    await process.finish("a")

    def remember() -> None:
        Reconciliation.objects.create(finished_at="2026-03-14T03:00Z", since="2026-03-11T00:00Z", hours=72, drifted=5,
                                      repaired=0)  # fmt: skip

    await asyncio.to_thread(in_thread, remember)
    process.check.start()
    for _ in range(2):
        process.store.seed_limit(DAILY, window_start=NOON - 43_200, used=5)
        await until(lambda: agrees(process))

    await until(lambda: has_read_drift(process))


async def agrees(process: Process) -> bool:
    return await process.counters() == (50, 1, 125)


async def has_read_drift(process: Process) -> bool:
    return process.figures.rollup_drift_rows == 5


async def test_a_new_limit_goes_on_from_what_its_window_has_seen(tmp_path: Path) -> None:
    runtime = Runtime(Conf({"GATEWAY_DATA_DIR": str(tmp_path)}), Snapshot(), Seeds())
    now = runtime._clock.time()
    for name in ("a", "b"):
        runtime.journal.open(opened(name))
        runtime.journal.close(closed(name, started_at=now))
    snapshot = Snapshot(keys={b"x": KeyDigest(KEY)})

    await asyncio.to_thread(in_thread, lambda: runtime.follower._on_change(snapshot))
    assert await runtime._store.limit_used(DAILY) == 2
    assert await runtime._store.limit_used(TOKENS) == 250

    off, on = Snapshot(), replace(snapshot, revision=3)
    await asyncio.to_thread(in_thread, lambda: runtime.follower._on_change(off))
    await asyncio.to_thread(in_thread, lambda: runtime.follower._on_change(on))
    assert await runtime._store.limit_used(DAILY) == 2
    await runtime.stop()


def test_only_what_a_limit_sums_makes_it_new() -> None:
    counted = WindowLimit(DAILY, "key_id", "7")

    assert counted.sums == WindowLimit(structs.replace(DAILY, amount=5, burst=5), "key_id", "7").sums
    assert counted.sums != WindowLimit(structs.replace(DAILY, per="month"), "key_id", "7").sums
