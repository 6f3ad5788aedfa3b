"""A call of a model, whatever its dialect: authenticate, read, hand to the pipeline."""

from __future__ import annotations

import msgspec

from llmgateway.api.commenting import CommentingResponder
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.inbound import read_body, requested_timeout_s, require_json
from llmgateway.api.kept_references import check_references
from llmgateway.api.own_keys import with_own_key
from llmgateway.api.responses import DisconnectWatch, Responder
from llmgateway.pipeline.errors import BadRequestError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import ModelRequest, Trailer, Verbatim
from llmgateway.pipeline.snapshot import Key
from providers.adapters.body import RequestHead
from providers.adapters.dialects.base import Dialect
from providers.adapters.errors import MalformedBodyError


class Named(msgspec.Struct, frozen=True):
    """What the path says of a call, in place of or beside its body."""

    model: str = ""
    stream: bool | None = None
    provider: str = ""
    verbatim: Verbatim | None = None
    is_native: bool = False
    """It came below a provider's prefix, where callers may be let in with keys of their own."""


FROM_THE_BODY = Named()


async def call_model(gateway: Gateway, exchange: HttpExchange, named: Named = FROM_THE_BODY) -> None:
    """Answer a call that is written in the route's dialect."""
    inbound, dialect = exchange.inbound, exchange.responder.dialect
    own = inbound.provider_key
    if inbound.speaks:
        dialect = exchange.responder.dialect = inbound.speaks.get(dialect.name, dialect)
    native = named.is_native
    key = exchange.key = await gateway.authenticate(
        inbound.secret, client_ip=exchange.client_ip, takes_foreign=native and not own
    )
    if own:
        key = exchange.key = await with_own_key(gateway, inbound, key, named.provider)
    authenticated = gateway.clock.monotonic()
    if dialect.json_requests:
        require_json(inbound)
    limit = gateway.snapshot.request_body_limit
    body = await read_body(exchange.receive, inbound, limit, timeout_s=exchange.body_timeout_s)
    if inbound.body is None:
        # It came in pieces, as slowly as the caller liked: what the key may do can have changed meanwhile.
        key = exchange.key = await gateway.authenticate(
            inbound.secret, client_ip=exchange.client_ip, takes_foreign=native and not own
        )
        if own:
            key = exchange.key = await with_own_key(gateway, inbound, key, named.provider)
    request = request_of(exchange, body, named, authenticated=authenticated)
    if dialect.may_name_kept(body):
        await check_references(gateway, key, body)
    if dialect.refers_to_kept:
        request = await with_what_was_kept(gateway, request, key, native=native)
    watch = exchange.watch = DisconnectWatch(exchange.receive)
    try:
        await gateway.complete(request, key, exchange.responder, watch)
    finally:
        watch.stop()


def request_of(
    exchange: HttpExchange, body: bytes, named: Named = FROM_THE_BODY, *, authenticated: float
) -> ModelRequest:
    """What is asked, by headers, body and path. Raises BadRequestError for a body that says nothing usable."""
    inbound, dialect = exchange.inbound, exchange.responder.dialect
    head = exchange.head = parse_head(dialect, body, model=named.model, stream=named.stream)
    return ModelRequest(
        id=exchange.request_id,
        path=exchange.label,
        dialect=dialect,
        body=body,
        head=head,
        headers=inbound.forwarded,
        client_ip=exchange.client_ip,
        client_request_id=inbound.client_request_id,
        end_user=inbound.end_user or head.end_user,
        started_at=exchange.started_at,
        received=exchange.received,
        authenticated=authenticated,
        provider=named.provider,
        verbatim=named.verbatim,
        strict=inbound.strict,
        timeout_s=requested_timeout_s(inbound),
        cache=inbound.cache,
        bypass_health=inbound.bypass_health,
        session=inbound.session,
        task_type=inbound.task_type,
        trailer=_trailer(exchange),
    )


async def with_what_was_kept(gateway: Gateway, request: ModelRequest, key: Key, *, native: bool) -> ModelRequest:
    """The request with the conversation that it goes on from; raises what `ResponseState.prepared` raises."""
    try:
        return await gateway.responses.prepared(request, key, gateway.snapshot, native=native)
    except MalformedBodyError as error:
        raise refused_body(error) from None


def _trailer(exchange: HttpExchange) -> Trailer | None:
    """What is told behind a stream of events, if the caller asks for it; lists and other formats have no room for it."""
    if not exchange.inbound.usage_comment or type(exchange.responder) is not Responder:
        return None
    trailer = Trailer()
    exchange.responder = CommentingResponder(exchange.responder, trailer)
    return trailer


def parse_head(dialect: Dialect, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
    """Raises BadRequestError for a body that is not a JSON object with a usable head; `param` names the field."""
    try:
        return dialect.read_head(body, model=model, stream=stream)
    except MalformedBodyError as error:
        raise refused_body(error) from None


def refused_body(error: MalformedBodyError) -> BadRequestError:
    code = "invalid_value" if error.param else "invalid_json"
    return BadRequestError(str(error), code=code, param=error.param or None)
