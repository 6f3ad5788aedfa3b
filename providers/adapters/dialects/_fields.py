"""Reads JSON objects of requests field by field, and names the field that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from providers.adapters.errors import MalformedBodyError
from providers.adapters.types import JSONObject

_decode = msgspec.json.Decoder(Any).decode


class Fields:
    """One object of a request. `null` is the same as absent; what nobody asked for is in `rest()`.

    Example:
        fields = Fields.of_body(body)
        temperature = fields.number("temperature")
        for message in fields.objects("messages"):
            role = message.text("role")
    """

    __slots__ = ("_asked", "path", "raw")

    def __init__(self, raw: JSONObject, path: str = "") -> None:
        self.raw = raw
        self.path = path
        """Of this object, as in `messages[2].content[0]`; empty: the body itself."""
        self._asked: set[str] = set()

    @classmethod
    def of_body(cls, body: bytes) -> Fields:
        """Raises MalformedBodyError if it is not a JSON object, as all methods do for what is of the wrong type."""
        try:
            raw = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedBodyError(f"The request body is not valid JSON: {error}.") from None
        return cls.of_value(raw, "")

    @classmethod
    def of_value(cls, value: Any, path: str) -> Fields:
        if not isinstance(value, dict):
            where = f"`{path}`" if path else "The request body"
            raise MalformedBodyError(f"{where} must be a JSON object.", param=path)
        return cls(value, path)

    def param(self, name: str) -> str:
        """The full name of a field."""
        return f"{self.path}.{name}" if self.path else name

    def wrong(self, name: str, expected: str) -> MalformedBodyError:
        """To be raised for a field that should have been `expected`."""
        param = self.param(name)
        return MalformedBodyError(f"`{param}` must be {expected}.", param=param)

    def get(self, name: str) -> Any:
        """A field of whatever type; None if it is absent."""
        self._asked.add(name)
        return self.raw.get(name)

    def text(self, name: str, default: str = "") -> str:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def required_text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def one_of(self, name: str, allowed: Sequence[str], default: str = "") -> str:
        value = self.text(name, default)
        if value != default and value not in allowed:
            raise self.wrong(name, f"one of {', '.join(allowed)}")
        return value

    def boolean(self, name: str) -> bool | None:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def integer(self, name: str) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, "an integer")
        return value

    def number(self, name: str) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(name, "a number")
        return value

    def json_object(self, name: str) -> JSONObject | None:
        """An object as it stands, to be passed on unread."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return value

    def object(self, name: str) -> Fields | None:
        value = self.get(name)
        return None if value is None else Fields.of_value(value, self.param(name))

    def required_object(self, name: str) -> Fields:
        return Fields.of_value(self.get(name), self.param(name))

    def list(self, name: str) -> list[Any]:
        """Empty if it is absent."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value

    def objects(self, name: str) -> Iterator[Fields]:
        for number, value in enumerate(self.list(name)):
            yield Fields.of_value(value, f"{self.param(name)}[{number}]")

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.list(name)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "a list of strings")
        return tuple(values)

    def text_or_texts(self, name: str) -> tuple[str, ...]:
        value = self.get(name)
        return (value,) if isinstance(value, str) else self.texts(name)

    def numbers(self, name: str) -> dict[str, float] | None:
        """An object of numbers, such as `logit_bias`."""
        fields = self.object(name)
        if fields is None:
            return None
        return {key: value for key in fields.raw if (value := fields.number(key)) is not None}

    def labels(self, name: str) -> dict[str, str] | None:
        """An object of strings, such as `metadata`."""
        fields = self.object(name)
        if fields is None:
            return None
        return {key: fields.required_text(key) for key in fields.raw if fields.raw[key] is not None}

    def rest(self) -> JSONObject:
        """What nobody asked for."""
        return {name: value for name, value in self.raw.items() if name not in self._asked and value is not None}
