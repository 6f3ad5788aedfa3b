"""Field names as Google's JSON has them: `inlineData`, and `inline_data` just as well."""

from __future__ import annotations

import re
from collections.abc import Iterator

from providers.adapters.dialects._fields import Fields
from providers.adapters.errors import MalformedBodyError
from providers.adapters.types import JSONObject

DIALECT = "gemini.generate_content"

_UNDERSCORE = re.compile(r"_([a-z0-9])")


def camel(name: str) -> str:
    """`inlineData` for `inline_data`."""
    return _UNDERSCORE.sub(lambda found: found[1].upper(), name) if "_" in name else name


def proto(fields: Fields) -> Fields:
    """`fields` by their names with capitals, however they were spelled. What is in them is left alone.

    Raises:
        MalformedBodyError: one stands there in both spellings.
    """
    raw: JSONObject = {}
    for name, value in fields.raw.items():
        if value is None:
            continue
        plain = camel(name)
        if plain in raw:
            param = fields.param(plain)
            raise MalformedBodyError(f"The request has `{param}` twice, as `{name}` too; send one.", param=param)
        raw[plain] = value
    return Fields(raw, fields.path)


def proto_object(fields: Fields, name: str) -> Fields | None:
    found = fields.object(name)
    return None if found is None else proto(found)


def proto_objects(fields: Fields, name: str) -> Iterator[Fields]:
    """Those of a list; one that stands alone is a list of one, as for Google's own servers."""
    if isinstance(fields.raw.get(name), dict):
        return iter((proto(fields.required_object(name)),))
    return map(proto, fields.objects(name))


def plain_names(value: JSONObject) -> JSONObject:
    """An object of an answer by its names with capitals: servers of other makers write them in either way."""
    return {camel(name): each for name, each in value.items()}
