"""Admission counters of one process. Nothing here waits but `hold_returned`, so each call is one atomic step.

This is the hot path: what can be known per rule is kept with its counter, and found again while the rule is the same
object. Counters of limits are in `limits.py`, the order of those who wait for holds in `waiting.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
from llmgateway.stores.limits import PATIENCE_S, Bucket, Count, Quota, Slots
from llmgateway.stores.waiting import Waiters

SWEEP_SLICE = 20_000
"""Counters that one sweep looks at: a few milliseconds of the event loop."""

NO_GRANT = -1
"""No strict budget is concerned."""

_Counter = Bucket | Quota | Slots
_Wanted = tuple[_Counter, int]
_Taken = tuple[Any, int, Any, int]
"""A counter, what was taken of it, what `take` returned, and when (microseconds)."""


_NOTHING: list[_Taken] = []


class _Window:
    """What is settled and held of a budget in one window."""

    __slots__ = ("ends_at", "held", "name", "rule", "settled", "starts_at")

    def __init__(self, name: str, starts_at: float, ends_at: float, rule: BudgetRule) -> None:
        self.name = name
        self.starts_at = starts_at
        self.ends_at = ends_at
        self.rule = rule
        """The newest that was asked about."""
        self.settled = 0
        self.held = 0

    def refusal(self) -> BudgetRefusal:
        resets_at = None if self.ends_at == math.inf else self.ends_at
        return BudgetRefusal(self.rule, self.settled, self.held, resets_at)

    def is_over(self, now: float, now_us: int) -> bool:
        # Requests that began before the end are still booked on it.
        return self.held == 0 and self.ends_at + PATIENCE_S < now


class _Open:
    """What an admitted request holds until it is settled."""

    __slots__ = ("callers", "reservation", "taken", "target_taken", "windows")

    def __init__(self, reservation: Reservation, taken: list[_Taken], windows: list[_Window]) -> None:
        self.reservation = reservation
        self.taken = taken
        """Of the caller's limits."""
        self.target_taken: list[_Taken] = _NOTHING
        self.windows = windows
        """As in `reservation.windows`."""
        self.callers = 0
        """How many of them are the caller's; the rest are the target's."""


class _Attempt:
    """What an admission would take, while it is found out whether it may."""

    __slots__ = ("demand", "id", "limits", "now", "now_us", "shadowed", "wanted", "windows")

    def __init__(self, request_id: str, demand: Tokens, limits: tuple[Limit, ...], clock: Clock) -> None:
        self.id = request_id
        self.demand = demand
        self.limits = limits
        self.now = clock.time()
        self.now_us = _microseconds(clock)
        self.wanted: list[_Wanted] = []
        self.shadowed: list[Limit] = []
        self.windows: list[_Window] = []

    def take(self) -> list[_Taken]:
        now_us = self.now_us
        return [(counter, need, counter.take(need), now_us) for counter, need in self.wanted]


class MemoryStore:
    """Implements `AdmissionStore`. Belongs to one event loop; not safe across threads.

    No counter may come twice in one admission.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counters: dict[str, _Counter] = {}
        self._counts: dict[str, Count] = {}
        self._windows: dict[str, _Window] = {}
        self._current: dict[tuple[int, str], _Window] = {}
        """The present window of each budget."""
        self._open: dict[str, _Open] = {}
        self._waiters = Waiters()
        self._unswept: list[_Counter | Count | _Window] = []

    async def admit(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: Sequence[TargetTerms],
    ) -> Reservation | Refusal:
        decision = self._admit(request_id, demand, limits, budgets, targets)
        if self._waiters:
            self._waiters.tried(admitted=isinstance(decision, Reservation))
        if decision.__class__ is BudgetRefusal and decision.budget.strict:
            self._waiters.refused(self._window(decision.budget, self._clock.time()).name)
        return decision

    async def move(self, reservation: Reservation, target: TargetTerms) -> Reservation | Refusal:
        opened = self._open.get(reservation.id)
        if opened is None:
            return reservation
        old = opened.reservation
        attempt = _Attempt(old.id, old.demand, old.limits, self._clock)
        undo = self._release(opened, attempt.now_us)
        attempt.windows = opened.windows[: opened.callers]
        granted = self._fit(target, attempt)
        if not isinstance(granted, int):
            self._restore(opened, undo)
            return granted
        opened.windows = attempt.windows
        opened.target_taken = attempt.take()
        of_caller = [limit for limit in old.shadowed if limit not in old.target_limits]
        opened.reservation = Reservation(
            old.id,
            old.demand,
            old.limits,
            target.limits,
            _hold(attempt.windows, target, granted),
            target=old.target,
            granted_pico_usd=None if granted < 0 else granted,
            requests=old.requests,
            tokens=old.tokens,
            shadowed=(*of_caller, *attempt.shadowed),
        )
        if self._waiters:
            self._wake(old.windows, {held.name: held.held_pico_usd for held in opened.reservation.windows})
        return opened.reservation

    def settle(
        self,
        reservation: Reservation,
        *,
        cost_pico_usd: int,
        used: Tokens | None,
        budgets: tuple[BudgetRule, ...],
    ) -> None:
        opened = self._open.pop(reservation.id, None)
        if opened is None:
            return
        self._correct(opened, used)
        held_windows = opened.reservation.windows
        for window, held in zip(opened.windows, held_windows, strict=True):
            window.held -= held.held_pico_usd
            window.settled += cost_pico_usd
        for budget in budgets:
            for held in held_windows:
                if held.budget is budget:
                    break
            else:
                self._book_if_new(budget, held_windows, cost_pico_usd)
        if self._waiters:
            self._wake(held_windows, dict.fromkeys([held.name for held in held_windows], cost_pico_usd))

    async def hold_returned(self, timeout_s: float) -> bool:
        return await self._waiters.wait(timeout_s)

    def seed(self, budget: BudgetRule, *, window_start: float, settled_pico_usd: int) -> None:
        window = self._window(budget, self._clock.time())
        if window.starts_at == window_start:
            window.settled += settled_pico_usd

    def seed_limit(self, limit: Limit, *, window_start: float, used: int) -> None:
        now = self._clock.time()
        counter = self._counter(limit, now, _microseconds(self._clock))
        if isinstance(counter, Quota):
            counter.seed(window_start, used, now)
        elif isinstance(counter, Bucket):
            counter.take(used)

    def restart(self, budget: BudgetRule) -> None:
        self._window(budget, self._clock.time()).settled = 0

    async def state(self, budget: BudgetRule) -> BudgetState:
        window = self._windows.get(_place(budget, self._clock.time())[0])
        return BudgetState(0, 0) if window is None else BudgetState(window.settled, window.held)

    async def limit_used(self, limit: Limit) -> int:
        now, now_us = self._clock.time(), _microseconds(self._clock)
        return self._counter(limit, now, now_us).used(now, now_us)

    def counter_of(self, limit: Limit) -> _Counter:
        return self._counter(limit, self._clock.time(), _microseconds(self._clock))

    def window_of(self, budget: BudgetRule) -> _Window:
        """The present one."""
        return self._window(budget, self._clock.time())

    def limits_settled(self, limits: Sequence[Limit]) -> list[int]:
        """What each limit over a window has counted of requests that have ended: what the ledger says too."""
        now = self._clock.time()
        running: dict[str, int] = {}
        for opened in self._open.values():
            for counter, need, mark, _ in (*opened.taken, *opened.target_taken):
                if isinstance(counter, Quota):
                    running[mark.name] = running.get(mark.name, 0) + need
        counters = [self._counters.get(limit.counter) for limit in limits]
        return [counter.settled(now, running) if isinstance(counter, Quota) else 0 for counter in counters]

    def sweep(self) -> None:
        """Forget some of what is as if never used: full buckets, free slots, windows that are over. Called now and then."""
        now, now_us = self._clock.time(), _microseconds(self._clock)
        if not self._unswept:
            self._unswept = [*self._counters.values(), *self._counts.values(), *self._windows.values()]
        swept = self._unswept[-SWEEP_SLICE:]
        del self._unswept[-SWEEP_SLICE:]
        for counter in swept:
            if counter.is_over(now, now_us):
                self._forget(counter)

    def _admit(
        self,
        request_id: str,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: Sequence[TargetTerms],
    ) -> Reservation | Refusal:
        attempt = _Attempt(request_id, demand, limits, self._clock)
        refusal = self._want(limits, attempt)
        if refusal is not None:
            return refusal
        wanted, shadowed = len(attempt.wanted), len(attempt.shadowed)
        refusals: list[Refusal] = []
        for number, terms in enumerate(targets):
            attempt.windows = [self._window(budget, attempt.now) for budget in budgets]
            granted = self._fit(terms, attempt)
            if isinstance(granted, int):
                opened = self._take(attempt, wanted, number, terms, granted)
                opened.callers = len(budgets)
                return opened.reservation
            refusals.append(granted)
            del attempt.wanted[wanted:], attempt.shadowed[shadowed:]
        return next((each for each in refusals if _is_callers(each, budgets)), refusals[0])

    def _take(self, attempt: _Attempt, callers: int, number: int, terms: TargetTerms, granted: int) -> _Open:
        """Take what the attempt wants; the first `callers` of it are of the caller's limits."""
        taken = attempt.take()
        requests, tokens = _headrooms(attempt.wanted, callers, attempt.now)
        # By position, for that is what this costs least with; the order is the struct's.
        reservation = Reservation(
            attempt.id,
            attempt.demand,
            attempt.limits,
            terms.limits,
            _hold(attempt.windows, terms, granted),
            number,
            None if granted < 0 else granted,
            requests,
            tokens,
            tuple(attempt.shadowed),
        )
        opened = self._open[attempt.id] = _Open(reservation, taken, attempt.windows)
        if len(taken) > callers:
            opened.taken, opened.target_taken = taken[:callers], taken[callers:]
        return opened

    def _fit(self, terms: TargetTerms, attempt: _Attempt) -> int | Refusal:
        """The grant if a target has room, what it takes being added to the attempt; else what has none."""
        if terms.budgets:
            attempt.windows += [self._window(budget, attempt.now) for budget in terms.budgets]
        granted = _grant(attempt.windows, terms, attempt.now)
        if terms.limits and isinstance(granted, int):
            return self._want(terms.limits, attempt) or granted
        return granted

    def _want(self, limits: tuple[Limit, ...], attempt: _Attempt) -> LimitRefusal | None:
        """Add what the limits would take to the attempt, or say which has no room."""
        counters, demand, now, now_us = self._counters, attempt.demand, attempt.now, attempt.now_us
        for limit in limits:
            counter = counters.get(limit.counter)
            if counter is None or counter.limit is not limit:
                counter = self._counter(limit, now, now_us)
            need = demand.amount(limit.metric)
            if counter.fits(need, now, now_us):
                attempt.wanted.append((counter, need))
            elif not limit.shadow:
                return counter.refusal(need, now)
            else:
                attempt.shadowed.append(limit)
        return None

    def _correct(self, opened: _Open, used: Tokens | None) -> None:
        """Give back of the limits what was not used, or take what was used beyond the demand."""
        now_us = _microseconds(self._clock)
        for taken in (opened.taken, opened.target_taken):
            for counter, need, mark, at_us in taken:
                if not counter.alive:
                    counter = self._revived(counter)  # noqa: PLW2901
                amount = 0 if used is None else used.amount(counter.limit.metric)
                counter.settle(need, amount, mark, at_us, now_us)

    def _counter(self, limit: Limit, now: float, now_us: int) -> _Counter:
        """The limit's counter, which goes by `limit` from then on. Another kind of limit counts anew."""
        counter = self._counters.get(limit.counter)
        if counter is not None and counter.limit is limit:
            return counter
        if counter is not None and counter.limit.metric == limit.metric and counter.limit.per == limit.per:
            counter.adopt(limit, now, now_us)
            return counter
        if limit.metric == "concurrency":
            counter = Slots(limit)
        elif limit.per == "minute":
            counter = Bucket(limit, now_us)
        else:
            counter = Quota(limit, now, self._counts)
        self._counters[limit.counter] = counter
        return counter

    def _revived(self, bucket: Bucket) -> _Counter:
        """What stands for a bucket that was swept while the request ran: what it used beyond its demand still counts."""
        other = self._counters.get(bucket.limit.counter)
        if isinstance(other, Bucket) and other.limit.metric == bucket.limit.metric:
            return other
        if other is None:
            bucket.alive = True
            self._counters[bucket.limit.counter] = bucket
        return bucket

    def _window(self, budget: BudgetRule, now: float) -> _Window:
        """The budget's present window, which exists from then on."""
        window = self._current.get((budget.id, budget.scope_id))
        if window is not None and window.rule is budget and window.starts_at <= now < window.ends_at:
            return window
        name, starts_at, ends_at = _place(budget, now)
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = _Window(name, starts_at, ends_at, budget)
        window.rule = budget
        self._current[budget.id, budget.scope_id] = window
        return window

    def _book_if_new(self, budget: BudgetRule, held_windows: tuple[HeldWindow, ...], cost_pico_usd: int) -> None:
        sums = _sums(budget)
        if all(_sums(held.budget) != sums for held in held_windows):
            self._window(budget, self._clock.time()).settled += cost_pico_usd

    def _wake(self, held_windows: tuple[HeldWindow, ...], now_taken: dict[str, int]) -> None:
        """Wake a waiter for every window of which less is taken now than was held."""
        for held in held_windows:
            if now_taken.get(held.name, 0) < held.held_pico_usd:
                self._waiters.returned(held.name)

    def _release(self, opened: _Open, now_us: int) -> list[Any]:
        """Take back the target's limits and all holds; returns what `_restore` needs to undo it."""
        undo: list[Any] = []
        for counter, need, mark, at_us in opened.target_taken:
            if not counter.alive:
                counter = self._revived(counter)  # noqa: PLW2901
            undo.append((counter, mark, counter.saved(mark, now_us)))
            counter.settle(need, 0, mark, at_us, now_us)
        for window, held in zip(opened.windows, opened.reservation.windows, strict=True):
            window.held -= held.held_pico_usd
        return undo

    @staticmethod
    def _restore(opened: _Open, undo: list[Any]) -> None:
        for counter, mark, saved in undo:
            counter.restore(mark, saved)
        for window, held in zip(opened.windows, opened.reservation.windows, strict=True):
            window.held += held.held_pico_usd

    def _forget(self, counter: _Counter | Count | _Window) -> None:
        if isinstance(counter, Count):
            self._counts.pop(counter.name, None)
        elif isinstance(counter, _Window):
            self._windows.pop(counter.name, None)
            budget = counter.rule.id, counter.rule.scope_id
            if self._current.get(budget) is counter:
                del self._current[budget]
        else:
            counter.alive = False
            if self._counters.get(counter.limit.counter) is counter:
                del self._counters[counter.limit.counter]


def _microseconds(clock: Clock) -> int:
    return int(clock.monotonic() * 1e6 + 0.5)


def _grant(windows: list[_Window], terms: TargetTerms, now: float) -> int | BudgetRefusal:
    """What strict budgets can grant together; refuses if a budget has no room."""
    strict, expected, granted = terms.strict, terms.expected_pico_usd, NO_GRANT
    for window in windows:
        rule = window.rule
        remaining = rule.limit_at(now) - window.settled - window.held
        if strict is None or not rule.strict:
            if remaining < expected or remaining <= 0:
                return window.refusal()
            continue
        if remaining < strict.least:
            return window.refusal()
        grant = min(strict.wanted, max(strict.least, remaining // strict.share))
        if granted == NO_GRANT or grant < granted:
            granted = grant
    return granted


def _is_callers(refusal: Refusal, budgets: tuple[BudgetRule, ...]) -> bool:
    return isinstance(refusal, BudgetRefusal) and any(refusal.budget is budget for budget in budgets)


def _hold(windows: list[_Window], terms: TargetTerms, granted: int) -> tuple[HeldWindow, ...]:
    """Hold of each window what its budget wants held."""
    held = []
    for window in windows:
        rule = window.rule
        hold = granted if rule.strict and terms.strict is not None else terms.expected_pico_usd
        window.held += hold
        held.append(HeldWindow(window.name, rule, hold))
    return tuple(held)


def _headrooms(wanted: list[_Wanted], callers: int, now: float) -> tuple[Headroom | None, Headroom | None]:
    """Of the tightest limit of requests, and of tokens."""
    requests: Bucket | Quota | None = None
    tokens: Bucket | Quota | None = None
    fewest_requests = fewest_tokens = 0
    for counter, _ in wanted if len(wanted) == callers else wanted[:callers]:
        limit = counter.limit
        if isinstance(counter, Slots) or limit.shadow:
            continue
        remaining = counter.remaining()
        if limit.metric == "requests":
            if requests is None or remaining < fewest_requests:
                requests, fewest_requests = counter, remaining
        elif tokens is None or remaining < fewest_tokens:
            tokens, fewest_tokens = counter, remaining
    return (
        None if requests is None else Headroom(requests.limit.amount, fewest_requests, requests.reset_s(now)),
        None if tokens is None else Headroom(tokens.limit.amount, fewest_tokens, tokens.reset_s(now)),
    )


def _place(budget: BudgetRule, now: float) -> tuple[str, float, float]:
    """The name of the counter of the window that contains `now`, where it begins and where it ends."""
    start, end = window_bounds(budget.window, budget.time_zone, now, starts_on=budget.starts_on)
    subject = f"{budget.each}:{budget.scope_id}:" if budget.each else ""
    # The kind of window is part of the name: a day and a month may begin at the same moment.
    name = f"budget:{budget.id}:{subject}{budget.window}:{int(start)}"
    return name, start, math.inf if end is None else end


def _sums(budget: BudgetRule) -> tuple[int, str, str, str, int]:
    """What tells counters of a budget apart, whatever the time: after an edit of the window it counts anew."""
    return budget.id, budget.scope_id, budget.window, budget.time_zone, budget.starts_on
