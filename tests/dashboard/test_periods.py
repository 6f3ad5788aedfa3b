"""Days are the team's, also when its clocks change or its midnight lies within an hour of UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from dashboard.periods import DEFAULT_PERIOD, begins_off_the_hour, buckets, period_named, start_of_day

BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")


def test_days_begin_at_the_zones_midnight() -> None:
    spans = buckets(period_named("7d"), BERLIN, datetime(2026, 3, 14, 12, tzinfo=UTC))

    assert spans.starts[0] == datetime(2026, 3, 7, 23, tzinfo=UTC)
    assert spans.starts[-1] == datetime(2026, 3, 13, 23, tzinfo=UTC)
    assert spans.end == datetime(2026, 3, 14, 23, tzinfo=UTC)
    assert spans.labels[-1] == "Mar 14"


def test_after_midnight_in_the_zone_it_is_already_tomorrow() -> None:
    spans = buckets(period_named("7d"), BERLIN, datetime(2026, 3, 14, 23, 30, tzinfo=UTC))

    assert spans.labels[-1] == "Mar 15"


@pytest.mark.parametrize(
    ("now", "hours"),
    [(datetime(2026, 3, 29, 12, tzinfo=UTC), 23), (datetime(2026, 10, 25, 12, tzinfo=UTC), 25)],
    ids=["clocks go forward", "clocks go back"],
)
def test_a_day_on_which_the_clocks_change_is_shorter_or_longer(now: datetime, hours: int) -> None:
    spans = buckets(period_named("7d"), BERLIN, now)

    assert spans.end - spans.starts[-1] == timedelta(hours=hours)


def test_no_day_is_missing_or_twice_when_the_clocks_change() -> None:
    spans = buckets(period_named("30d"), BERLIN, datetime(2026, 4, 5, 0, 30, tzinfo=UTC))

    assert len(set(spans.labels)) == len(set(spans.starts)) == 30
    assert list(spans.starts) == sorted(spans.starts)


def test_24_hours_end_with_the_running_hour() -> None:
    spans = buckets(period_named("24h"), KOLKATA, datetime(2026, 3, 14, 12, 34, tzinfo=UTC))

    assert len(spans.starts) == 24
    assert spans.starts[-1] == datetime(2026, 3, 14, 12, tzinfo=UTC)
    assert spans.labels[-1] == "Sat 17:30"


def test_a_moment_belongs_to_the_span_that_began_last() -> None:
    spans = buckets(period_named("7d"), BERLIN, datetime(2026, 3, 14, 12, tzinfo=UTC))

    assert spans.index(datetime(2026, 3, 13, 22, tzinfo=UTC)) == 5
    assert spans.index(datetime(2026, 3, 13, 23, tzinfo=UTC)) == 6


def test_a_midnight_within_an_hour_of_utc_is_noticed() -> None:
    now = datetime(2026, 3, 14, 12, tzinfo=UTC)

    assert start_of_day(KOLKATA, now) == datetime(2026, 3, 13, 18, 30, tzinfo=UTC)
    assert begins_off_the_hour(KOLKATA, now)
    assert not begins_off_the_hour(BERLIN, now)


@pytest.mark.parametrize("slug", [None, "", "1y"])
def test_an_unknown_period_is_the_default(slug: str | None) -> None:
    assert period_named(slug) is DEFAULT_PERIOD
