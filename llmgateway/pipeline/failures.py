"""An attempt that brought no answer: what it means, and what the client is told when nobody else could help."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from llmgateway.pipeline.call import Call
from llmgateway.pipeline.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    GatewayError,
    UpstreamAuthenticationError,
)
from llmgateway.pipeline.metering import Metered
from llmgateway.pipeline.own_headers import STREAM_LINES, gateway_lines
from llmgateway.pipeline.requests import Client
from llmgateway.pipeline.route_rules import FallbackCause
from llmgateway.pipeline.snapshot import Deployment, ForeignKey
from llmgateway.pipeline.translation import translated_headers
from llmgateway.pipeline.upstream import FailureCause, RawHeaders
from providers.adapters.base import Adapter
from providers.adapters.dialects.base import ERROR_CODES, ERROR_TYPES, WireError
from providers.adapters.dialects.errors import error_message, kind_of_limit
from providers.adapters.types import ErrorKind, JSONObject

_POINTLESS_AGAIN = {
    FailureCause.TIMEOUT,
    FailureCause.REDIRECT,
    FailureCause.INEXPRESSIBLE,
    FailureCause.NO_TOKEN,
    FailureCause.UNREADABLE,
}
_FALLBACKS = {
    ErrorKind.RATE_LIMITED: FallbackCause.RATE_LIMIT,
    ErrorKind.EXCEEDS_LIMIT: FallbackCause.RATE_LIMIT,
    ErrorKind.QUOTA_EXHAUSTED: FallbackCause.RATE_LIMIT,
    ErrorKind.CONTEXT_TOO_LONG: FallbackCause.CONTEXT_TOO_LONG,
    ErrorKind.CONTENT_POLICY: FallbackCause.CONTENT_POLICY,
}
_KINDS_BY_CODE = {code: kind for kind, code in ERROR_CODES.items()}
_KINDS_BY_NAME = {kind.value: kind for kind in ErrorKind}


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that brought no answer for the client."""

    cause: FailureCause
    deployment: Deployment
    status: int = 0
    """The provider's status; 0: there was none."""
    kind: ErrorKind | None = None
    """What its error answer means."""
    body: bytes = b""
    headers: RawHeaders = ()
    detail: str = ""
    param: str | None = None
    """The caller's field that cannot be said to the provider."""
    translated: bool = False
    """The error is in another dialect than the caller's."""
    billed: bool = False
    """The provider has reported usage for it. Another target's answer would be charged in place of this one."""
    spent: Metered | None = None
    """What it cost all the same, as far as that is known."""
    said: bytes = b""
    """A stream that told an error before anything else: all of it, as the client would have got it."""
    retry_after_s: float | None = None
    """How long the provider wants to be left alone."""

    @property
    def label(self) -> str:
        """The cause in one word, for rows and logs."""
        return self.kind.value if self.kind is not None else self.cause.value

    @property
    def worth_another_target(self) -> bool:
        return not self.billed and (self.kind is None or self.kind.worth_another_target)

    @property
    def worth_a_retry(self) -> bool:
        """Whether the same deployment may well answer in a moment."""
        if self.kind is None:
            return self.cause not in _POINTLESS_AGAIN
        if self.kind is ErrorKind.EXCEEDS_LIMIT:
            return False
        return self.kind.worth_another_target and not self.kind.blames_credential

    @property
    def blames_provider(self) -> bool:
        if self.cause is FailureCause.INEXPRESSIBLE or self.kind is ErrorKind.EXCEEDS_LIMIT:
            return False
        return self.worth_another_target

    @property
    def fallback_cause(self) -> FallbackCause | None:
        """Which fallbacks may help; None: the answer would be the same everywhere, or it is paid for already."""
        if self.billed:
            return None
        if self.kind is None:
            return FallbackCause.ERROR
        known = _FALLBACKS.get(self.kind)
        return FallbackCause.ERROR if known is None and self.kind.worth_another_target else known


def retry_after_s(headers: RawHeaders, *, now: float) -> float | None:
    """Seconds that a provider asks us to wait, told as such or as a date. `now` is ours, for those who tell no time.

    A date counts from the answer's own `date`: two clocks need not agree.
    """
    asked, date = b"", b""
    for name, value in headers:
        lowered = name.lower()
        if lowered == b"retry-after":
            asked = value.strip()
        elif lowered == b"date":
            date = value
    if not asked:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        moment = _moment(asked)
        seconds = float("nan") if moment is None else moment - (_moment(date) or now)
    return max(0.0, seconds) if seconds < float("inf") else None


def _moment(text: bytes) -> float | None:
    """An HTTP date in seconds since the epoch; None: it is none."""
    try:
        return parsedate_to_datetime(text.decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return None


def kind_of_event(adapter: Adapter, error: JSONObject) -> ErrorKind:
    """What an error means that came inside a stream, where no status says more."""
    code: Any = error.get("code")
    known = _KINDS_BY_CODE.get(str(code)) or _KINDS_BY_NAME.get(str(error.get("type")))
    if known is not None:
        return kind_of_limit(str(error.get("message"))) if known is ErrorKind.RATE_LIMITED else known
    status = int(code) if str(code).isdecimal() else 0
    if 400 <= status < 600:
        return adapter.error_kind(status, {"error": error})
    kind = adapter.error_kind(400, {"error": error})
    if kind is not ErrorKind.INVALID_REQUEST or "invalid" in f"{error.get('type')} {code}":
        return kind
    return ErrorKind.SERVER_ERROR


async def report(call: Call, client: Client, failure: Failure) -> None:
    """No target has answered: pass the provider's own error on, or say in its stead what happened."""
    if failure.kind is not None and (not failure.kind.blames_credential or isinstance(call.key, ForeignKey)):
        await _pass_on(call, client, failure)
        return
    error = _own_error(failure, call.alias.name)
    call.progress.http_status = error.status
    has_worked = failure.spent is not None or call.has_spent
    call.settle("failed", error_type=error.code, refund_limits=failure.kind is None and not has_worked)
    await client.error(error, gateway_lines(call))


async def _pass_on(call: Call, client: Client, failure: Failure) -> None:
    """Status, body and `Retry-After` as the provider sent them, whether or not a stream was asked for."""
    call.progress.http_status = failure.status
    refund = (failure.status >= 500 or bool(failure.said)) and not call.has_spent
    call.settle("failed", error_type=failure.label, refund_limits=refund)
    headers, body = failure.headers, failure.body
    if failure.said:
        await client.whole(failure.status, failure.said, headers, STREAM_LINES + gateway_lines(call))
        return
    if failure.translated:
        dialect = call.request.dialect
        headers = translated_headers(headers, dialect.media_type)
        body = dialect.error_body(_wire_error(failure))
    await client.whole(failure.status, body, headers, gateway_lines(call))


def _wire_error(failure: Failure) -> WireError:
    """What the provider said, for a caller who would not understand its dialect."""
    kind = failure.kind or ErrorKind.SERVER_ERROR
    message = error_message(as_object(failure.body)) or f"The provider answered with status {failure.status}."
    return WireError(failure.status, message, ERROR_TYPES[kind], ERROR_CODES[kind])


def as_object(body: bytes) -> JSONObject | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(value, list) and value:
        value = value[0]  # Some providers send an error as a list of one.
    return value if isinstance(value, dict) else None


def _own_error(failure: Failure, alias: str) -> GatewayError:
    provider = failure.deployment.provider
    if failure.kind is ErrorKind.PERMISSION_DENIED:
        return UpstreamAuthenticationError(
            f"The provider '{provider}' does not permit the gateway's credential what this request asks of '{alias}'. "
            "Ask an admin which models and regions it may use.",
        )
    if failure.kind is not None:
        return UpstreamAuthenticationError(
            f"The provider '{provider}' refused the gateway's own credential for '{alias}'. Ask an admin to check it.",
        )
    if failure.cause is FailureCause.INEXPRESSIBLE:
        return BadRequestError(
            f"The provider '{provider}' cannot take this request: {failure.detail}", param=failure.param
        )
    if failure.cause is FailureCause.NO_TOKEN:
        return UpstreamAuthenticationError(
            f"The provider '{provider}' gave the gateway no token for '{alias}'. Ask an admin to check its credential.",
        )
    if failure.cause is FailureCause.REDIRECT:
        return APIConnectionError(
            f"The provider '{provider}' redirects requests for '{alias}', which the gateway does not follow. "
            "Ask an admin to check its base URL.",
        )
    if failure.cause is FailureCause.TIMEOUT:
        return APITimeoutError(f"The provider '{provider}' did not answer '{alias}' in time. Try again.")
    if failure.cause is FailureCause.UNREADABLE:
        return APIConnectionError(
            f"The provider '{provider}' answered '{alias}' with something that this protocol cannot say: {failure.detail}"
        )
    return APIConnectionError(f"The provider '{provider}' could not be reached for '{alias}'. Try again in a moment.")
