"""From journalled `close` records to rows of the ledger; `billing.usage_table` stores them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from django.db import models
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
_EPOCH = date(1970, 1, 1)
_DAY_S = 86_400
NUL = rb"\u0000"
_NAMED = frozenset(COLUMNS)


def _type_of(field: models.Field[Any, Any]) -> Any:
    """What a `close` record may say of a column."""
    if isinstance(field, models.CharField):
        return Annotated[str, msgspec.Meta(max_length=field.max_length)]
    if isinstance(field, models.JSONField):
        return msgspec.Raw
    if isinstance(field, models.DateTimeField):
        return float | None if field.null else float
    if isinstance(field, models.PositiveSmallIntegerField):
        return Annotated[int, msgspec.Meta(ge=0)]
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
    if b"\\" not in payload or NUL not in payload:
        try:
            row = _decoder.decode(payload)
            row.day = _day(int(row.started_at // _DAY_S))
        except (msgspec.ValidationError, OverflowError, ValueError):
            pass  # A text is too long, or something worse: the slow way mends the one and names the other.
        else:
            if row.id:
                return row
    return _strictly(completed(from_json(payload)))


def _strictly(record: Record) -> Row:
    """The row of a completed record; raises UnusableRecordError where a value is not of its column's kind."""
    said = {name: value for name, value in record.items() if name in _NAMED and name != "day"}
    try:
        _decoder.decode(to_json(said))
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise UnusableRecordError(str(error)) from error
    # Not what was decoded: what a JSON column holds may need mending, which its text hides.
    return row_of(record)


def all_decoded(payloads: Sequence[bytes]) -> list[Row]:
    """As `decoded`, for many at a time.

    Raises:
        UnusableRecordError: one of them makes no row.
    """
    if any(NUL in payload for payload in payloads if b"\\" in payload):
        return [decoded(payload) for payload in payloads]
    rows: list[Row] = []
    decode, noted = _decoder.decode, rows.append
    begin = end = 0
    day = _EPOCH
    with suppress(msgspec.ValidationError, OverflowError, ValueError):
        # A loop and not one call: other threads get their turns within.
        for payload in payloads:
            row = decode(payload)
            if not begin <= row.started_at < end:
                number = int(row.started_at // _DAY_S)
                begin, end, day = number * _DAY_S, (number + 1) * _DAY_S, _day(number)
            row.day = day
            noted(row)
        if all(row.id for row in rows):
            return rows
    return [decoded(payload) for payload in payloads]


def row_of(record: Record) -> Row:
    """The row of a completed record, or of one that names some columns alone and is not to be stored."""
    return Row(**{name: value for name, value in record.items() if name in _NAMED})


def completed(record: Record) -> Record:
    """`record` with every column: defaults where it says nothing, texts cut to what the column holds.

    Raises:
        UnusableRecordError: a text is no text, a status is negative, or there is no id or start.
    """
    row = {**_DEFAULTS, **record}
    try:
        for name, length in _TEXTS:
            text = row[name]
            if len(text) > length or "\0" in text:
                # PostgreSQL stores no NUL; neither an odd client nor a provider may keep a row from the ledger.
                row[name] = text.replace("\0", "")[:length]
        if row["http_status"] < 0:
            raise UnusableRecordError("its HTTP status is negative")
        row["day"] = _day(int(row["started_at"] // _DAY_S))
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
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
