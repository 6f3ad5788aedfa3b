"""What a budget's present window has cost, from the rollups, and what is held for requests under way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from django.utils import timezone

from billing.models import Budget, UsageRollup
from billing.windows import window_bounds


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
    rows = UsageRollup.objects.order_by()
    if budget.key:
        rows = rows.filter(key_id=str(budget.key_id))
    elif budget.team:
        rows = rows.filter(team_id=budget.team.pk)
    start, _ = window_bounds(budget.window, _time_zone(budget), timezone.now().timestamp())
    rows = rows.filter(hour__gte=datetime.fromtimestamp(start, UTC))
    return Spending(sum(rows.values_list("cost_pico_usd", flat=True).iterator()), 0)


def _time_zone(budget: Budget) -> str:
    if budget.key:
        return budget.key.team.time_zone
    return budget.team.time_zone if budget.team else "UTC"
