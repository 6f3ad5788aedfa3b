"""How errors are told: one shape for all, the field at fault named, and what to do next in the message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import IntegrityError
from django.db.models import ProtectedError, RestrictedError
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import exception_handler

from llmgateway.references import referrers

Fields = dict[str, list[str]]
MOST_USERS = 5
"""That a message names."""


class Conflict(exceptions.APIException):  # named as REST framework names its own
    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"
    default_detail = "This is not possible as things stand."


class PreconditionFailed(exceptions.APIException):
    status_code = status.HTTP_412_PRECONDITION_FAILED
    default_code = "precondition_failed"
    default_detail = "It was changed meanwhile. Read it again, and decide anew."


class IdempotencyKeyReused(exceptions.APIException):
    status_code = status.HTTP_422_UNPROCESSABLE_ENTITY
    default_code = "idempotency_key_reused"
    default_detail = "This Idempotency-Key came with another body before. Use a fresh one for another request."


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """`{"error": {message, type, param, code, fields}}`; None: it is ours to mend, and becomes a 500."""
    error = _as_api_error(error)
    response = exception_handler(error, context)
    if response is not None and isinstance(error, exceptions.APIException):
        response.data = {"error": _described(error)}
    elif response is not None:
        response.data = {"error": _of_django(response)}
    return response


def _as_api_error(error: Exception) -> Exception:
    if isinstance(error, ValidationError):
        return exceptions.ValidationError(_fields_of(error))
    if isinstance(error, RecursionError):
        return exceptions.ParseError("The body is nested too deeply.")
    if isinstance(error, (ProtectedError, RestrictedError)):
        return Conflict(_still_in_use(error))
    if isinstance(error, IntegrityError):
        # Whatever is wrong by itself was found before; this is another request that was quicker.
        return Conflict("Somebody saved the same at this moment. Read it again, and decide anew.")
    return error


def _still_in_use(error: ProtectedError | RestrictedError) -> str:
    rows = error.protected_objects if isinstance(error, ProtectedError) else error.restricted_objects
    users = referrers(rows)
    more = f" and {len(users) - MOST_USERS} more" if len(users) > MOST_USERS else ""
    return f"It is still in use by {', '.join(users[:MOST_USERS])}{more}, so it cannot be deleted. Change that first."


def _fields_of(error: ValidationError) -> Fields:
    """By the names of the API: what columns have as pico-dollars is written as dollars here."""
    if not hasattr(error, "error_dict"):
        return {api_settings.NON_FIELD_ERRORS_KEY: list(error.messages)}
    return {
        api_settings.NON_FIELD_ERRORS_KEY if name == NON_FIELD_ERRORS else name.replace("_pico_usd", "_usd"): list(
            messages
        )
        for name, messages in error.message_dict.items()
    }


def _described(error: exceptions.APIException) -> dict[str, Any]:
    if isinstance(error, exceptions.ValidationError):
        fields = dict(_flat(error.detail))
        first, messages = next(iter(fields.items()))
        named = first != api_settings.NON_FIELD_ERRORS_KEY
        return {
            "message": f"{first}: {messages[0]}" if named else messages[0],
            "type": "invalid_request_error",
            "param": first if named else None,
            "code": "invalid_value",
            "fields": fields,
        }
    return _error(str(error.detail), str(getattr(error.detail, "code", error.default_code)), error.status_code)


def _of_django(response: Response) -> dict[str, Any]:
    """Django's own 404 and 403, which REST framework answers without telling which exception it made of them."""
    detail = response.data.get("detail", "") if isinstance(response.data, Mapping) else ""
    return _error(str(detail), str(getattr(detail, "code", "error")), response.status_code)


def _error(message: str, code: str, status_code: int) -> dict[str, Any]:
    kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return {
        "message": message,
        "type": kind.get(status_code, "invalid_request_error"),
        "param": None,
        "code": code,
        "fields": {},
    }


def _flat(detail: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    """`{"targets": {0: {"weight": ["…"]}}}` as `targets.0.weight`."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif detail and all(isinstance(each, Mapping) for each in detail):
        for number, inner in enumerate(detail):
            yield from _flat(inner, f"{path}.{number}" if path else str(number))
    else:
        yield path or api_settings.NON_FIELD_ERRORS_KEY, [str(each) for each in detail]
