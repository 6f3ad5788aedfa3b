"""Calling a target, and reading its answer up to the first words of it: until then another target can take over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator

import msgspec

from llmgateway.http import httpx
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.encodings import decoded, encoding_of
from llmgateway.pipeline.failures import Failure, as_object, kind_of_event, retry_after_s
from llmgateway.pipeline.metering import Progress
from llmgateway.pipeline.reading_on import Unbroken
from llmgateway.pipeline.requests import ModelRequest, Verbatim
from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.streaming import UNREADABLE, Answer
from llmgateway.pipeline.translation import Outgoing, outgoing
from llmgateway.pipeline.upstream import (
    FailureCause,
    RawHeaders,
    Upstream,
    UpstreamAnswer,
    UpstreamError,
    classified,
    headers_for_client,
)
from providers.adapters.dialects.base import StreamScanner
from providers.adapters.errors import InexpressibleError, MalformedBodyError
from providers.adapters.types import JSONObject, Operation

HELD_BACK_BYTES = 65_536
"""A stream that says nothing for so long is passed on as it is."""
TRANSLATED_ASIDE_BYTES = 65_536
"""Larger bodies are translated in a thread."""
_TELLS = {Operation.CHAT, Operation.TEXT_COMPLETION}
"""Operations whose streams can be told apart from roles, comments and keep-alive events."""


async def obtain(
    call: Call, deployment: Deployment, upstream: Upstream, progress: Progress, *, output_cap: int | None
) -> Answer | Failure:
    """Call `deployment` and read up to the first words of its answer. How far it has come is noted in `progress`."""
    request = call.request_for(deployment)
    try:
        is_translated = deployment.adapter.dialect_for(request.dialect) is not request.dialect
        if is_translated and len(request.body) > TRANSLATED_ASIDE_BYTES:
            # A body of ten thousand parts takes a tenth of a second, in which nobody else would get a word.
            sent = await asyncio.to_thread(outgoing, request, deployment, output_cap=output_cap)
        else:
            sent = outgoing(request, deployment, output_cap=output_cap)
    except (InexpressibleError, MalformedBodyError) as error:
        return Failure(FailureCause.INEXPRESSIBLE, deployment, detail=error.message, param=error.param)
    begun = call.take_sent()
    try:
        if begun is not None:
            answer = await upstream.answer_on(begun)
        else:
            answer = await upstream.send(
                deployment,
                sent.dialect,
                body=deployment.adapter.adapted(sent.dialect, sent.body),
                headers=sent.headers,
                streamed=bool(request.head.stream),
                verbatim=_verbatim(request, deployment),
            )
    except UpstreamError as error:
        if error.is_stale and call.repeat_attempt():
            return await obtain(call, deployment, upstream, progress, output_cap=output_cap)
        return Failure(error.cause, deployment, detail=str(error))
    try:
        return await _first_piece(call, progress, deployment, answer, sent)
    except httpx.TransportError as error:
        await answer.stream.aclose()
        return Failure(classified(error).cause, deployment, detail=str(error), spent=call.heard(progress))
    except BaseException:
        if not call.handed_over:
            await answer.stream.aclose()
        raise


def _verbatim(request: ModelRequest, deployment: Deployment) -> Verbatim | None:
    return request.verbatim if request.provider == deployment.provider else None


async def _first_piece(
    call: Call, progress: Progress, deployment: Deployment, answer: UpstreamAnswer, sent: Outgoing
) -> Answer | Failure:
    status = progress.upstream_status = answer.status
    headers = headers_for_client(answer.headers)
    asked_s = None if status < 400 else retry_after_s(answer.headers, now=call.wall_time())
    if encoding := encoding_of(headers):
        answer, headers = decoded(answer, headers, encoding)
    if status < 400 and sent.dialect.is_stream(_content_type(headers)):
        return await _first_words(call, progress, msgspec.structs.replace(answer, headers=headers), sent)
    if 300 <= status < 400:
        await answer.stream.aclose()
        return Failure(FailureCause.REDIRECT, deployment, status, detail="it redirects")
    body = answer.whole
    if body is None:
        body = b"".join([piece async for piece in answer.stream])
        await answer.stream.aclose()
    if status < 400:
        progress.first_chunk = call.now()
        try:
            onward = body if sent.translation is None else sent.translation.whole(body)
        except UNREADABLE as error:
            return _unreadable(call, progress, deployment, sent.dialect.answer_usage(body), str(error))
        return Answer(answer, headers, body=body, onward=onward, outgoing=sent)
    return Failure(
        FailureCause.STATUS,
        deployment,
        status,
        deployment.adapter.error_kind(status, as_object(body)),
        body,
        headers,
        translated=sent.translation is not None,
        retry_after_s=asked_s,
    )


async def _first_words(call: Call, progress: Progress, answer: UpstreamAnswer, sent: Outgoing) -> Answer | Failure:
    """Hold a stream back until it says something, or can be seen to say nothing; then all of it goes on, unchanged.

    Comments, keep-alive events and roles say nothing: a target that stalls behind them is still given up for another.
    `answer` has the headers for the client.
    """
    deployment = progress.target
    pieces: AsyncIterator[bytes] = aiter(_pieces(answer))
    if deployment.drain_s:
        pieces = Unbroken(pieces)
    scanner = sent.scanner()
    if (counter := deployment.estimation.counter) is not None:
        scanner = counter.listening(scanner, sent.dialect, deployment.id)
    progress.scanner = scanner
    tells = call.request.dialect.operation in _TELLS
    try:
        first = await _held_back(call, progress, scanner, pieces, most=HELD_BACK_BYTES if tells else 0)
    except UNREADABLE as error:
        await answer.stream.aclose()
        return Failure(FailureCause.UNREADABLE, deployment, detail=str(error), spent=call.heard(progress))
    except BaseException:
        if isinstance(pieces, Unbroken) and call.client_left and progress is call.progress:
            call.read_on(scanner, pieces, answer.stream)
        raise
    if progress.first_chunk is None:
        await answer.stream.aclose()
        return Failure(FailureCause.BROKEN, deployment, detail="the stream ended before it began")
    if tells and scanner.error is not None and not scanner.first_token and scanner.usage_raw is None:
        await answer.stream.aclose()
        return _told_error(deployment, answer, sent, scanner, first)
    return Answer(answer, answer.headers, first=first, rest=pieces, outgoing=sent, scanner=scanner)


async def _held_back(
    call: Call, progress: Progress, scanner: StreamScanner, pieces: AsyncIterator[bytes], *, most: int
) -> bytes:
    """What the client gets up to the piece that says something, that ends the stream, or with which it is too much."""
    held: list[bytes] = []
    size = 0
    while piece := await anext(pieces, b""):
        if not size:
            progress.first_chunk = call.now()
        size += len(piece)
        held.append(scanner.feed(piece))
        if scanner.first_token:
            progress.first_token = call.now()
            break
        if scanner.done or scanner.error is not None or size > most:
            break
    return held[0] if len(held) == 1 else b"".join(held)


def _told_error(
    deployment: Deployment, answer: UpstreamAnswer, sent: Outgoing, scanner: StreamScanner, first: bytes
) -> Failure:
    """A stream that begins with an error is none: another target may answer, and if none does, this is passed on."""
    error = scanner.error or {}
    with contextlib.suppress(*UNREADABLE):  # Then the error was its last word.
        first += scanner.finish()
    headers = answer.headers if sent.translation is None else sent.translation.headers(answer.headers, stream=True)
    return Failure(
        FailureCause.STATUS,
        deployment,
        answer.status,
        kind_of_event(deployment.adapter, error),
        headers=headers,
        detail=str(error.get("message") or ""),
        said=first,
    )


def _unreadable(
    call: Call, progress: Progress, deployment: Deployment, said: tuple[JSONObject | None, str], reason: str
) -> Failure:
    """The provider has done its work and bills it, whoever can read it. `said` is its usage and the model."""
    raw, response_model = said
    spent = None
    if raw is not None:
        spent = call.metered(progress, raw, output_estimate=0, response_model=response_model)
    return Failure(FailureCause.UNREADABLE, deployment, detail=reason, billed=raw is not None, spent=spent)


def _pieces(answer: UpstreamAnswer) -> AsyncIterable[bytes]:
    return answer.stream if answer.whole is None else httpx.ByteStream(answer.whole)


def _content_type(headers: RawHeaders) -> bytes:
    for name, value in headers:
        if name == b"content-type":
            return value
    return b""
