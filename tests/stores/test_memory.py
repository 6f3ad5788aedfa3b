"""The memory store: the contract, and the bound on any span of time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from billing.windows import load_zone
from llmgateway.pipeline.protocols import AdmissionStore, Reservation, TargetTerms, Tokens
from llmgateway.pipeline.snapshot import Limit
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
