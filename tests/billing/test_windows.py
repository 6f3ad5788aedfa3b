"""Budget windows are calendar windows where the team lives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.windows import window_bounds

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
    "Africa/Cairo", "America/Havana", "Pacific/Apia", "America/St_Johns",
)  # fmt: skip
moments = st.floats(
    datetime(2015, 1, 1, tzinfo=UTC).timestamp(), datetime(2037, 12, 1, tzinfo=UTC).timestamp(), allow_nan=False
)


def _bounds(window: str, zone: str, text: str) -> tuple[str, str]:
    start, end = window_bounds(window, zone, datetime.fromisoformat(text).timestamp())
    assert end is not None
    return datetime.fromtimestamp(start, UTC).isoformat(), datetime.fromtimestamp(end, UTC).isoformat()


@given(st.sampled_from(["hour", "day", "week", "month"]), st.sampled_from(ZONES), moments)
def test_windows_hold_their_moment_and_leave_no_gap(window: str, zone: str, at: float) -> None:
    start, end = window_bounds(window, zone, at)

    assert end is not None
    assert start <= at < end
    assert window_bounds(window, zone, end)[0] == end
    assert window_bounds(window, zone, start) == (start, end)


@given(st.sampled_from(["day", "week", "month"]), st.sampled_from(ZONES), moments)
def test_days_begin_at_the_first_moment_of_the_local_date(window: str, zone: str, at: float) -> None:
    start, _ = window_bounds(window, zone, at)

    first = datetime.fromtimestamp(start, ZoneInfo(zone))
    before = datetime.fromtimestamp(start - 1, ZoneInfo(zone))
    assert first.date() != before.date()
    assert window != "week" or first.weekday() == 0
    assert window != "month" or first.day == 1


@pytest.mark.parametrize(
    ("window", "zone", "at", "expected"),
    [
        ("hour", "Asia/Kolkata", "2026-03-14T12:10Z", ("2026-03-14T11:30:00+00:00", "2026-03-14T12:30:00+00:00")),
        ("day", "Europe/Berlin", "2026-03-29T12:00Z", ("2026-03-28T23:00:00+00:00", "2026-03-29T22:00:00+00:00")),
        ("day", "Europe/Berlin", "2026-10-25T12:00Z", ("2026-10-24T22:00:00+00:00", "2026-10-25T23:00:00+00:00")),
        ("week", "UTC", "2026-03-15T23:59:59Z", ("2026-03-09T00:00:00+00:00", "2026-03-16T00:00:00+00:00")),
        ("month", "UTC", "2028-02-29T23:59:59Z", ("2028-02-01T00:00:00+00:00", "2028-03-01T00:00:00+00:00")),
        ("month", "America/New_York", "2027-01-01T04:59Z", ("2026-12-01T05:00:00+00:00", "2027-01-01T05:00:00+00:00")),
    ],
)
def test_windows_of_note(window: str, zone: str, at: str, expected: tuple[str, str]) -> None:
    assert _bounds(window, zone, at) == expected


def test_a_total_never_ends() -> None:
    assert window_bounds("total", "UTC", 1e9) == (0.0, None)


def test_an_unknown_window_is_refused() -> None:
    with pytest.raises(ValueError, match="choose hour, day, week, month or total"):
        window_bounds("fortnight", "UTC", timedelta(days=365).total_seconds())
