"""From the upstream's answer to the client, byte for byte, and what it tells about usage on the way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable

import msgspec

from llmgateway.http import httpx
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.lean_transport import LeanBody
from llmgateway.pipeline.own_headers import STREAM_LINES, gateway_lines, usage_lines
from llmgateway.pipeline.reading_on import Unbroken
from llmgateway.pipeline.requests import Client
from llmgateway.pipeline.terms import WITHOUT_OUTPUT
from llmgateway.pipeline.translation import Outgoing
from llmgateway.pipeline.upstream import RawHeaders, UpstreamAnswer, classified
from providers.adapters.dialects.base import Dialect, StreamScanner, WireError
from providers.adapters.dialects.partial_usage import begun_usage
from providers.adapters.errors import InexpressibleError, MalformedAnswerError
from providers.adapters.types import JSONObject, Operation

UNREADABLE = (MalformedAnswerError, InexpressibleError)
"""Why an answer cannot be said in the caller's dialect."""


class Answer(msgspec.Struct, frozen=True):
    """An attempt whose first words have arrived: from here on no other target can take over."""

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
    """What the client gets of a stream up to its first words."""
    rest: AsyncIterator[bytes] | None = None
    """What follows `first`; None: not a stream."""
    scanner: StreamScanner | None = None
    """Of a stream; it has read `first`."""
    has_begun: bool = False
    """The client has got what came before `first`, and the head of the answer."""


def deliver(call: Call, client: Client, answer: Answer) -> Awaitable[None]:
    """Give the client its answer. The ledger has it before the last byte goes out."""
    if answer.rest is None or answer.scanner is None:
        return _deliver_body(call, client, answer)
    return _deliver_stream(call, client, answer, answer.rest, answer.scanner)


async def _deliver_body(call: Call, client: Client, answer: Answer) -> None:
    raw, response_model = answer.outgoing.dialect.answer_usage(answer.body)
    status = answer.upstream.status
    call.progress.http_status = status
    output = estimated_answer(call, answer.body, raw, answer.outgoing.dialect)
    call.meter(raw, output_estimate=output, response_model=response_model)
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


def estimated_answer(call: Call, body: bytes, raw: JSONObject | None, dialect: Dialect) -> int:
    """Tokens of an answer in `dialect`, for when its provider did not say: `raw` is None. Embeddings have none."""
    deployment = call.progress.deployment
    if not body or call.request.dialect.operation in WITHOUT_OUTPUT or deployment is None:
        return 0
    estimation = deployment.estimation
    counted = estimation.counter.answer(dialect, body) if raw is None and estimation.counter is not None else None
    return max(1, int(len(body) / estimation.chars_per_token) if counted is None else counted)


async def _deliver_stream(
    call: Call, client: Client, answer: Answer, rest: AsyncIterator[bytes], scanner: StreamScanner
) -> None:
    call.exchange.output_tokens = lambda: stream_output(call, scanner)
    try:
        status = call.progress.http_status = answer.upstream.status
        if not answer.has_begun:
            await client.start(status, _headers(answer), STREAM_LINES + gateway_lines(call))
            call.exchange.wait(call.now(), _idle_s(call))
        error_type = await _relay(call, client, scanner, answer.first, rest)
        last, error_type = _ending(call, answer, scanner, error_type)
        settle_stream(call, scanner, error_type)
        if error_type and not _can_tell(call):
            return  # Without its end: the client must not take half of the sound for all of it.
        if call.request.trailer is not None:
            call.request.trailer.lines = usage_lines(call)
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
    except UNREADABLE as error:
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
    exchange, idle_s = call.exchange, _idle_s(call)
    onward: bytes | None = first
    flow = _Flow(call, client, scanner, rest)
    try:
        while True:
            if scanner.done:
                settle_stream(call, scanner, "")
            if onward:
                # A client that does not read is no silence of the provider; its connection has a bound of its own.
                exchange.wait(call.now(), math.inf)
                await client.send(onward, more=True)
                exchange.wait(call.now(), idle_s)
            onward = await flow.next()
            if onward is None:
                break
    except httpx.TransportError as error:
        said = f"The provider's connection broke off: {error}"
        return await _break_off(call, client, scanner, said, "upstream_error", blamed_for=classified(error).cause)
    except UNREADABLE as error:
        return await _break_off(
            call, client, scanner, f"The provider's answer cannot be read: {error}", "upstream_error"
        )
    except asyncio.CancelledError:
        if not call.take_timeout():
            raise
        exchange.allow_last_words(call.now())
        return await _break_off(call, client, scanner, "The provider fell silent for too long.", "upstream_timeout")
    return ""


class _Flow:
    """What follows the first words of a stream. As far as it can, it goes on where it arrives, and wakes nobody."""

    __slots__ = ("_call", "_client", "_error", "_onward", "_rest", "_scanner")

    def __init__(self, call: Call, client: Client, scanner: StreamScanner, rest: AsyncIterator[bytes]) -> None:
        self._call = call
        self._client = client
        self._scanner = scanner
        self._rest = rest
        self._onward = b""
        self._error: Exception | None = None

    async def next(self) -> bytes | None:
        """What the client gets next, or nothing where something else is to be done first; None: the stream has ended."""
        rest = self._rest
        if isinstance(rest, LeanBody):
            return self._taken() if await rest.pour(self._pass) else None
        chunk = await anext(rest, b"")
        return self._read(chunk) if chunk else None

    def _read(self, chunk: bytes) -> bytes:
        progress, scanner = self._call.progress, self._scanner
        onward = scanner.feed(chunk)
        if progress.first_token is None and scanner.first_token:
            progress.first_token = self._call.now()
        return onward

    def _pass(self, chunk: bytes) -> bool:
        """Send on what is to be sent of a piece. False: the request's own task must do something."""
        try:
            onward = self._read(chunk)
            self._call.exchange.waiting_since = self._call.now()
            if not self._scanner.done and (not onward or self._client.send_now(onward)):
                return True
        except Exception as error:  # noqa: BLE001  # Raised again in the task: here it would be the connection's.
            self._error = error
            return False
        self._onward = onward
        return False

    def _taken(self) -> bytes:
        if self._error is not None:
            raise self._error
        onward, self._onward = self._onward, b""
        return onward


def _idle_s(call: Call) -> float:
    return call.timeouts(call.progress.deployment).idle_s if call.progress.deployment else 0.0


async def _break_off(
    call: Call, client: Client, scanner: StreamScanner, message: str, error_type: str, *, blamed_for: str = ""
) -> str:
    """After the first chunk a failure can only be told in-band. `blamed_for`: what the deployment's health is told."""
    if scanner.done:
        return ""
    if blamed_for:
        call.blame_target(blamed_for)
    error = WireError(502, message, type="server_error", code=error_type)
    settle_stream(call, scanner, error_type)
    if _can_tell(call):
        await client.send(call.request.dialect.error_event(error), more=True)
    return error_type


def _can_tell(call: Call) -> bool:
    """Whether a stream that has begun has room for an error; sound has not."""
    request = call.request
    return request.dialect.operation is not Operation.SPEECH or bool(request.head.stream)


def settle_stream(call: Call, scanner: StreamScanner, error_type: str) -> None:
    if call.settled:
        return
    _meter_stream(call, scanner)
    if scanner.error is not None:
        error_type = error_type or "upstream_error"
    elif not error_type and (counter := call.progress.target.estimation.counter) is not None:
        counter.note(call.progress.target.id, reported=scanner.usage_raw is not None)
    call.settle("failed" if error_type else "completed", error_type=error_type)


def stream_output(call: Call, scanner: StreamScanner) -> int:
    deployment = call.progress.deployment
    return 0 if deployment is None else scanner.estimated_output(deployment.estimation.chars_per_token)


def _meter_stream(call: Call, scanner: StreamScanner) -> None:
    if not call.settled:
        call.meter(
            scanner.usage_raw,
            output_estimate=stream_output(call, scanner),
            response_model=scanner.response_model,
            begun=begun_usage(scanner),
        )
