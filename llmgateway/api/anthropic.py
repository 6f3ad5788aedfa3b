"""Anthropic's surface: messages, the count of their tokens, and models in its words."""

from __future__ import annotations

import contextlib
from urllib.parse import parse_qs

from llmgateway.api.calls import Named, call_model, parse_head
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.inbound import read_body, require_json
from llmgateway.api.listing import callable_model, callable_models, moment
from llmgateway.api.own_keys import own_provider
from llmgateway.api.routes import CALL, Route
from llmgateway.pipeline.capabilities import capabilities_of
from llmgateway.pipeline.errors import BadRequestError, BudgetExceededError
from llmgateway.pipeline.estimates import question_tokens
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import Verbatim
from llmgateway.pipeline.routing import answering
from llmgateway.pipeline.snapshot import Alias, Deployment
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import JSONObject

MESSAGES = get_dialect("anthropic.messages")
_COUNT = get_dialect("anthropic.count_tokens")
_MESSAGES_PATH = "/v1/messages"
_COUNT_PATH = "/v1/messages/count_tokens"
_PAGE, _PAGE_MAX = 20, 1000
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
    targets = answering(gateway.snapshot, key, head.model, MESSAGES, now=gateway.clock.time())
    own = own_provider(inbound)
    able = next((each for each in targets if _counts(each) and own in ("", each.provider)), None)
    if able is not None:
        with contextlib.suppress(BudgetExceededError):
            await call_model(gateway, exchange, Named(provider=able.provider, verbatim=Verbatim(_COUNT_PATH)))
            return
    exchange.is_listing = True
    await exchange.responder.json(200, {"input_tokens": question_tokens(body, targets[0])}, _ESTIMATED)


def _counts(deployment: Deployment) -> bool:
    """Its provider's own API is this one."""
    call = deployment.adapter.native_call(_MESSAGES_PATH)
    return call is not None and call.dialect == MESSAGES.name


def is_client(exchange: HttpExchange) -> bool:
    """Whether a path that several protocols share was asked for in Anthropic's."""
    return any(name == b"anthropic-version" for name, _ in exchange.inbound.forwarded)


async def list_models(gateway: Gateway, exchange: HttpExchange) -> None:
    """`GET /v1/models`: the aliases that this key may call, in pages."""
    _begin(exchange)
    models = {alias.name: alias for alias in await callable_models(gateway, exchange)}
    names = list(models)
    page = _page(names, exchange.query)
    answer: JSONObject = {
        "data": [_model(models[name]) for name in page],
        "has_more": bool(page) and page[-1] != names[-1],
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }
    exchange.is_listing = True
    await exchange.responder.json(200, answer)


async def show_model(gateway: Gateway, exchange: HttpExchange, name: str) -> None:
    """`GET /v1/models/{id}`."""
    _begin(exchange)
    alias = await callable_model(gateway, exchange, name)
    exchange.is_listing = True
    await exchange.responder.json(200, _model(alias))


def _begin(exchange: HttpExchange) -> None:
    exchange.responder.dialect = MESSAGES
    exchange.responder.tell_request_id(exchange.request_id)


def _model(alias: Alias) -> JSONObject:
    can = capabilities_of(alias)
    known = {
        "max_input_tokens": can.context_window,
        "max_tokens": can.max_output_tokens,
        "deprecated_at": f"{can.deprecated_on}T00:00:00Z" if can.deprecated_on else None,
        "retires_at": None if alias.retires_at is None else moment(alias.retires_at),
    }
    return {
        "type": "model",
        "id": alias.name,
        "display_name": alias.name,
        "created_at": moment(alias.created),
        **{name: value for name, value in known.items() if value is not None},
    }


def _page(names: list[str], query: bytes) -> list[str]:
    """Those that the query wants: the next `limit` after `after_id`, or the last ones before `before_id`.

    Raises:
        BadRequestError: one of the three is nothing that can be used.
    """
    asked = {name: values[0] for name, values in parse_qs(query.decode("latin-1")).items()}
    limit = asked.get("limit", str(_PAGE))
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= _PAGE_MAX:
        raise BadRequestError(f"`limit` must be a number from 1 to {_PAGE_MAX}.", code="invalid_value", param="limit")
    for field in ("after_id", "before_id"):
        if asked.get(field, "") not in {"", *names}:
            raise BadRequestError(f"`{field}` is no model of this key.", code="invalid_value", param=field)
    start = names.index(asked["after_id"]) + 1 if asked.get("after_id") else 0
    if asked.get("before_id"):
        end = names.index(asked["before_id"])
        return names[max(start, end - int(limit)) : end]
    return names[start : start + int(limit)]
