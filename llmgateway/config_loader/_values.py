"""Reads single column values defensively, for raw SQL may have written anything.

Columns that a converter could choke on are selected as text: one broken row must not keep the others from loading.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import IntegerField, QuerySet, TextField
from django.db.models.functions import Cast

Row = TypeVar("Row")
Value = TypeVar("Value", str, int)

SLICE = 250
"""Rows handled in one go; between slices other threads get their turn."""


def in_slices(rows: QuerySet[Any, Row], pause: Callable[[], None]) -> Iterator[Row]:
    """The rows one by one, with a pause after each slice."""
    for number, row in enumerate(rows.iterator(chunk_size=SLICE), start=1):
        yield row
        if number % SLICE == 0:
            pause()


def as_text(column: str) -> Cast:
    return Cast(column, TextField())


class _PlainNumber(IntegerField):  # type: ignore[type-arg]  # At run time it takes no arguments.
    """An integer as the driver gives it: one column that Django converts makes it go through all of them, row by row."""

    def get_internal_type(self) -> str:
        return "PlainNumber"

    def cast_db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "integer"


def as_number(column: str) -> Cast:
    """A boolean as 0 or 1."""
    return Cast(column, _PlainNumber())


def bounded(value: object, least: float, most: float, *, otherwise: float) -> float:
    """A number between two bounds, whatever was written past every check."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return otherwise
    return min(most, max(least, value))


_shared: dict[Any, Any] = {}
MOST_SHARED = 20_000


def shared(value: Value) -> Value:
    """An equal value that was met before, in place of this one: rows say the same few things a hundred thousand times."""
    if len(_shared) >= MOST_SHARED:
        _shared.clear()
    found: Value = _shared.setdefault(value, value)
    return found


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


def fields_of(text: str) -> dict[str, Any]:
    """What a JSON column holds that holds an object.

    Raises:
        ValueError: it holds something else.
    """
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("expected an object")  # noqa: TRY004  # As for what is no JSON at all.
    return fields


@lru_cache(maxsize=65_536)
def text_set(text: str) -> frozenset[str] | None:
    """Like `texts`, as a set that equal columns share; None for an empty list."""
    return frozenset(texts(text)) or None
