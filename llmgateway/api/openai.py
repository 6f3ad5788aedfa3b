"""OpenAI's surface: chat completions, completions, embeddings, and the list of models."""

from __future__ import annotations

from llmgateway.api.exchange import HttpExchange
from llmgateway.api.inbound import read_body, require_json
from llmgateway.api.responses import DisconnectWatch
from llmgateway.pipeline.errors import BadRequestError, NotFoundError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Alias, Key
from providers.adapters.body import RequestHead, read_head
from providers.adapters.errors import MalformedBodyError
from providers.adapters.types import JSONObject, Operation

OPERATIONS = {
    "/v1/chat/completions": Operation.CHAT,
    "/v1/completions": Operation.TEXT_COMPLETION,
    "/v1/embeddings": Operation.EMBEDDINGS,
}


async def call_model(gateway: Gateway, exchange: HttpExchange) -> None:
    """`POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings`."""
    inbound = exchange.inbound
    key = exchange.key = await gateway.authenticate(inbound.secret, client_ip=exchange.client_ip)
    authenticated = gateway.clock.monotonic()
    require_json(inbound)
    limit = gateway.snapshot.request_body_limit
    body = await read_body(exchange.receive, inbound, limit, timeout_s=exchange.body_timeout_s)
    if inbound.body is None:
        # It came in pieces, as slowly as the caller liked: what the key may do can have changed meanwhile.
        key = exchange.key = await gateway.authenticate(inbound.secret, client_ip=exchange.client_ip)
    head = exchange.head = parse_head(body)
    request = ModelRequest(
        id=exchange.request_id,
        path=exchange.path,
        operation=OPERATIONS[exchange.path],
        body=body,
        head=head,
        headers=inbound.forwarded,
        client_ip=exchange.client_ip,
        client_request_id=inbound.client_request_id,
        end_user=inbound.end_user or (head.user or "")[:200],
        started_at=exchange.started_at,
        received=exchange.received,
        authenticated=authenticated,
    )
    watch = exchange.watch = DisconnectWatch(exchange.receive)
    try:
        await gateway.complete(request, key, exchange.responder, watch)
    finally:
        watch.stop()


def parse_head(body: bytes) -> RequestHead:
    """Raises BadRequestError for a body that is not a JSON object with a usable head; `param` names the field."""
    try:
        return read_head(body)
    except MalformedBodyError as error:
        code = "invalid_value" if error.param else "invalid_json"
        raise BadRequestError(str(error), code=code, param=error.param or None) from None


async def list_models(gateway: Gateway, exchange: HttpExchange) -> None:
    """`GET /v1/models`: the aliases that this key may call."""
    key = exchange.key = await gateway.authenticate(exchange.inbound.secret, client_ip=exchange.client_ip)
    allowed = [_model(alias) for alias in gateway.snapshot.aliases.values() if _may_call(key, alias)]
    await exchange.responder.json(200, {"object": "list", "data": allowed})


async def retrieve_model(gateway: Gateway, exchange: HttpExchange) -> None:
    """`GET /v1/models/{id}`; ids may contain slashes."""
    key = exchange.key = await gateway.authenticate(exchange.inbound.secret, client_ip=exchange.client_ip)
    name = exchange.path.removeprefix("/v1/models/")
    alias = gateway.snapshot.aliases.get(name)
    if alias is None or not _may_call(key, alias):
        raise NotFoundError(
            f"The model '{name}' does not exist or is not allowed for this key. GET /v1/models lists those that are.",
            code="model_not_found",
            param="model",
        )
    await exchange.responder.json(200, _model(alias))


def _may_call(key: Key, alias: Alias) -> bool:
    return key.models is None or alias.name in key.models


def _model(alias: Alias) -> JSONObject:
    owner = alias.targets[0].deployment.provider if alias.targets else "gateway"
    return {"id": alias.name, "object": "model", "created": alias.created, "owned_by": owner}
