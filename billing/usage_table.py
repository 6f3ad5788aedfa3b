"""Rows into the ledger's table, many at a time and column by column.

`bulk_create` costs more than everything else in the drain together, so rows go to the database's own fast path: `COPY`
on PostgreSQL, a statement for many rows on SQLite. What all rows of a batch say is handed over once.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from billing.usage_columns import Column, Columns
from billing.usage_rows import COLUMNS, NUL, UnusableRecordError

_JSON = tuple(
    field.attname
    for field in UsageRecord._meta.concrete_fields  # noqa: SLF001  # Django's documented model API
    if isinstance(field, models.JSONField)
)
_UNSAFE = ("\\", "\t", "\n", "\r")
"""What `COPY` takes for something else than text."""
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NONE = r"\N"


def insert(connection: BaseDatabaseWrapper, *parts: Columns) -> None:
    """Adds completed rows. Must run inside the transaction that advances the journal's offset."""
    if connection.vendor == "postgresql":
        _copy(connection, parts)
    else:
        for rows in parts:
            _execute(connection, _stored(rows))


def _stored(rows: Columns, *, zone: str = "") -> Columns:
    """As either database takes them."""
    shared, differing = dict(rows.shared), dict(rows.differing)
    started, admitted = rows.column("started_at"), rows.column("admitted_at")
    differing["started_at"] = differing["admitted_at"] = _moments(started, zone)
    if admitted != started:
        both = zip(started, admitted, strict=True)
        differing["admitted_at"] = _moments([first if second is None else second for first, second in both], zone)
    for name in ("started_at", "admitted_at"):
        shared.pop(name, None)
    if "day" in shared:
        shared["day"] = _iso(shared["day"])
    else:
        differing["day"] = [_iso(day) for day in differing["day"]]
    for name in _JSON:
        if name in shared:
            shared[name] = _json_text(shared[name])
        else:
            differing[name] = _json_texts(differing[name])
    return Columns(rows.count, shared, differing)


class _Differing:
    """Columns that have differed between the rows of a batch since the process began.

    They only become more: a statement that changed with every batch would have to be prepared for every batch.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()

    def of(self, columns: Iterable[str]) -> tuple[str, ...]:
        known = set(self.names).union(columns)
        if len(known) > len(self.names):
            self.names = tuple(name for name in COLUMNS if name in known)
        return self.names


_differing = _Differing()


def _execute(connection: BaseDatabaseWrapper, rows: Columns) -> None:
    differing = _differing.of(rows.differing)
    shared = [rows.shared[name] for name in COLUMNS if name not in differing]
    values = list(zip(*(rows.column(name) for name in differing), strict=True))
    with connection.wrap_database_errors, connection.cursor() as cursor:
        execute = cursor.connection.execute  # Past Django's cursor, which looks at every parameter.
        for some in in_steps(values):
            execute(_statement(len(some), differing), [*shared, *chain.from_iterable(some)])


@lru_cache(maxsize=len(STEPS) * len(COLUMNS))
def _statement(rows: int, differing: tuple[str, ...]) -> str:
    """One statement for many rows: each statement hands the interpreter over to the event loop and back.

    The first parameters are what all rows share. A row that is refused ends the transaction, so that SQLite need not
    keep copies of pages to undo the statement alone (`OR FAIL`), which would cost a tenth of all.
    """
    shared = [name for name in COLUMNS if name not in differing]
    marks = ", ".join([f"?{number}" for number in range(1, len(shared) + 1)] + ["?"] * len(differing))
    names = ", ".join(f'"{name}"' for name in (*shared, *differing))
    lines = ", ".join([f"({marks})"] * rows)
    return f"INSERT OR FAIL INTO billing_usagerecord ({names}) VALUES {lines}"  # noqa: S608  # our own names


def _copy(connection: BaseDatabaseWrapper, parts: Iterable[Columns]) -> None:
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    with connection.cursor() as cursor, cursor.cursor.copy(f"COPY billing_usagerecord ({names}) FROM STDIN") as copy:
        for rows in parts:
            copy.write(_copied(_stored(rows, zone="+00")))


def _copied(rows: Columns) -> str:
    """Rows in PostgreSQL's text format: a line each, the values between tabs."""
    line, columns = [], []
    for name in COLUMNS:
        if name in rows.differing:
            line.append("%s")
            columns.append(_texts(rows.differing[name]))
        else:
            line.append(_text(rows.shared[name]).replace("%", "%%"))
    template = "\t".join(line) + "\n"
    return "".join([template % values for values in zip(*columns, strict=True)])


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


def _moments(column: Column, zone: str) -> list[str]:
    """In UTC, as Django writes it on SQLite: no fraction when it is zero, so that texts compare like moments."""
    texts = []
    begin, second = 0, _second(0)
    for seconds in column:
        fraction = round(seconds * 1_000_000) - begin
        if not 0 <= fraction < 1_000_000:
            # Many rows have begun in the same second.
            whole, fraction = divmod(fraction + begin, 1_000_000)
            begin, second = whole * 1_000_000, _second(whole)
        texts.append(f"{second}.{fraction:06d}{zone}" if fraction else f"{second}{zone}")
    return texts


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError) as error:
        raise UnusableRecordError(f"no calendar has the moment {seconds}: {error}") from error
