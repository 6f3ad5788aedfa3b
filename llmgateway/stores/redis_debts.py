"""What was used without Redis and it has to be told, summed up by counter: an outage may last for hours."""

from __future__ import annotations

from collections.abc import Sequence

from llmgateway.pipeline.protocols import Reservation, Tokens
from llmgateway.pipeline.snapshot import BudgetRule
from llmgateway.stores.redis_link import Call
from llmgateway.stores.redis_terms import SLOTS, Frames, Packed, amount_text, kind_of


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


class Debts:
    """By counter."""

    def __init__(self, frames: Frames, numbers: Numbers) -> None:
        self._frames = frames
        self._numbers = numbers
        self._budgets: dict[str, tuple[Packed, int]] = {}
        self._limits: dict[str, tuple[Packed, int]] = {}

    def __len__(self) -> int:
        return len(self._budgets) + len(self._limits)

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
                if kind_of(limit) != SLOTS:
                    packed = self._frames.limit(limit, now).packed
                    _, taken = self._limits.get(packed[1], (packed, 0))
                    self._limits[packed[1]] = packed, taken + used.amount(limit.metric)

    def take(self) -> list[Call]:
        """The calls that tell Redis. From here on nothing is owed."""
        calls = [self._numbers.book(packed, amount) for packed, amount in self._budgets.values()]
        calls += [self._numbers.use(packed, amount) for packed, amount in self._limits.values()]
        self.forget()
        return calls

    def forget(self) -> None:
        """The counters know it already."""
        self._budgets.clear()
        self._limits.clear()
