"""What was used without Redis and it has to be told, summed up by counter: an outage may last for hours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmgateway.pipeline.protocols import Reservation, Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_link import Call
from llmgateway.stores.redis_seen import Seen, drained
from llmgateway.stores.redis_terms import BUCKET, SLOTS, UNIT, Frames, Packed, amount_text, kind_of


class Numbers:
    """Makes calls that count once, however often they are sent."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._calls = 0

    def next(self) -> str:
        self._calls += 1
        return f"{self._worker}:{self._calls}"

    def book(self, budget: Packed, pico_usd: int) -> Call:
        return "book", self.next(), budget, amount_text(pico_usd)

    def use(self, limit: Packed, amount: int) -> Call:
        return "use", self.next(), [*limit[:2], amount, *limit[3:]]


class _Rate:
    """What a bucket has to be told. It drains meanwhile, as it would have there."""

    __slots__ = ("level", "limit", "packed", "since")

    def __init__(self, limit: Limit, packed: Packed, since: float) -> None:
        self.limit = limit
        self.packed = packed
        self.level = 0
        self.since = since
        """It drains from here on: until then Redis's own level does."""

    def use(self, amount: int, pace: int, now: float) -> None:
        self.drain(pace, now)
        self.level += amount * UNIT

    def drain(self, pace: int, now: float) -> None:
        self.level = drained(self.level, self.since, pace, now)
        self.since = max(self.since, now)


class Debts:
    """By counter."""

    def __init__(self, frames: Frames, numbers: Numbers, *, seen: Seen, workers: Callable[[], int]) -> None:
        self._frames = frames
        self._numbers = numbers
        self._seen = seen
        self._workers = workers
        self._budgets: dict[str, tuple[Packed, int]] = {}
        self._limits: dict[str, tuple[Packed, int]] = {}
        self._rates: dict[str, _Rate] = {}

    def __len__(self) -> int:
        return len(self._budgets) + len(self._limits) + len(self._rates)

    def add(
        self,
        reservation: Reservation,
        *,
        cost_pico_usd: int,
        used: Tokens | None,
        others: Sequence[BudgetRule],
        now: float,
    ) -> None:
        """What a settled request used; `others` are budgets that came into being while it ran."""
        if cost_pico_usd:
            for budget in (*[window.budget for window in reservation.windows], *others):
                packed = self._frames.budget(budget, now).packed
                _, before = self._budgets.get(packed[0], (packed, 0))
                self._budgets[packed[0]] = packed, before + cost_pico_usd
        if used is not None:
            for limit in (*reservation.limits, *reservation.target_limits):
                self._use(limit, used.amount(limit.metric), now)

    def _use(self, limit: Limit, amount: int, now: float) -> None:
        kind = kind_of(limit)
        if kind == SLOTS:
            return
        packed = self._frames.limit(limit, now).packed
        name = packed[1]
        if kind != BUCKET:
            _, taken = self._limits.get(name, (packed, 0))
            self._limits[name] = packed, taken + amount
            return
        rate = self._rates.get(name)
        if rate is None:
            rate = self._rates[name] = _Rate(limit, packed, self._seen.empty_at(name, limit, now))
        rate.use(amount, self._pace(limit), now)

    def _pace(self, limit: Limit) -> int:
        """Every worker's share drains by its share, so that together they drain as one bucket does."""
        return max(1, limit.amount // self._workers()) if limit.amount else 0

    def take(self, now: float) -> list[Call]:
        """The calls that tell Redis. From here on nothing is owed."""
        calls = [self._numbers.book(packed, amount) for packed, amount in self._budgets.values()]
        calls += [self._numbers.use(packed, amount) for packed, amount in self._limits.values()]
        # Should Redis be lost again at once, this was taken too.
        for name, (_, amount) in (*self._budgets.items(), *self._limits.items()):
            self._seen.add(name, amount)
        for name, rate in self._rates.items():
            rate.drain(self._pace(rate.limit), now)
            if rate.level:
                calls.append(self._numbers.use(rate.packed, -(-rate.level // UNIT)))
                self._seen.add_rate(name, rate.limit, rate.level, now)
        self.forget()
        return calls

    def forget(self) -> None:
        """The counters know it already."""
        self._budgets.clear()
        self._limits.clear()
        self._rates.clear()
