"""The Redis store when Redis fails: killed, frozen, emptied, restarted; and when workers do."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from typing import Any

import pytest

from billing.windows import load_zone, window_bounds
from llmgateway.pipeline.protocols import (
    BudgetRefusal,
    BudgetState,
    LimitRefusal,
    Reservation,
    StoreRefusal,
    StrictHold,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_fallback import Policy
from llmgateway.stores.redis_open import Orphan
from llmgateway.stores.redis_store import RedisStore
from tests.stores.redis_running import (
    AT_ONCE,
    DAILY,
    QUOTA,
    RATE,
    STRICT,
    TOTAL,
    Ledger,
    Soon,
    WallClock,
    admitted,
    ask,
    running,
    until,
)
from tests.stores.redis_server import RedisServer

load_zone("UTC")


async def stalls(found: list[float]) -> None:
    """How long this busy machine kept the event loop from running."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        found.append(time.perf_counter() - before - 0.005)


@pytest.mark.parametrize("kind", [RedisStore, Soon])
async def test_a_frozen_redis_keeps_no_request_waiting(server: RedisServer, kind: type[RedisStore]) -> None:
    async with running(server, kind=kind) as store:
        await admitted(store, (RATE,))
        server.freeze()
        waits = []
        try:
            for _ in range(3):
                stalled: list[float] = []
                watching = asyncio.create_task(stalls(stalled))
                started = time.perf_counter()
                decisions = await asyncio.gather(*(ask(store, (RATE,)) for _ in range(50)))
                waits.append(time.perf_counter() - started - sum(stalled))
                watching.cancel()
                assert all(isinstance(decision, Reservation) for decision in decisions)
        finally:
            server.thaw()

        assert waits[0] < 0.12  # 75 ms, and a little patience.
        assert max(waits[1:]) < 0.05
        await until(store, "ok")


@pytest.mark.parametrize("kind", [RedisStore, Soon])
async def test_what_a_frozen_redis_was_asked_is_not_taken_when_it_wakes(
    server: RedisServer, kind: type[RedisStore]
) -> None:
    async with running(server, policy="closed", kind=kind) as store:
        server.freeze()
        decisions = await asyncio.gather(*(ask(store, (AT_ONCE,), (TOTAL,), hold=100) for _ in range(8)))
        server.thaw()
        await until(store, "ok")
        await asyncio.sleep(0.05)

        assert all(isinstance(decision, StoreRefusal) for decision in decisions)
        assert (await store.state(TOTAL)).held_pico_usd == 0
        assert await store.limit_used(AT_ONCE) == 0


@pytest.mark.parametrize(
    ("policy", "rates", "budgets"),
    [
        ("local", Reservation, Reservation),
        ("open", Reservation, Reservation),
        ("closed", StoreRefusal, StoreRefusal),
    ],
)
@pytest.mark.parametrize("kind", [RedisStore, Soon])
async def test_while_redis_is_away_the_policy_decides(
    server: RedisServer, policy: Policy, rates: type, budgets: type, kind: type[RedisStore]
) -> None:
    async with running(server, policy=policy, timeout_s=5, kind=kind) as store:
        await admitted(store, (), (TOTAL,), hold=100)
        load = [asyncio.create_task(ask(store, (RATE,))) for _ in range(200)]
        server.kill()
        started = time.perf_counter()
        decisions = await asyncio.gather(*load)
        await until(store, policy)

        assert time.perf_counter() - started < 1
        assert {type(decision) for decision in decisions} <= {Reservation, rates}
        assert isinstance(await ask(store, (RATE,)), rates)
        assert isinstance(await ask(store, (), (TOTAL,), hold=1), budgets)
        assert isinstance(await ask(store, (), (STRICT,), strict=StrictHold(1, 1)), StoreRefusal)
        assert isinstance(await ask(store, (QUOTA,)), StoreRefusal)
        assert isinstance(await ask(store), Reservation)  # Nothing limits it.


async def test_a_worker_alone_may_use_what_was_left_and_no_more(server: RedisServer) -> None:
    async with running(server, timeout_s=5) as store:
        first = await admitted(store, (DAILY,), (TOTAL,), hold=900)
        store.settle(first, cost_pico_usd=900, used=Tokens(1, 1), budgets=(TOTAL,))
        await ask(store, (), (TOTAL,), hold=200)
        server.kill()
        await until(store, "local")

        assert isinstance(await ask(store, (), (TOTAL,), hold=101), BudgetRefusal)
        passed = [isinstance(await ask(store, (DAILY,)), Reservation) for _ in range(110)]

        assert isinstance(await ask(store, (), (TOTAL,), hold=100), Reservation)
        assert sum(passed) == 99


async def test_two_workers_share_what_was_left(server: RedisServer) -> None:
    async with running(server, timeout_s=5) as one, running(server, timeout_s=5) as other:
        await admitted(one, (DAILY,))
        async with asyncio.timeout(5):
            while one.workers < 2 or other.workers < 2:  # noqa: ASYNC110  # Of workers neither.
                await asyncio.sleep(0.02)
        await admitted(other, (DAILY,))
        server.kill()
        await until(one, "local")
        await until(other, "local")

        passed = [
            sum([isinstance(await ask(store, (DAILY,)), Reservation) for _ in range(110)]) for store in (one, other)
        ]

        # Each goes by what Redis told it last: 99 and 98 were left.
        assert passed == [49, 49]


async def test_what_was_used_meanwhile_is_told_afterwards(server: RedisServer) -> None:
    async with running(server, timeout_s=0.05) as store:
        before = await admitted(store, (), (TOTAL,), hold=500)
        server.freeze()
        await asyncio.gather(ask(store, (RATE,)))
        await until(store, "local")
        meanwhile = await admitted(store, (DAILY,), (TOTAL,), hold=10)
        still_running = await admitted(store, (DAILY,), (TOTAL,), hold=10)
        store.settle(before, cost_pico_usd=70, used=Tokens(1, 1), budgets=(TOTAL,))
        store.settle(meanwhile, cost_pico_usd=7, used=Tokens(1, 1), budgets=(TOTAL,))
        server.thaw()
        await until(store, "ok")

        state = await store.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (77, 10)
        assert await store.limit_used(DAILY) == 2
        store.settle(still_running, cost_pico_usd=3, used=Tokens(1, 1), budgets=(TOTAL,))
        assert (await store.state(TOTAL)).settled_pico_usd == 80
        assert await store.limit_used(DAILY) == 2
        assert store.unsent == 0


async def test_what_was_used_without_redis_is_not_told_twice(server: RedisServer) -> None:
    """The ledger has it by the time an emptied Redis is filled from there."""
    ledger = Ledger(idle=True)
    async with running(server, recount=ledger) as store:
        await ask(store, (), (TOTAL,), hold=2000)
        server.kill()
        await until(store, "local")
        meanwhile = await admitted(store, (), (TOTAL,), hold=10)
        later = await admitted(store, (), (TOTAL,), hold=10)
        store.settle(meanwhile, cost_pico_usd=7, used=Tokens(1, 1), budgets=(TOTAL,))
        ledger.own = 7
        server.start()
        await until(store, "ok")

        assert (await store.state(TOTAL)).settled_pico_usd == 7
        store.settle(later, cost_pico_usd=3, used=Tokens(1, 1), budgets=(TOTAL,))
        assert (await store.state(TOTAL)).settled_pico_usd == 10


async def test_an_emptied_redis_is_filled_from_the_ledger_and_what_runs(server: RedisServer) -> None:
    ledger = Ledger(idle=True)
    async with running(server, recount=ledger) as store:
        runs = await admitted(store, (AT_ONCE,), (TOTAL,), hold=100)
        ledger.settled, ledger.own = 300, 40
        server.kill()
        server.start()
        await until(store, "local", "rebuilding")
        await until(store, "ok")

        state = await store.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (340, 100)
        assert await store.limit_used(AT_ONCE) == 1
        store.settle(runs, cost_pico_usd=60, used=Tokens(1, 1), budgets=(TOTAL,))
        state = await store.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (400, 0)
        assert await store.limit_used(AT_ONCE) == 0


async def test_flushing_redis_is_noticed_by_the_next_request(server: RedisServer) -> None:
    ledger = Ledger(idle=True)
    async with running(server, recount=ledger) as store:
        await admitted(store, (), (TOTAL,), hold=100)
        ledger.settled = 500
        server.ask("FLUSHALL")

        await ask(store, (RATE,))
        await until(store, "ok")

        state = await store.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (500, 100)


async def test_counters_of_another_run_of_redis_are_not_believed(server: RedisServer) -> None:
    """A restart brings back an older file; a failover, a replica that lacks the last writes."""
    ledger = Ledger(idle=True)
    async with running(server, recount=ledger) as store:
        first = await admitted(store, (), (TOTAL,), hold=100)
        server.ask("SAVE")
        store.settle(first, cost_pico_usd=80, used=Tokens(1, 1), budgets=(TOTAL,))
        assert (await store.state(TOTAL)).settled_pico_usd == 80
        ledger.settled = 80
        server.kill()
        server.start("--dbfilename", "dump.rdb")
        await until(store, "local", "rebuilding")
        await until(store, "ok")

        state = await store.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (80, 0)
        await asyncio.sleep(0.05)
        names = server.ask("KEYS", "{gateway}:*:budget:*")
        assert len(names) == 2  # type: ignore[arg-type]  # Of the new epoch; of the old one nothing is left.


async def test_rates_begin_as_used_up_when_nobody_knows(server: RedisServer) -> None:
    ledger = Ledger(idle=True)
    async with running(server, recount=ledger) as store:
        await admitted(store, (RATE,))
        ledger.idle = False
        server.ask("FLUSHALL")
        await ask(store)
        await until(store, "rebuilding", "local", "ok")
        await until(store, "ok")

        refusal = [
            decision
            for decision in [await ask(store, (RATE,)) for _ in range(200)]
            if not isinstance(decision, Reservation)
        ]
        assert refusal
        assert isinstance(refusal[0], LimitRefusal)


async def test_strict_budgets_wait_for_the_ledger(server: RedisServer) -> None:
    ledger = Ledger(idle=True)
    async with running(server, recount=ledger) as store:
        await admitted(store, (), (TOTAL,), hold=1)
        ledger.settled, ledger.failing = 999, 1
        server.ask("FLUSHALL")
        await ask(store)
        await asyncio.sleep(0.2)

        assert store.mode == "rebuilding"
        assert isinstance(await ask(store, (), (STRICT,), strict=StrictHold(1, 1)), StoreRefusal)
        assert isinstance(await ask(store, (RATE,)), Reservation)
        await until(store, "ok")
        assert (await store.state(STRICT)).settled_pico_usd == 999


async def test_strict_budgets_open_when_every_worker_has_reported_or_is_gone(server: RedisServer) -> None:
    async with running(server, recount=Ledger(idle=True)) as store:
        # A worker that is registered and says nothing.
        server.ask("ZADD", "{gateway}:workers", str(int(time.time() * 1000) + 60_000), "silent")
        started = time.perf_counter()
        server.ask("DEL", "{gateway}:epoch")
        await ask(store)
        await until(store, "rebuilding")

        assert isinstance(await ask(store, (), (STRICT,), strict=StrictHold(1, 1)), StoreRefusal)
        await until(store, "ok")
        assert 1.5 < time.perf_counter() - started < 4
        assert isinstance(await ask(store, (), (STRICT,), strict=StrictHold(1, 1)), Reservation)


async def test_one_worker_sums_and_both_add_what_runs(server: RedisServer) -> None:
    one_ledger, other_ledger = Ledger(idle=True), Ledger(idle=True)
    async with running(server, recount=one_ledger) as one, running(server, recount=other_ledger) as other:
        await admitted(one, (), (TOTAL,), hold=100)
        await admitted(other, (), (TOTAL,), hold=200)
        asked = one_ledger.asked + other_ledger.asked
        one_ledger.settled = other_ledger.settled = 300
        one_ledger.own, other_ledger.own = 7, 5
        server.kill()
        server.start()
        for store in (one, other):
            await until(store, "local", "rebuilding")
        for store in (one, other):
            await until(store, "ok")

        state = await one.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (312, 300)
        assert one_ledger.asked + other_ledger.asked == asked + 1


async def test_a_dead_workers_hold_is_settled_once_by_its_id(server: RedisServer) -> None:
    async with running(server) as adopter:
        async with running(server) as dead:
            left = await admitted(dead, (AT_ONCE,), (TOTAL, STRICT), hold=100, strict=StrictHold(400, 400))

        assert (await adopter.state(TOTAL)).held_pico_usd == 100
        orphan = Orphan(left.id, 30, Tokens(1, 1), reserved_pico_usd=370)
        settled = [await adopter.settle_orphan(orphan) for _ in range(2)]

        assert settled == [True, False]
        assert await adopter.state(TOTAL) == BudgetState(30, 0)
        assert await adopter.state(STRICT) == BudgetState(400, 0)  # Until somebody has reviewed it.
        assert await adopter.limit_used(AT_ONCE) == 0


async def test_slots_of_a_dead_worker_return_when_their_lease_ends(server: RedisServer) -> None:
    async with running(server) as alive:
        async with running(server, lease_s=0.3) as dead:
            await admitted(dead, (AT_ONCE,))
            await admitted(dead, (AT_ONCE,))

        assert isinstance(await ask(alive, (AT_ONCE,)), LimitRefusal)
        await asyncio.sleep(0.35)
        assert isinstance(await ask(alive, (AT_ONCE,)), Reservation)


async def test_a_cancelled_admission_takes_nothing(server: RedisServer) -> None:
    async with running(server) as store:
        for _ in range(20):
            asking = asyncio.create_task(ask(store, (AT_ONCE,), (TOTAL,), hold=100))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        assert (await store.state(TOTAL)).held_pico_usd == 0
        assert await store.limit_used(AT_ONCE) == 0


async def test_a_new_budget_is_counted_once_though_every_worker_learns_of_it(server: RedisServer) -> None:
    async with running(server) as one, running(server) as other:
        for store in (one, other):
            store.restart(TOTAL)
            store.seed(TOTAL, window_start=0.0, settled_pico_usd=400)
            await store.state(TOTAL)

        assert (await one.state(TOTAL)).settled_pico_usd == 400


async def test_nothing_is_left_for_ever_but_totals(server: RedisServer) -> None:
    day = BudgetRule(9, "day", "key", "1", "day", 1000, "UTC")
    async with running(server) as store:
        reservation = await admitted(store, (RATE, DAILY, QUOTA, AT_ONCE), (day, TOTAL), hold=1)
        names = [str(name, "ascii") for name in server.ask("KEYS", "*")]  # type: ignore[attr-defined]
        for_ever = {name.split(":", 2)[-1] for name in names if server.ask("TTL", name) == -1}

        frames = store.frames
        totals = {frames.budget(TOTAL, time.time()).name, frames.limit(QUOTA, time.time()).name}
        assert for_ever == {"epoch", "workers", "running", *totals}  # What runs is forgotten when it has ended.
        name = next(name for name in names if "budget:9:" in name)
        end = window_bounds("day", "UTC", time.time())[1]
        assert end is not None
        assert abs(int(str(server.ask("TTL", name))) - (end + 3600 - time.time())) < 5
        store.settle(reservation, cost_pico_usd=0, used=None, budgets=())
        await store.state(TOTAL)
        left = [str(name, "ascii") for name in server.ask("KEYS", "*")]  # type: ignore[attr-defined]
        assert not any("hold:" in name or name.endswith("running") for name in left)


BOUND = Limit("limit:50", "", "key", 600, 40)
SHARED = BudgetRule(50, "shared", "global", "", "total", 10_000, "UTC", strict=True)


def _worker(url: str, out: Any) -> None:
    """150 requests by 24 at once; says when each was admitted, and what was granted."""

    async def run() -> None:
        store = RedisStore(url, WallClock(), timeout_s=5)
        store.start()
        assert await store.ready()
        passed: list[float] = []
        spent = 0
        left = iter(range(150))

        async def one() -> None:
            nonlocal spent
            for _ in left:
                if isinstance(await ask(store, (BOUND,)), Reservation):
                    passed.append(time.time())
                decision = await ask(store, (), (SHARED,), strict=StrictHold(70, 30, 1))
                if isinstance(decision, Reservation):
                    assert decision.granted_pico_usd is not None
                    spent += decision.granted_pico_usd
                    store.settle(
                        decision, cost_pico_usd=decision.granted_pico_usd, used=Tokens(1, 1), budgets=(SHARED,)
                    )

        started = time.time()
        await asyncio.gather(*(one() for _ in range(24)))
        out.put((started, passed, spent))
        await store.stop()

    asyncio.run(run())


async def test_four_processes_never_exceed_the_bound(server: RedisServer) -> None:
    """600 requests by 96 at once."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    workers = [context.Process(target=_worker, args=(server.url, out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [await asyncio.to_thread(out.get, timeout=60) for _ in workers]
    for worker in workers:
        worker.join()

    begun = min(started for started, _, _ in found)
    passed = sorted(moment for _, moments, _ in found for moment in moments)
    # The answer comes after the decision, so the time that has passed is no less than it seems.
    assert 40 <= len(passed) <= 40 + 600 * (passed[-1] - begun) / 60 + 1
    spent = sum(spent for _, _, spent in found)
    assert spent <= SHARED.limit_pico_usd
    assert SHARED.limit_pico_usd - spent < 30  # What could be afforded was not refused.


async def test_redis_killed_under_load_and_back(server: RedisServer) -> None:
    """Nothing hangs, nothing is lost: every admitted request is settled, and the counters say so afterwards."""
    ledger = Ledger(idle=True)
    big = BudgetRule(60, "big", "global", "", "total", 10**12, "UTC")
    async with running(server, recount=ledger) as store:
        await admitted(store, (), (big,), hold=0)
        slowest = 0.0
        stop = asyncio.Event()

        async def load() -> None:
            nonlocal slowest
            while not stop.is_set():
                started = time.perf_counter()
                decision = await ask(store, (AT_ONCE,), (big,), hold=10)
                slowest = max(slowest, time.perf_counter() - started)
                await asyncio.sleep(0.001)
                if isinstance(decision, Reservation):
                    store.settle(decision, cost_pico_usd=1, used=Tokens(1, 1), budgets=(big,))

        loads = [asyncio.create_task(load()) for _ in range(20)]
        for _ in range(2):
            await asyncio.sleep(0.2)
            server.kill()
            await until(store, "local")
            await asyncio.sleep(0.1)
            server.start()
            await until(store, "ok")
        stop.set()
        await asyncio.gather(*loads)

        assert slowest < 0.5
        assert (await store.state(big)).held_pico_usd == 0
        assert await store.limit_used(AT_ONCE) == 0
        assert store.unsent == 0


async def test_an_unexpected_fault_while_connecting_does_not_end_it(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(idle=True)
    async with running(server, recount=ledger) as store:
        mark, faults = ledger.mark, [ZeroDivisionError("a fault")]

        def failing() -> int:
            if faults:
                raise faults.pop()
            return mark()

        monkeypatch.setattr(ledger, "mark", failing)
        server.ask("FLUSHALL")
        await ask(store)
        await until(store, "local", "rebuilding")
        await until(store, "ok")

        assert not faults
        assert isinstance(await ask(store, (RATE,)), Reservation)
