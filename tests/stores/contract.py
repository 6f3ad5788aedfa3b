"""What every admission store must do. A store's test is a class with a `store` fixture that inherits this."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from billing.money import MAX_LIMIT_USD, PICO_PER_USD
from billing.windows import load_zone
from llmgateway.pipeline.protocols import (
    AdmissionStore,
    BudgetRefusal,
    BudgetState,
    LimitRefusal,
    Refusal,
    Reservation,
    StrictHold,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from tests.fakes import FakeClock

load_zone("UTC")
load_zone("Asia/Kolkata")

NO_TOKENS = Tokens()
FIVE = Limit("limit:1", "5 requests per minute", "key", 5, 5)
SEVEN = Limit("limit:2", "7 requests per minute", "team", 7, 3)
DAY = BudgetRule(1, "day", "key", "1", "day", 1000, "UTC")
STRICT = BudgetRule(3, "strict day", "key", "1", "day", 1000, "UTC", strict=True)
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
        demand: Tokens = NO_TOKENS,
    ) -> Reservation | Refusal:
        return await self.ask(store, limits, budgets, (TargetTerms(expected_pico_usd=hold),), demand)

    async def ask(
        self,
        store: AdmissionStore,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: tuple[TargetTerms, ...],
        demand: Tokens = NO_TOKENS,
    ) -> Reservation | Refusal:
        StoreContract._number += 1
        return await store.admit(f"req_{self._number}", demand=demand, limits=limits, budgets=budgets, targets=targets)

    async def ask_strict(
        self, store: AdmissionStore, budgets: tuple[BudgetRule, ...], strict: StrictHold, expected: int = 0
    ) -> Reservation | Refusal:
        return await self.ask(store, (), budgets, (TargetTerms(expected_pico_usd=expected, strict=strict),))

    async def admitted(
        self,
        store: AdmissionStore,
        limits: tuple[Limit, ...] = (),
        budgets: tuple[BudgetRule, ...] = (),
        hold: int = 0,
        demand: Tokens = NO_TOKENS,
    ) -> Reservation:
        decision = await self.take(store, limits, budgets, hold, demand)
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
        nothing = structs.replace(DAY, limit_pico_usd=0)

        for _ in range(10):
            assert isinstance(await self.take(store, (FIVE,), (nothing,), 1), BudgetRefusal)

        assert remaining(await self.admitted(store, (FIVE,))) == 4

    async def test_the_first_blocker_is_named(self, store: AdmissionStore) -> None:
        refusal = await self.take(store, (), (DAY, structs.replace(TOTAL, limit_pico_usd=10)), 100)

        assert isinstance(refusal, BudgetRefusal)
        assert refusal.budget.name == "total"
        assert refusal.resets_at is None

    async def test_a_changed_amount_holds_from_the_next_request(self, store: AdmissionStore) -> None:
        for _ in range(5):
            await self.admitted(store, (FIVE,))

        raised = structs.replace(FIVE, amount=10, burst=10)
        assert remaining(await self.admitted(store, (raised,))) == 4

    async def test_refunding_gives_the_turn_back(self, store: AdmissionStore) -> None:
        one = structs.replace(FIVE, amount=1, burst=1)
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
        monthly = structs.replace(DAY, window="month")

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
        budget = structs.replace(DAY, limit_pico_usd=limit_usd * PICO_PER_USD - 1)
        await self.admitted(store, (), (budget,), budget.limit_pico_usd - 1)

        assert isinstance(await self.take(store, (), (budget,), 2), BudgetRefusal)
        await self.admitted(store, (), (budget,), 1)

    async def test_a_thousand_at_once_never_pass_the_limit(self, store: AdmissionStore) -> None:
        decisions = await asyncio.gather(*(self.take(store, (FIVE,), (DAY,), 300) for _ in range(1000)))

        assert sum(isinstance(decision, Reservation) for decision in decisions) == 3
        assert (await store.state(DAY)).held_pico_usd == 900

    # Limits of every kind

    async def test_five_a_minute_pass_at_once_and_the_sixth_exactly_when_it_is_told(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        seven = structs.replace(FIVE, amount=7, burst=5)
        for _ in range(5):
            await self.admitted(store, (seven,))
        refusal = await self.take(store, (seven,))
        assert isinstance(refusal, LimitRefusal)
        assert refusal.retry_after_s == 8.571429  # 60 s / 7, and no microsecond too early

        clock.advance(8.571)
        assert isinstance(await self.take(store, (seven,)), LimitRefusal)
        clock.advance(0.000429)
        await self.admitted(store, (seven,))

    async def test_tokens_are_taken_by_demand_and_corrected_by_use(self, store: AdmissionStore) -> None:
        tokens = Limit("limit:1", "", "key", 100, 100, metric="tokens")
        little = await self.admitted(store, (tokens,), demand=Tokens(40, 40))
        store.settle(little, cost_pico_usd=0, used=Tokens(10, 5), budgets=())
        assert await store.limit_used(tokens) == 15

        much = await self.admitted(store, (tokens,), demand=Tokens(40, 40))
        assert much.tokens is not None
        assert (much.tokens.limit, much.tokens.remaining) == (100, 5)
        store.settle(much, cost_pico_usd=0, used=Tokens(100, 100), budgets=())

        refusal = await self.take(store, (tokens,), demand=Tokens(1, 0))
        assert isinstance(refusal, LimitRefusal)
        assert refusal.remaining == 0
        assert refusal.retry_after_s == pytest.approx(116 * 0.6)

    async def test_input_and_output_tokens_are_limited_apart(self, store: AdmissionStore) -> None:
        limits = (
            Limit("limit:1", "", "key", 10, 10, metric="input_tokens"),
            Limit("limit:2", "", "key", 30, 30, metric="output_tokens", per="day"),
        )
        await self.admitted(store, limits, demand=Tokens(7, 20))

        assert [await store.limit_used(limit) for limit in limits] == [7, 20]
        refusal = await self.take(store, limits, demand=Tokens(3, 11))
        assert isinstance(refusal, LimitRefusal)
        assert refusal.limit is limits[1]

    async def test_what_can_never_fit_is_refused_for_good(self, store: AdmissionStore) -> None:
        for limit in (
            Limit("limit:1", "", "key", 10, 10, metric="tokens"),
            Limit("limit:2", "", "key", 10, 10, metric="tokens", per="day"),
        ):
            refusal = await self.take(store, (limit,), demand=Tokens(11, 0))
            assert isinstance(refusal, LimitRefusal)
            assert refusal.retry_after_s is None
            await self.admitted(store, (limit,), demand=Tokens(10, 0))

    async def test_first_in_window_is_admitted_from_a_full_bucket_which_goes_into_debt(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        tokens = Limit("limit:1", "", "key", 60, 60, metric="tokens", first_in_window=True)
        await self.admitted(store, (tokens,), demand=Tokens(90, 0))

        refusals = [
            await self.take(store, (tokens,), demand=Tokens(1, 0)),
            await self.take(store, (tokens,), demand=Tokens(90, 0)),
        ]

        assert [each.retry_after_s for each in refusals if isinstance(each, LimitRefusal)] == [31.0, 90.0]
        clock.advance(31.0)
        await self.admitted(store, (tokens,), demand=Tokens(1, 0))
        assert isinstance(await self.take(store, (tokens,), demand=Tokens(61, 0)), LimitRefusal)

    async def test_first_in_window_is_admitted_to_an_untouched_day(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        tokens = Limit("limit:1", "", "key", 60, 60, metric="tokens", per="day", first_in_window=True)
        await self.admitted(store, (tokens,), demand=Tokens(90, 0))

        refusal = await self.take(store, (tokens,), demand=Tokens(90, 0))

        assert isinstance(refusal, LimitRefusal)
        assert refusal.retry_after_s == 43_200  # It is noon.
        clock.advance(43_200)
        await self.admitted(store, (tokens,), demand=Tokens(90, 0))

    async def test_an_amount_of_nothing_lets_nothing_pass(self, store: AdmissionStore) -> None:
        for per, metric in (("minute", "tokens"), ("day", "tokens"), ("", "concurrency")):
            nothing = Limit(f"limit:{metric}:{per}", "", "key", 0, 0, metric=metric, per=per, first_in_window=True)
            refusal = await self.take(store, (nothing,))
            assert isinstance(refusal, LimitRefusal)
            assert (refusal.remaining, refusal.retry_after_s) == (0, None)

    async def test_a_long_request_does_not_let_the_same_tokens_pass_twice(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        tokens = Limit("limit:1", "", "key", 60, 60, metric="tokens")
        long = await self.admitted(store, (tokens,), demand=Tokens(60, 0))
        clock.advance(60.0)
        await self.admitted(store, (tokens,), demand=Tokens(60, 0))

        store.settle(long, cost_pico_usd=0, used=None, budgets=())

        assert isinstance(await self.take(store, (tokens,), demand=Tokens(1, 0)), LimitRefusal)

    async def test_giving_back_never_makes_a_bucket_fuller_than_full(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        reservation = await self.admitted(store, (FIVE,))
        clock.advance(3600.0)

        store.settle(reservation, cost_pico_usd=0, used=None, budgets=())

        passed = [isinstance(await self.take(store, (FIVE,)), Reservation) for _ in range(6)]
        assert passed == [True] * 5 + [False]

    async def test_a_connection_that_failed_gives_back_everything(self, store: AdmissionStore) -> None:
        limits = (
            FIVE,
            Limit("limit:3", "", "key", 9, 9, metric="tokens"),
            Limit("limit:4", "", "key", 9, 9, metric="tokens", per="month"),
            Limit("limit:5", "", "key", 9, 9, metric="concurrency", per=""),
        )
        reservation = await self.admitted(store, limits, (DAY,), 10, demand=Tokens(3, 4))
        assert [await store.limit_used(limit) for limit in limits] == [1, 7, 7, 1]

        store.settle(reservation, cost_pico_usd=0, used=None, budgets=(DAY,))

        assert [await store.limit_used(limit) for limit in limits] == [0, 0, 0, 0]
        assert await store.state(DAY) == BudgetState(0, 0)

    async def test_a_cancelled_request_keeps_its_count_and_what_it_used(self, store: AdmissionStore) -> None:
        limits = (
            FIVE,
            Limit("limit:3", "", "key", 9, 9, metric="tokens"),
            Limit("limit:5", "", "key", 9, 9, metric="concurrency", per=""),
        )
        reservation = await self.admitted(store, limits, demand=Tokens(3, 4))

        store.settle(reservation, cost_pico_usd=0, used=Tokens(3, 1), budgets=())

        assert [await store.limit_used(limit) for limit in limits] == [1, 4, 0]

    async def test_slots_return_when_requests_end_and_a_lower_amount_waits_for_them(
        self, store: AdmissionStore
    ) -> None:
        two = Limit("limit:1", "2 at once", "key", 2, 2, metric="concurrency", per="")
        running = [await self.admitted(store, (two,)) for _ in range(2)]
        refusal = await self.take(store, (two,))
        assert isinstance(refusal, LimitRefusal)
        assert refusal.remaining == 0
        assert refusal.retry_after_s is not None

        one = structs.replace(two, amount=1)
        store.settle(running[0], cost_pico_usd=0, used=Tokens(), budgets=())
        assert isinstance(await self.take(store, (one,)), LimitRefusal)
        for _ in range(2):
            store.settle(running[1], cost_pico_usd=0, used=Tokens(), budgets=())
        await self.admitted(store, (one,))
        assert isinstance(await self.take(store, (one,)), LimitRefusal)

    async def test_windows_of_limits_follow_the_calendar(self, store: AdmissionStore, clock: FakeClock) -> None:
        """It is noon in UTC: half past five in Kolkata, where the day ends sooner."""
        here = Limit("limit:1", "", "key", 1, 1, per="day")
        there = Limit("limit:2", "", "key", 1, 1, per="day", time_zone="Asia/Kolkata")
        every_two_hours = Limit("limit:3", "", "key", 1, 1, per="total", reset_s=7200, anchor=int(clock.time()) - 7000)
        for_ever = Limit("limit:4", "", "key", 1, 1, per="total")
        waits = []
        for limit in (here, there, every_two_hours, for_ever):
            await self.admitted(store, (limit,))
            refusal = await self.take(store, (limit,))
            assert isinstance(refusal, LimitRefusal)
            waits.append(refusal.retry_after_s)

        assert waits == [12 * 3600, 6.5 * 3600, 200, None]
        clock.advance(6.5 * 3600)
        await self.admitted(store, (there,))
        assert isinstance(await self.take(store, (here,)), LimitRefusal)

    async def test_a_request_that_ends_in_the_next_window_is_corrected_in_its_own(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        hourly = Limit("limit:1", "", "key", 100, 100, metric="tokens", per="hour")
        reservation = await self.admitted(store, (hourly,), demand=Tokens(50, 0))
        clock.advance(3600.0)
        await self.admitted(store, (hourly,), demand=Tokens(7, 0))

        store.settle(reservation, cost_pico_usd=0, used=Tokens(90, 0), budgets=())

        assert await store.limit_used(hourly) == 7

    async def test_a_clock_set_back_lets_no_more_than_the_limit_pass_in_a_window(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        hourly = Limit("limit:1", "", "key", 3, 3, per="hour")
        passed = 0
        for back in (False, True, False, True):
            passed += sum([isinstance(await self.take(store, (hourly,)), Reservation) for _ in range(4)])
            clock.now += -3600.0 if back else 3600.0

        assert passed == 6  # Three in each of the two hours.

    async def test_a_limit_in_shadow_mode_is_reported_and_takes_what_it_would_have_let_pass(
        self, store: AdmissionStore
    ) -> None:
        shadow = structs.replace(FIVE, amount=2, burst=2, shadow=True)

        shadowed = [(await self.admitted(store, (shadow,))).shadowed for _ in range(4)]

        assert shadowed == [(), (), (shadow,), (shadow,)]
        assert await store.limit_used(shadow) == 2
        assert (await self.admitted(store, (shadow,))).requests is None

    async def test_what_was_used_before_counts_for_calendar_limits(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        daily = Limit("limit:1", "", "key", 10, 10, metric="tokens", per="day")
        today = clock.time() // 86_400 * 86_400

        store.seed_limit(daily, window_start=today, used=8)
        store.seed_limit(daily, window_start=today - 86_400, used=5)

        assert await store.limit_used(daily) == 8
        assert isinstance(await self.take(store, (daily,), demand=Tokens(3, 0)), LimitRefusal)

    async def test_huge_amounts_are_exact(self, store: AdmissionStore) -> None:
        huge = Limit("limit:1", "", "key", 10**8, 10**8, metric="tokens")
        await self.admitted(store, (huge,), demand=Tokens(10**8 - 1, 0))

        assert isinstance(await self.take(store, (huge,), demand=Tokens(2, 0)), LimitRefusal)
        await self.admitted(store, (huge,), demand=Tokens(1, 0))

    async def test_600_requests_of_96_at_once_never_exceed_the_bound(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        limit = Limit("limit:1", "", "key", 120, 50)
        passed: list[float] = []
        left = iter(range(600))

        async def worker() -> None:
            for _ in left:
                if isinstance(await self.take(store, (limit,)), Reservation):
                    passed.append(clock.monotonic())
                clock.advance(0.0625)
                await asyncio.sleep(0)

        await asyncio.gather(*(worker() for _ in range(96)))

        for first, start in enumerate(passed):
            for last in range(first, len(passed)):
                assert last - first + 1 <= 50 + 120 * (passed[last] - start) / 60 + 1e-6
        # Nor is anything refused without need. A store that waits decides the last 96 before their time has passed.
        assert len(passed) >= 50 + 120 * (600 - 96) * 0.0625 / 60 - 2

    # Budgets

    async def test_an_edited_budget_holds_from_the_next_request(self, store: AdmissionStore) -> None:
        first = await self.admitted(store, (), (DAY,), 1000)
        assert isinstance(await self.take(store, (), (DAY,), 1), BudgetRefusal)
        raised, lowered = structs.replace(DAY, limit_pico_usd=1500), structs.replace(DAY, limit_pico_usd=500)
        second = await self.admitted(store, (), (raised,), 500)
        assert isinstance(await self.take(store, (), (raised,), 1), BudgetRefusal)

        for reservation, cost in ((first, 300), (second, 300)):
            store.settle(reservation, cost_pico_usd=cost, used=Tokens(), budgets=(lowered,))

        refusal = await self.take(store, (), (lowered,), 0)
        assert isinstance(refusal, BudgetRefusal)
        assert (refusal.settled_pico_usd, refusal.held_pico_usd) == (600, 0)
        await self.admitted(store, (), (DAY,), 400)

    async def test_a_temporary_increase_ends(self, store: AdmissionStore, clock: FakeClock) -> None:
        rule = structs.replace(DAY, increase_pico_usd=500, increase_until=clock.time() + 60)
        await self.admitted(store, (), (rule,), 1500)

        clock.advance(60.0)

        assert isinstance(await self.take(store, (), (rule,), 1), BudgetRefusal)

    async def test_an_exhausted_budget_refuses_even_what_holds_nothing(self, store: AdmissionStore) -> None:
        await self.admitted(store, (), (DAY,), 1000)

        assert isinstance(await self.take(store, (), (DAY,), 0), BudgetRefusal)

    async def test_budgets_of_each_subject_are_counted_apart(self, store: AdmissionStore) -> None:
        alice = structs.replace(DAY, scope="end_user", scope_id="alice", each="end_user")
        bob = structs.replace(alice, scope_id="bob")
        await self.admitted(store, (), (alice,), 1000)

        await self.admitted(store, (), (bob,), 1000)

        assert isinstance(await self.take(store, (), (alice,), 1), BudgetRefusal)

    async def test_restarting_forgets_what_is_settled_and_keeps_what_is_held(self, store: AdmissionStore) -> None:
        settled, running = [await self.admitted(store, (), (DAY,), 100) for _ in range(2)]
        store.settle(settled, cost_pico_usd=70, used=Tokens(), budgets=())

        store.restart(DAY)

        assert await store.state(DAY) == BudgetState(0, 100)
        store.settle(running, cost_pico_usd=30, used=Tokens(), budgets=())
        assert await store.state(DAY) == BudgetState(30, 0)

    async def test_a_day_and_a_month_that_begin_together_are_counted_apart(
        self, store: AdmissionStore, clock: FakeClock
    ) -> None:
        clock.advance(18 * 86_400)  # The 1st of April.
        reservation = await self.admitted(store, (), (DAY,), 600)
        monthly = structs.replace(DAY, window="month")

        store.settle(reservation, cost_pico_usd=100, budgets=(monthly,), used=Tokens())

        assert (await store.state(monthly)).settled_pico_usd == 100
        assert (await store.state(DAY)).settled_pico_usd == 100

    # Strict budgets

    async def test_a_strict_budget_holds_its_share_and_never_less_than_the_least(self, store: AdmissionStore) -> None:
        grants = []
        for _ in range(4):
            decision = await self.ask_strict(store, (STRICT,), StrictHold(900, 200, 2))
            grants.append(decision.granted_pico_usd if isinstance(decision, Reservation) else None)

        assert grants == [500, 250, 200, None]
        assert (await store.state(STRICT)).held_pico_usd == 950

    async def test_all_strict_budgets_hold_the_same(self, store: AdmissionStore) -> None:
        narrow = structs.replace(STRICT, id=8, limit_pico_usd=300)

        decision = await self.ask_strict(store, (STRICT, narrow, DAY), StrictHold(900, 100), expected=40)

        assert isinstance(decision, Reservation)
        assert decision.granted_pico_usd == 300
        assert [held.held_pico_usd for held in decision.windows] == [300, 300, 40]
        assert decision.held_pico_usd == 300

    @pytest.mark.parametrize("limit_usd", [1, MAX_LIMIT_USD])
    async def test_strict_grants_are_exact_to_the_last_unit(self, store: AdmissionStore, limit_usd: int) -> None:
        limit = limit_usd * PICO_PER_USD - 1
        rule = structs.replace(STRICT, limit_pico_usd=limit)

        sixteenth = await self.ask_strict(store, (rule,), StrictHold(2 * limit, 7, 16))
        rest = await self.ask_strict(store, (rule,), StrictHold(2 * limit, 7))

        assert isinstance(sixteenth, Reservation)
        assert isinstance(rest, Reservation)
        assert (sixteenth.granted_pico_usd, rest.granted_pico_usd) == (limit // 16, limit - limit // 16)
        assert isinstance(await self.ask_strict(store, (rule,), StrictHold(1, 1)), BudgetRefusal)

    async def test_what_costs_nothing_is_affordable_when_all_is_held(self, store: AdmissionStore) -> None:
        await self.ask_strict(store, (STRICT,), StrictHold(1000, 1000))

        assert isinstance(await self.ask_strict(store, (STRICT,), StrictHold(0, 0)), Reservation)
        assert isinstance(await self.ask_strict(store, (STRICT,), StrictHold(1, 1)), BudgetRefusal)

    async def test_a_thousand_at_once_overspend_a_strict_budget_by_nothing_and_waste_nothing(
        self, store: AdmissionStore
    ) -> None:
        """Each costs 7 of the 10 it must hold. It is refused only when 10 really are not left, whatever is held."""
        budget = structs.replace(STRICT, limit_pico_usd=5003)
        spent = 0

        async def request() -> bool:
            nonlocal spent
            while True:
                decision = await self.ask_strict(store, (budget,), StrictHold(40, 10, 16))
                if isinstance(decision, Reservation):
                    break
                assert isinstance(decision, BudgetRefusal)
                assert 5003 - decision.settled_pico_usd - decision.held_pico_usd < 10
                if decision.held_pico_usd == 0:
                    return False
                await store.hold_returned(0.05)
            assert decision.granted_pico_usd is not None
            assert 10 <= decision.granted_pico_usd <= 40
            await asyncio.sleep(0)
            spent += 7
            store.settle(decision, cost_pico_usd=7, used=Tokens(), budgets=(budget,))
            return True

        served = await asyncio.gather(*(request() for _ in range(1000)))

        assert sum(served) == (5003 - 10) // 7 + 1
        assert await store.state(budget) == BudgetState(spent, 0)
        assert spent <= 5003

    # Targets

    async def test_the_first_target_with_room_is_taken(self, store: AdmissionStore) -> None:
        busy = TargetTerms(limits=(structs.replace(FIVE, counter="limit:8", amount=0, burst=0),), expected_pico_usd=1)
        poor = TargetTerms(budgets=(structs.replace(TOTAL, limit_pico_usd=1),), expected_pico_usd=2)
        dear = TargetTerms(expected_pico_usd=1001)
        room = TargetTerms(limits=(SEVEN,), budgets=(TOTAL,), expected_pico_usd=70)

        decision = await self.ask(store, (FIVE,), (DAY,), (busy, poor, dear, room))

        assert isinstance(decision, Reservation)
        assert decision.target == 3
        assert decision.target_limits == (SEVEN,)
        assert [(held.budget, held.held_pico_usd) for held in decision.windows] == [(DAY, 70), (TOTAL, 70)]
        assert await store.limit_used(FIVE) == 1
        assert await store.limit_used(SEVEN) == 1

    async def test_if_no_target_has_room_the_first_ones_refusal_is_the_answer(self, store: AdmissionStore) -> None:
        nothing = structs.replace(FIVE, counter="limit:8", amount=0, burst=0)
        busy, poor = TargetTerms(limits=(nothing,)), TargetTerms(budgets=(structs.replace(TOTAL, limit_pico_usd=0),))

        first, second = [await self.ask(store, (FIVE,), (DAY,), each) for each in ((busy, poor), (poor, busy))]

        assert isinstance(first, LimitRefusal)
        assert isinstance(second, BudgetRefusal)
        assert await store.limit_used(FIVE) == 0
        assert await store.state(DAY) == BudgetState(0, 0)

    async def test_a_callers_refusal_comes_before_a_targets(self, store: AdmissionStore) -> None:
        busy = TargetTerms(limits=(structs.replace(FIVE, counter="limit:8", amount=0, burst=0),))

        refusal = await self.ask(store, (), (DAY,), (busy, TargetTerms(expected_pico_usd=1001)))

        assert isinstance(refusal, BudgetRefusal)
        assert refusal.budget == DAY

    async def test_moving_exchanges_the_targets_counters_and_the_hold(self, store: AdmissionStore) -> None:
        provider = structs.replace(TOTAL, id=9, scope="provider")
        slots = Limit("limit:8", "", "deployment", 1, 1, metric="concurrency", per="")
        before = TargetTerms(limits=(SEVEN, slots), budgets=(provider, TOTAL), expected_pico_usd=400)
        reservation = await self.ask(store, (FIVE,), (DAY,), (before,))
        assert isinstance(reservation, Reservation)

        moved = await store.move(reservation, TargetTerms(limits=(slots,), budgets=(provider,), expected_pico_usd=700))

        assert isinstance(moved, Reservation)
        assert moved.target_limits == (slots,)
        assert [await store.limit_used(limit) for limit in (FIVE, SEVEN, slots)] == [1, 0, 1]
        held = [(await store.state(budget)).held_pico_usd for budget in (DAY, provider, TOTAL)]
        assert held == [700, 700, 0]
        for each in (reservation, moved):  # It is one request, whichever of the two is settled.
            store.settle(each, cost_pico_usd=60, used=Tokens(), budgets=(DAY,))
        assert await store.limit_used(slots) == 0
        assert [await store.state(budget) for budget in (DAY, provider, TOTAL)] == [
            BudgetState(60, 0),
            BudgetState(60, 0),
            BudgetState(0, 0),
        ]

    async def test_moving_where_there_is_no_room_changes_nothing(self, store: AdmissionStore) -> None:
        before = TargetTerms(limits=(SEVEN,), budgets=(TOTAL,), expected_pico_usd=400)
        reservation = await self.ask(store, (FIVE,), (DAY,), (before,))
        assert isinstance(reservation, Reservation)
        nothing = structs.replace(FIVE, counter="limit:8", amount=0, burst=0)

        refusals = [
            await store.move(reservation, TargetTerms(expected_pico_usd=1001)),
            await store.move(reservation, TargetTerms(limits=(nothing,), expected_pico_usd=1)),
            await store.move(reservation, TargetTerms(budgets=(structs.replace(TOTAL, id=9, limit_pico_usd=0),))),
        ]

        assert not any(isinstance(each, Reservation) for each in refusals)
        assert [await store.limit_used(limit) for limit in (FIVE, SEVEN)] == [1, 1]
        assert [(await store.state(budget)).held_pico_usd for budget in (DAY, TOTAL)] == [400, 400]

    async def test_moving_what_is_settled_changes_nothing(self, store: AdmissionStore) -> None:
        reservation = await self.admitted(store, (), (DAY,), 10)
        store.settle(reservation, cost_pico_usd=3, used=Tokens(), budgets=())

        await store.move(reservation, TargetTerms(limits=(SEVEN,), expected_pico_usd=50))

        assert await store.state(DAY) == BudgetState(3, 0)
        assert await store.limit_used(SEVEN) == 0

    # Waiting for holds

    async def test_a_returned_hold_wakes_the_first_who_waits_and_all_are_served(self, store: AdmissionStore) -> None:
        holder = await self.ask_strict(store, (STRICT,), StrictHold(1000, 1000))
        assert isinstance(holder, Reservation)
        served: list[int] = []

        async def waiter(number: int) -> None:
            decision = await self.ask_strict(store, (STRICT,), StrictHold(1000, 1000))
            while not isinstance(decision, Reservation):
                assert await store.hold_returned(5.0)
                decision = await self.ask_strict(store, (STRICT,), StrictHold(1000, 1000))
            served.append(number)
            await asyncio.sleep(0)
            store.settle(decision, cost_pico_usd=0, used=Tokens(), budgets=())

        waiting = []
        for number in range(5):
            waiting.append(asyncio.create_task(waiter(number)))
            await asyncio.sleep(0.02)
        assert served == []

        store.settle(holder, cost_pico_usd=0, used=Tokens(), budgets=())
        await asyncio.wait_for(asyncio.gather(*waiting), 10)

        assert served[0] == 0
        assert sorted(served) == [0, 1, 2, 3, 4]

    async def test_who_gives_up_waiting_takes_nobodys_turn(self, store: AdmissionStore) -> None:
        holder = await self.ask_strict(store, (STRICT,), StrictHold(1000, 1000))
        assert isinstance(holder, Reservation)

        async def waiter() -> bool:
            await self.ask_strict(store, (STRICT,), StrictHold(1000, 1000))
            return await store.hold_returned(5.0)

        waiting = []
        for _ in range(3):
            waiting.append(asyncio.create_task(waiter()))
            await asyncio.sleep(0.02)
        waiting[0].cancel()
        store.settle(holder, cost_pico_usd=0, used=Tokens(), budgets=())
        waiting[1].cancel()

        assert await asyncio.wait_for(waiting[2], 5)
        await asyncio.gather(*waiting, return_exceptions=True)

    async def test_waiting_ends(self, store: AdmissionStore) -> None:
        await self.ask_strict(store, (STRICT,), StrictHold(1000, 1000))
        await self.ask_strict(store, (STRICT,), StrictHold(1000, 1000))

        assert not await store.hold_returned(0.01)

    async def test_a_second_hold_of_one_request_shrinks_to_what_was_lost_and_frees_its_target(
        self, store: AdmissionStore
    ) -> None:
        """What a race of two attempts does."""
        slots = Limit("limit:8", "2 at once", "deployment", 2, 2, metric="concurrency", per="")
        strict = StrictHold(wanted=300, least=100)
        first, second = TargetTerms(strict=strict), TargetTerms((slots,), (), 300, strict)
        one = await store.admit("r", demand=NO_TOKENS, limits=(FIVE,), budgets=(STRICT, DAY), targets=(first,))
        two = await store.admit("r#h", demand=NO_TOKENS, limits=(), budgets=(STRICT, DAY), targets=(second,))
        assert isinstance(one, Reservation)
        assert isinstance(two, Reservation)
        assert await store.state(STRICT) == BudgetState(0, 600)
        assert await store.limit_used(slots) == 1

        smaller = await store.move(two, TargetTerms((), (), 40, StrictHold(wanted=40, least=40)))

        assert isinstance(smaller, Reservation)
        assert await store.state(STRICT) == BudgetState(0, 340)
        assert await store.limit_used(slots) == 0
        store.settle(one, cost_pico_usd=240, used=NO_TOKENS, budgets=())
        store.settle(smaller, cost_pico_usd=0, used=NO_TOKENS, budgets=())
        assert await store.state(STRICT) == BudgetState(240, 0)
        assert await store.state(DAY) == BudgetState(240, 0)
        assert await store.limit_used(FIVE) == 1
