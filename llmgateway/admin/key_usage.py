"""What a key was used for in the last two weeks, for its page. Read from the rollups alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from django.utils import timezone

from billing.models import UsageRollup
from billing.money import format_usd

DAYS = 14
REFUSED = "refused"


@dataclass(slots=True)
class DayOfUse:
    """The sums of one day. `width` is its share of the busiest day's requests in percent, for the bar beside it."""

    day: date
    requests: int = 0
    refused: int = 0
    tokens: int = 0
    cost_pico_usd: int = 0
    width: int = 0

    @property
    def cost(self) -> str:
        return format_usd(self.cost_pico_usd)


@dataclass(frozen=True, slots=True)
class RecentUse:
    days: list[DayOfUse]
    """Newest first."""

    @property
    def total(self) -> DayOfUse:
        whole = DayOfUse(day=self.days[0].day)
        for day in self.days:
            whole.requests += day.requests
            whole.refused += day.refused
            whole.tokens += day.tokens
            whole.cost_pico_usd += day.cost_pico_usd
        return whole

    @property
    def is_empty(self) -> bool:
        return not (self.total.requests or self.total.refused)


def recent_usage(key_id: str) -> RecentUse:
    """The last 14 days of a key, today included, in the zone of the admin."""
    today = timezone.localdate()
    first = timezone.make_aware(datetime.combine(today - timedelta(days=DAYS - 1), time.min))
    days = {day: DayOfUse(day) for day in (today - timedelta(days=number) for number in range(DAYS))}
    for row in UsageRollup.objects.filter(key_id=key_id, hour__gte=first).order_by():
        _add(days[timezone.localtime(row.hour).date()], row)
    busiest = max(day.requests for day in days.values())
    for day in days.values():
        day.width = round(100 * day.requests / busiest) if busiest else 0
    return RecentUse(list(days.values()))


def _add(day: DayOfUse, row: UsageRollup) -> None:
    if row.status == REFUSED:
        day.refused += row.requests
        return
    day.requests += row.requests
    day.tokens += row.input_tokens + row.output_tokens
    day.cost_pico_usd += row.cost_pico_usd
