"""What a budget's present window has cost, and what is held for requests under way: quick enough for a page.

Whole hours come from the rollups; only the part of an hour with which a window may begin is summed from the ledger.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from django.db.models import F, QuerySet, Sum
from django.utils import timezone

from billing.holds import Holds
from billing.models import Budget, UsageRecord, UsageRollup
from billing.selectors import budget_scope, budget_time_zone
from billing.windows import window_bounds
from llmgateway.conf import conf

# A sum of 64-bit integers may leave 64 bits, at which SQLite gives up: so sums are of two parts.
_PART = 10**6


@dataclass(frozen=True, slots=True)
class Spending:
    settled_pico_usd: int
    held_pico_usd: int

    def share_of(self, limit_pico_usd: int) -> int:
        """Percent of the limit that is used, whole; a limit of nothing is always used up."""
        used = self.settled_pico_usd + self.held_pico_usd
        return 100 * used // limit_pico_usd if limit_pico_usd else 100


def spending(budget: Budget) -> Spending:
    """Settled and held of `budget` in the window that contains this moment."""
    begin, _ = window_bounds(budget.window, budget_time_zone(budget), timezone.now().timestamp())
    start = datetime.fromtimestamp(begin, UTC)
    hour = start.replace(minute=0, second=0, microsecond=0)
    settled = 0
    if hour < start:
        hour += timedelta(hours=1)
        settled += _sum(_of(budget, UsageRecord.objects.filter(started_at__gte=start, started_at__lt=hour)))
    settled += _sum(_of(budget, UsageRollup.objects.filter(hour__gte=hour)))
    return Spending(settled, _holds().by_budget().get(budget.pk, 0))


Rows = TypeVar("Rows", QuerySet[UsageRecord], QuerySet[UsageRollup])


def _of(budget: Budget, rows: Rows) -> Rows:
    scope, scope_id = budget_scope(budget)
    if scope == "key":
        return rows.filter(key_id=scope_id)
    return rows.filter(team_id=int(scope_id)) if scope == "team" else rows


def _sum(rows: QuerySet[UsageRecord] | QuerySet[UsageRollup]) -> int:
    parts = rows.order_by().aggregate(
        whole=Sum(F("cost_pico_usd") / _PART, default=0), rest=Sum(F("cost_pico_usd") % _PART, default=0)
    )
    return int(parts["whole"]) * _PART + int(parts["rest"])


@functools.cache
def _holds() -> Holds:
    """Shared by all pages of the process, for it reads each journal on from where it ended."""
    return Holds(conf.journal_dir)
