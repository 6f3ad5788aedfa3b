"""What can go wrong, by what the caller does about it.

GatewayError
├── BadRequestError          400, 404 of a path, 405, 413, 415: mend the request; `param` names the field
├── AuthenticationError      401: send a valid key
├── BudgetExceededError      402: ask for budget, or for less
├── PermissionDeniedError    403: ask an admin
├── NotFoundError            404: there is no such model
├── RateLimitError           429: wait for `retry_after_s`
├── ServerError              5xx and 408: try again
│   └── OverloadedError      503: nobody can answer now
├── ConnectionFailedError    the gateway was not reached, or the connection broke off
└── TimedOutError            the gateway did not answer in time
"""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Mapping
from typing import Any

from llmgateway.http import httpx

_OF_A_MODEL = frozenset({"model_not_found", "model_retired", "model_not_allowed"})


class GatewayError(Exception):
    """No answer. `code` is the gateway's (`insufficient_quota`), `request_id` what to quote to an admin."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        param: str | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
        may_retry: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """0: there was no answer at all."""
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        """What the gateway asks to wait."""
        self.may_retry = may_retry
        """The same request may well be answered later."""

    @property
    def blames_model(self) -> bool:
        """Another model may answer the same request."""
        return self.may_retry or self.code in _OF_A_MODEL or isinstance(self, (BudgetExceededError, TimedOutError))

    def __str__(self) -> str:
        told = [f"{self.status} {self.code}".strip() if self.status else "", self.request_id]
        details = ", ".join(each for each in told if each)
        return f"{self.message} ({details})" if details else self.message


class BadRequestError(GatewayError):
    pass


class AuthenticationError(GatewayError):
    pass


class BudgetExceededError(GatewayError):
    pass


class PermissionDeniedError(GatewayError):
    pass


class NotFoundError(GatewayError):
    pass


class RateLimitError(GatewayError):
    pass


class ServerError(GatewayError):
    pass


class OverloadedError(ServerError):
    pass


class ConnectionFailedError(GatewayError):
    pass


class TimedOutError(GatewayError):
    pass


_BY_STATUS: dict[int, type[GatewayError]] = {
    401: AuthenticationError,
    402: BudgetExceededError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: ServerError,
    429: RateLimitError,
    503: OverloadedError,
}


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """The error that an answer tells, in whichever of the gateway's shapes."""
    message, code, param = _told(body)
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else BadRequestError)
    may_retry = status in {408, 429} or status >= 500
    return kind(
        message or f"The gateway answered with status {status}.",
        status=status,
        code=code,
        param=param,
        request_id=headers.get("x-request-id", ""),
        retry_after_s=seconds_of(headers.get("retry-after", "")),
        may_retry=may_retry and headers.get("x-should-retry", "").lower() != "false",
    )


def failure_of(error: httpx.TransportError) -> GatewayError:
    """What it means that no answer came."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return TimedOutError(f"The gateway did not answer in time: {type(error).__name__}.")
    return ConnectionFailedError(f"The gateway could not be reached: {error or type(error).__name__}.", may_retry=True)


def broken_off(event: Any, request_id: str) -> GatewayError:
    """What a stream that has begun says of its own failure."""
    error = event.get("error") if isinstance(event, dict) else None
    told = error if isinstance(error, dict) else {}
    message = str(told.get("message") or "The answer broke off.")
    return ServerError(message, code=str(told.get("code") or ""), request_id=request_id)


def seconds_of(text: str) -> float | None:
    """`Retry-After`: a number of seconds, or a date. None: neither."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _told(body: bytes) -> tuple[str, str, str | None]:
    try:
        told = json.loads(body)
    except ValueError:
        return "", "", None
    if not isinstance(told, dict):
        return "", "", None
    error = told.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or ""), str(error.get("code") or ""), error.get("param")
    return str(error or ""), str(told.get("error_type") or ""), told.get("param")
