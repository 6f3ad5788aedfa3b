"""Words that limits and budgets of every origin share: when a window begins, how long a total lasts, and what people
call a limit. No rows here, and no Django."""

from __future__ import annotations

import re
from functools import lru_cache

OWNERS = ("key", "team", "provider", "deployment", "alias")
"""Whose a limit or budget may be, as its columns are called; with none of them it is everyone's."""
CALLERS = ("key", "team")
"""The owners that ask for models, and may so have rules for one model, or for each address or end user."""

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
LAST_START_DAY = 28
"""A later day is not in every month."""

SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
SHORTEST_RESET_S = 60
LONGEST_RESET_S = 3660 * 86_400
"""Some ten years."""
_DURATION = re.compile(r"([1-9][0-9]{0,8})\s*([mhdw])")

MOST = 10**12
"""The largest amount of a limit: whatever store counts it, it stays exact."""

_THINGS = {
    "requests": ("request", "requests"),
    "tokens": ("token", "tokens"),
    "input_tokens": ("input token", "input tokens"),
    "output_tokens": ("output token", "output tokens"),
    "concurrency": ("concurrent request", "concurrent requests"),
    "request_bytes": ("byte in a request", "bytes in a request"),
}
_EACH = {"ip": "address", "end_user": "end user", "model": "model"}


def start_number(period: str, starts_on: str) -> int:
    """Where a window begins: a weekday (1 Monday … 7) or a day of the month. 0: where it does by itself.

    Raises:
        ValueError: with what to write instead.
    """
    if not starts_on:
        return 0
    if period == "week" and starts_on in WEEKDAYS:
        return WEEKDAYS.index(starts_on) + 1
    if period == "week":
        raise ValueError(f"{starts_on!r} is not a day on which a week can begin; write one of {', '.join(WEEKDAYS)}.")
    if period != "month":
        raise ValueError("Only a week or a month begins on a day; leave it empty.")
    if re.fullmatch(r"[1-9][0-9]?", starts_on) and int(starts_on) <= LAST_START_DAY:
        return int(starts_on)
    raise ValueError(f"{starts_on!r} is not a day that every month has; write a number from 1 to {LAST_START_DAY}.")


def reset_seconds(text: str) -> int:
    """`30d`, `12h`, `15m` or `2w` in seconds.

    Raises:
        ValueError: with what to write instead.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a time span; write a number and m, h, d or w, such as 12h or 30d.")
    seconds = int(match[1]) * SECONDS[match[2]]
    if not SHORTEST_RESET_S <= seconds <= LONGEST_RESET_S:
        raise ValueError(f"{text} is too long; the longest is {LONGEST_RESET_S // 86_400}d.")
    return seconds


@lru_cache(maxsize=1024)
def reset_text(seconds: int) -> str:
    """The shortest text that `reset_seconds` reads as the same; seconds that are no whole minute as `90s`."""
    for unit in ("d", "h", "m"):
        if seconds % SECONDS[unit] == 0:
            return f"{seconds // SECONDS[unit]}{unit}"
    return f"{seconds}s"


@lru_cache(maxsize=4096)
def limit_name(metric: str, per: str, amount: int, *, model: str = "", each: str = "", reset_s: int = 0) -> str:
    """As people read it in errors and headers: `60 requests per minute`, `3 concurrent requests`."""
    things = _THINGS.get(metric, (metric, metric))
    name = f"{amount:,} {things[amount != 1]}"
    if per == "total":
        name += f" per {reset_text(reset_s)}" if reset_s else " in total"
    elif per:
        name += f" per {per}"
    if model:
        name += f" of {model}"
    return f"{name} for each {_EACH.get(each, each)}" if each else name
