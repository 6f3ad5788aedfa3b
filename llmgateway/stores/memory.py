"""Admission counters of one process. Every call runs on the event loop without waiting, so each is atomic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from billing.windows import window_bounds
from llmgateway.pipeline.protocols import (
    BudgetRefusal,
    BudgetState,
    Clock,
    Headroom,
    HeldWindow,
    LimitRefusal,
    Refusal,
    Reservation,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit

MINUTE_NS = 60_000_000_000


@dataclass(slots=True)
class _Bucket:
    """A GCRA bucket. `full_at` is when it is as if never used, in nanoseconds times `amount`.

    That unit keeps the arithmetic in integers: one request always costs `MINUTE_NS`, whatever the amount.
    """

    amount: int
    full_at: int


@dataclass(slots=True)
class _Window:
    settled: int = 0
    held: int = 0
    ends_at: float | None = None


class MemoryStore:
    """Implements `AdmissionStore`. Belongs to one event loop; not safe across threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._windows: dict[str, _Window] = {}
        self._open: dict[str, Reservation] = {}

    async def admit(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: Sequence[TargetTerms],
    ) -> Reservation | Refusal:
        now_ns = int(self._clock.monotonic() * 1e9)
        hold = targets[0].expected_pico_usd
        refusal = self._first_full(limits, now_ns) or self._first_poor(budgets, hold)
        if refusal is not None:
            return refusal
        windows = tuple([HeldWindow(self._name(budget), budget, hold) for budget in budgets])
        for window in windows:
            self._windows[window.name].held += hold
        reservation = Reservation(request_id, demand, limits, windows=windows, requests=self._take(limits, now_ns))
        self._open[request_id] = reservation
        return reservation

    async def move(self, reservation: Reservation, target: TargetTerms) -> Reservation | Refusal:
        return reservation

    def settle(
        self,
        reservation: Reservation,
        *,
        cost_pico_usd: int,
        used: Tokens | None,
        budgets: tuple[BudgetRule, ...],
    ) -> None:
        if self._open.pop(reservation.id, None) is None:
            return
        booked = set()
        for held in reservation.windows:
            window = self._windows.setdefault(held.name, _Window())
            window.held -= held.held_pico_usd
            window.settled += cost_pico_usd
            booked.add(_sums(held.budget))
        for budget in budgets:
            if _sums(budget) not in booked:
                self._windows[self._name(budget)].settled += cost_pico_usd
        if used is None:
            self._give_back(reservation.limits)

    async def hold_returned(self, timeout_s: float) -> bool:
        await asyncio.sleep(timeout_s)
        return False

    def seed_limit(self, limit: Limit, *, window_start: float, used: int) -> None:
        raise NotImplementedError

    async def limit_used(self, limit: Limit) -> int:
        raise NotImplementedError

    def seed(self, budget: BudgetRule, *, window_start: float, settled_pico_usd: int) -> None:
        start, _ = window_bounds(budget.window, budget.time_zone, self._clock.time())
        if start == window_start:
            self._windows[self._name(budget)].settled += settled_pico_usd

    def restart(self, budget: BudgetRule) -> None:
        self._windows[self._name(budget)].settled = 0

    async def state(self, budget: BudgetRule) -> BudgetState:
        window = self._windows[self._name(budget)]
        return BudgetState(window.settled, window.held)

    def sweep(self) -> None:
        """Forget buckets that are full again and windows that are over. Called now and then."""
        now_ns, now = int(self._clock.monotonic() * 1e9), self._clock.time()
        for counter in [name for name, bucket in self._buckets.items() if bucket.full_at <= now_ns * bucket.amount]:
            del self._buckets[counter]
        for name in [name for name, window in self._windows.items() if self._is_over(window, now)]:
            del self._windows[name]

    @staticmethod
    def _is_over(window: _Window, now: float) -> bool:
        # An hour of patience: requests that began before the window ended are still booked on it.
        return window.ends_at is not None and window.ends_at + 3600 < now and window.held == 0

    def _first_full(self, limits: tuple[Limit, ...], now_ns: int) -> LimitRefusal | None:
        for limit in limits:
            if limit.amount == 0 or limit.burst == 0:
                return LimitRefusal(limit, 0, None)
            wait = self._full_at(limit, now_ns) + MINUTE_NS - limit.burst * MINUTE_NS - now_ns * limit.amount
            if wait > 0:
                return LimitRefusal(limit, 0, wait / limit.amount / 1e9)
        return None

    def _full_at(self, limit: Limit, now_ns: int) -> int:
        """When the bucket is full again, at the earliest now. After an edit of the amount, what was used stays used."""
        now = now_ns * limit.amount
        bucket = self._buckets.get(limit.counter)
        if bucket is None:
            return now
        if bucket.amount != limit.amount:
            used = max(0, bucket.full_at - now_ns * bucket.amount)
            bucket.amount, bucket.full_at = limit.amount, now + used
        return max(bucket.full_at, now)

    def _take(self, limits: tuple[Limit, ...], now_ns: int) -> Headroom | None:
        """Take one request from each bucket; returns what the tightest leaves."""
        tightest: Headroom | None = None
        for limit in limits:
            full_at = self._full_at(limit, now_ns) + MINUTE_NS
            bucket = self._buckets.get(limit.counter)
            if bucket is None:
                self._buckets[limit.counter] = _Bucket(limit.amount, full_at)
            else:
                bucket.full_at = full_at
            used = full_at - now_ns * limit.amount
            remaining = (limit.burst * MINUTE_NS - used) // MINUTE_NS
            if tightest is None or remaining < tightest.remaining:
                tightest = Headroom(limit.amount, remaining, used / limit.amount / 1e9)
        return tightest

    def _give_back(self, limits: tuple[Limit, ...]) -> None:
        for limit in limits:
            bucket = self._buckets.get(limit.counter)
            if bucket is not None:
                bucket.full_at -= MINUTE_NS

    def _first_poor(self, budgets: tuple[BudgetRule, ...], hold: int) -> BudgetRefusal | None:
        for budget in budgets:
            window = self._windows[self._name(budget)]
            committed = window.settled + window.held
            if committed + hold > budget.limit_pico_usd or committed >= budget.limit_pico_usd:
                return BudgetRefusal(budget, window.settled, window.held, window.ends_at)
        return None

    def _name(self, budget: BudgetRule) -> str:
        """The counter of the budget's current window, which exists from then on."""
        start, end = window_bounds(budget.window, budget.time_zone, self._clock.time())
        name = f"budget:{budget.id}:{int(start)}"
        if name not in self._windows:
            self._windows[name] = _Window(ends_at=end)
        return name


def _sums(budget: BudgetRule) -> tuple[int, str, str]:
    """What tells counters of a budget apart, whatever the time: after an edit of the window it counts anew."""
    return budget.id, budget.window, budget.time_zone
