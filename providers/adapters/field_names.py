"""The names of a JSON object's fields, as they stand in it, without making anything of its values: it costs as much as to
skip them. So bodies are refused that would take seconds to read, in which nobody else would get a word.
"""

from __future__ import annotations

import contextlib
import enum
import secrets
from contextvars import ContextVar

import msgspec

from providers.adapters.errors import MalformedBodyError

MOST_FIELDS = 1_000
"""Of a request, or of its settings. The longest that providers know have about sixty."""
MOST_SETTING_BYTES = 2**18
"""Of a field that says how to answer, and is read."""
LARGE_BYTES = 2**18
"""Smaller bodies are read in a few milliseconds whatever is in them."""

_SETTINGS = ("thinking", "stream_options", "generationConfig", "generation_config", "metadata", "reasoning")
_seen: ContextVar[list[str]] = ContextVar("seen")


class _EnoughError(Exception):
    """There are too many."""


class _Name(enum.Enum):
    """Any name: msgspec asks `_missing_` about each of them, for the one that it knows nobody can guess."""

    KNOWN = secrets.token_hex(16)

    @classmethod
    def _missing_(cls, value: object) -> _Name:
        seen = _seen.get()
        if len(seen) > MOST_FIELDS:
            raise _EnoughError
        seen.append(str(value))
        return cls.KNOWN


_decode_names = msgspec.json.Decoder(dict[_Name, msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def field_names(body: bytes) -> list[str]:
    """In order, those that stand twice twice. Of what is no object, none.

    Raises:
        MalformedBodyError: there are more than `MOST_FIELDS`.
    """
    seen: list[str] = []
    token = _seen.set(seen)
    try:
        # Whoever reads it for what it says will say what is wrong with it.
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _EnoughError):
            _decode_names(body)
    finally:
        _seen.reset(token)
    if len(seen) > MOST_FIELDS:
        raise MalformedBodyError(f"The request has more than {MOST_FIELDS} fields in one place; send fewer.", param="")
    return seen


def refuse_absurd(body: bytes) -> None:
    """Raises MalformedBodyError for a large body with more fields, or longer settings, than any request has."""
    names = field_names(body)
    said = [name for name in _SETTINGS if name in names]
    if not said:
        return
    for name in said:
        if names.count(name) > 1:
            raise MalformedBodyError(f"The request body has more than one `{name}`; send one.", param=name)
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        fields = _decode_fields(body)
        for name in said:
            if len(bytes(fields[name])) > MOST_SETTING_BYTES:
                raise MalformedBodyError(f"`{name}` is too long: {MOST_SETTING_BYTES // 1024} KB at most.", param=name)
