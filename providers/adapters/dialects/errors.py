"""Reads what a provider says of an error, whatever its dialect."""

from __future__ import annotations

import re
from typing import Any

from providers.adapters.types import ErrorKind, JSONObject

_CREDENTIAL = r"(?:api[ _-]?key|(?:access|security|bearer|auth\w*|api)[ _-]token|subscription key|credentials?|consumer|signature)"
_BAD = (
    r"(?:invalid|incorrect|malformed|expired|revoked|disabled|deactivated|suspended|blocked|leaked|not valid"
    r"|not exist|not match)"
)
_BAD_CREDENTIAL = re.compile(
    rf"{_BAD}\b.{{0,40}}\b{_CREDENTIAL}|{_CREDENTIAL}\b.{{0,60}}\b{_BAD}"
    r"|unregistered callers"
    r"|(?:account|organization|team|project)(?: \S+)? (?:is|was|has been) (?:deactivated|suspended|disabled|blocked)",
    re.IGNORECASE | re.DOTALL,
)
_TOO_LARGE = re.compile(r"^\W*request too large\b", re.IGNORECASE)
_LIMIT = re.compile(r"\blimit:? ([\d,]+)\b.{0,60}\brequested:? ([\d,]+)", re.IGNORECASE | re.DOTALL)


def error_message(body: JSONObject | None) -> str:
    """The text of an error answer; empty where there is none to be found."""
    if body is None:
        return ""
    error = body.get("error")
    return _text(error) or _text(body)


def kind_of_refusal(message: str) -> ErrorKind:
    """What a 403 means: a credential that is no good for anything, if its text says so; else something that it may not.

    Country, model, right, firewall: another request may well be answered, so one alone must not stop all others.
    """
    return ErrorKind.AUTHENTICATION if _BAD_CREDENTIAL.search(message) else ErrorKind.PERMISSION_DENIED


def kind_of_limit(message: str) -> ErrorKind:
    """What a rate limit means: a request that is larger than the whole limit will not fit later either.

    "Request too large for gpt-4o … on tokens per min (TPM): Limit 30000, Requested 40000."
    """
    found = _LIMIT.search(message)
    is_too_large = found is not None and _number(found[2]) > _number(found[1])
    return ErrorKind.EXCEEDS_LIMIT if is_too_large or _TOO_LARGE.search(message) else ErrorKind.RATE_LIMITED


def _number(digits: str) -> int:
    return int(digits.replace(",", "") or 0)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for name in ("message", "Message", "detail", "error_description"):
            text = value.get(name)
            if isinstance(text, str) and text:
                return text
    return ""
