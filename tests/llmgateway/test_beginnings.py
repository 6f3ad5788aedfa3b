"""Shared counters of new rules begin with what all workers have used, each request counted once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections

from billing.journal import Journal
from billing.ledger import JournalDrain
from billing.windows import load_zone
from llmgateway.beginnings import Beginnings
from llmgateway.pipeline.protocols import Reservation, TargetTerms, Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Key, KeyDigest, Limit, Snapshot
from llmgateway.recount import LedgerRecount
from llmgateway.seeding import WindowLimit
from llmgateway.stores.redis_store import RedisStore
from tests.billing.records import NOON, closed, opened
from tests.fakes import FakeClock
from tests.stores.redis_server import RedisServer

pytestmark = [pytest.mark.postgres, pytest.mark.usefixtures("_on_postgres")]

load_zone("UTC")
BUDGET = BudgetRule(1, "monthly", "key", "7", "month", 10**15, "UTC", strict=True)
EACH = BudgetRule(2, "per user", "end_user", "", "month", 10**15, "UTC", each="end_user")
DAILY = Limit("limit:1", "10**6 per day", "key", 10**6, 10**6, per="day", owner="key:7")
WINDOW = WindowLimit(DAILY, "key_id", "7")
COST = 10
NEW = Snapshot(
    keys={b"x": KeyDigest(Key("7", "pub", "k", 3, "red", limits=(DAILY,), budgets=(BUDGET,)))},
    budgets={1: BUDGET, 2: EACH},
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    redis_server = RedisServer(str(tmp_path))
    redis_server.start()
    yield redis_server
    redis_server.kill()


class Worker:
    """A process's journal, counters and configuration."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.journal = Journal(folder, fsync="never", max_bytes=2**24)
        self.snapshot = Snapshot()
        clock = FakeClock(NOON)
        self.recount = LedgerRecount(self.journal, lambda: self.snapshot, clock)
        self.store = RedisStore(
            server.url, clock, timeout_s=5, recount=self.recount, now_us=lambda: round(clock.time() * 1e6)
        )
        self.beginnings = Beginnings(self.store, self.recount, self.journal)
        self.ready = asyncio.Event()

    def swap(self) -> None:
        self.snapshot = NEW

    async def learn(self) -> None:
        """Of the new rules, as the follower's thread does."""
        await in_thread(lambda: self.beginnings.begin([BUDGET, EACH], [WINDOW], self.swap, self.ready))
        await asyncio.wait_for(self.ready.wait(), 5)

    async def serve(self, request_id: str) -> None:
        """One request, by the rules that hold when it comes and those that came while it ran."""
        knows = self.snapshot is NEW
        taken = await self.store.admit(
            request_id,
            demand=Tokens(1, 1),
            limits=(DAILY,) if knows else (),
            budgets=(BUDGET,) if knows else (),
            targets=(TargetTerms(expected_pico_usd=3),),
        )
        assert isinstance(taken, Reservation), taken
        self.journal.open(opened(request_id))
        self.finish(request_id, taken)

    def finish(self, request_id: str, taken: Reservation) -> None:
        self.journal.close(closed(request_id, cost_pico_usd=COST, end_user="ada"))
        budgets = (BUDGET,) if self.snapshot is NEW else ()
        self.store.settle(taken, cost_pico_usd=COST, used=Tokens(1, 1), budgets=budgets)

    async def drain(self) -> None:
        await in_thread(lambda: JournalDrain(self.journal.folder, journal=self.journal).drain())


async def in_thread(work: Callable[[], Any]) -> None:
    def closing() -> None:
        try:
            work()
        finally:
            connections.close_all()

    await asyncio.to_thread(closing)


@asynccontextmanager
async def workers(folder: Path, server: RedisServer, count: int = 2) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        made = [Worker(folder / str(number), server) for number in range(count)]
        for worker in made:
            stack.callback(worker.journal.stop)
            worker.store.start()
            stack.push_async_callback(worker.store.stop)
        for worker in made:
            assert await worker.store.ready()
        yield made


async def test_what_every_worker_used_counts_once(tmp_path: Path, server: RedisServer) -> None:
    async with workers(tmp_path, server) as (one, other):
        await one.serve("drained")
        await one.drain()
        await one.serve("in one's journal")
        await other.serve("in the other's journal")

        await asyncio.gather(one.learn(), other.learn())

        bound = BudgetRule(2, "per user", "end_user", "ada", "month", 10**15, "UTC", each="end_user")
        assert (await one.store.state(BUDGET)).settled_pico_usd == 3 * COST
        assert (await one.store.state(bound)).settled_pico_usd == 3 * COST
        assert await one.store.limit_used(DAILY) == 3


async def test_a_worker_that_learns_later_adds_what_it_did_meanwhile(tmp_path: Path, server: RedisServer) -> None:
    async with workers(tmp_path, server) as (one, other):
        await other.serve("before")
        await one.learn()
        await other.serve("meanwhile")
        await other.drain()
        await one.serve("by the new rule")

        await other.learn()

        assert (await one.store.state(BUDGET)).settled_pico_usd == 3 * COST
        assert await one.store.limit_used(DAILY) == 3


async def test_under_load_nothing_is_lost_or_counted_twice(tmp_path: Path, server: RedisServer) -> None:
    async with workers(tmp_path, server) as made:
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
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as load:
            for number, worker in enumerate(made):
                load.create_task(keep_serving(worker, str(number)))
                load.create_task(keep_draining(worker))
            await asyncio.sleep(0.2)
            await made[0].learn()
            await asyncio.sleep(0.1)
            await made[1].learn()
            await asyncio.sleep(0.1)
            stopping = True

        state = await made[0].store.state(BUDGET)
        assert served > 20
        assert (state.settled_pico_usd, state.held_pico_usd) == (served * COST, 0)


async def test_a_failing_ledger_ends_the_counters_that_cannot_be_right(
    tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workers(tmp_path, server, 1) as (one,):
        await one.serve("before")

        def fail(*_: object) -> None:
            raise DatabaseError("away")

        monkeypatch.setattr(one.recount, "sums", fail)
        await one.learn()
        async with asyncio.timeout(5):
            while one.store.mode == "ok":  # noqa: ASYNC110  # Of modes there is no event.
                await asyncio.sleep(0.001)
        assert await one.store.ready()

        assert (await one.store.state(BUDGET)).settled_pico_usd == COST
