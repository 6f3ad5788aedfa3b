"""What an admission store must decide, written to be obviously right: everything is summed anew each time it is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from billing.windows import reset_bounds, window_bounds
from llmgateway.pipeline.protocols import (
    BudgetRefusal,
    BudgetState,
    Clock,
    Headroom,
    LimitRefusal,
    Refusal,
    StrictHold,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit

CONCURRENCY_RETRY_S = 1.0
Place = tuple[str, float]
"""A counter and when its window began."""


@dataclass
class Bucket:
    """What was taken and has not drained, in requests or tokens. It drains by `pace` a minute."""

    level: Fraction
    at_us: int
    pace: int

    def drain(self, now_us: int) -> Fraction:
        self.level = max(Fraction(0), self.level - Fraction((now_us - self.at_us) * self.pace, 60_000_000))
        self.at_us = now_us
        return self.level


@dataclass(frozen=True)
class Part:
    """What a request took of one limit."""

    limit: Limit
    need: int
    of_target: bool
    place: Place
    level: Fraction
    """Of a bucket, after taking."""
    at_us: int


@dataclass(frozen=True)
class Admitted:
    """What the store must answer, and what has to be undone when it is settled."""

    id: str
    demand: Tokens
    target: int
    granted: int | None
    parts: tuple[Part, ...]
    holds: tuple[tuple[BudgetRule, Place, int, bool], ...]
    """Budget, window, amount, and whether it is the target's."""
    shadowed: tuple[Limit, ...]
    callers_shadowed: tuple[Limit, ...]
    requests: Headroom | None = None
    tokens: Headroom | None = None


@dataclass
class Model:
    clock: Clock
    buckets: dict[str, Bucket] = field(default_factory=dict)
    counted: list[tuple[Place, int]] = field(default_factory=list)
    """What settled requests used of windows, and what was seeded."""
    booked: list[tuple[Place, int]] = field(default_factory=list)
    """What was settled of budgets."""
    open: dict[str, Admitted] = field(default_factory=dict)

    @property
    def now(self) -> float:
        return self.clock.time()

    @property
    def now_us(self) -> int:
        return round(self.clock.monotonic() * 1_000_000)

    # Where things are counted

    def limit_place(self, limit: Limit) -> tuple[Place, float | None]:
        """The window, and when it ends."""
        if limit.metric == "concurrency" or limit.per == "minute":
            return (limit.counter, 0.0), None
        if limit.reset_s:
            start, end = reset_bounds(limit.anchor, limit.reset_s, self.now)
            return (limit.counter, start), end
        start, ends = window_bounds(limit.per, limit.time_zone, self.now, starts_on=limit.starts_on)
        return (limit.counter, start), ends

    def budget_place(self, budget: BudgetRule) -> tuple[Place, float | None]:
        start, end = window_bounds(budget.window, budget.time_zone, self.now, starts_on=budget.starts_on)
        return (f"{budget.id}:{budget.scope_id}", start), end

    # How much is taken

    def parts(self, place: Place) -> Iterable[Part]:
        return (part for each in self.open.values() for part in each.parts if part.place == place)

    def bucket(self, limit: Limit) -> Bucket:
        """As of now. An edited amount holds from here on."""
        bucket = self.buckets.setdefault(limit.counter, Bucket(Fraction(0), self.now_us, limit.amount))
        bucket.drain(self.now_us)
        bucket.pace = limit.amount
        return bucket

    def taken(self, limit: Limit) -> Fraction:
        if limit.per == "minute":
            return self.bucket(limit).level
        place, _ = self.limit_place(limit)
        running = [part.need for part in self.parts(place)]
        if limit.metric == "concurrency":
            return Fraction(len(running))
        return Fraction(sum(running) + sum(amount for where, amount in self.counted if where == place))

    def settled(self, place: Place) -> int:
        return sum(amount for where, amount in self.booked if where == place)

    def held(self, place: Place) -> int:
        return sum(amount for each in self.open.values() for _, where, amount, _ in each.holds if where == place)

    def limit_used(self, limit: Limit) -> int:
        return math.ceil(self.taken(limit))

    def state(self, budget: BudgetRule) -> BudgetState:
        place, _ = self.budget_place(budget)
        return BudgetState(self.settled(place), self.held(place))

    # Decisions

    def admit(
        self,
        request_id: str,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: Sequence[TargetTerms],
    ) -> Admitted | Refusal:
        blocked, callers_shadowed = self._first_full(limits, demand)
        if blocked is not None:
            return blocked
        refusals: list[Refusal] = []
        for number, terms in enumerate(targets):
            callers = [(budget, self.budget_place(budget)[0], False) for budget in budgets]
            own = [(budget, self.budget_place(budget)[0], True) for budget in terms.budgets]
            found = self._hold([*callers, *own], terms)
            if isinstance(found, BudgetRefusal):
                refusals.append(found)
                continue
            holds, granted = found
            blocked, shadowed = self._first_full(terms.limits, demand)
            if blocked is not None:
                refusals.append(blocked)
                continue
            parts = [
                *self._take(limits, callers_shadowed, demand, of_target=False),
                *self._take(terms.limits, shadowed, demand, of_target=True),
            ]
            admitted = Admitted(
                request_id,
                demand,
                number,
                granted,
                tuple(parts),
                holds,
                (*callers_shadowed, *shadowed),
                callers_shadowed,
            )
            self.open[request_id] = admitted
            requests = self._headroom([each for each in limits if each.metric == "requests"])
            tokens = self._headroom([each for each in limits if each.metric.endswith("tokens")])
            return replace(admitted, requests=requests, tokens=tokens)
        callers_refusals = [each for each in refusals if isinstance(each, BudgetRefusal) and each.budget in budgets]
        return [*callers_refusals, *refusals][0]

    def move(self, request_id: str, terms: TargetTerms) -> Admitted | None:
        """None: no room, and nothing has changed."""
        before = self.open[request_id]
        buckets = {name: replace(bucket) for name, bucket in self.buckets.items()}
        kept = tuple(part for part in before.parts if not part.of_target)
        for part in before.parts:
            if part.of_target:
                self._return(part, 0)
        self.open[request_id] = replace(before, parts=kept, holds=())
        callers = [(budget, place, False) for budget, place, _, own in before.holds if not own]
        own = [(budget, self.budget_place(budget)[0], True) for budget in terms.budgets]
        found = self._hold([*callers, *own], terms)
        blocked, shadowed = self._first_full(terms.limits, before.demand)
        if isinstance(found, BudgetRefusal) or blocked is not None:
            self.open[request_id] = before
            self.buckets = buckets
            return None
        holds, granted = found
        parts = (*kept, *self._take(terms.limits, shadowed, before.demand, of_target=True))
        after = replace(
            before, parts=parts, holds=holds, granted=granted, shadowed=(*before.callers_shadowed, *shadowed)
        )
        self.open[request_id] = after
        return after

    def settle(self, request_id: str, cost: int, used: Tokens | None, budgets: tuple[BudgetRule, ...]) -> None:
        admitted = self.open.pop(request_id, None)
        if admitted is None:
            return
        for part in admitted.parts:
            amount = 0 if used is None else used.amount(part.limit.metric)
            self._return(part, amount)
            if part.limit.per not in {"", "minute"}:
                self.counted.append((part.place, amount))
        self.booked += [(place, cost) for _, place, _, _ in admitted.holds]
        held = {budget.id for budget, _, _, _ in admitted.holds}
        self.booked += [(self.budget_place(budget)[0], cost) for budget in budgets if budget.id not in held]

    def seed(self, budget: BudgetRule, window_start: float, settled: int) -> None:
        place, _ = self.budget_place(budget)
        if place[1] == window_start:
            self.booked.append((place, settled))

    def seed_limit(self, limit: Limit, window_start: float, used: int) -> None:
        place, _ = self.limit_place(limit)
        if limit.per not in {"", "minute"} and place[1] == window_start:
            self.counted.append((place, used))

    def restart(self, budget: BudgetRule) -> None:
        place, _ = self.budget_place(budget)
        self.booked = [(where, amount) for where, amount in self.booked if where != place]

    # Limits

    def _first_full(self, limits: tuple[Limit, ...], demand: Tokens) -> tuple[LimitRefusal | None, tuple[Limit, ...]]:
        shadowed = []
        for limit in limits:
            need = demand.amount(limit.metric)
            if self._fits(limit, need):
                continue
            if not limit.shadow:
                return self._refusal(limit, need), ()
            shadowed.append(limit)
        return None, tuple(shadowed)

    @staticmethod
    def _most(limit: Limit) -> int:
        return limit.burst if limit.per == "minute" else limit.amount

    def _fits(self, limit: Limit, need: int) -> bool:
        taken = self.taken(limit)
        if not limit.amount or not self._most(limit):
            return False
        if need > self._most(limit):
            return limit.first_in_window and taken == 0
        return taken + need <= self._most(limit)

    def _refusal(self, limit: Limit, need: int) -> LimitRefusal:
        most, taken = self._most(limit), self.taken(limit)
        remaining = max(0, math.floor(most - taken)) if limit.amount else 0
        return LimitRefusal(limit, remaining, self._retry_after_s(limit, need, taken))

    def _retry_after_s(self, limit: Limit, need: int, taken: Fraction) -> float | None:
        most = self._most(limit)
        never = not limit.amount or not most or (need > most and not limit.first_in_window)
        if never:
            return None
        if limit.metric == "concurrency":
            return CONCURRENCY_RETRY_S
        if limit.per == "minute":
            excess = taken if need > most else taken + need - most
            return math.ceil(excess * 60_000_000 / limit.amount) / 1e6
        _, end = self.limit_place(limit)
        return None if end is None else end - self.now

    def _take(
        self, limits: tuple[Limit, ...], shadowed: tuple[Limit, ...], demand: Tokens, *, of_target: bool
    ) -> list[Part]:
        parts = []
        for limit in limits:
            if limit in shadowed:
                continue
            need, level = demand.amount(limit.metric), Fraction(0)
            if limit.per == "minute":
                bucket = self.bucket(limit)
                bucket.level += need
                level = bucket.level
            parts.append(Part(limit, need, of_target, self.limit_place(limit)[0], level, self.now_us))
        return parts

    def _return(self, part: Part, used: int) -> None:
        """Correct a bucket. What windows and slots have taken is summed from what is open."""
        if part.limit.per != "minute":
            return
        bucket = self.buckets[part.limit.counter]
        bucket.drain(self.now_us)
        if used >= part.need:
            bucket.level += used - part.need
            return
        undrained = part.level - Fraction((self.now_us - part.at_us) * bucket.pace, 60_000_000)
        bucket.level -= max(Fraction(0), min(Fraction(part.need - used), undrained, bucket.level))

    def _headroom(self, limits: list[Limit]) -> Headroom | None:
        rooms = [(math.floor(self._most(limit) - self.taken(limit)), limit) for limit in limits if not limit.shadow]
        if not rooms:
            return None
        remaining, limit = min(rooms, key=lambda room: max(0, room[0]))
        return Headroom(limit.amount, max(0, remaining), self._reset_s(limit))

    def _reset_s(self, limit: Limit) -> float:
        if limit.per == "minute":
            return float(self.taken(limit) * 60 / limit.amount)
        _, end = self.limit_place(limit)
        return math.inf if end is None else end - self.now

    # Budgets

    def _hold(
        self, budgets: list[tuple[BudgetRule, Place, bool]], terms: TargetTerms
    ) -> BudgetRefusal | tuple[tuple[tuple[BudgetRule, Place, int, bool], ...], int | None]:
        grants = []
        for budget, place, _ in budgets:
            settled, held = self.settled(place), self.held(place)
            remaining = budget.limit_at(self.now) - settled - held
            if budget.strict:
                strict = terms.strict
                assert isinstance(strict, StrictHold)
                fits = strict.least <= remaining
                grants.append(min(strict.wanted, max(strict.least, remaining // strict.share)))
            else:
                fits = terms.expected_pico_usd <= remaining and remaining > 0
            if not fits:
                return BudgetRefusal(budget, settled, held, self.budget_place(budget)[1])
        granted = min(grants, default=None)
        return tuple(
            (budget, place, granted if budget.strict and granted is not None else terms.expected_pico_usd, own)
            for budget, place, own in budgets
        ), granted
