"""OpenAI's surface: chat completions, responses, completions, embeddings, and the list of models."""

from __future__ import annotations

from llmgateway.api import anthropic, gemini, mistral
from llmgateway.api.calls import call_model
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.listing import callable_model, callable_models, facts_of
from llmgateway.api.routes import CALL, READ, Route
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.snapshot import Alias
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import JSONObject

CHAT = get_dialect("openai.chat")
_MODELS = "/v1/models"
_NAME = "/openai"
"""What Groq's SDK puts before every path, whatever its base URL."""


def routes() -> dict[str, Route]:
    """The paths that are the same for everybody."""
    calls = {
        "/v1/chat/completions": CHAT,
        "/v1/responses": get_dialect("openai.responses"),
        "/v1/completions": get_dialect("openai.completions"),
        "/v1/embeddings": get_dialect("openai.embeddings"),
    }
    return {
        **{path: Route(CALL, call_model, dialect, path) for path, dialect in calls.items()},
        _MODELS: Route(READ, list_models, CHAT, _MODELS),
    }


def find(path: str) -> Route | None:
    """`/v1/models/{id}`."""
    return Route(READ, retrieve_model, CHAT, _MODELS + "/{id}") if path.startswith(_MODELS + "/") else None


def find_below_name(path: str) -> Route | None:
    """The same for everybody below `/openai`, for when no provider is called so."""
    return routes().get(path.removeprefix(_NAME)) if path.startswith(_NAME + "/v1/") else None


async def list_models(gateway: Gateway, exchange: HttpExchange) -> None:
    """`GET /v1/models`: the aliases that this key may call, in the words of the client's protocol."""
    if exchange.inbound.key_header == gemini.KEY_HEADER:
        await gemini.list_models(gateway, exchange)
        return
    if anthropic.is_client(exchange):
        await anthropic.list_models(gateway, exchange)
        return
    if mistral.is_client(exchange):
        await mistral.list_models(gateway, exchange)
        return
    now = gateway.clock.time()
    allowed = [_model(alias, now) for alias in await callable_models(gateway, exchange)]
    exchange.is_listing = True
    await exchange.responder.json(200, {"object": "list", "data": allowed})


async def retrieve_model(gateway: Gateway, exchange: HttpExchange) -> None:
    """`GET /v1/models/{id}`; ids may contain slashes."""
    if exchange.inbound.key_header == gemini.KEY_HEADER:
        await gemini.show_model(gateway, exchange, exchange.path.removeprefix("/v1/models/"))
        return
    if anthropic.is_client(exchange):
        await anthropic.show_model(gateway, exchange, exchange.path.removeprefix("/v1/models/"))
        return
    if mistral.is_client(exchange):
        await mistral.show_model(gateway, exchange, exchange.path.removeprefix("/v1/models/"))
        return
    alias = await callable_model(gateway, exchange, exchange.path.removeprefix("/v1/models/"))
    exchange.is_listing = True
    await exchange.responder.json(200, _model(alias, gateway.clock.time()))


def _model(alias: Alias, now: float) -> JSONObject:
    owner = next((deployment.provider for deployment in alias.deployments), "gateway")
    return {"id": alias.name, "object": "model", "created": alias.created, "owned_by": owner, **facts_of(alias, now)}
