"""What a key was used for in the last two weeks, as its page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from django.utils import timezone

from billing.money import format_usd
from billing.selectors import DayUsage, key_usage_by_day

DAYS = 14


@dataclass(frozen=True, slots=True)
class UseShown:
    """The sums of one day, or of all of them."""

    requests: int
    refused: int
    tokens: int
    cost: str
    day: date | None = None
    width: int = 0
    """The day's share of the busiest day's requests in percent, for the bar beside it."""


@dataclass(frozen=True, slots=True)
class RecentUse:
    total: UseShown
    days: list[UseShown]
    """Newest first."""

    @property
    def is_empty(self) -> bool:
        return not (self.total.requests or self.total.refused)


def recent_usage(key_id: str) -> RecentUse:
    """The last 14 days of a key, today included, in the zone of the admin."""
    days = key_usage_by_day(key_id, days=DAYS, time_zone=timezone.get_current_timezone_name())
    busiest = max(day.requests for day in days)
    return RecentUse(_total(days), [_day(day, busiest) for day in reversed(days)])


def _day(day: DayUsage, busiest: int) -> UseShown:
    return UseShown(
        requests=day.requests,
        refused=day.refused,
        tokens=day.input_tokens + day.output_tokens,
        cost=format_usd(day.cost_pico_usd),
        day=day.day,
        width=round(100 * day.requests / busiest) if busiest else 0,
    )


def _total(days: list[DayUsage]) -> UseShown:
    return UseShown(
        requests=sum(day.requests for day in days),
        refused=sum(day.refused for day in days),
        tokens=sum(day.input_tokens + day.output_tokens for day in days),
        cost=format_usd(sum(day.cost_pico_usd for day in days)),
    )
