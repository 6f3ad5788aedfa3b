"""What budgets have settled and hold in one process, window by window. No waiting, no I/O."""

from __future__ import annotations

import math

from billing.windows import window_bounds
from llmgateway.pipeline.protocols import BudgetRefusal, HeldWindow, TargetTerms
from llmgateway.pipeline.snapshot import BudgetRule
from llmgateway.stores.limits import PATIENCE_S

NO_GRANT = -1
"""No strict budget is concerned."""


class Window:
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


def grant_of(windows: list[Window], terms: TargetTerms, now: float) -> int | BudgetRefusal:
    """What strict budgets can grant together; refuses if a budget has no room."""
    strict, expected, granted = terms.strict, terms.expected_pico_usd, NO_GRANT
    for window in windows:
        rule = window.rule
        # A call costs as much as all the rest, and most budgets are what they are.
        limit = rule.limit_at(now) if rule.credits or rule.increase_pico_usd else rule.limit_pico_usd
        remaining = limit - window.settled - window.held
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


def hold_of(windows: list[Window], terms: TargetTerms, granted: int) -> tuple[HeldWindow, ...]:
    """Hold of each window what its budget wants held."""
    held = []
    for window in windows:
        rule = window.rule
        hold = granted if rule.strict and terms.strict is not None else terms.expected_pico_usd
        window.held += hold
        held.append(HeldWindow(window.name, rule, hold))
    return tuple(held)


def place_of(budget: BudgetRule, now: float) -> tuple[str, float, float]:
    """The name of the counter of the window that contains `now`, where it begins and where it ends."""
    start, end = window_bounds(budget.window, budget.time_zone, now, starts_on=budget.starts_on)
    subject = f"{budget.each}:{budget.scope_id}:" if budget.each else ""
    # The kind of window is part of the name: a day and a month may begin at the same moment.
    name = f"budget:{budget.id}:{subject}{budget.window}:{int(start)}"
    return name, start, math.inf if end is None else end


def sums_of(budget: BudgetRule) -> tuple[int, str, str, str, int]:
    """What tells counters of a budget apart, whatever the time: after an edit of the window it counts anew."""
    return budget.id, budget.scope_id, budget.window, budget.time_zone, budget.starts_on
