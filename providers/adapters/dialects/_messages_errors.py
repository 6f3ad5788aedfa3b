"""Errors in Anthropic's words: https://platform.claude.com/docs/en/api/errors."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.dialects.base import WireError
from providers.adapters.dialects.errors import kind_of_refusal
from providers.adapters.types import ErrorKind, JSONObject

_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_KINDS = {
    "rate_limit_error": ErrorKind.RATE_LIMITED,
    "overloaded_error": ErrorKind.OVERLOADED,
    "billing_error": ErrorKind.QUOTA_EXHAUSTED,
    "authentication_error": ErrorKind.AUTHENTICATION,
    "permission_error": ErrorKind.PERMISSION_DENIED,
    "invalid_request_error": ErrorKind.INVALID_REQUEST,
    "request_too_large": ErrorKind.INVALID_REQUEST,
    "not_found_error": ErrorKind.INVALID_REQUEST,
}
THREAD = "thread"
"""A request's field: a conversation that the provider keeps."""
_NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": [THREAD]}
"""What Anthropic says when it cannot keep one. Its SDKs look for it, and then send the whole conversation."""
# Texts, for there are no codes: https://platform.claude.com/docs/en/build-with-claude/context-windows.
_TOO_LONG = ("prompt is too long", "exceed context limit", "input is too long", "context window")
_NO_CREDIT = ("credit balance is too low", "spend limit", "billing")


def kind_of(error: Any, status: int = 200) -> ErrorKind:
    """What an `error` object means; `status` decides where it says nothing, as in an answer of a proxy on the way."""
    told = error if isinstance(error, dict) else {}
    message = str(told.get("message") or "").lower()
    kind = _KINDS.get(str(told.get("type") or "")) or _kind_of_status(status)
    if kind is ErrorKind.INVALID_REQUEST:
        if any(text in message for text in _TOO_LONG):
            return ErrorKind.CONTEXT_TOO_LONG
        if any(text in message for text in _NO_CREDIT):
            return ErrorKind.QUOTA_EXHAUSTED
        if "content filtering policy" in message:
            return ErrorKind.CONTENT_POLICY
    return kind_of_refusal(message) if kind is ErrorKind.PERMISSION_DENIED else kind


def _kind_of_status(status: int) -> ErrorKind:
    named = _KINDS.get(_BY_STATUS.get(status, ""))
    if named is not None:
        return named
    return ErrorKind.INVALID_REQUEST if 400 <= status < 500 and status != 408 else ErrorKind.SERVER_ERROR


def error_object(error: WireError) -> JSONObject:
    """`type` follows the status, as clients expect; `code` and `param` are ours, for whoever looks."""
    kind = _BY_STATUS.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    more: JSONObject = {name: value for name, value in (("code", error.code), ("param", error.param)) if value}
    if error.param == THREAD:
        more["details"] = _NO_THREADS
    return {"type": "error", "error": {"type": kind, "message": error.message, **more}}


def error_body(error: WireError) -> bytes:
    return msgspec.json.encode(error_object(error))


def error_event(error: WireError) -> bytes:
    """The blank line ends whatever was cut off before it."""
    return b"\n\nevent: error\ndata: " + error_body(error) + b"\n\n"
