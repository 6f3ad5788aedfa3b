"""Gemini's own schemas, which are like those of OpenAPI 3.0, and JSON Schema.

The API takes both, so nothing is ever written as the former: https://ai.google.dev/api/caching#Schema.
"""

from __future__ import annotations

from typing import Any

from providers.adapters.dialects._gemini_fields import camel
from providers.adapters.types import JSONObject

_OF_SCHEMAS = frozenset({"properties", "defs"})
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
_RENAMED = {"defs": "$defs", "ref": "$ref"}


def json_schema(schema: JSONObject) -> JSONObject:
    """The JSON Schema that says the same as one of Gemini's own."""
    written: JSONObject = {}
    nullable = False
    for spelled, value in schema.items():
        name = camel(spelled)
        if value is None or name == "propertyOrdering":
            continue
        if name == "nullable":
            nullable = value is True
        elif name == "example":
            written["examples"] = [value]
        else:
            written[_RENAMED.get(name, name)] = _value(name, value)
    return _with_null(written) if nullable else written


def _value(name: str, value: Any) -> Any:
    if name == "type" and isinstance(value, str):
        return value.lower()
    if name in _OF_SCHEMAS and isinstance(value, dict):
        return {key: _schema(each) for key, each in value.items()}
    if name in {"items", "additionalProperties"}:
        return _schema(value)
    if name in {"anyOf", "prefixItems"} and isinstance(value, list):
        return [_schema(each) for each in value]
    if name in _COUNTS and isinstance(value, str) and value.isdigit():
        return int(value)  # 64-bit numbers are strings in Google's JSON.
    return value


def _schema(value: Any) -> Any:
    return json_schema(value) if isinstance(value, dict) else value


def _with_null(schema: JSONObject) -> JSONObject:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "type" not in schema:
        return schema
    nullable = {**schema, "type": [schema["type"], "null"]}
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def accepted(schema: Any) -> Any:
    """A JSON Schema in the words that Gemini knows; those that it does not know, and that it would ignore, stay.

    https://ai.google.dev/gemini-api/docs/structured-output lists them.
    """
    if isinstance(schema, list):
        return [accepted(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    written: JSONObject = {}
    for name, value in schema.items():
        if name in {"properties", "$defs", "definitions", "patternProperties"} and isinstance(value, dict):
            written[name] = {key: accepted(each) for key, each in value.items()}
        elif name in {"enum", "required", "default", "examples"}:
            written[name] = value
        elif name == "const":
            written["enum"] = [value]
        elif name != "$schema":
            written[name] = accepted(value)
    return written
