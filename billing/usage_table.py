"""Rows into the ledger's table, many at a time and column by column.

`bulk_create` costs more than everything else in the drain together, so rows go to the database's own fast path: `COPY`
on PostgreSQL, a statement for many rows on SQLite. Most columns say the same in every row of a batch: such a column is
looked at and handed over once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from billing.journal_files import to_json
from billing.models import UsageRecord
from billing.statement_sizes import STEPS, in_steps
from billing.usage_rows import COLUMNS, NUL, Columns

_JSON = tuple(
    place
    for place, field in enumerate(UsageRecord._meta.concrete_fields)  # noqa: SLF001  # Django's documented model API
    if isinstance(field, models.JSONField)
)
_STARTED_AT, _ADMITTED_AT, _DAY = (COLUMNS.index(name) for name in ("started_at", "admitted_at", "day"))
_UNSAFE = ("\\", "\t", "\n", "\r")
"""What `COPY` takes for something else than text."""
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NONE = r"\N"

Column = Sequence[Any]


def insert(connection: BaseDatabaseWrapper, rows: Columns) -> None:
    """Adds completed rows. Must run inside the transaction that advances the journal's offset."""
    if connection.vendor == "postgresql":
        _copy(connection, _stored(rows, zone="+00"))
    else:
        _execute(connection, _stored(rows))


def _stored(rows: Columns, *, zone: str = "") -> list[Column]:
    """Columns in the order of `COLUMNS`, as either database takes them."""
    columns = list(rows.values())
    started, admitted = columns[_STARTED_AT], columns[_ADMITTED_AT]
    columns[_STARTED_AT] = columns[_ADMITTED_AT] = [_moment(seconds) + zone for seconds in started]
    if admitted != started:
        both = zip(started, admitted, strict=True)
        columns[_ADMITTED_AT] = [_moment(first if second is None else second) + zone for first, second in both]
    columns[_DAY] = [_iso(day) for day in columns[_DAY]]
    for place in _JSON:
        columns[place] = _json_texts(columns[place])
    return columns


def _same(column: Column) -> bool:
    return column.count(column[0]) == len(column)


class _Differing:
    """Columns that have differed between the rows of a batch since the process began.

    They only become more: a statement that changed with every batch would have to be prepared for every batch.
    """

    def __init__(self) -> None:
        self.places: tuple[int, ...] = ()

    def of(self, columns: Sequence[Column]) -> tuple[int, ...]:
        known = set(self.places)
        fresh = [place for place, column in enumerate(columns) if place not in known and not _same(column)]
        if fresh:
            self.places = tuple(sorted(known.union(fresh)))
        return self.places


_differing = _Differing()


def _execute(connection: BaseDatabaseWrapper, columns: Sequence[Column]) -> None:
    differing = _differing.of(columns)
    shared = [column[0] for place, column in enumerate(columns) if place not in differing]
    # Where rows differ in nothing, as a single one, an empty tuple stands for each.
    values = list(zip(*(columns[place] for place in differing), strict=True)) or [()] * len(columns[0])
    with connection.wrap_database_errors, connection.cursor() as cursor:
        execute = cursor.connection.execute  # Past Django's cursor, which looks at every parameter.
        for some in in_steps(values):
            execute(_statement(len(some), differing), [*shared, *chain.from_iterable(some)])


@lru_cache(maxsize=len(STEPS) * len(COLUMNS))
def _statement(rows: int, differing: tuple[int, ...]) -> str:
    """One statement for many rows: each statement hands the interpreter over to the event loop and back.

    The first parameters are what all rows share.
    """
    shared = [name for place, name in enumerate(COLUMNS) if place not in differing]
    marks = ", ".join([f"?{number}" for number in range(1, len(shared) + 1)] + ["?"] * len(differing))
    names = ", ".join(f'"{name}"' for name in (*shared, *(COLUMNS[place] for place in differing)))
    return f"INSERT INTO billing_usagerecord ({names}) VALUES {', '.join([f'({marks})'] * rows)}"  # noqa: S608  # our own names


def _copy(connection: BaseDatabaseWrapper, columns: Sequence[Column]) -> None:
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    with connection.cursor() as cursor, cursor.cursor.copy(f"COPY billing_usagerecord ({names}) FROM STDIN") as copy:
        copy.write(_copied(columns))


def _copied(columns: Sequence[Column]) -> str:
    """Rows in PostgreSQL's text format: a line each, the values between tabs."""
    line, differing = [], []
    for column in columns:
        if _same(column):
            line.append(_texts(column[:1])[0])
        else:
            line.append(None)
            differing.append(_texts(column))
    template = "\t".join("%s" if text is None else str(text).replace("%", "%%") for text in line) + "\n"
    if not differing:
        return template % () * len(columns[0])
    return "".join([template % values for values in zip(*differing, strict=True)])


def _texts(column: Column) -> Column:
    """A column as values whose `str` is what `COPY` takes."""
    kinds = set(map(type, column))
    if kinds == {int}:
        return column
    if kinds == {str} and not _needs_escapes(column):
        return column
    return [_text(value) for value in column]


def _needs_escapes(column: Column) -> bool:
    together = "".join(column)
    return any(sign in together for sign in _UNSAFE)


def _text(value: Any) -> str:
    return _NONE if value is None else str(value).translate(_ESCAPES)


def _json_texts(column: Column) -> Column:
    if _same(column):
        return [_json_text(column[0])] * len(column)
    if set(map(type, column)) == {msgspec.Raw}:
        texts = [str(value, "utf-8") for value in column]
        return [None if text == "null" else text for text in texts] if "null" in texts else texts
    return [_json_text(value) for value in column]


def _json_text(value: Any) -> str | None:
    if isinstance(value, msgspec.Raw):
        text = bytes(value)
        return None if text == b"null" else text.decode()
    if value is None:
        return None
    text = to_json(value)
    return (to_json(_without_nul(value)) if NUL in text else text).decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(content) for name, content in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list) else value


@lru_cache(maxsize=1024)
def _iso(day: date) -> str:
    return day.isoformat()


def _moment(seconds: float) -> str:
    """In UTC, as Django writes it on SQLite: no fraction when it is zero, so that texts compare like moments."""
    whole, fraction = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{fraction:06d}" if fraction else _second(whole)


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
