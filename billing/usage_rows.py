"""From journalled `close` records to rows of the ledger, many at a time.

`bulk_create` costs more than everything else in the drain together, so rows go to the database's own fast path:
`COPY` on PostgreSQL, one prepared statement on SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.fields import NOT_PROVIDED

from billing.journal_files import from_json, to_json
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
_STARTED_AT, _ADMITTED_AT, _DAY = (COLUMNS.index(name) for name in ("started_at", "admitted_at", "day"))
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_EPOCH = date(1970, 1, 1)
_NUL = rb"\u0000"
_ROWS_AT_ONCE = 200
"""Of one SQLite statement; times the columns, it stays far below the 32,766 parameters that SQLite takes."""
_NAMED = frozenset(COLUMNS)


def _type_of(field: models.Field[Any, Any]) -> Any:
    """What a `close` record may say of a column."""
    if isinstance(field, models.CharField):
        return Annotated[str, msgspec.Meta(max_length=field.max_length)]
    if isinstance(field, models.JSONField):
        return msgspec.Raw
    if isinstance(field, models.DateTimeField):
        return float | None if field.null else float
    kind = bool if isinstance(field, models.BooleanField) else int
    return kind | None if field.null else kind


def _slot(field: models.Field[Any, Any]) -> tuple[str, Any] | tuple[str, Any, Any]:
    name = field.attname
    if name in {"id", "started_at"}:
        return name, _type_of(field)
    if name == "day":
        return name, date | None, None
    default = _DEFAULTS.get(name, "")
    return name, _type_of(field), msgspec.Raw(to_json(default)) if isinstance(field, models.JSONField) else default


if TYPE_CHECKING:
    Row = Any
else:
    Row = msgspec.defstruct("Row", map(_slot, _FIELDS), kw_only=True, gc=False)
"""A row of the ledger, with a field for each of `COLUMNS` in their order. Moments are seconds since the epoch; JSON
columns stay JSON (`msgspec.Raw`). A struct, for a dictionary of so many columns takes longer to make than to store."""

_decoder = msgspec.json.Decoder(Row)


class UnusableRecordError(ValueError):
    """A `close` record that makes no row."""


def decoded(payload: bytes) -> Row:
    """The row of a `close` record as the journal has it.

    Raises:
        UnusableRecordError: it makes no row.
    """
    # The first look costs a thirtieth of the second, and most records pass it.
    if b"\\" not in payload or _NUL not in payload:
        try:
            row = _decoder.decode(payload)
            row.day = _day(int(row.started_at // 86_400))
        except (msgspec.ValidationError, OverflowError, ValueError):
            pass  # A text is too long, or something worse: the slow way mends the one and names the other.
        else:
            if row.id:
                return row
    return row_of(completed(from_json(payload)))


def row_of(record: Record) -> Row:
    """The row of a completed record, or of one that names some columns alone and is not to be stored."""
    return Row(**{name: value for name, value in record.items() if name in _NAMED})


def as_record(row: Row) -> Record:
    """The row by column, for who looks at few of many rows."""
    record: Record = msgspec.structs.asdict(row)
    return record


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


def admission(record: Record) -> float:
    """When a request counted for limits and budgets, in seconds since the epoch."""
    admitted: float | None = record.get("admitted_at")
    return record["started_at"] if admitted is None else admitted


@lru_cache(maxsize=1024)
def _day(number: int) -> date:
    """Days since the epoch as a date in UTC; a replay of a record gives the same."""
    return _EPOCH + timedelta(days=number)


def insert(connection: BaseDatabaseWrapper, rows: Sequence[Row]) -> None:
    """Adds completed rows. Must run inside the transaction that advances the journal's offset."""
    if connection.vendor == "postgresql":
        _copy(connection, rows)
    else:
        _execute_many(connection, rows)


def _copy(connection: BaseDatabaseWrapper, rows: Sequence[Row]) -> None:
    with connection.cursor() as cursor, cursor.cursor.copy(f"COPY billing_usagerecord ({_NAMES}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(_stored(row, _moment, row.day))


def _execute_many(connection: BaseDatabaseWrapper, rows: Sequence[Row]) -> None:
    values = [_stored(row, _sqlite_moment, _iso(row.day)) for row in rows]
    with connection.wrap_database_errors, connection.cursor() as cursor:
        execute = cursor.connection.execute  # Past Django's cursor, which looks at every parameter.
        for start in range(0, len(values), _ROWS_AT_ONCE):
            chunk = values[start : start + _ROWS_AT_ONCE]
            columns = list(zip(*chunk, strict=True))
            empty = tuple(map(_emptiness, columns))
            full = [column for column, literal in zip(columns, empty, strict=True) if not literal]
            execute(_insert_statement(len(chunk), empty), list(chain.from_iterable(zip(*full, strict=True))))


def _emptiness(column: tuple[Any, ...]) -> str:
    """How SQL writes what all rows say here, if they say nothing: half of the columns mostly do, and a literal costs
    less than a parameter for each row. Empty: they do say something."""
    first = column[0]
    if first or any(column):
        return ""
    if column.count(None) == len(column):
        return "NULL"
    if column.count("") == len(column):
        return "''"
    return "0" if column.count(0) == len(column) else ""


@lru_cache(maxsize=_ROWS_AT_ONCE)
def _insert_statement(rows: int, empty: tuple[str, ...]) -> str:
    """One statement for many rows: each statement hands the interpreter over to the event loop and back."""
    row = f"({', '.join(literal or '?' for literal in empty)})"
    return f"INSERT INTO billing_usagerecord ({_NAMES}) VALUES {', '.join([row] * rows)}"  # noqa: S608  # our own names


def _stored(row: Row, moment: Callable[[float], Any], day: object) -> list[Any]:
    """A row's values in the order of `COLUMNS`, as the database takes them."""
    values = list(msgspec.structs.astuple(row))
    started, admitted = row.started_at, row.admitted_at
    values[_STARTED_AT] = at = moment(started)
    values[_ADMITTED_AT] = at if admitted is None or admitted == started else moment(admitted)
    values[_DAY] = day
    for place in _JSON:
        values[place] = _json_text(values[place])
    return values


def _json_text(value: Any) -> str | None:
    if isinstance(value, msgspec.Raw):
        text = bytes(value)
        return None if text == b"null" else text.decode()
    if value is None:
        return None
    text = to_json(value)
    return (to_json(_without_nul(value)) if _NUL in text else text).decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(content) for name, content in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list) else value


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@lru_cache(maxsize=1024)
def _iso(day: date) -> str:
    return day.isoformat()


def _sqlite_moment(seconds: float) -> str:
    """As Django writes it on SQLite: no fraction when it is zero, so that texts compare like moments."""
    whole, fraction = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{fraction:06d}" if fraction else _second(whole)


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
