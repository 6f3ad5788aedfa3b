"""What every admission store must do. A store's test is a class with a `store` fixture that inherits this."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from billing.money import MAX_LIMIT_USD, PICO_PER_USD
from llmgateway.pipeline.protocols import (
    AdmissionStore,
    BudgetRefusal,
    LimitRefusal,
    Refusal,
    Reservation,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from tests.fakes import FakeClock

FIVE = Limit("limit:1", "5 requests per minute", "key", 5, 5)
SEVEN = Limit("limit:2", "7 requests per minute", "team", 7, 3)
DAY = BudgetRule(1, "day", "key", "1", "day", 1000, "UTC")
TOTAL = BudgetRule(2, "total", "global", "", "total", 1500, "UTC")


def remaining(reservation: Reservation) -> int:
    """Requests that the tightest limit leaves."""
    assert reservation.requests is not None
    return reservation.requests.remaining


class StoreContract:
    """Inherit it and provide `store` and `clock`."""

    _number = 0

    async def take(
        self,
        store: AdmissionStore,
        limits: tuple[Limit, ...] = (),
        budgets: tuple[BudgetRule, ...] = (),
        hold: int = 0,
    ) -> Reservation | Refusal:
        StoreContract._number += 1
        return await store.admit(
            f"req_{self._number}",
            demand=Tokens(),
            limits=limits,
            budgets=budgets,
            targets=(TargetTerms(expected_pico_usd=hold),),
        )

    async def admitted(
        self,
        store: AdmissionStore,
        limits: tuple[Limit, ...] = (),
        budgets: tuple[BudgetRule, ...] = (),
        hold: int = 0,
    ) -> Reservation:
        decision = await self.take(store, limits, budgets, hold)
        assert isinstance(decision, Reservation), decision
        return decision

    async def test_a_burst_then_an_even_pace(self, store: AdmissionStore, clock: FakeClock) -> None:
        for _ in range(5):
            await self.admitted(store, (FIVE,))
        refusal = await self.take(store, (FIVE,))
        assert isinstance(refusal, LimitRefusal)
        assert refusal.retry_after_s == pytest.approx(12.0)
        clock.advance(12.0)
        await self.admitted(store, (FIVE,))
        assert isinstance(await self.take(store, (FIVE,)), LimitRefusal)

    async def test_a_burst_smaller_than_the_amount(self, store: AdmissionStore) -> None:
        passed = [isinstance(await self.take(store, (SEVEN,)), Reservation) for _ in range(4)]

        assert passed == [True, True, True, False]

    async def test_the_tightest_limit_is_reported(self, store: AdmissionStore) -> None:
        reservation = await self.admitted(store, (FIVE, SEVEN))

        assert reservation.requests is not None
        assert (reservation.requests.limit, reservation.requests.remaining) == (7, 2)

    async def test_all_or_nothing(self, store: AdmissionStore) -> None:
        nothing = replace(DAY, limit_pico_usd=0)

        for _ in range(10):
            assert isinstance(await self.take(store, (FIVE,), (nothing,), 1), BudgetRefusal)

        assert remaining(await self.admitted(store, (FIVE,))) == 4

    async def test_the_first_blocker_is_named(self, store: AdmissionStore) -> None:
        refusal = await self.take(store, (), (DAY, replace(TOTAL, limit_pico_usd=10)), 100)

        assert isinstance(refusal, BudgetRefusal)
        assert refusal.budget.name == "total"
        assert refusal.resets_at is None

    async def test_a_changed_amount_holds_from_the_next_request(self, store: AdmissionStore) -> None:
        for _ in range(5):
            await self.admitted(store, (FIVE,))

        raised = replace(FIVE, amount=10, burst=10)
        assert remaining(await self.admitted(store, (raised,))) == 4

    async def test_refunding_gives_the_turn_back(self, store: AdmissionStore) -> None:
        one = replace(FIVE, amount=1, burst=1)
        reservation = await self.admitted(store, (one,))

        store.settle(reservation, cost_pico_usd=0, budgets=(), used=None)

        await self.admitted(store, (one,))

    async def test_what_is_held_counts_until_it_is_settled(self, store: AdmissionStore) -> None:
        reservation = await self.admitted(store, (), (DAY,), 600)
        assert isinstance(await self.take(store, (), (DAY,), 600), BudgetRefusal)

        store.settle(reservation, cost_pico_usd=100, budgets=(DAY,), used=Tokens())

        state = await store.state(DAY)
        assert (state.settled_pico_usd, state.held_pico_usd) == (100, 0)
        await self.admitted(store, (), (DAY,), 900)

    async def test_settling_twice_changes_nothing(self, store: AdmissionStore) -> None:
        reservation = await self.admitted(store, (FIVE,), (DAY,), 600)

        for _ in range(2):
            store.settle(reservation, cost_pico_usd=100, budgets=(DAY,), used=None)

        assert (await store.state(DAY)).settled_pico_usd == 100
        assert remaining(await self.admitted(store, (FIVE,))) == 4

    async def test_a_budget_made_meanwhile_is_booked_too(self, store: AdmissionStore) -> None:
        reservation = await self.admitted(store, (), (DAY,), 600)

        store.settle(reservation, cost_pico_usd=100, budgets=(DAY, TOTAL), used=Tokens())

        assert (await store.state(TOTAL)).settled_pico_usd == 100

    async def test_a_budget_whose_window_was_edited_meanwhile_is_booked_too(self, store: AdmissionStore) -> None:
        reservation = await self.admitted(store, (), (DAY,), 600)
        monthly = replace(DAY, window="month")

        store.settle(reservation, cost_pico_usd=100, budgets=(monthly,), used=Tokens())

        assert (await store.state(monthly)).settled_pico_usd == 100

    async def test_a_new_window_begins_empty_and_late_costs_go_to_the_old_one(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        reservation = await self.admitted(store, (), (DAY,), 600)
        clock.advance(86_400)

        store.settle(reservation, cost_pico_usd=100, budgets=(DAY,), used=Tokens())

        assert (await store.state(DAY)).settled_pico_usd == 0

    async def test_what_the_ledger_says_is_added(self, store: AdmissionStore, clock: FakeClock) -> None:
        today = clock.time() // 86_400 * 86_400

        store.seed(DAY, window_start=today, settled_pico_usd=950)
        store.seed(DAY, window_start=today - 86_400, settled_pico_usd=500)

        assert (await store.state(DAY)).settled_pico_usd == 950
        assert isinstance(await self.take(store, (), (DAY,), 51), BudgetRefusal)
        await self.admitted(store, (), (DAY,), 50)

    @pytest.mark.parametrize("limit_usd", [1, MAX_LIMIT_USD])
    async def test_amounts_are_exact_to_the_last_unit(self, store: AdmissionStore, limit_usd: int) -> None:
        budget = replace(DAY, limit_pico_usd=limit_usd * PICO_PER_USD - 1)
        await self.admitted(store, (), (budget,), budget.limit_pico_usd - 1)

        assert isinstance(await self.take(store, (), (budget,), 2), BudgetRefusal)
        await self.admitted(store, (), (budget,), 1)

    async def test_a_thousand_at_once_never_pass_the_limit(self, store: AdmissionStore) -> None:
        decisions = await asyncio.gather(*(self.take(store, (FIVE,), (DAY,), 300) for _ in range(1000)))

        assert sum(isinstance(decision, Reservation) for decision in decisions) == 3
        assert (await store.state(DAY)).held_pico_usd == 900
