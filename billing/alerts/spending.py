"""What many budgets have cost in their windows, in few queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from billing.models import Budget
from billing.selectors import budget_tally, budget_window
from billing.standing import BySubject, used


@dataclass(frozen=True, slots=True)
class Spent:
    """What a budget, or one subject of it, has settled in a window."""

    budget: Budget
    window_start: datetime
    settled_pico_usd: int
    subject: str = ""


def spent(budgets: Iterable[Budget], at: datetime) -> Iterator[Spent]:
    """What each budget has settled in its window that contains `at`; of those for each subject, every subject's."""
    windows = [(budget, *budget_window(budget, at.timestamp())) for budget in budgets]
    ended = [(budget, end) for budget, _, end in windows if end is not None]
    since_start = used([budget_tally(budget, start) for budget, start, _ in windows])
    since_end = used([budget_tally(budget, end) for budget, end in ended])
    later = {budget.pk: found for (budget, _), found in zip(ended, since_end, strict=True)}
    for (budget, start, _), found in zip(windows, since_start, strict=True):
        for subject, settled in _without(found, later.get(budget.pk, {})):
            yield Spent(budget, datetime.fromtimestamp(start, UTC), settled, subject)


def _without(found: BySubject, later: BySubject) -> Iterator[tuple[str, int]]:
    """What was settled before the window's end, for the ledger sums from a moment on."""
    for subject, one in found.items():
        yield subject, one.cost_pico_usd - (later[subject].cost_pico_usd if subject in later else 0)
