"""The periods a team page can show, cut into days (or hours) of the team's time zone. No Django."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Period:
    """A choice in the period selector: how many hours or days, the running one included."""

    slug: str
    label: str
    unit: str
    count: int


PERIODS = (
    Period("24h", "24 hours", "hour", 24),
    Period("7d", "7 days", "day", 7),
    Period("30d", "30 days", "day", 30),
    Period("90d", "90 days", "day", 90),
)
DEFAULT_PERIOD = PERIODS[1]


def period_named(slug: str | None) -> Period:
    """The period of that name; anything else is the default, so that an old link still opens."""
    return next((period for period in PERIODS if period.slug == slug), DEFAULT_PERIOD)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Consecutive spans of time. `starts` are in UTC; the last span ends at `end`."""

    labels: tuple[str, ...]
    starts: tuple[datetime, ...]
    end: datetime

    def index(self, moment: datetime) -> int:
        """The number of the span in which `moment`, which lies in one of them, falls."""
        return bisect_right(self.starts, moment) - 1


def buckets(period: Period, zone: ZoneInfo, now: datetime) -> Buckets:
    cut: Callable[[Period, ZoneInfo, datetime], Buckets] = _hours if period.unit == "hour" else _days
    return cut(period, zone, now)


def start_of_day(zone: ZoneInfo, now: datetime) -> datetime:
    """The last midnight in `zone`, in UTC."""
    return _midnight(now.astimezone(zone), zone)


def begins_off_the_hour(zone: ZoneInfo, now: datetime) -> bool:
    """Whether midnight in `zone` lies within an hour of UTC, by whose hours usage is summed."""
    return start_of_day(zone, now).minute != 0


def _hours(period: Period, zone: ZoneInfo, now: datetime) -> Buckets:
    # Hours of UTC, which the rollups have, so that neither a change of the clocks nor an odd offset splits one.
    last = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    starts = tuple(last - timedelta(hours=back) for back in reversed(range(period.count)))
    return Buckets(tuple(f"{start.astimezone(zone):%a %H:%M}" for start in starts), starts, last + timedelta(hours=1))


def _days(period: Period, zone: ZoneInfo, now: datetime) -> Buckets:
    today = now.astimezone(zone)
    # Calendar days, not spans of 24 hours: a day on which the clocks change has 23 or 25 of them.
    days = [today - timedelta(days=back) for back in reversed(range(period.count))]
    starts = tuple(_midnight(day, zone) for day in days)
    return Buckets(tuple(f"{day:%b} {day.day}" for day in days), starts, _midnight(today + timedelta(days=1), zone))


def _midnight(day: datetime, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
