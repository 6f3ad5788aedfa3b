"""Shared counters that drifted are found and put right while requests run, and nothing is while anything is unclear."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from msgspec import structs

from billing.journal import Journal
from billing.ledger import JournalDrain, drain_orphans
from billing.windows import load_zone
from llmgateway import shared_check
from llmgateway.counter_check import CounterDrift
from llmgateway.pipeline.protocols import Record, Reservation, TargetTerms, Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Key, KeyDigest, Limit, Snapshot
from llmgateway.pipeline.telemetry import Figures
from llmgateway.recount import LedgerRecount, orphans
from llmgateway.shared_check import SharedCounterCheck
from llmgateway.stores import redis_store
from llmgateway.stores.redis_store import RedisStore
from tests.billing.records import NOON, closed, opened
from tests.fakes import FakeClock
from tests.stores.redis_server import RedisServer

pytestmark = [pytest.mark.postgres, pytest.mark.usefixtures("_on_postgres")]

load_zone("UTC")
BUDGET = BudgetRule(1, "monthly", "key", "7", "month", 10**15, "UTC")
DAILY = Limit("limit:1", "10**6 per day", "key", 10**6, 10**6, per="day", owner="key:7")
TOKENS = Limit("limit:2", "10**9 tokens", "team", 10**9, 10**9, metric="tokens", per="total", owner="team:3")
EACH = Limit("limit:3", "10**6 per day and address", "ip", 10**6, 10**6, per="day", owner="key:7", each="ip")
OF_ADDRESS = structs.replace(EACH, counter="limit:3:ip:192.0.2.1")
KEY = Key("7", "pub", "k", 3, "red", limits=(DAILY, TOKENS, EACH), budgets=(BUDGET,))
SNAPSHOT = Snapshot(keys={b"x": KeyDigest(KEY)}, budgets={1: BUDGET})
COST = 50


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    redis_server = RedisServer(str(tmp_path))
    redis_server.start()
    yield redis_server
    redis_server.kill()


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look for a comparison more often than once a second."""
    monkeypatch.setattr(redis_store, "WATCH_S", 0.05)


class Worker:
    """A process's journal, counters and check."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.journal = Journal(folder, fsync="never", max_bytes=2**24)
        self.snapshot = SNAPSHOT
        clock = FakeClock(NOON)
        recount = LedgerRecount(self.journal, lambda: self.snapshot, clock)
        self.store = RedisStore(
            server.url,
            clock,
            timeout_s=5,
            recount=recount,
            journal=recount,
            now_us=lambda: round(clock.time() * 1e6),
        )
        self.figures = Figures()
        self.check = SharedCounterCheck(
            self.store, recount, clock=clock, figures=self.figures, every_s=0.1, confirm_s=0.05, try_again_s=0.05
        )

    async def admit(self, request_id: str) -> Reservation:
        taken = await self.store.admit(
            request_id,
            demand=Tokens(100, 1000),
            limits=(DAILY, TOKENS, OF_ADDRESS),
            budgets=(BUDGET,),
            targets=(TargetTerms(expected_pico_usd=3),),
        )
        assert isinstance(taken, Reservation), taken
        self.journal.open(opened(request_id))
        return taken

    def settle(self, taken: Reservation) -> None:
        """100 input tokens and 25 output tokens, as `closed` has them."""
        self.journal.close(closed(taken.id, cost_pico_usd=COST, client_ip="192.0.2.1"))
        self.store.settle(taken, cost_pico_usd=COST, used=Tokens(100, 25), budgets=(BUDGET,))

    async def serve(self, request_id: str) -> None:
        taken = await self.admit(request_id)
        await asyncio.sleep(0)
        self.settle(taken)

    async def drain(self) -> None:
        await in_thread(lambda: JournalDrain(self.journal.folder, journal=self.journal).drain())

    async def compare(self) -> list[CounterDrift]:
        await asyncio.sleep(0.12)  # Whoever compared last has given that up by then.
        found: list[CounterDrift] = await in_thread(self.check.run)
        return found

    async def counters(self) -> tuple[int, int, int, int]:
        state = await self.store.state(BUDGET)
        used = [await self.store.limit_used(limit) for limit in (DAILY, TOKENS, OF_ADDRESS)]
        return state.settled_pico_usd, used[0], used[1], used[2]

    async def spoil(self, *, budget: int = 0, daily: int = 0, tokens: int = 0, address: int = 0) -> None:
        """What nobody settled."""
        if budget:
            self.store.seed(BUDGET, window_start=NOON - 12 * 3600 - 13 * 86_400, settled_pico_usd=budget)
        for limit, start, amount in (
            (DAILY, NOON - 43_200, daily),
            (TOKENS, 0.0, tokens),
            (OF_ADDRESS, NOON - 43_200, address),
        ):
            if amount:
                self.store.seed_limit(limit, window_start=start, used=amount)
        await self.store.state(BUDGET)

    async def die(self) -> None:
        """Without a word to anybody. Its journal can be adopted."""
        tasks = self.store._tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.store.comparisons.stop()
        self.store._tasks = []
        self.journal.stop()


async def in_thread(work: Callable[[], Any]) -> Any:
    def closing() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    return await asyncio.to_thread(closing)


@asynccontextmanager
async def workers(folder: Path, server: RedisServer, count: int = 2) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        made = [Worker(folder / "journals", server) for _ in range(count)]
        for worker in made:
            stack.callback(worker.journal.stop)
            worker.store.start()
            stack.push_async_callback(worker.store.stop)
        for worker in made:
            assert await worker.store.ready()
        yield made


async def test_counters_that_were_told_everything_agree(
    tmp_path: Path, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with workers(tmp_path, server) as (one, other):
        await one.serve("drained")
        await one.drain()
        await one.serve("in one's journal")
        await other.serve("in the other's journal")
        await other.admit("running")

        with caplog.at_level(logging.INFO):
            assert await one.compare() == []

        assert "compar" not in caplog.text.lower()
        assert await one.counters() == (3 * COST, 3 + 1, 3 * 125 + 1100, 3 + 1)


async def test_counters_that_drifted_are_named_logged_and_put_right(
    tmp_path: Path, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with workers(tmp_path, server) as (one, other):
        await one.serve("drained")
        await one.drain()
        await other.serve("in a journal")
        running = await other.admit("running")
        await one.spoil(budget=2_000_000_000_000, daily=-1, tokens=40, address=7)

        found = await one.compare()

        assert [(drift.rule, drift.difference) for drift in found] == [
            (BUDGET, -2_000_000_000_000),
            (DAILY, 1),
            (TOKENS, -40),
            (OF_ADDRESS, -7),
        ]
        assert "put right: budget monthly (1): counter $2.00" in caplog.text
        figures = one.figures
        assert (figures.counter_drift_pico_usd, figures.counter_drift_limits) == (2_000_000_000_000, 48)
        assert figures.counter_repairs == 4
        assert await one.compare() == []
        assert figures.counter_drift_pico_usd == 0
        other.settle(running)
        await other.counters()
        assert await one.counters() == (3 * COST, 3, 3 * 125, 3)


async def test_counters_that_are_gone_are_put_right(tmp_path: Path, server: RedisServer) -> None:
    async with workers(tmp_path, server, 1) as (one,):
        await one.serve("a")
        await one.drain()
        await one.counters()
        for name in server.ask("KEYS", "*limit:*"):  # type: ignore[attr-defined]
            server.ask("DEL", name)

        assert [drift.difference for drift in await one.compare()] == [1, 125, 1]
        assert await one.counters() == (COST, 1, 125, 1)


async def test_one_worker_compares_at_a_time(tmp_path: Path, server: RedisServer) -> None:
    async with workers(tmp_path, server) as (one, other):
        other.figures.counter_drift_limits = 5
        await one.spoil(daily=3)

        found = await asyncio.gather(one.compare(), other.compare())

        assert sorted(len(drifts) for drifts in found) == [0, 1]
        assert await one.counters() == (0, 0, 0, 0)
        assert one.figures.counter_drift_limits + other.figures.counter_drift_limits == 3


@pytest.mark.parametrize("spoiled", [0, 3])
async def test_under_load_only_what_drifted_is_put_right(tmp_path: Path, server: RedisServer, spoiled: int) -> None:
    async with workers(tmp_path, server, 3) as made:
        served = 0
        stopping = False

        async def keep_serving(worker: Worker, name: str) -> None:
            nonlocal served
            while not stopping:
                served += 1
                await worker.serve(f"{name}-{served}")

        async def keep_draining(worker: Worker) -> None:
            while not stopping:
                await worker.drain()
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as load:
            for number, worker in enumerate(made):
                for caller in range(4):
                    load.create_task(keep_serving(worker, f"{number}-{caller}"))
                load.create_task(keep_draining(worker))
            found = []
            for turn in range(4):
                if spoiled:
                    await made[0].spoil(daily=spoiled, budget=7)
                found.append(await made[turn % 3].compare())
            stopping = True
        for worker in made:
            await worker.counters()
        found.append(await made[0].compare())  # Nothing is in the way of this one.

        # With the machine busy a comparison may be inconclusive; then the next one finds it all.
        assert sum(drift.difference for drifts in found for drift in drifts if drift.rule is DAILY) == -4 * spoiled
        assert bool(found[-1]) <= bool(spoiled)
        assert served > 20
        assert await made[0].counters() == (served * COST, served, served * 125, served)


async def test_nothing_is_put_right_until_a_dead_workers_journal_was_adopted(
    tmp_path: Path, server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgateway.stores.redis_comparison.NOTED_S", 0.3)
    async with workers(tmp_path, server) as (one, other):
        await other.drain()
        await other.serve("in the dead worker's journal")
        await other.counters()
        await other.die()
        await one.spoil(daily=3)

        assert await one.compare() == []
        assert "did not say how far they are" in caplog.text
        server.ask("ZREM", "{gateway}:workers", other.store._worker)  # As it is after five seconds.
        assert await one.compare() == []
        assert f"journals {other.journal.name} belong to no worker" in caplog.text
        assert (await one.counters())[:2] == (COST, 4)

        await in_thread(lambda: drain_orphans(tmp_path / "journals"))
        assert await one.compare() == []
        assert "a worker ended a moment ago" in caplog.text
        monkeypatch.setattr(shared_check, "GONE_S", -1.0)
        assert [drift.difference for drift in await one.compare()] == [-3]
        assert await one.counters() == (COST, 1, 125, 1)


async def test_what_a_dead_worker_closed_and_did_not_tell_is_settled_by_its_adopter(
    tmp_path: Path, server: RedisServer
) -> None:
    async with workers(tmp_path, server) as (one, other):
        for request_id, counted in (("closed", True), ("sent nowhere", False)):
            await other.admit(request_id)
            cost = COST if counted else 0
            other.journal.close(closed(request_id, cost_pico_usd=cost, client_ip="192.0.2.1", counted=counted))
        await other.admit("open")
        await other.die()
        adopted: list[Record] = []
        await in_thread(lambda: drain_orphans(tmp_path / "journals", on_commit=adopted.extend))

        one.store.settle_orphans(orphans(adopted))

        assert (await one.store.state(BUDGET)).held_pico_usd == 0
        spent, requests, *_ = await one.counters()
        assert spent == sum(row["cost_pico_usd"] for row in adopted)
        assert requests == 2


async def test_nothing_is_put_right_while_a_worker_has_not_told_all_it_settled(
    tmp_path: Path, server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgateway.stores.redis_comparison.NOTED_S", 0.3)
    async with workers(tmp_path, server) as (one, other):
        await one.spoil(daily=3)
        other.store._open.outside += 1  # A request that Redis does not know.

        assert await one.compare() == []
        assert f"these workers did not say how far they are: {other.store._worker}" in caplog.text
        other.store._open.outside -= 1
        assert [drift.difference for drift in await one.compare()] == [-3]


async def test_nothing_is_put_right_while_workers_have_another_configuration(
    tmp_path: Path, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with workers(tmp_path, server) as (one, other):
        await one.spoil(daily=3)
        weekly = structs.replace(DAILY, per="week")
        other.snapshot = Snapshot(
            keys={b"x": KeyDigest(structs.replace(KEY, limits=(weekly, TOKENS, EACH)))}, budgets={1: BUDGET}
        )
        assert await one.compare() == []
        assert "not every worker has the present configuration" in caplog.text

        other.snapshot = Snapshot()
        assert await one.compare() == []
        assert "does not know the rule" in caplog.text


async def test_a_difference_that_is_seen_once_is_left_alone(
    tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workers(tmp_path, server, 1) as (one,):
        compare, seen = one.check._compare, []

        def comparing(*arguments: Any) -> Any:
            found = compare(*arguments)
            seen.append([drift.difference for drift in found.values()])
            if len(seen) == 1:
                asyncio.run_coroutine_threadsafe(one.spoil(daily=-5, tokens=3), one.check._loop).result(5)
            return found

        monkeypatch.setattr(one.check, "_compare", comparing)
        await one.spoil(daily=5, tokens=2)

        assert [(drift.rule, drift.difference) for drift in await one.compare()] == [(TOKENS, -2)]
        assert seen == [[-5, -2], [-5]]
        assert await one.counters() == (0, 0, 3, 0)


async def test_windows_that_are_about_to_end_are_left_out(tmp_path: Path, server: RedisServer) -> None:
    async with workers(tmp_path, server, 1) as (one,):
        await one.spoil(daily=5, tokens=2)
        one.check._clock.advance(43_200 - 30)  # type: ignore[attr-defined]

        assert [drift.rule for drift in await one.compare()] == [TOKENS]


async def test_a_redis_that_is_away_is_compared_another_time(
    tmp_path: Path, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with workers(tmp_path, server, 1) as (one,):
        server.kill()

        assert await one.compare() == []
        assert "could not be compared" in caplog.text
