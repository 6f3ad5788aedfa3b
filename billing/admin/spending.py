"""What a budget's present window has cost, and what is held for requests under way: quick enough for a page.

Of requests under way only those of this machine's journals are known, and what the drain has not stored yet is missing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils import timezone

from billing.holds import Holds
from billing.models import Budget
from billing.selectors import budget_tally, budget_window, leading
from billing.standing import used
from llmgateway.conf import conf


@dataclass(frozen=True, slots=True)
class Spending:
    settled_pico_usd: int
    held_pico_usd: int
    limit_pico_usd: int
    """With prepaid credit, and the temporary increase while it lasts."""
    subject: str = ""
    """Of a budget for each address or end user: the one that has spent most, whose figures these are."""

    @property
    def remaining_pico_usd(self) -> int:
        return max(0, self.limit_pico_usd - self.settled_pico_usd - self.held_pico_usd)

    @property
    def share(self) -> int:
        """Percent of the limit that is used, whole; a limit of nothing is always used up."""
        spent = self.settled_pico_usd + self.held_pico_usd
        return 100 * spent // self.limit_pico_usd if self.limit_pico_usd else 100


def spendings(budgets: Sequence[Budget]) -> list[Spending]:
    """What each stands at in the window that contains this moment. All of them are asked for at once."""
    now = timezone.now().timestamp()
    settled = used([budget_tally(budget, budget_window(budget, now)[0]) for budget in budgets])
    held = _holds().by_budget()
    found = []
    for budget, by_subject in zip(budgets, settled, strict=True):
        subject, amount = leading(by_subject)
        # Holds are known by budget, not by whom they are for.
        holds = 0 if budget.each else held.get(budget.pk, 0)
        found.append(Spending(amount, holds, budget.whole_limit_pico_usd(), subject))
    return found


@functools.cache
def _holds() -> Holds:
    """Shared by all pages of the process, for it reads each journal on from where it ended."""
    return Holds(conf.journal_dir)
