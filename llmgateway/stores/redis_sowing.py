"""The calls by which shared counters begin with what ledger and journals say."""

from __future__ import annotations

from collections.abc import Callable

from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_debts import Numbers
from llmgateway.stores.redis_epoch import Totals
from llmgateway.stores.redis_link import Call
from llmgateway.stores.redis_terms import WINDOW, Frames, kind_of, limit_window


class Sowing:
    """Of a window that is over by now nothing is told."""

    def __init__(self, frames: Frames, numbers: Numbers, now: Callable[[], float]) -> None:
        self._frames = frames
        self._numbers = numbers
        self._now = now

    def budget(self, budget: BudgetRule, window_start: float, settled_pico_usd: int) -> list[Call]:
        frame = self._frames.budget(budget, self._now())
        return [self._numbers.book(frame.packed, settled_pico_usd)] if frame.starts_at == window_start else []

    def limit(self, limit: Limit, window_start: float, used: int) -> list[Call]:
        if kind_of(limit) == WINDOW and limit_window(limit, self._now())[0] != window_start:
            return []
        return [self._numbers.use(self._frames.limit(limit, self._now()).packed, used)]

    def all(self, totals: Totals) -> list[Call]:
        calls = [call for seed in totals.budgets for call in self.budget(*seed)]
        return calls + [call for seed in totals.limits for call in self.limit(*seed)]


__all__ = ["Sowing"]
