"""Admission counters of one process. Nothing here waits but `hold_returned`, so each call is one atomic step.

This is the hot path: what can be known per rule is kept with its counter, and found again while the rule is the same
object. Counters of limits are in `limits.py`, the order of those who wait for holds in `waiting.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmgateway.pipeline.protocols import (
    BudgetRefusal,
    BudgetState,
    Clock,
    HeldWindow,
    LimitRefusal,
    Refusal,
    Reservation,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.crowd import NAMED, Crowd, shared_limit, shared_name
from llmgateway.stores.holds import NO_GRANT, Window, grant_of, hold_of, place_of, sums_of
from llmgateway.stores.limits import Bucket, Count, Counter, Quota, Slots, Wanted, headrooms
from llmgateway.stores.waiting import Waiters

SWEEP_SLICE = 20_000
"""Counters that one sweep looks at: a few milliseconds of the event loop."""

REMEMBERED = 50_000
"""Rules whose windows are found by identity; then all are forgotten, and found by name again."""

_Taken = tuple[Any, int, Any, int]
"""A counter, what was taken of it, what `take` returned, and when (microseconds)."""


_NOTHING: list[_Taken] = []
_ONES = frozenset({"requests", "concurrency"})
"""Metrics of which every request takes one."""


class _Open:
    """What an admitted request holds until it is settled."""

    __slots__ = ("callers", "reservation", "taken", "target_taken", "windows")

    def __init__(self, reservation: Reservation, taken: list[_Taken], windows: list[Window]) -> None:
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
        self.wanted: list[Wanted] = []
        self.shadowed: list[Limit] = []
        self.windows: list[Window] = []

    def take(self) -> list[_Taken]:
        now_us = self.now_us
        return [(counter, need, counter.take(need), now_us) for counter, need in self.wanted]


class MemoryStore:
    """Implements `AdmissionStore`. Belongs to one event loop; not safe across threads.

    No counter may come twice in one admission.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counters: dict[str, Counter] = {}
        self._counts: dict[str, Count] = {}
        self._windows: dict[str, Window] = {}
        self._by_rule: dict[int, Window] = {}
        """The present windows by the identity of their rules, which is found faster than rules are compared."""
        self._open: dict[str, _Open] = {}
        self._crowd = Crowd()
        self._waiters = Waiters()
        self._unswept: list[Counter | Count | Window] = []

    async def admit(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: Sequence[TargetTerms],
    ) -> Reservation | Refusal:
        terms = targets[0]
        if len(targets) == 1 and not terms.limits and not terms.budgets:
            decision = self._admit_plain(request_id, demand, limits, budgets, terms)
        else:
            decision = self._admit(request_id, demand, limits, budgets, targets)
        if self._waiters:
            self._waiters.tried(admitted=isinstance(decision, Reservation))
        if decision.__class__ is BudgetRefusal and decision.budget.strict:
            self._waiters.refused(self._window(decision.budget, self._clock.time()).name)
        return decision

    def admit_at_once(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        terms: TargetTerms,
    ) -> Reservation | None:
        if self._waiters:
            return None
        decision = self._admit_plain(request_id, demand, limits, budgets, terms)
        return decision if decision.__class__ is Reservation else None

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
            hold_of(attempt.windows, target, granted),
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
        name = place_of(budget, self._clock.time())[0]
        window = self._windows.get(name) or self._shared_window(budget, name)
        return BudgetState(0, 0) if window is None else BudgetState(window.settled, window.held)

    async def limit_used(self, limit: Limit) -> int:
        now, now_us = self._clock.time(), _microseconds(self._clock)
        return self._counter(limit, now, now_us).used(now, now_us)

    def counter_of(self, limit: Limit) -> Counter:
        return self._counter(limit, self._clock.time(), _microseconds(self._clock))

    def window_of(self, budget: BudgetRule) -> Window:
        """The present one."""
        return self._window(budget, self._clock.time())

    def is_shared(self, rule: Limit | BudgetRule) -> bool:
        """Whether it is counted together with others, for there are too many names."""
        if rule.each not in NAMED:
            return False
        if isinstance(rule, Limit):
            return rule.counter not in self._counters and shared_limit(rule).counter in self._counters
        name = place_of(rule, self._clock.time())[0]
        return name not in self._windows and self._shared_window(rule, name) is not None

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

    def _admit_plain(
        self,
        request_id: str,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        terms: TargetTerms,
    ) -> Reservation | Refusal:
        """`_admit` for one target that has neither limits nor budgets of its own, as most have: in one go."""
        clock, counters = self._clock, self._counters
        now, now_us = clock.time(), int(clock.monotonic() * 1e6 + 0.5)
        tokens_in_all = demand.input + demand.output
        wanted: list[Wanted] = []
        shadowed: tuple[Limit, ...] = ()
        for limit in limits:
            counter = counters.get(limit.counter)
            if counter is None or counter.limit is not limit:
                counter = self._counter(limit, now, now_us)
            metric = limit.metric
            need = 1 if metric in _ONES else tokens_in_all if metric == "tokens" else demand.amount(metric)
            if counter.fits(need, now, now_us):
                wanted.append((counter, need))
            elif not limit.shadow:
                return counter.refusal(need, now)
            else:
                shadowed = (*shadowed, limit)
        by_rule = self._by_rule
        windows: list[Window] = []
        for budget in budgets:
            window = by_rule.get(id(budget))
            if window is None or window.rule is not budget or not window.starts_at <= now < window.ends_at:
                window = self._window(budget, now)
            windows.append(window)
        granted = grant_of(windows, terms, now) if windows else NO_GRANT
        if not isinstance(granted, int):
            return granted
        taken: list[_Taken] = [(counter, need, counter.take(need), now_us) for counter, need in wanted]
        requests, tokens = headrooms(wanted, len(wanted), now)
        reservation = Reservation(
            request_id,
            demand,
            limits,
            (),
            hold_of(windows, terms, granted) if windows else (),
            0,
            None if granted < 0 else granted,
            requests,
            tokens,
            shadowed,
        )
        opened = self._open[request_id] = _Open(reservation, taken, windows)
        opened.callers = len(windows)
        return reservation

    def _take(self, attempt: _Attempt, callers: int, number: int, terms: TargetTerms, granted: int) -> _Open:
        """Take what the attempt wants; the first `callers` of it are of the caller's limits."""
        taken = attempt.take()
        requests, tokens = headrooms(attempt.wanted, callers, attempt.now)
        # By position, for that is what this costs least with; the order is the struct's.
        reservation = Reservation(
            attempt.id,
            attempt.demand,
            attempt.limits,
            terms.limits,
            hold_of(attempt.windows, terms, granted),
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
        granted = grant_of(attempt.windows, terms, attempt.now)
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
                metric = counter.limit.metric
                amount = 0 if used is None else 1 if metric in _ONES else used.amount(metric)
                if amount != need or counter.__class__ is Slots:
                    counter.settle(need, amount, mark, at_us, now_us)

    def _counter(self, limit: Limit, now: float, now_us: int) -> Counter:
        """The limit's counter, which goes by `limit` from then on. Another kind of limit counts anew."""
        counter = self._counters.get(limit.counter)
        if counter is not None and counter.limit is limit:
            return counter
        if counter is not None and counter.limit.metric == limit.metric and counter.limit.per == limit.per:
            counter.adopt(limit, now, now_us)
            return counter
        if counter is None:
            shared = shared_limit(limit) if limit.each in NAMED else limit
            if shared is not limit and (self._crowd.full or shared.counter in self._counters):
                return self._counter(shared, now, now_us)
            self._crowd.add(limit, limit.counter)
        if limit.metric == "concurrency":
            counter = Slots(limit)
        elif limit.per == "minute":
            counter = Bucket(limit, now_us)
        else:
            counter = Quota(limit, now, self._counts)
        self._counters[limit.counter] = counter
        return counter

    def _revived(self, bucket: Bucket) -> Counter:
        """What stands for a bucket that was swept while the request ran: what it used beyond its demand still counts."""
        other = self._counters.get(bucket.limit.counter)
        if isinstance(other, Bucket) and other.limit.metric == bucket.limit.metric:
            return other
        if other is None:
            bucket.alive = True
            self._counters[bucket.limit.counter] = bucket
            self._crowd.add(bucket.limit, bucket.limit.counter)
        return bucket

    def _window(self, budget: BudgetRule, now: float) -> Window:
        """The budget's present window, which exists from then on."""
        window = self._by_rule.get(id(budget))
        if window is not None and window.rule is budget and window.starts_at <= now < window.ends_at:
            return window
        name, starts_at, ends_at = place_of(budget, now)
        window = self._windows.get(name) or self._shared_window(budget, name)
        if window is None:
            if budget.each in NAMED and self._crowd.full:
                name = shared_name(budget, name)
            window = self._windows[name] = Window(name, starts_at, ends_at, budget)
            self._crowd.add(budget, name)
        window.rule = budget
        if len(self._by_rule) >= REMEMBERED:
            self._by_rule.clear()
        self._by_rule[id(budget)] = window
        return window

    def _shared_window(self, budget: BudgetRule, name: str) -> Window | None:
        """What a name without a window of its own goes by, if that is there. `name` is its own's."""
        return self._windows.get(shared_name(budget, name)) if budget.each in NAMED else None

    def _book_if_new(self, budget: BudgetRule, held_windows: tuple[HeldWindow, ...], cost_pico_usd: int) -> None:
        sums = sums_of(budget)
        if all(sums_of(held.budget) != sums for held in held_windows):
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

    def _forget(self, counter: Counter | Count | Window) -> None:
        if isinstance(counter, Count):
            self._counts.pop(counter.name, None)
        elif isinstance(counter, Window):
            if self._windows.pop(counter.name, None) is not None:
                self._crowd.remove(counter.rule, counter.name)
            if self._by_rule.get(id(counter.rule)) is counter:
                del self._by_rule[id(counter.rule)]
        else:
            counter.alive = False
            if self._counters.get(counter.limit.counter) is counter:
                del self._counters[counter.limit.counter]
                self._crowd.remove(counter.limit, counter.limit.counter)


def _microseconds(clock: Clock) -> int:
    return int(clock.monotonic() * 1e6 + 0.5)


def _is_callers(refusal: Refusal, budgets: tuple[BudgetRule, ...]) -> bool:
    return isinstance(refusal, BudgetRefusal) and any(refusal.budget is budget for budget in budgets)
