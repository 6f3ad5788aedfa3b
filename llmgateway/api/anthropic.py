"""Anthropic's surface: messages, and the count of their tokens."""

from __future__ import annotations

import contextlib

from llmgateway.api.calls import Named, call_model, parse_head
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.inbound import read_body, require_json
from llmgateway.api.routes import CALL, Route
from llmgateway.pipeline.errors import BudgetExceededError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import Verbatim
from llmgateway.pipeline.routing import Router
from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.terms import estimated_input
from providers.adapters.dialects.registry import get_dialect

MESSAGES = get_dialect("anthropic.messages")
_COUNT = get_dialect("anthropic.count_tokens")
_MESSAGES_PATH = "/v1/messages"
_COUNT_PATH = "/v1/messages/count_tokens"
_ESTIMATED = ((b"x-gateway-token-count", b"estimated"),)


def routes() -> dict[str, Route]:
    """The paths that are the same for everybody."""
    return {
        _MESSAGES_PATH: Route(CALL, call_model, MESSAGES, _MESSAGES_PATH),
        _COUNT_PATH: Route(CALL, count_tokens, _COUNT, _COUNT_PATH),
    }


async def count_tokens(gateway: Gateway, exchange: HttpExchange) -> None:
    """`POST /v1/messages/count_tokens`: asked of a provider that has the same call, else estimated as limits are.

    The estimate costs nothing and needs no room in any limit. It is also the answer where a budget does not let a call
    pass whose cost nobody knows beforehand.
    """
    inbound = exchange.inbound
    key = exchange.key = await gateway.authenticate(inbound.secret, client_ip=exchange.client_ip)
    require_json(inbound)
    limit = gateway.snapshot.request_body_limit
    body = await read_body(exchange.receive, inbound, limit, timeout_s=exchange.body_timeout_s)
    inbound.body = body
    head = exchange.head = parse_head(_COUNT, body)
    _, targets = Router().route(gateway.snapshot, key, head.model, MESSAGES)
    able = next((deployment for deployment in targets if _counts(deployment)), None)
    if able is not None:
        with contextlib.suppress(BudgetExceededError):
            await call_model(gateway, exchange, Named(provider=able.provider, verbatim=Verbatim(_COUNT_PATH)))
            return
    exchange.is_listing = True
    await exchange.responder.json(200, {"input_tokens": estimated_input(body, targets[0])}, _ESTIMATED)


def _counts(deployment: Deployment) -> bool:
    """Its provider's own API is this one."""
    call = deployment.adapter.native_call(_MESSAGES_PATH)
    return call is not None and call.dialect == MESSAGES.name
