"""The counters of limits in one process: buckets that drain, calendar windows that end, and slots. No waiting, no I/O.

Times are microseconds (`now_us`, monotonic, for buckets) and seconds since the epoch (`now`, for windows).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from billing.windows import reset_bounds, window_bounds
from llmgateway.pipeline.protocols import Headroom, LimitRefusal
from llmgateway.pipeline.snapshot import Limit

MINUTE_US = 60_000_000
CONCURRENCY_RETRY_S = 1.0
"""Nobody knows when a slot returns."""
PATIENCE_S = 3600.0
"""A window is remembered so long after its end, in case the wall clock is set back."""


class Bucket:
    """A limit per minute (GCRA). `level` is what has been taken and has not drained yet, times `MINUTE_US`.

    In that unit the bucket drains by exactly `amount` in each microsecond, so all arithmetic is in integers.
    """

    __slots__ = ("alive", "amount", "at_us", "capacity", "level", "limit")

    def __init__(self, limit: Limit, now_us: int) -> None:
        self.level = 0
        self.at_us = now_us
        self.amount = 0
        self.alive = True
        """False: it was swept, and another stands for it if somebody came since."""
        self.adopt(limit, 0.0, now_us)

    def adopt(self, limit: Limit, now: float, now_us: int) -> None:
        """Go by an edited limit from now on. What was taken stays taken."""
        self.drain(now_us)
        self.limit = limit
        self.amount = limit.amount
        self.capacity = limit.burst * MINUTE_US if limit.amount and limit.burst else -1

    def drain(self, now_us: int) -> None:
        passed = now_us - self.at_us
        if passed > 0:
            level = self.level - passed * self.amount
            self.level = max(0, level)
            self.at_us = now_us

    def fits(self, need: int, now: float, now_us: int) -> bool:
        passed = now_us - self.at_us
        if passed > 0:  # As `drain`; a call costs as much as all the rest.
            level = self.level - passed * self.amount
            self.level = max(0, level)
            self.at_us = now_us
        capacity = self.capacity
        if self.level + need * MINUTE_US <= capacity:
            return True
        return self.level == 0 and capacity > 0 and self.limit.first_in_window

    def take(self, need: int) -> int:
        """Returns the level it leads to, which `settle` wants to know."""
        self.level += need * MINUTE_US
        return self.level

    def settle(self, need: int, used: int, mark: int, at_us: int, now_us: int) -> None:
        """Correct what was taken to what was used, `mark` and `at_us` being the level after taking and its time.

        Less was used: the rest flows back, except what has drained since by itself, or a request that runs for
        minutes would let the same amount pass twice.
        """
        if used == need:
            return
        self.drain(now_us)
        if used > need:
            self.level += (used - need) * MINUTE_US
            return
        undrained = mark - (now_us - at_us) * self.amount
        back = min((need - used) * MINUTE_US, undrained, self.level)
        if back > 0:
            self.level -= back

    def refusal(self, need: int, now: float) -> LimitRefusal:
        return LimitRefusal(self.limit, self.remaining(), self._wait_s(need))

    def _wait_s(self, need: int) -> float | None:
        if self.capacity < 0:
            return None
        wait = self.level + need * MINUTE_US - self.capacity
        if need > self.limit.burst:
            if not self.limit.first_in_window:
                return None
            wait = self.level
        return -(-wait // self.amount) / 1e6

    def remaining(self) -> int:
        return max(0, (self.capacity - self.level) // MINUTE_US)

    def headroom(self, now: float) -> Headroom:
        left = (self.capacity - self.level) // MINUTE_US
        return Headroom(self.limit.amount, max(0, left), self.level / (self.amount or 1) / 1e6)

    def used(self, now: float, now_us: int) -> int:
        self.drain(now_us)
        return -(-self.level // MINUTE_US)

    def is_over(self, now: float, now_us: int) -> bool:
        self.drain(now_us)
        return self.level == 0

    def saved(self, mark: int, now_us: int) -> int:
        self.drain(now_us)
        return self.level

    def restore(self, mark: int, saved: int) -> None:
        self.level = saved


class Count:
    """What was taken of a limit in one window."""

    __slots__ = ("ends_at", "name", "starts_at", "taken")

    def __init__(self, name: str, starts_at: float, ends_at: float) -> None:
        self.name = name
        self.starts_at = starts_at
        self.ends_at = ends_at
        self.taken = 0

    def is_over(self, now: float, now_us: int) -> bool:
        return self.ends_at + PATIENCE_S < now


class Quota:
    """A limit over a calendar window or a total. `counts` holds the counters of all windows, by name."""

    __slots__ = ("alive", "amount", "count", "counts", "limit")

    def __init__(self, limit: Limit, now: float, counts: dict[str, Count]) -> None:
        self.counts = counts
        self.alive = True
        self.adopt(limit, now)

    def adopt(self, limit: Limit, now: float, now_us: int = 0) -> None:
        self.limit = limit
        self.amount = limit.amount or -1
        self.count = self._count_at(now)

    def fits(self, need: int, now: float, now_us: int) -> bool:
        count = self.count
        if not count.starts_at <= now < count.ends_at:
            self.count = count = self._count_at(now)
        if count.taken + need <= self.amount:
            return True
        return self.limit.first_in_window and count.taken == 0 and self.amount > 0

    def take(self, need: int) -> Count:
        """Returns the window, for `settle` belongs to the one that was taken from."""
        self.count.taken += need
        return self.count

    def settle(self, need: int, used: int, mark: Count, at_us: int, now_us: int) -> None:
        mark.taken += used - need

    def refusal(self, need: int, now: float) -> LimitRefusal:
        never = self.amount < 0 or (need > self.amount and not self.limit.first_in_window)
        wait_s = None if never or self.count.ends_at == math.inf else self.count.ends_at - now
        return LimitRefusal(self.limit, self.remaining(), wait_s)

    def remaining(self) -> int:
        return max(0, self.amount - self.count.taken)

    def headroom(self, now: float) -> Headroom:
        return Headroom(self.limit.amount, self.remaining(), self.count.ends_at - now)

    def used(self, now: float, now_us: int) -> int:
        return self._count_at(now).taken

    def settled(self, now: float, running: Mapping[str, int]) -> int:
        """What is used without that which `running` requests have taken, by the name of the window."""
        count = self._count_at(now)
        return count.taken - running.get(count.name, 0)

    def seed(self, window_start: float, used: int, now: float) -> None:
        count = self._count_at(now)
        if count.starts_at == window_start:
            count.taken += used

    def is_over(self, now: float, now_us: int) -> bool:
        return self.count.is_over(now, now_us)

    def saved(self, mark: Count, now_us: int) -> int:
        return mark.taken

    def restore(self, mark: Count, saved: int) -> None:
        mark.taken = saved

    def _count_at(self, now: float) -> Count:
        limit = self.limit
        if limit.per == "total" and limit.reset_s:
            start, end = reset_bounds(limit.anchor, limit.reset_s, now)
        else:
            start, end = window_bounds(limit.per, limit.time_zone, now, starts_on=limit.starts_on)
        ends_at = math.inf if end is None else end
        # The period is part of the name: a day and a month may begin at the same moment.
        name = f"{limit.counter}:{limit.metric}:{limit.per}:{int(start)}"
        count = self.counts.get(name)
        if count is None:
            count = self.counts[name] = Count(name, start, ends_at)
        count.ends_at = ends_at
        return count


class Slots:
    """A limit of what runs at the same time."""

    __slots__ = ("alive", "limit", "running")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.running = 0
        self.alive = True

    def adopt(self, limit: Limit, now: float, now_us: int) -> None:
        self.limit = limit

    def fits(self, need: int, now: float, now_us: int) -> bool:
        return self.running < self.limit.amount

    def headroom(self, now: float) -> Headroom:
        return Headroom(self.limit.amount, max(0, self.limit.amount - self.running), CONCURRENCY_RETRY_S)

    def take(self, need: int) -> None:
        self.running += 1

    def settle(self, need: int, used: int, mark: None, at_us: int, now_us: int) -> None:
        self.running -= 1

    def refusal(self, need: int, now: float) -> LimitRefusal:
        return LimitRefusal(self.limit, 0, CONCURRENCY_RETRY_S if self.limit.amount else None)

    def used(self, now: float, now_us: int) -> int:
        return self.running

    def is_over(self, now: float, now_us: int) -> bool:
        return self.running == 0

    def saved(self, mark: None, now_us: int) -> int:
        return self.running

    def restore(self, mark: None, saved: int) -> None:
        self.running = saved


Counter = Bucket | Quota | Slots
Wanted = tuple[Counter, int]
"""A counter, and what is wanted of it."""


def headrooms(wanted: list[Wanted], callers: int, now: float) -> tuple[Headroom | None, Headroom | None]:
    """Of the tightest limit of requests, and of tokens."""
    requests: Headroom | None = None
    tokens: Headroom | None = None
    for counter, _ in wanted if len(wanted) == callers else wanted[:callers]:
        limit = counter.limit
        if counter.__class__ is Slots or limit.shadow:
            continue
        found = counter.headroom(now)
        if limit.metric == "requests":
            if requests is None or found.remaining < requests.remaining:
                requests = found
        elif tokens is None or found.remaining < tokens.remaining:
            tokens = found
    return requests, tokens
