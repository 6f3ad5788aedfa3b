"""From journalled `close` records to rows of the ledger, many at a time.

`bulk_create` costs more than everything else in the drain together, so rows go to the database's own fast path:
`COPY` on PostgreSQL, one prepared statement on SQLite.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.fields import NOT_PROVIDED

from billing.journal_files import to_json
from billing.models import UsageRecord
from llmgateway.pipeline.protocols import Record

_FIELDS = UsageRecord._meta.concrete_fields  # noqa: SLF001  # Django's documented model API
COLUMNS = tuple(field.attname for field in _FIELDS)
_DEFAULTS: Record = {}
for _field in _FIELDS:
    if isinstance(_field, models.CharField):
        _DEFAULTS[_field.attname] = "" if _field.default is NOT_PROVIDED else str(_field.default)
    elif _field.null or _field.default is not NOT_PROVIDED:
        _DEFAULTS[_field.attname] = _field.get_default()
_TEXTS = tuple((field.attname, int(field.max_length or 0)) for field in _FIELDS if isinstance(field, models.CharField))
_JSON = tuple(place for place, field in enumerate(_FIELDS) if isinstance(field, models.JSONField))
_STARTED_AT, _DAY = COLUMNS.index("started_at"), COLUMNS.index("day")
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_EPOCH = date(1970, 1, 1)
_ROWS_AT_ONCE = 200
"""Of one SQLite statement; times the columns, it stays far below the 32,766 parameters that SQLite takes."""
_values = itemgetter(*COLUMNS)


class UnusableRecordError(ValueError):
    """A `close` record that makes no row."""


def completed(record: Record) -> Record:
    """`record` with every column: defaults where it says nothing, texts cut to what the column holds.

    Raises:
        UnusableRecordError: a text is no text, or there is no id or start.
    """
    row = {**_DEFAULTS, **record}
    try:
        for name, length in _TEXTS:
            text = row[name]
            if len(text) > length or "\0" in text:
                # PostgreSQL stores no NUL; neither an odd client nor a provider may keep a row from the ledger.
                row[name] = text.replace("\0", "")[:length]
        row["day"] = _day(int(row["started_at"] // 86_400))
    except (TypeError, KeyError, OverflowError) as error:
        raise UnusableRecordError(f"{type(error).__name__}: {error}") from error
    if not row["id"]:
        raise UnusableRecordError("it has no id")
    return row


@lru_cache(maxsize=1024)
def _day(number: int) -> date:
    """Days since the epoch as a date in UTC; a replay of a record gives the same."""
    return _EPOCH + timedelta(days=number)


def insert(connection: BaseDatabaseWrapper, rows: Sequence[Record]) -> None:
    """Adds completed rows. Must run inside the transaction that advances the journal's offset."""
    if connection.vendor == "postgresql":
        _copy(connection, rows)
    else:
        _execute_many(connection, rows)


def _copy(connection: BaseDatabaseWrapper, rows: Sequence[Record]) -> None:
    with connection.cursor() as cursor, cursor.cursor.copy(f"COPY billing_usagerecord ({_NAMES}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(_stored(row, datetime.fromtimestamp(row["started_at"], UTC), row["day"]))


def _execute_many(connection: BaseDatabaseWrapper, rows: Sequence[Record]) -> None:
    values = [_stored(row, _sqlite_moment(row["started_at"]), row["day"].isoformat()) for row in rows]
    with connection.wrap_database_errors, connection.cursor() as cursor:
        execute = cursor.connection.execute  # Past Django's cursor, which looks at every parameter.
        for start in range(0, len(values), _ROWS_AT_ONCE):
            chunk = values[start : start + _ROWS_AT_ONCE]
            execute(_insert_statement(len(chunk)), list(chain.from_iterable(chunk)))


@lru_cache(maxsize=_ROWS_AT_ONCE)
def _insert_statement(rows: int) -> str:
    """One statement for many rows: each statement hands the interpreter over to the event loop and back."""
    row = f"({', '.join('?' * len(COLUMNS))})"
    return f"INSERT INTO billing_usagerecord ({_NAMES}) VALUES {', '.join([row] * rows)}"  # noqa: S608  # our own names


def _stored(row: Record, started_at: object, day: object) -> list[Any]:
    """A row's values in the order of `COLUMNS`, as the database takes them."""
    values = list(_values(row))
    values[_STARTED_AT], values[_DAY] = started_at, day
    for place in _JSON:
        if values[place] is not None:
            values[place] = _json_text(values[place])
    return values


def _json_text(value: Any) -> str:
    text = to_json(value)
    return (to_json(_without_nul(value)) if b"\\u0000" in text else text).decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(content) for name, content in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list) else value


def _sqlite_moment(seconds: float) -> str:
    """As Django writes it on SQLite: no fraction when it is zero, so that texts compare like moments."""
    whole, fraction = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{fraction:06d}" if fraction else _second(whole)


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
