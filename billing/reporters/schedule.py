"""When to try again: from seconds to hours, over three days, never all at one moment. Pure."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_S = 5.0
FACTOR = 4.0
LONGEST_S = 8 * 3600.0
MAX_ATTEMPTS = 16
"""Their waits add up to three days."""
JITTER = 0.2

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
"""A receiver that failed a whole round is left alone for so long at most; then it is asked again with a few events."""


def wait_s(attempts: int) -> float:
    """How long an event waits after its `attempts`th attempt failed (1 is the first), give or take a fifth."""
    return _spread(min(LONGEST_S, FIRST_S * FACTOR ** min(attempts - 1, 10)))


def pause_s(failures: int) -> float:
    """How long a receiver is left alone after so many failed rounds in a row."""
    return _spread(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10)))


def _spread(seconds: float) -> float:
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # no secret


def retry_after_s(value: str, now: datetime) -> float | None:
    """The wait that a `Retry-After` asks for, in seconds or as a date; at most the longest wait. None: it says nothing."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_S)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - now).total_seconds()), LONGEST_S)
