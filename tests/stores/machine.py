"""Any store against the model: whatever happens in whatever order, both decide and count the same, to the unit.

A store's test inherits `StoreMachine`, says how a store is made, and runs its `TestCase`. Time passes when a rule says
so and in steps that floating point numbers hold exactly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from msgspec import structs

from billing.windows import load_zone
from llmgateway.pipeline.protocols import (
    AdmissionStore,
    BudgetRefusal,
    Headroom,
    LimitRefusal,
    Refusal,
    Reservation,
    StrictHold,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from tests.fakes import FakeClock
from tests.stores.model import Admitted, Model

T = TypeVar("T")
STEP_S = 1 / 64

CALLERS_LIMITS = (
    Limit("limit:1", "requests per minute", "key", 5, 5),
    Limit("limit:2", "tokens per minute", "team", 30, 20, metric="tokens"),
    Limit("limit:3", "input tokens per minute", "key", 12, 6, metric="input_tokens", first_in_window=True),
    Limit("limit:4", "output tokens per hour", "key", 40, 40, metric="output_tokens", per="hour"),
    Limit("limit:5", "tokens per day", "key", 60, 60, metric="tokens", per="day", time_zone="Asia/Kolkata"),
    Limit("limit:6", "tokens per week", "key", 9, 9, metric="tokens", per="week", starts_on=7, first_in_window=True),
    Limit("limit:7", "requests per 2 hours", "key", 12, 12, per="total", reset_s=7200, anchor=900),
    Limit("limit:8", "requests in total", "global", 25, 25, per="total"),
    Limit("limit:9", "at once", "key", 4, 4, metric="concurrency", per=""),
    Limit("limit:10", "tried out per minute", "key", 3, 2, shadow=True),
    Limit("limit:11", "tried out per month", "key", 30, 30, metric="tokens", per="month", shadow=True),
    Limit("limit:12:ip:192.0.2.1", "requests per minute and address", "ip", 4, 3, each="ip"),
)
TARGETS_LIMITS = (
    Limit("limit:20", "requests per minute of the provider", "provider", 7, 4),
    Limit("limit:21", "tokens per minute of the deployment", "deployment", 25, 25, metric="tokens"),
    Limit("limit:22", "at once of the deployment", "deployment", 3, 3, metric="concurrency", per=""),
    Limit("limit:23", "requests per hour of the deployment", "deployment", 9, 9, per="hour"),
)
CALLERS_BUDGETS = (
    BudgetRule(1, "day", "key", "1", "day", 200, "Europe/Berlin"),
    BudgetRule(2, "hour", "team", "1", "hour", 90, "UTC", strict=True),
    BudgetRule(3, "total", "global", "", "total", 900, "UTC", strict=True),
    BudgetRule(4, "month", "end_user", "alice", "month", 300, "UTC", starts_on=14, each="end_user"),
)
TARGETS_BUDGETS = (
    BudgetRule(10, "week", "provider", "p", "week", 400, "UTC", starts_on=3),
    BudgetRule(11, "day", "deployment", "d", "day", 120, "UTC", strict=True),
)


FEW = st.sets(st.integers(0, 3), max_size=4).map(lambda places: tuple(sorted(places)))
"""Places among the few rules of one run: what stands there may have been edited."""
PLACE = st.integers(0, 3)


def few(rules: tuple[T, ...], most: int) -> st.SearchStrategy[list[T]]:
    """The rules of one run. With all of them in play, hardly one would ever be used up."""
    return st.lists(st.sampled_from(rules), max_size=most, unique_by=id)


TOKENS = st.builds(Tokens, input=st.integers(0, 10), output=st.integers(0, 12))
STRICT = st.builds(
    lambda least, more, share: StrictHold(least + more, least, share),
    st.integers(1, 30),
    st.integers(0, 60),
    st.sampled_from([1, 2, 4, 16]),
)
TARGETS = st.tuples(FEW, FEW, st.integers(0, 40), STRICT)
AskedTarget = tuple[tuple[int, ...], tuple[int, ...], int, StrictHold]


class StoreMachine(RuleBasedStateMachine):
    """Give it `make_store`. `steps_back`: the store survives a wall clock that is set back without losing its pace."""

    admitted: ClassVar[Bundle[Reservation]] = Bundle("admitted")
    settled: ClassVar[Bundle[Reservation]] = Bundle("settled")
    steps_back: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        for budget in (*CALLERS_BUDGETS, *CALLERS_LIMITS):
            load_zone(budget.time_zone)
        self.clock = FakeClock()
        self.model = Model(self.clock)
        self.limits: list[Limit] = []
        self.target_limits: list[Limit] = []
        self.budgets: list[BudgetRule] = []
        self.target_budgets: list[BudgetRule] = []
        self.number = 0
        self.runner = asyncio.Runner()
        self.store = self.run(self.make_store(self.clock))

    async def make_store(self, clock: FakeClock) -> AdmissionStore:
        """A new, empty store that goes by `clock`."""
        raise NotImplementedError

    async def close_store(self, store: AdmissionStore) -> None:
        """Whatever it takes to be rid of it."""

    def teardown(self) -> None:
        self.run(self.close_store(self.store))
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize(
        limits=few(CALLERS_LIMITS, 3),
        target_limits=few(TARGETS_LIMITS, 2),
        budgets=few(CALLERS_BUDGETS, 2),
        target_budgets=few(TARGETS_BUDGETS, 1),
    )
    def choose_rules(
        self,
        limits: list[Limit],
        target_limits: list[Limit],
        budgets: list[BudgetRule],
        target_budgets: list[BudgetRule],
    ) -> None:
        self.limits, self.target_limits = list(limits), list(target_limits)
        self.budgets, self.target_budgets = list(budgets), list(target_budgets)

    # What happens

    @rule(
        target=admitted,
        demand=TOKENS,
        limits=FEW,
        budgets=FEW,
        candidates=st.lists(TARGETS, min_size=1, max_size=3),
        times=st.integers(1, 5),
    )
    def admit(
        self,
        demand: Tokens,
        limits: tuple[int, ...],
        budgets: tuple[int, ...],
        candidates: list[AskedTarget],
        times: int,
    ) -> Any:
        decisions = [self._admit(demand, limits, budgets, candidates) for _ in range(times)]
        return multiple(*[decision for decision in decisions if decision is not None])

    def _admit(
        self, demand: Tokens, limits: tuple[int, ...], budgets: tuple[int, ...], candidates: list[AskedTarget]
    ) -> Reservation | None:
        self.number += 1
        request_id = f"req_{self.number}"
        rules = picked(self.limits, limits), picked(self.budgets, budgets)
        terms = [self._terms(each) for each in candidates]

        expected = self.model.admit(request_id, demand, *rules, terms)
        decision = self.run(
            self.store.admit(request_id, demand=demand, limits=rules[0], budgets=rules[1], targets=terms)
        )

        if not isinstance(expected, Admitted):
            check_refusal(decision, expected)
            return None
        assert isinstance(decision, Reservation), (decision, expected)
        check_reservation(decision, expected)
        assert decision.target == expected.target
        check_headroom(decision.requests, expected.requests)
        check_headroom(decision.tokens, expected.tokens)
        return decision

    @rule(target=admitted, reservation=consumes(admitted), target_asked=TARGETS)
    def move(self, reservation: Reservation, target_asked: AskedTarget) -> Reservation:
        held = self.model.open[reservation.id]
        # Which amount a budget has that was edited since, only an admission says.
        assume(all(budget in self.budgets for budget, _, _, of_target in held.holds if not of_target))
        terms = self._terms(target_asked)

        expected = self.model.move(reservation.id, terms)
        decision = self.run(self.store.move(reservation, terms))

        if expected is None:
            assert isinstance(decision, LimitRefusal | BudgetRefusal), decision
            return reservation
        assert isinstance(decision, Reservation), decision
        check_reservation(decision, expected)
        assert decision.target_limits == terms.limits
        return decision

    @rule(
        target=settled,
        reservation=consumes(admitted),
        cost=st.integers(0, 60),
        used=st.none() | TOKENS,
        budgets=FEW,
    )
    def settle(self, reservation: Reservation, cost: int, used: Tokens | None, budgets: tuple[int, ...]) -> Reservation:
        # Its own are among them, as they are when nothing was edited meanwhile.
        held = {window.budget.id for window in reservation.windows}
        rules = tuple(budget for place, budget in enumerate(self.budgets) if budget.id in held or place in budgets)
        self.model.settle(reservation.id, cost, used, rules)
        self.store.settle(reservation, cost_pico_usd=cost, used=used, budgets=rules)
        return reservation

    @rule(reservation=settled, cost=st.integers(0, 60), terms=TARGETS)
    def settle_or_move_again(self, reservation: Reservation, cost: int, terms: AskedTarget) -> None:
        self.store.settle(reservation, cost_pico_usd=cost, used=Tokens(5, 5), budgets=tuple(self.budgets))
        self.run(self.store.move(reservation, self._terms(terms)))

    @rule(steps=st.integers(1, 64 * 90))
    def wait(self, steps: int) -> None:
        self.clock.advance(steps * STEP_S)

    @rule(hours=st.integers(1, 40))
    def wait_for_hours(self, hours: int) -> None:
        self.clock.advance(hours * 3600.0)

    @rule(minutes=st.integers(1, 50))
    def set_the_clock_back(self, minutes: int) -> None:
        assume(self.steps_back)
        self.clock.now -= minutes * 60.0

    @rule(place=PLACE, amount=st.integers(0, 30))
    def edit_limit(self, place: int, amount: int) -> None:
        assume(place < len(self.limits))
        self.limits[place] = structs.replace(self.limits[place], amount=amount, burst=amount)

    @rule(place=PLACE, amount=st.integers(1, 30), more=st.integers(0, 9))
    def edit_targets_limit(self, place: int, amount: int, more: int) -> None:
        assume(place < len(self.target_limits))
        self.target_limits[place] = structs.replace(self.target_limits[place], amount=amount, burst=amount + more)

    @rule(place=PLACE, amount=st.integers(0, 300), increase=st.integers(0, 50))
    def edit_budget(self, place: int, amount: int, increase: int) -> None:
        assume(place < len(self.budgets))
        self.budgets[place] = structs.replace(
            self.budgets[place],
            limit_pico_usd=amount,
            increase_pico_usd=increase,
            increase_until=self.clock.time() + 1800,
        )

    @rule(place=PLACE, settled=st.integers(0, 50), ago=st.integers(0, 2))
    def seed(self, place: int, settled: int, ago: int) -> None:
        """`ago`: of this window, or of one that is over and does not count."""
        assume(place < len(self.budgets))
        budget = self.budgets[place]
        start = self.model.budget_place(budget)[0][1] - ago * 3600
        self.model.seed(budget, start, settled)
        self.store.seed(budget, window_start=start, settled_pico_usd=settled)

    @rule(place=PLACE, used=st.integers(0, 5), ago=st.integers(0, 2))
    def seed_limit(self, place: int, used: int, ago: int) -> None:
        assume(place < len(self.limits))
        limit = self.limits[place]
        assume(limit.per not in {"", "minute"})
        start = self.model.limit_place(limit)[0][1] - ago * 3600
        self.model.seed_limit(limit, start, used)
        self.store.seed_limit(limit, window_start=start, used=used)

    @rule(place=PLACE)
    def restart(self, place: int) -> None:
        assume(place < len(self.budgets))
        self.model.restart(self.budgets[place])
        self.store.restart(self.budgets[place])

    # What always holds

    @invariant()
    def counts_the_same(self) -> None:
        self.run(self._compare())

    async def _compare(self) -> None:
        for budget in (*self.budgets, *self.target_budgets):
            assert await self.store.state(budget) == self.model.state(budget), budget.name
        for limit in (*self.limits, *self.target_limits):
            assert await self.store.limit_used(limit) == self.model.limit_used(limit), limit.name

    def _terms(self, asked: AskedTarget) -> TargetTerms:
        limits, budgets, expected, strict = asked
        return TargetTerms(
            picked(self.target_limits, limits),
            picked(self.target_budgets, budgets),
            expected,
            strict,
        )


def picked(rules: list[T], places: tuple[int, ...]) -> tuple[T, ...]:
    return tuple(rules[place] for place in places if place < len(rules))


def check_refusal(decision: Reservation | Refusal, expected: Refusal) -> None:
    assert type(decision) is type(expected), (decision, expected)
    if isinstance(expected, BudgetRefusal):
        assert isinstance(decision, BudgetRefusal)
        assert decision.budget is expected.budget
        assert decision.settled_pico_usd == expected.settled_pico_usd
        assert decision.held_pico_usd == expected.held_pico_usd
        assert decision.resets_at == expected.resets_at
        return
    assert isinstance(decision, LimitRefusal)
    assert isinstance(expected, LimitRefusal)
    assert decision.limit is expected.limit
    assert decision.remaining == expected.remaining
    # A microsecond is what clocks are read in.
    assert decision.retry_after_s == (None if expected.retry_after_s is None else near(expected.retry_after_s))


def check_reservation(decision: Reservation, expected: Admitted) -> None:
    assert decision.id == expected.id
    assert decision.granted_pico_usd == expected.granted
    assert [(window.budget, window.held_pico_usd) for window in decision.windows] == [
        (budget, amount) for budget, _, amount, _ in expected.holds
    ]
    assert set(decision.shadowed) == set(expected.shadowed)
    assert len(decision.shadowed) == len(expected.shadowed)


def check_headroom(headroom: Headroom | None, expected: Headroom | None) -> None:
    if expected is None:
        assert headroom is None
        return
    assert headroom is not None
    assert (headroom.limit, headroom.remaining) == (expected.limit, expected.remaining)
    assert headroom.reset_s == near(expected.reset_s)


def near(seconds: float) -> Any:
    return pytest.approx(seconds, rel=0, abs=2e-6)
