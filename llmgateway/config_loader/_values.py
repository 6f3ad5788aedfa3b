"""Reads single column values defensively, for raw SQL may have written anything.

Columns that a converter could choke on are selected as text: one broken row must not keep the others from loading.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache

from django.db.models import TextField
from django.db.models.functions import Cast


def as_text(column: str) -> Cast:
    return Cast(column, TextField())


@lru_cache(maxsize=65_536)
def epoch(text: str | None) -> float | None:
    """Seconds since the epoch of a date column's text; PostgreSQL's `infinity` too.

    Raises:
        ValueError: it is not a date.
    """
    if text is None:
        return None
    if text.endswith("infinity"):
        return float(text)
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@lru_cache(maxsize=65_536)
def texts(text: str) -> tuple[str, ...]:
    """The values of a JSON column that holds a list of texts.

    Raises:
        ValueError: it holds something else.
    """
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("expected a list of texts")
    return tuple(values)


@lru_cache(maxsize=65_536)
def text_set(text: str) -> frozenset[str] | None:
    """Like `texts`, as a set that equal columns share; None for an empty list."""
    return frozenset(texts(text)) or None
