"""Reads one object of the file field by field: types, exact numbers, what is unknown and what is not supported yet.

A `FieldReader` tells every problem itself and returns `None` for what could not be read, so that its caller goes on.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

import yaml
from django.core.exceptions import ValidationError

from billing.money import MoneyError
from llmgateway.config_file.problems import Place, Problems
from llmgateway.config_file.reading import Fields, Scalar, Sequence, Value

T = TypeVar("T")

_INTEGER = re.compile(r"[+-]?[0-9](?:_?[0-9])*")
_SECONDS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,30})?")
_YES = frozenset({"true", "yes", "on"})
_NO = frozenset({"false", "no", "off"})


class FieldReader:
    """The fields of one object. Call a method per field that may stand there, then `finish()`."""

    def __init__(self, value: Value, problems: Problems) -> None:
        self.problems = problems
        self.place = value.place
        self._seen_before = problems.seen
        self._known: set[str] = set()
        self._fields = value if isinstance(value, Fields) else Fields(value.place)
        if not isinstance(value, Fields) and not _says_nothing(value, problems):
            self.add("", "Expected fields (`name: value`) here.")

    @property
    def usable(self) -> bool:
        """Nothing was wrong with this object so far."""
        return self.problems.seen == self._seen_before

    def at(self, name: str) -> Place:
        """Where the field stands, or would stand."""
        if name in self._fields.items:
            return self._fields.items[name].place
        return self.place.child(name)

    def places(self) -> dict[str, Place]:
        """Where each field that was given stands."""
        return {name: value.place for name, value in self._fields.items.items()}

    def has(self, name: str) -> bool:
        """Whether the field stands there with a value; `name:` alone says nothing."""
        value = self._fields.items.get(name)
        return value is not None and not (isinstance(value, Scalar) and value.is_null)

    def says(self, name: str, word: str) -> bool:
        """Whether the field is this one word, where fields of its own could stand."""
        self._known.add(name)
        value = self._fields.items.get(name)
        return isinstance(value, Scalar) and not value.broken and value.text == word

    def add(self, name: str, message: str) -> None:
        self.problems.add(self.at(name) if name else self.place, message)

    def refuse(self, *names: str, because: str = "") -> None:
        """Fields that a later version brings: present, they are an error that says so."""
        self._known.update(names)
        for name in names:
            if self.has(name):
                self.problems.add(
                    self._fields.key_places[name],
                    because or f"`{name}` is not supported here by this version yet; leave it out.",
                )

    def finish(self) -> None:
        """Every field that no method asked for is an error."""
        for name, place in self._fields.key_places.items():
            if name not in self._known:
                close = difflib.get_close_matches(name, self._known, n=1)
                hint = f" Did you mean `{close[0]}`?" if close else f" Known: {', '.join(sorted(self._known))}."
                self.problems.add(place, f"There is no field `{name}` here.{hint}")

    def text(self, name: str, default: str | None = None, *, required: bool = False) -> str | None:
        scalar = self._scalar(name, required=required)
        if scalar is None:
            return default
        return read_text(scalar, self.problems)

    def choice(
        self, name: str, choices: Iterable[str], *, later: Iterable[str] = (), default: str | None = None
    ) -> str | None:
        """One of `choices`; those in `later` are known but come with a later version. Without `default` it is required."""
        value = self.text(name, default, required=default is None)
        if value is None or value in choices:
            return value
        if value in later:
            self.add(name, f"`{value}` is not supported by this version yet; use {_listed(choices)}.")
        else:
            self.add(name, f"{value!r} is not known here; use {_listed(choices)}.")
        return None

    def boolean(self, name: str, default: bool | None = None) -> bool | None:
        scalar = self._scalar(name)
        if scalar is None:
            return default
        lowered = scalar.text.lower()
        if lowered not in _YES | _NO:
            self.add(name, f"{scalar.text!r} is neither true nor false.")
            return default
        return lowered in _YES

    def integer(
        self,
        name: str,
        default: int | None = None,
        *,
        required: bool = False,
        at_least: int = 0,
        at_most: int = 2**63 - 1,
    ) -> int | None:
        scalar = self._scalar(name, required=required)
        if scalar is None:
            return default
        if not _INTEGER.fullmatch(scalar.text):
            self.add(name, f"{scalar.text!r} is not a whole number.")
            return None
        number = int(scalar.text)
        if not at_least <= number <= at_most:
            self.add(name, f"{scalar.text} is not possible here; write a number from {at_least} to {at_most}.")
            return None
        return number

    def integers(self, name: str) -> list[int]:
        """A list of whole numbers."""
        found = []
        for item in self._sequence(name).items:
            if isinstance(item, Scalar) and _INTEGER.fullmatch(item.text):
                found.append(int(item.text))
            elif not (isinstance(item, Scalar) and item.broken):
                self.problems.add(item.place, "Expected a whole number here.")
            else:
                self.problems.meet_again()
        return found

    def number(self, name: str, *, at_least: float, at_most: float) -> float | None:
        """A decimal number, if it is given."""
        scalar = self._scalar(name)
        if scalar is None:
            return None
        if not _SECONDS.fullmatch(scalar.text) or not at_least <= float(scalar.text) <= at_most:
            self.add(name, f"{scalar.text!r} is not possible here; write a number from {at_least:g} to {at_most:g}.")
            return None
        return float(scalar.text)

    def seconds(self, name: str, default: float) -> float | None:
        scalar = self._scalar(name)
        if scalar is None:
            return default
        if not _SECONDS.fullmatch(scalar.text):
            self.add(name, f"{scalar.text!r} is not a number of seconds.")
            return None
        return float(scalar.text)

    def money(
        self, name: str, convert: Callable[[str], int], default: int | None = None, *, required: bool = False
    ) -> int | None:
        """An exact amount, from the text that stands in the file."""
        scalar = self._scalar(name, required=required)
        if scalar is None:
            return default
        try:
            amount = convert(scalar.text)
        except MoneyError as error:
            self.add(name, f"{error}.")
            return None
        if not 0 <= amount < 2**63:
            self.add(name, f"{scalar.text} is {'negative' if amount < 0 else 'too large'}.")
            return None
        return amount

    def amounts(self, name: str) -> dict[str, str]:
        """Figures by name, as they are written."""
        self._known.add(name)
        value = self._fields.items.get(name)
        if value is None or _says_nothing(value, self.problems):
            return {}
        if not isinstance(value, Fields):
            self.add(name, "Expected figures by name (`second: 0.0001`) here.")
            return {}
        return {key: item.text for key, item in value.items.items() if isinstance(item, Scalar) and not item.broken}

    def moment(self, name: str, default: datetime | None = None) -> datetime | None:
        """A date (midnight UTC) or a time; without an offset it is UTC."""
        scalar = self._scalar(name)
        if scalar is None:
            return default
        try:
            return parse_moment(scalar.text)
        except ValueError:
            self.add(name, f"{scalar.text!r} is not a date or time; write 2026-01-31 or 2026-01-31T12:00:00Z.")
            return None

    def texts(self, name: str, check: Callable[[str], None] | None = None) -> list[str]:
        """A list of texts, each checked by itself so that the problem names the item."""
        return list(read_texts(self._sequence(name), self.problems, check))

    def objects(self, name: str) -> list[FieldReader]:
        """A list of objects."""
        return [FieldReader(item, self.problems) for item in self._sequence(name).items]

    def values(self, name: str) -> list[Value]:
        """A list of whatever may stand there."""
        return self._sequence(name).items

    def fields_as_they_are(self, name: str) -> dict[str, object]:
        """An object whose fields are somebody else's: values keep the kind that YAML gives them."""
        self._known.add(name)
        value = self._fields.items.get(name)
        if value is None or _says_nothing(value, self.problems):
            return {}
        if not isinstance(value, Fields):
            self.add(name, "Expected fields (`temperature: 0.2`) here.")
            return {}
        return {key: self._as_it_is(item) for key, item in value.items.items()}

    def _as_it_is(self, value: Value) -> object:
        if isinstance(value, Fields):
            return {key: self._as_it_is(item) for key, item in value.items.items()}
        if isinstance(value, Sequence):
            return [self._as_it_is(item) for item in value.items]
        if value.broken:
            self.problems.meet_again()
        return yaml.safe_load(value.text) if value.kind in {"int", "float", "bool", "null"} else value.text

    def object(self, name: str) -> FieldReader:
        """One object; absent, it has no fields."""
        self._known.add(name)
        return FieldReader(self._fields.items.get(name) or Fields(self.at(name)), self.problems)

    def named(self, name: str, check: Callable[[str], None]) -> list[tuple[str, Value]]:
        """Objects by name: each name that passes `check`, and its value."""
        self._known.add(name)
        value = self._fields.items.get(name)
        if value is None or _says_nothing(value, self.problems):
            return []
        if not isinstance(value, Fields):
            self.add(name, "Expected names with their fields (`name: {…}`) here.")
            return []
        return [
            (key, item)
            for key, item in value.items.items()
            if check_value(key, value.key_places[key], self.problems, check)
        ]

    def _scalar(self, name: str, *, required: bool = False) -> Scalar | None:
        self._known.add(name)
        value = self._fields.items.get(name)
        if value is None or (isinstance(value, Scalar) and value.is_null):
            if required:
                self.add(name, f"`{name}` is missing.")
            return None
        if not isinstance(value, Scalar):
            self.add(name, "Expected one value here, not a list or fields.")
            return None
        return None if _says_nothing(value, self.problems) else value

    def _sequence(self, name: str) -> Sequence:
        self._known.add(name)
        value = self._fields.items.get(name)
        return as_sequence(value, self.at(name), self.problems)


def _says_nothing(value: Value, problems: Problems) -> bool:
    """Whether it is empty, or could not be read, which has been told."""
    if not isinstance(value, Scalar):
        return False
    if value.broken:
        problems.meet_again()
    return value.broken or value.is_null


def as_sequence(value: Value | None, place: Place, problems: Problems) -> Sequence:
    """`value` as a list; absent or empty, it has no items."""
    if isinstance(value, Sequence):
        return value
    if value is not None and not _says_nothing(value, problems):
        problems.add(place, "Expected a list (`[…]`) here.")
    return Sequence(place)


def read_text(scalar: Scalar, problems: Problems) -> str | None:
    if scalar.kind in {"bool", "null"}:
        problems.add(scalar.place, f"Expected text; put {scalar.text} in quotes if it is meant.")
        return None
    return scalar.text


def read_texts(sequence: Sequence, problems: Problems, check: Callable[[str], None] | None) -> Iterator[str]:
    for item in sequence.items:
        if not isinstance(item, Scalar):
            problems.add(item.place, "Expected text here, not a list or fields.")
            continue
        text = None if _says_nothing(item, problems) else read_text(item, problems)
        if text is not None:
            if check is not None:
                check_value(text, item.place, problems, check)
            yield text


def check_value(text: str, place: Place, problems: Problems, check: Callable[[str], None]) -> bool:
    """Whether `check` lets the text pass; otherwise what it says is told."""
    try:
        check(text)
    except ValidationError as error:
        for message in error.messages:
            problems.add(place, message)
        return False
    return True


def parse_moment(text: str) -> datetime:
    """Raises ValueError for what is neither a date nor a time."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _listed(choices: Iterable[str]) -> str:
    return ", ".join(f"`{choice}`" for choice in choices)
