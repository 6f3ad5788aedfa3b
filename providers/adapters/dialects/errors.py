"""Reads what a provider says of an error, whatever its dialect."""

from __future__ import annotations

from typing import Any

from providers.adapters.types import JSONObject


def error_message(body: JSONObject | None) -> str:
    """The text of an error answer; empty where there is none to be found."""
    if body is None:
        return ""
    error = body.get("error")
    return _text(error) or _text(body)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for name in ("message", "Message", "detail", "error_description"):
            text = value.get(name)
            if isinstance(text, str) and text:
                return text
    return ""
