"""Reads single fields of an entry of a static file. Each error names the field and never quotes a secret."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from typing import Any

from billing.money import pico_from_usd

Entry = Mapping[str, Any]


class EntryError(ValueError):
    """An entry that cannot be used. The message names the field and never quotes a secret."""


def read_objects(entry: Entry, field: str, allowed: Collection[str]) -> list[Entry]:
    values = entry.get(field) or []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise EntryError(f"{field} is a list of objects")
    for value in values:
        unknown = sorted(str(name) for name in set(value) - set(allowed))
        if unknown:
            raise EntryError(f"{field}: {', '.join(unknown)} is not a field; there are {', '.join(sorted(allowed))}")
    return values


def read_text(entry: Entry, field: str) -> str:
    value = entry.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise EntryError(f"{field} is not text; put it in quotes")
    return value


def read_texts(entry: Entry, field: str) -> tuple[str, ...]:
    values = entry.get(field)
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise EntryError(f"{field} is a list of texts")
    return tuple(values)


def read_boolean(entry: Entry, field: str, *, default: bool) -> bool:
    value = entry.get(field, default)
    if not isinstance(value, bool):
        raise EntryError(f"{field} is true or false")
    return value


def read_count(entry: Entry, field: str) -> int:
    value = entry.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise EntryError(f"{field} is a whole number of at least 0")
    return value


def read_integer(entry: Entry, field: str, default: int, *, at_least: int, at_most: int) -> int:
    value = entry.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
        raise EntryError(f"{field} is a whole number from {at_least} to {at_most}")
    return value


def read_moment(entry: Entry, field: str) -> float | None:
    value = entry.get(field)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise EntryError(f"{field} is not a moment such as 2027-01-01T00:00:00Z") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise EntryError(f"{field} is not a moment such as 2027-01-01T00:00:00Z")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def read_usd(entry: Entry, field: str) -> int:
    """Pico-dollars."""
    value = entry.get(field)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise EntryError(f'{field} is an amount such as "10.50"')
    return pico_from_usd(str(value))
