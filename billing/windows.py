"""Calendar windows of budgets, computed from the clock: no job ever resets anything. Pure, no Django."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

Bounds = tuple[float, float | None]
"""Start and end in seconds since the epoch; a window that never resets begins at 0 and has no end."""


def window_bounds(window: str, time_zone: str, at: float, *, starts_on: int = 0) -> Bounds:
    """The `hour`, `day`, `week`, `month` or `total` window that contains `at`, in `time_zone`.

    `starts_on` is where a week (1 Monday … 7 Sunday) or a month (day 1 … 28) begins; 0 means Monday and the 1st.
    """
    if window == "total":
        return 0.0, None
    return _bounds(window, time_zone, starts_on, int(at // 900))


def reset_bounds(anchor: int, reset_s: int, at: float) -> Bounds:
    """The window of `reset_s` seconds that contains `at`, when one began at `anchor`."""
    start = anchor + (int(at) - anchor) // reset_s * reset_s
    return float(start), float(start + reset_s)


@cache
def load_zone(time_zone: str) -> ZoneInfo:
    """A zone, read from disk once per process. Call it off the event loop for every zone that windows will be asked in."""
    return ZoneInfo(time_zone)


@lru_cache(maxsize=4096)
def _bounds(window: str, time_zone: str, starts_on: int, quarter: int) -> Bounds:
    # Every zone's offset is a multiple of a quarter of an hour, so all moments of a quarter share their windows.
    zone = load_zone(time_zone)
    moment = datetime.fromtimestamp(quarter * 900, zone)
    if window == "hour":
        start = moment.timestamp() - moment.minute * 60
        return start, start + 3600
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    first, following = _days(window, midnight, starts_on or 1)
    return first.replace(tzinfo=zone).timestamp(), following.replace(tzinfo=zone).timestamp()


def _days(window: str, midnight: datetime, starts_on: int) -> tuple[datetime, datetime]:
    if window == "day":
        return midnight, midnight + timedelta(days=1)
    if window == "week":
        first = midnight - timedelta(days=(midnight.isoweekday() - starts_on) % 7)
        return first, first + timedelta(days=7)
    if window == "month":
        first = midnight.replace(day=starts_on)
        if midnight.day < starts_on:
            first = (first.replace(day=1) - timedelta(days=1)).replace(day=starts_on)
        return first, (first.replace(day=1) + timedelta(days=32)).replace(day=starts_on)
    raise ValueError(f"{window!r} is not a window; choose hour, day, week, month or total")
