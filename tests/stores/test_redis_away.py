"""While Redis is away and the policy is `local`: what was left is shared out, once, and rates go on from where they were."""

from __future__ import annotations

import asyncio
import time

from llmgateway.pipeline.protocols import LimitRefusal, Reservation, Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_store import RedisStore
from tests.stores.redis_running import AT_ONCE, DAILY, TOTAL, admitted, ask, running, until
from tests.stores.redis_server import RedisServer

SLOW = Limit("limit:70", "40 at once, then one a second", "key", 60, 40)


async def passed(store: RedisStore, limit: Limit, count: int) -> int:
    return sum([isinstance(await ask(store, (limit,)), Reservation) for _ in range(count)])


async def both_know(*stores: RedisStore) -> None:
    async with asyncio.timeout(5):
        while any(store.workers < len(stores) for store in stores):  # noqa: ASYNC110  # Of workers there is no event.
            await asyncio.sleep(0.02)


async def test_a_rate_goes_on_from_what_was_taken_before(server: RedisServer) -> None:
    """In any span no more than the burst and what drained passes, whoever counts."""
    async with running(server, timeout_s=5) as one, running(server, timeout_s=5) as other:
        await both_know(one, other)
        began = time.monotonic()
        before = sum([await passed(store, SLOW, count) for store, count in ((one, 25), (other, 25), (one, 5))])
        server.kill()
        await until(one, "local")
        await until(other, "local")
        away = sum([await passed(store, SLOW, 50) for store in (one, other)])

        assert before == 40
        assert before + away <= 40 + (time.monotonic() - began)


async def test_what_was_left_of_a_rate_is_shared_out(server: RedisServer) -> None:
    async with running(server, timeout_s=5) as one, running(server, timeout_s=5) as other:
        await both_know(one, other)
        assert await passed(one, SLOW, 10) == 10
        await ask(other, (SLOW,))
        server.kill()
        await until(one, "local")
        await until(other, "local")
        started = time.monotonic()

        # Each goes by what Redis told it last: 30 and 29 were left.
        away = [await passed(store, SLOW, 30) for store in (one, other)]
        assert 14 + 14 <= sum(away) <= 15 + 14 + 2 + (time.monotonic() - started)


async def test_what_was_left_is_shared_out_once_however_often_connecting_fails(server: RedisServer) -> None:
    budget = BudgetRule(70, "b", "global", "", "total", 1000, "UTC")
    async with running(server, timeout_s=5) as store:
        first = await admitted(store, (DAILY,), (budget,), hold=10)
        store.settle(first, cost_pico_usd=10, used=Tokens(1, 1), budgets=(budget,))
        server.kill()
        await until(store, "local")
        found = []
        for _ in range(3):
            found.append([await passed(store, DAILY, 110), await passed(store, SLOW, 50)])
            while isinstance(decision := await ask(store, (), (budget,), hold=100), Reservation):
                store.settle(decision, cost_pico_usd=100, used=Tokens(1, 1), budgets=(budget,))
                found[-1].append(100)
            errors = store.errors
            async with asyncio.timeout(5):
                while store.errors < errors + 1:  # noqa: ASYNC110  # Of errors neither.
                    await asyncio.sleep(0.02)

        daily, slow = (sum(each[number] for each in found) for number in (0, 1))
        assert daily == 99
        assert 40 <= slow <= 40 + 5
        assert sum(sum(each[2:]) for each in found) <= 1000


async def test_a_long_outage_leaves_no_debt_of_rates(server: RedisServer) -> None:
    """What was used without Redis drains meanwhile as it would have there."""
    fast = Limit("limit:71", "100 a second", "key", 6000, 20)
    async with running(server, timeout_s=0.05) as store:
        await admitted(store, (fast,))
        server.freeze()
        await ask(store, (fast,))
        await until(store, "local")
        used = 0
        for _ in range(20):
            for decision in [await ask(store, (fast,)) for _ in range(20)]:
                if isinstance(decision, Reservation):
                    store.settle(decision, cost_pico_usd=0, used=Tokens(1, 1), budgets=())
                    used += 1
            await asyncio.sleep(0.05)
        server.thaw()
        await until(store, "ok")
        await asyncio.sleep(0.1)

        assert used > 60
        assert isinstance(await ask(store, (fast,)), Reservation)


async def test_what_was_just_used_without_redis_counts_there(server: RedisServer) -> None:
    async with running(server, timeout_s=0.05) as store:
        await admitted(store, (SLOW,))
        server.freeze()
        running_still = [await ask(store, (SLOW,)) for _ in range(10)]
        for decision in [await ask(store, (SLOW,)) for _ in range(10)]:
            assert isinstance(decision, Reservation)
            store.settle(decision, cost_pico_usd=0, used=Tokens(1, 1), budgets=())
        server.thaw()
        await until(store, "ok")

        assert all(isinstance(decision, Reservation) for decision in running_still)
        assert 15 <= await store.limit_used(SLOW) <= 21


async def test_what_runs_without_redis_is_held_there_when_it_is_back(server: RedisServer) -> None:
    async with running(server, timeout_s=0.05) as store:
        await admitted(store, (AT_ONCE,), (TOTAL,), hold=100)
        server.freeze()
        meanwhile = await admitted(store, (DAILY, AT_ONCE), (TOTAL,), hold=50)
        server.thaw()
        await until(store, "ok")

        assert (await store.state(TOTAL)).held_pico_usd == 150
        assert isinstance(await ask(store, (AT_ONCE,)), LimitRefusal)
        assert await store.limit_used(DAILY) == 1
        store.settle(meanwhile, cost_pico_usd=7, used=Tokens(1, 1), budgets=(TOTAL,))
        state = await store.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (7, 100)
        assert await store.limit_used(AT_ONCE) == 1
