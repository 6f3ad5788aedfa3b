"""Errors in the words of Google's APIs: https://google.aip.dev/193."""

from __future__ import annotations

import re

import msgspec

from providers.adapters.dialects.base import WireError
from providers.adapters.dialects.errors import kind_of_refusal
from providers.adapters.types import ErrorKind, JSONObject

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""What an HTTP status is called."""
DOMAIN = "gateway"
"""Whose reasons those of our own errors are."""

_KINDS = {
    "UNAUTHENTICATED": ErrorKind.AUTHENTICATION,
    "RESOURCE_EXHAUSTED": ErrorKind.RATE_LIMITED,
    "UNAVAILABLE": ErrorKind.OVERLOADED,
    "INTERNAL": ErrorKind.SERVER_ERROR,
    "UNKNOWN": ErrorKind.SERVER_ERROR,
    "ABORTED": ErrorKind.SERVER_ERROR,
    "DEADLINE_EXCEEDED": ErrorKind.SERVER_ERROR,
    "CANCELLED": ErrorKind.SERVER_ERROR,
}
_TELLING = frozenset({401, 403, 429, 503})
_BAD_KEYS = ("API_KEY_INVALID", "API key not valid", "API key expired", "API_KEY_EXPIRED")
_TOO_LONG = re.compile(
    r"token count .*exceeds the maximum|exceeds? the maximum number of (?:input )?tokens|context window", re.IGNORECASE
)
_UNSAFE = re.compile(r"\bblocked\b|safety|prohibited", re.IGNORECASE)
_NOT_THERE = re.compile(r"permission to access the File\b|CachedContent not found", re.IGNORECASE)
"""A 403 that says nothing of the credential: the request names something that is not there, or somebody else's."""
_BILLING = re.compile(r"billing is disabled|billing account|credits? (?:are|is) depleted|spending cap", re.IGNORECASE)


def error_kind(status: int, body: JSONObject | None) -> ErrorKind:
    """What an error means: by its name where it has one, else by the status of the answer."""
    error = (body or {}).get("error")
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or "")
    name = str(error.get("status") or (STATUSES[status] if status in _TELLING else ""))
    if any(reason in str(error) for reason in _BAD_KEYS):
        return ErrorKind.AUTHENTICATION
    if name == "PERMISSION_DENIED" and _NOT_THERE.search(message):
        return ErrorKind.INVALID_REQUEST
    if _BILLING.search(message):
        return ErrorKind.QUOTA_EXHAUSTED
    if name == "PERMISSION_DENIED":
        return kind_of_refusal(message)
    if kind := _KINDS.get(name):
        return kind
    if status >= 500 or status == 408:
        return ErrorKind.SERVER_ERROR
    if _TOO_LONG.search(message):
        return ErrorKind.CONTEXT_TOO_LONG
    return ErrorKind.CONTENT_POLICY if _UNSAFE.search(message) else ErrorKind.INVALID_REQUEST


def error_body(error: WireError) -> bytes:
    details: list[JSONObject] = []
    if error.code:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": error.code, "domain": DOMAIN})
    if error.param:
        violations = [{"field": error.param, "description": error.message}]
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations})
    status = STATUSES.get(error.status, "INTERNAL" if error.status >= 500 else "FAILED_PRECONDITION")
    told = {"code": error.status, "message": error.message, "status": status}
    return msgspec.json.encode({"error": told | ({"details": details} if details else {})})


def error_event(error: WireError) -> bytes:
    # What was sent before may have stopped inside a line.
    return b"\r\n\r\ndata: " + error_body(error) + b"\r\n\r\n"
