"""Admission counters of one process. Every call runs on the event loop without waiting, so each is atomic."""

from __future__ import annotations

from dataclasses import dataclass

from billing.windows import window_bounds
from llmgateway.pipeline.protocols import (
    BudgetRefusal,
    BudgetState,
    Clock,
    LimitRefusal,
    Reservation,
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
        self, request_id: str, *, limits: tuple[Limit, ...], budgets: tuple[BudgetRule, ...], hold_pico_usd: int
    ) -> Reservation | LimitRefusal | BudgetRefusal:
        now_ns = int(self._clock.monotonic() * 1e9)
        refusal = self._first_full(limits, now_ns) or self._first_poor(budgets, hold_pico_usd)
        if refusal is not None:
            return refusal
        windows = tuple((self._name(budget), budget) for budget in budgets)
        for name, _ in windows:
            self._windows[name].held += hold_pico_usd
        tightest = self._take(limits, now_ns)
        reservation = Reservation(request_id, limits, windows, hold_pico_usd, *tightest)
        self._open[request_id] = reservation
        return reservation

    def settle(
        self, reservation: Reservation, *, cost_pico_usd: int, budgets: tuple[BudgetRule, ...], refund_limits: bool
    ) -> None:
        if self._open.pop(reservation.id, None) is None:
            return
        booked = set()
        for name, budget in reservation.windows:
            window = self._windows.setdefault(name, _Window())
            window.held -= reservation.held_pico_usd
            window.settled += cost_pico_usd
            booked.add(_sums(budget))
        for budget in budgets:
            if _sums(budget) not in booked:
                self._windows[self._name(budget)].settled += cost_pico_usd
        if refund_limits:
            self._give_back(reservation.limits)

    def seed(self, budget: BudgetRule, *, window_start: float, settled_pico_usd: int) -> None:
        start, _ = window_bounds(budget.window, budget.time_zone, self._clock.time())
        if start == window_start:
            self._windows[self._name(budget)].settled += settled_pico_usd

    def restart(self, budget: BudgetRule) -> None:
        self._windows[self._name(budget)].settled = 0

    def state(self, budget: BudgetRule) -> BudgetState:
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

    def _take(self, limits: tuple[Limit, ...], now_ns: int) -> tuple[int | None, int | None, float]:
        """Take one request from each bucket; returns limit, remaining and seconds to full of the tightest."""
        tightest: tuple[int | None, int | None, float] = (None, None, 0.0)
        for limit in limits:
            full_at = self._full_at(limit, now_ns) + MINUTE_NS
            bucket = self._buckets.get(limit.counter)
            if bucket is None:
                self._buckets[limit.counter] = _Bucket(limit.amount, full_at)
            else:
                bucket.full_at = full_at
            used = full_at - now_ns * limit.amount
            remaining = (limit.burst * MINUTE_NS - used) // MINUTE_NS
            if tightest[1] is None or remaining < tightest[1]:
                tightest = (limit.amount, remaining, used / limit.amount / 1e9)
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
