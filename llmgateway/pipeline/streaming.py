"""From the upstream's answer to the client, byte for byte, and what it tells about usage on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from dataclasses import dataclass

import msgspec
import orjson

from llmgateway.http import httpx
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.encodings import decoded, encoding_of
from llmgateway.pipeline.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    GatewayError,
    UpstreamAuthenticationError,
)
from llmgateway.pipeline.own_headers import gateway_lines, usage_lines
from llmgateway.pipeline.reading_on import Unbroken
from llmgateway.pipeline.requests import Client, ModelRequest, Verbatim
from llmgateway.pipeline.snapshot import Deployment, ForeignKey
from llmgateway.pipeline.terms import WITHOUT_OUTPUT
from llmgateway.pipeline.translation import Outgoing, outgoing, translated_headers
from llmgateway.pipeline.upstream import (
    FailureCause,
    RawHeaders,
    Upstream,
    UpstreamAnswer,
    UpstreamError,
    classified,
    headers_for_client,
)
from providers.adapters.dialects.base import ERROR_CODES, ERROR_TYPES, StreamScanner, WireError
from providers.adapters.dialects.errors import error_message
from providers.adapters.dialects.partial_usage import begun_usage
from providers.adapters.errors import InexpressibleError, MalformedAnswerError, MalformedBodyError
from providers.adapters.types import ErrorKind, JSONObject, Operation

STREAM_LINES = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"


_POINTLESS_AGAIN = {
    FailureCause.TIMEOUT,
    FailureCause.REDIRECT,
    FailureCause.INEXPRESSIBLE,
    FailureCause.NO_TOKEN,
    FailureCause.UNREADABLE,
}


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
        return self.kind.worth_another_target and not self.kind.blames_credential

    @property
    def blames_provider(self) -> bool:
        return self.worth_another_target and self.cause is not FailureCause.INEXPRESSIBLE

    @property
    def retry_after_s(self) -> float | None:
        for name, value in self.headers:
            if name == b"retry-after":
                try:
                    return max(0.0, float(value))
                except ValueError:
                    return None  # A date: no provider sends one, and guessing clocks is worse than our own pace.
        return None


class Answer(msgspec.Struct, frozen=True):
    """An attempt whose first piece has arrived: from here on no other target can take over."""

    upstream: UpstreamAnswer
    headers: RawHeaders
    """Of the provider, as clients get them."""
    outgoing: Outgoing
    """What was sent for it."""
    body: bytes = b""
    """All of it as the provider sent it, unless it is a stream."""
    onward: bytes = b""
    """The same in the caller's dialect."""
    first: bytes = b""
    rest: AsyncIterator[bytes] | None = None
    """What follows `first`; None: not a stream."""


async def obtain(call: Call, deployment: Deployment, upstream: Upstream) -> Answer | Failure:
    """Call `deployment` and read up to the first piece of its answer."""
    request = call.request
    try:
        sent = outgoing(request, deployment, output_cap=call.admission.output_cap)
    except (InexpressibleError, MalformedBodyError) as error:
        return Failure(FailureCause.INEXPRESSIBLE, deployment, detail=error.message, param=error.param)
    try:
        answer = await upstream.send(
            deployment,
            sent.dialect,
            body=deployment.adapter.adapted(sent.dialect, sent.body),
            headers=sent.headers,
            streamed=bool(request.head.stream),
            verbatim=_verbatim(request, deployment),
        )
    except UpstreamError as error:
        return Failure(error.cause, deployment, detail=str(error))
    try:
        return await _first_piece(call, deployment, answer, sent)
    except httpx.TransportError as error:
        await answer.stream.aclose()
        return Failure(classified(error).cause, deployment, detail=str(error))
    except BaseException:
        await answer.stream.aclose()
        raise


def _verbatim(request: ModelRequest, deployment: Deployment) -> Verbatim | None:
    return request.verbatim if request.provider == deployment.provider else None


async def _first_piece(call: Call, deployment: Deployment, answer: UpstreamAnswer, sent: Outgoing) -> Answer | Failure:
    status = call.progress.upstream_status = answer.status
    headers = headers_for_client(answer.headers)
    if encoding := encoding_of(headers):
        answer, headers = decoded(answer, headers, encoding)
    if status < 400 and sent.dialect.is_stream(_content_type(headers)):
        pieces = aiter(_pieces(answer))
        first = await anext(pieces, b"")
        if not first:
            await answer.stream.aclose()
            return Failure(FailureCause.BROKEN, deployment, detail="the stream ended before it began")
        call.progress.first_chunk = call.now()
        return Answer(answer, headers, first=first, rest=pieces, outgoing=sent)
    if 300 <= status < 400:
        await answer.stream.aclose()
        return Failure(FailureCause.REDIRECT, deployment, status, detail="it redirects")
    body = answer.whole
    if body is None:
        body = b"".join([piece async for piece in answer.stream])
        await answer.stream.aclose()
    if status < 400:
        call.progress.first_chunk = call.now()
        try:
            onward = body if sent.translation is None else sent.translation.whole(body)
        except _UNREADABLE as error:
            return _unreadable(call, deployment, body, sent, str(error))
        return Answer(answer, headers, body=body, onward=onward, outgoing=sent)
    kind = deployment.adapter.error_kind(status, _as_object(body))
    return Failure(
        FailureCause.STATUS, deployment, status, kind, body, headers, translated=sent.translation is not None
    )


_UNREADABLE = (MalformedAnswerError, InexpressibleError)
"""Why an answer cannot be said in the caller's dialect."""


def _unreadable(call: Call, deployment: Deployment, body: bytes, sent: Outgoing, reason: str) -> Failure:
    """The provider has done its work and bills it, whoever can read it."""
    raw, response_model = sent.dialect.answer_usage(body)
    if raw is not None:
        call.meter(raw, output_estimate=0, response_model=response_model)
    return Failure(FailureCause.UNREADABLE, deployment, detail=reason, billed=raw is not None)


def _pieces(answer: UpstreamAnswer) -> AsyncIterable[bytes]:
    return answer.stream if answer.whole is None else httpx.ByteStream(answer.whole)


def _content_type(headers: RawHeaders) -> bytes:
    for name, value in headers:
        if name == b"content-type":
            return value
    return b""


def _as_object(body: bytes) -> JSONObject | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(value, list) and value:
        value = value[0]  # Some providers send an error as a list of one.
    return value if isinstance(value, dict) else None


def deliver(call: Call, client: Client, answer: Answer) -> Awaitable[None]:
    """Give the client its answer. The ledger has it before the last byte goes out."""
    if answer.rest is None:
        return _deliver_body(call, client, answer)
    return _deliver_stream(call, client, answer, answer.rest)


async def _deliver_body(call: Call, client: Client, answer: Answer) -> None:
    raw, response_model = answer.outgoing.dialect.answer_usage(answer.body)
    status = answer.upstream.status
    call.progress.http_status = status
    call.meter(raw, output_estimate=_estimate_output(call, len(answer.body)), response_model=response_model)
    onward = answer.onward
    settlement = None if call.request.verbatim is None else call.request.verbatim.settlement
    if settlement is not None:
        await settlement.charge(call, answer.body)
        onward = await settlement.onward(answer.body)
    call.settle("completed")
    await client.whole(status, onward, _headers(answer), gateway_lines(call) + usage_lines(call))


def _headers(answer: Answer) -> RawHeaders:
    """The provider's headers as far as they hold for what the client gets."""
    sent = answer.outgoing
    if sent.translation is None:
        return answer.headers
    headers = sent.translation.headers(answer.headers, stream=answer.rest is not None)
    return [*headers, (b"x-gateway-dropped-params", ", ".join(sent.dropped).encode())] if sent.dropped else headers


def _estimate_output(call: Call, size: int) -> int:
    """Tokens of an answer whose provider did not say; embeddings have none."""
    if not size or call.request.dialect.operation in WITHOUT_OUTPUT or call.progress.deployment is None:
        return 0
    return max(1, int(size / call.progress.deployment.estimation.chars_per_token))


async def _deliver_stream(call: Call, client: Client, answer: Answer, rest: AsyncIterator[bytes]) -> None:
    scanner = answer.outgoing.scanner()
    exchange = call.exchange
    exchange.output_tokens = lambda: _stream_output(call, scanner)
    deployment = call.progress.deployment
    if deployment is not None and deployment.drain_s:
        rest = Unbroken(rest)
    try:
        status = call.progress.http_status = answer.upstream.status
        await client.start(status, _headers(answer), STREAM_LINES + gateway_lines(call))
        error_type = await _relay(call, client, scanner, answer.first, rest)
        last, error_type = _ending(call, answer, scanner, error_type)
        _settle_stream(call, scanner, error_type)
        if error_type and not _can_tell(call):
            return  # Without its end: the client must not take half of the sound for all of it.
        await client.send(last, more=False)
    except BaseException:
        if isinstance(rest, Unbroken) and call.client_left and not call.settled:
            call.read_on(scanner, rest, answer.upstream.stream)
        else:
            _meter_stream(call, scanner)
        raise
    finally:
        if not call.handed_over:
            await answer.upstream.stream.aclose()


def _ending(call: Call, answer: Answer, scanner: StreamScanner, error_type: str) -> tuple[bytes, str]:
    """What the client still gets when the provider's stream is over, and why it failed, if it did.

    Whether a stream that passes through is complete is for its reader to judge; one that is translated must say so.
    """
    try:
        last = scanner.finish()
    except _UNREADABLE as error:
        last, cause = b"", f"The provider's answer cannot be read: {error}."
    else:
        cause = "The provider's answer ended before it was complete."
    if error_type:
        return b"", error_type  # The error was the last word; what was held back belonged before it.
    if answer.outgoing.translation is None or scanner.done or scanner.error is not None:
        return last, error_type
    failed = WireError(502, cause, type="server_error", code="upstream_error")
    return last + call.request.dialect.error_event(failed), failed.code


async def _relay(call: Call, client: Client, scanner: StreamScanner, first: bytes, rest: AsyncIterator[bytes]) -> str:
    """Pass chunks on as they come. Returns what broke the stream off, or nothing."""
    exchange, progress, idle_s = call.exchange, call.progress, _idle_s(call)
    chunk = first
    try:
        while chunk:
            onward = scanner.feed(chunk)
            if progress.first_token is None and scanner.first_token:
                progress.first_token = call.now()
            if scanner.done:
                _settle_stream(call, scanner, "")
            exchange.wait(call.now(), idle_s)
            if onward:
                await client.send(onward, more=True)
                exchange.wait(call.now(), idle_s)
            chunk = await anext(rest, b"")
    except httpx.TransportError as error:
        return await _break_off(
            call, client, scanner, f"The provider's connection broke off: {error}", "upstream_error"
        )
    except _UNREADABLE as error:
        return await _break_off(
            call, client, scanner, f"The provider's answer cannot be read: {error}", "upstream_error"
        )
    except asyncio.CancelledError:
        if not call.take_timeout():
            raise
        exchange.allow_last_words(call.now())
        return await _break_off(call, client, scanner, "The provider fell silent for too long.", "upstream_timeout")
    return ""


def _idle_s(call: Call) -> float:
    return call.progress.deployment.timeouts.idle_s if call.progress.deployment else 0.0


async def _break_off(call: Call, client: Client, scanner: StreamScanner, message: str, error_type: str) -> str:
    """After the first chunk a failure can only be told in-band."""
    if scanner.done:
        return ""
    error = WireError(502, message, type="server_error", code=error_type)
    _settle_stream(call, scanner, error_type)
    if _can_tell(call):
        await client.send(call.request.dialect.error_event(error), more=True)
    return error_type


def _can_tell(call: Call) -> bool:
    """Whether a stream that has begun has room for an error; sound has not."""
    request = call.request
    return request.dialect.operation is not Operation.SPEECH or bool(request.head.stream)


def _settle_stream(call: Call, scanner: StreamScanner, error_type: str) -> None:
    if call.settled:
        return
    _meter_stream(call, scanner)
    if scanner.error is not None:
        error_type = error_type or "upstream_error"
    call.settle("failed" if error_type else "completed", error_type=error_type)


def _stream_output(call: Call, scanner: StreamScanner) -> int:
    deployment = call.progress.deployment
    return 0 if deployment is None else scanner.estimated_output(deployment.estimation.chars_per_token)


def _meter_stream(call: Call, scanner: StreamScanner) -> None:
    if not call.settled:
        call.meter(
            scanner.usage_raw,
            output_estimate=_stream_output(call, scanner),
            response_model=scanner.response_model,
            begun=begun_usage(scanner),
        )


async def report(call: Call, client: Client, failure: Failure) -> None:
    """No target has answered: pass the provider's own error on, or say in its stead what happened."""
    if failure.kind is not None and (not failure.kind.blames_credential or isinstance(call.key, ForeignKey)):
        await _pass_on(call, client, failure)
        return
    error = _own_error(failure, call.alias.name)
    call.progress.http_status = error.status
    call.settle("failed", error_type=error.code, refund_limits=failure.kind is None and not failure.billed)
    await client.error(error, gateway_lines(call))


async def _pass_on(call: Call, client: Client, failure: Failure) -> None:
    """Status, body and `Retry-After` as the provider sent them, whether or not a stream was asked for."""
    call.progress.http_status = failure.status
    call.settle("failed", error_type=failure.label, refund_limits=failure.status >= 500)
    headers, body = failure.headers, failure.body
    if failure.translated:
        dialect = call.request.dialect
        headers = translated_headers(headers, dialect.media_type)
        body = dialect.error_body(_wire_error(failure))
    await client.whole(failure.status, body, headers, gateway_lines(call))


def _wire_error(failure: Failure) -> WireError:
    """What the provider said, for a caller who would not understand its dialect."""
    kind = failure.kind or ErrorKind.SERVER_ERROR
    message = error_message(_as_object(failure.body)) or f"The provider answered with status {failure.status}."
    return WireError(failure.status, message, ERROR_TYPES[kind], ERROR_CODES[kind])


def _own_error(failure: Failure, alias: str) -> GatewayError:
    provider = failure.deployment.provider
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
