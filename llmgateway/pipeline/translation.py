"""The request as one deployment gets it, and the way back: as it is where both speak the same dialect, else translated.

Made inside the attempt, from the untouched original, so that every target gets its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Deployment
from providers.adapters.dialects.base import Dialect, Limits, StreamScanner
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.custom_tools import (
    CUSTOM,
    CustomCallWriter,
    as_functions,
    custom_names,
    with_custom_calls,
)
from providers.adapters.dialects.foreign_tools import without_foreign_tools
from providers.adapters.dialects.reply import events_of
from providers.adapters.dialects.translation import StreamTranslator
from providers.adapters.errors import InexpressibleError

RawHeaders = Sequence[tuple[bytes, bytes]]

_OF_THE_BODY = frozenset({b"content-type", b"content-encoding", b"content-language", b"etag", b"content-md5"})


class Translation(msgspec.Struct, frozen=True):
    """Between a caller's dialect and a provider's, for one attempt."""

    inbound: Dialect
    outbound: Dialect
    asked: Conversation

    def whole(self, body: bytes) -> bytes:
        """An answer for the caller; as a stream, if one was asked for and the provider did not stream.

        Raises:
            MalformedAnswerError: it is not in the provider's dialect.
        """
        reply = with_custom_calls(self.outbound.read_reply(body), custom_names(self.asked))
        if not reply.model:
            reply = msgspec.structs.replace(reply, model=self.asked.model)
        if not self.asked.stream:
            return self.inbound.write_reply(reply, self.asked)
        writer = self.inbound.stream_writer(self.asked)
        return b"".join([writer.write(event) for event in events_of(reply)])

    def headers(self, headers: RawHeaders, *, stream: bool) -> RawHeaders:
        streamed = stream or self.asked.stream
        return translated_headers(headers, self.inbound.stream_media_type if streamed else self.inbound.media_type)


class Outgoing(msgspec.Struct, frozen=True):
    """What goes to the provider, and how its answer is to be understood."""

    dialect: Dialect
    body: bytes
    headers: RawHeaders
    strip_usage: bool = False
    """Usage was asked for in the caller's stead."""
    translation: Translation | None = None
    dropped: tuple[str, ...] = ()
    """Fields of the caller that the provider's dialect cannot say."""

    def scanner(self) -> StreamScanner:
        """For the stream that answers it."""
        translation = self.translation
        if translation is None:
            return self.dialect.scanner(strip_usage=self.strip_usage)
        writer = translation.inbound.stream_writer(translation.asked)
        if names := custom_names(translation.asked):
            writer = CustomCallWriter(writer, names)
        return StreamTranslator(self.dialect.stream_reader(), writer, model=translation.asked.model)


def outgoing(request: ModelRequest, deployment: Deployment, *, output_cap: int | None) -> Outgoing:
    """`request` for `deployment`, which can be asked for it. `output_cap` is what its budgets pay for at most.

    Raises:
        InexpressibleError: its provider's dialect cannot say it, or not all of it and the caller wants all.
    """
    outbound = deployment.adapter.dialect_for(request.dialect)
    if outbound is None:
        raise InexpressibleError(f"it does not offer {request.dialect.operation.value.replace('_', ' ')}.")
    held_by = request.state.held_by if request.state is not None else ""
    if held_by and held_by != deployment.provider:
        raise InexpressibleError(
            f"what it refers to is kept by the provider '{held_by}', and no other can go on from it.",
            param="previous_response_id",
        )
    if outbound is request.dialect:
        return _as_it_is(request, deployment, outbound, output_cap)
    try:
        return _translated(request, deployment, outbound, output_cap)
    except RecursionError:
        raise InexpressibleError("something in it is nested too deeply to be translated.") from None


def _as_it_is(request: ModelRequest, deployment: Deployment, dialect: Dialect, output_cap: int | None) -> Outgoing:
    head = request.head
    headers = completed(request.headers, dialect)
    body = dialect.with_model(request.body, head, deployment.model)
    if not dialect.json_requests and (content_type := dialect.content_type(body)):
        headers = [*headers, (b"content-type", content_type)]
    if output_cap is not None:
        body = dialect.with_output_cap(body, deployment.adapter.output_cap_fields(dialect), output_cap)
    if not head.stream or head.asked_for_usage or not deployment.inject_usage:
        return Outgoing(dialect, body, headers)
    return Outgoing(dialect, dialect.with_usage_requested(body, head), headers, strip_usage=True)


def completed(headers: RawHeaders, dialect: Dialect) -> RawHeaders:
    """`headers` with those that the dialect needs."""
    needed = dialect.needed_headers
    if not needed:
        return headers
    present = {name for name, _ in headers}
    return [*headers, *[header for header in needed if header[0] not in present]]


def _translated(request: ModelRequest, deployment: Deployment, outbound: Dialect, output_cap: int | None) -> Outgoing:
    inbound, head = request.dialect, request.head
    asked = inbound.read_request(request.body, model=head.model, stream=head.stream)
    cap = asked.max_output_tokens
    # One of zero or less is none, as in `RequestHead.output_cap`.
    if output_cap is not None and (cap is None or not 0 < cap <= output_cap):
        asked = msgspec.structs.replace(asked, max_output_tokens=output_cap)
    limits = Limits(
        deployment.model,
        max_output_tokens=deployment.max_output_tokens,
        output_cap_fields=deployment.adapter.output_cap_fields(outbound),
        inject_usage=deployment.inject_usage,
        extensions=deployment.adapter.extensions,
    )
    said, tools_dropped = without_foreign_tools(asked, outbound.name)
    written = outbound.write_request(said if CUSTOM in limits.extensions else as_functions(said), limits)
    dropped = tools_dropped + written.dropped
    if dropped and request.strict:
        raise InexpressibleError(
            f"it has no word for `{dropped[0]}`. Leave that out, or do not send `x-gateway-strict`.",
            param=dropped[0],
        )
    headers = [header for header in request.headers if not header[0].startswith(_FOREIGN + inbound.own_headers)]
    return Outgoing(
        outbound,
        written.body,
        completed(headers, outbound),
        translation=Translation(inbound, outbound, _as_told(request, asked)),
        dropped=dropped,
    )


def _as_told(request: ModelRequest, asked: Conversation) -> Conversation:
    """What the answer repeats: the request as the caller wrote it, and whether anybody keeps the answer."""
    state = request.state
    if state is None:
        return asked
    extra = {**asked.extra, "previous_response_id": state.follows} if state.follows else asked.extra
    return msgspec.structs.replace(asked, store=state.is_kept, extra=extra)


_FOREIGN = (b"x-stainless-", b"user-agent")
"""The caller's library speaks of itself; the provider would take it for its own."""


def translated_headers(headers: RawHeaders, media_type: bytes) -> RawHeaders:
    """`headers` of a provider for a body that was written anew."""
    return [*[header for header in headers if header[0] not in _OF_THE_BODY], (b"content-type", media_type)]
