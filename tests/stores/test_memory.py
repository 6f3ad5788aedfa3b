"""The memory store: the contract, and the bound on any span of time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from msgspec import structs

from billing.windows import load_zone
from llmgateway.pipeline.protocols import AdmissionStore, Reservation, TargetTerms, Tokens
from llmgateway.pipeline.rules import bind_limit
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.crowd import SHARES
from llmgateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.stores.contract import DAY, FIVE, StoreContract, remaining
from tests.stores.machine import StoreMachine

load_zone("UTC")


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, clock: FakeClock) -> AdmissionStore:
        return MemoryStore(clock)

    async def test_sweeping_forgets_what_is_over_and_nothing_else(self, clock: FakeClock) -> None:
        store = MemoryStore(clock)
        await self.admitted(store, (FIVE,), (DAY,), 10)
        clock.advance(2 * 86_400)
        await self.admitted(store, (FIVE,), (DAY,), 20)
        await self.admitted(store, (FIVE,), (DAY,), 0)

        store.sweep()

        assert (await store.state(DAY)).held_pico_usd == 20
        assert remaining(await self.admitted(store, (FIVE,))) == 2


EACH_MINUTE = Limit("limit:9", "2 requests per minute for each end user", "end_user", 2, 2, each="end_user")
EACH_DAY = Limit("limit:8", "2 requests per day for each end user", "end_user", 2, 2, per="day", each="end_user")
EACH_BUDGET = BudgetRule(7, "each", "end_user", "", "day", 20, "UTC", each="end_user")


MOST = 50
"""Names that have counters of their own, in tests of more."""


ASK = StoreContract()


class TestNamesThatCallersMakeUp:
    @pytest.fixture
    def store(self, clock: FakeClock) -> MemoryStore:
        store = MemoryStore(clock)
        store._crowd.most = MOST
        return store

    async def flood(self, store: MemoryStore, limit: Limit, names: int = 5000) -> int:
        """As many requests as were let in, one for each name."""
        decisions = [await ASK.take(store, (bind_limit(limit, f"flood-{number}"),)) for number in range(names)]
        return sum(isinstance(each, Reservation) for each in decisions)

    @pytest.mark.parametrize("limit", [EACH_MINUTE, EACH_DAY], ids=["minute", "day"])
    async def test_they_cannot_fill_memory(self, store: MemoryStore, limit: Limit) -> None:
        passed = await self.flood(store, limit)

        assert len(store._counters) <= MOST + SHARES
        assert len(store._counts) <= MOST + SHARES
        assert passed <= MOST + SHARES * limit.amount, "beyond the bound each has a share of what one may have"
        assert passed > MOST

    async def test_budgets_of_each_cannot_fill_it_either(self, store: MemoryStore) -> None:
        for number in range(3000):
            rule = structs.replace(EACH_BUDGET, scope_id=f"flood-{number}")
            decision = await ASK.take(store, (), (rule,), 10)
            if isinstance(decision, Reservation):
                store.settle(decision, cost_pico_usd=10, used=Tokens(), budgets=(rule,))

        assert len(store._windows) <= MOST + SHARES
        assert store._crowd.names == MOST
        assert all(window.settled <= 20 for window in store._windows.values()), "a window was booked on twice"

    @pytest.mark.parametrize("limit", [EACH_MINUTE, EACH_DAY], ids=["minute", "day"])
    @pytest.mark.parametrize("known", [True, False], ids=["known", "newcomer"])
    async def test_nobody_gets_more_by_flooding(
        self, store: MemoryStore, clock: FakeClock, limit: Limit, known: bool
    ) -> None:
        """Neither who had a counter of his own, nor who came when there was no room, and then there was some again."""
        mine = bind_limit(limit, "me")
        if not known:
            await self.flood(store, structs.replace(EACH_MINUTE, counter="limit:1"), MOST)
        passed = 0
        for _ in range(3):
            passed += isinstance(await ASK.take(store, (mine,)), Reservation)
            clock.advance(15)  # In which half of one flows back.
            await self.flood(store, structs.replace(EACH_MINUTE, counter="limit:2"), 200)
            store.sweep()
        clock.advance(20)
        store.sweep()
        for _ in range(3):
            passed += isinstance(await ASK.take(store, (mine,)), Reservation)

        assert passed <= (2 + 65 * 2 // 60 if limit is EACH_MINUTE else 2)

    async def test_when_all_is_drained_newcomers_have_counters_of_their_own_again(
        self, store: MemoryStore, clock: FakeClock
    ) -> None:
        await self.flood(store, EACH_MINUTE)
        assert store.is_shared(bind_limit(EACH_MINUTE, "flood-4999"))
        clock.advance(120)

        store.sweep()

        assert (len(store._counters), store._crowd.names) == (0, 0)
        bound = bind_limit(EACH_MINUTE, "flood-4999")
        assert remaining(await ASK.admitted(store, (bound,))) == 1
        assert not store.is_shared(bound)

    async def test_keys_and_models_never_share(self, store: MemoryStore) -> None:
        await self.flood(store, EACH_MINUTE)
        each_model = structs.replace(EACH_MINUTE, counter="limit:4", each="model")

        for number in range(200):
            await ASK.admitted(store, (structs.replace(FIVE, counter=f"limit:x{number}"),))
            await ASK.admitted(store, (bind_limit(each_model, f"m{number}"),))

    async def test_a_name_cannot_be_spelled_like_a_shared_counter(self, store: MemoryStore) -> None:
        await self.flood(store, EACH_MINUTE)
        shared = {name for name in store._counters if "~" in name}

        for number in range(SHARES):
            assert bind_limit(EACH_MINUTE, f"~{number}").counter not in shared


@given(
    amount=st.integers(1, 600),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=120),
)
def test_in_any_span_at_most_burst_and_the_pace_pass(amount: int, burst: int, gaps: list[float]) -> None:
    clock = FakeClock()
    store, limit = MemoryStore(clock), Limit("limit:1", "", "key", amount, burst)
    passed: list[float] = []
    for number, gap in enumerate(gaps):
        clock.advance(gap)
        decision = asyncio.run(
            store.admit(f"r{number}", demand=Tokens(), limits=(limit,), budgets=(), targets=(TargetTerms(),))
        )
        if isinstance(decision, Reservation):
            passed.append(clock.monotonic())
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + amount * (passed[last] - start) / 60 + 1e-6


class MemoryMachine(StoreMachine):
    steps_back = True

    async def make_store(self, clock: FakeClock) -> AdmissionStore:
        return MemoryStore(clock)

    @rule()
    def sweep(self) -> None:
        assert isinstance(self.store, MemoryStore)
        self.store.sweep()


TestMemoryAgainstTheModel = MemoryMachine.TestCase
TestMemoryAgainstTheModel.settings = settings(max_examples=100, stateful_step_count=40)
