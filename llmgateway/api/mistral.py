"""Mistral's surface, for its SDKs: calls on the paths that they share with OpenAI's, and what only they have.

It is at the root, where the client's `User-Agent` tells, and below `/mistral`, where no provider is called so.
"""

from __future__ import annotations

from functools import partial

from llmgateway.api.calls import call_model
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.listing import callable_model, callable_models
from llmgateway.api.routes import CALL, READ, Route
from llmgateway.pipeline.capabilities import capabilities_of
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.snapshot import Alias
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import JSONObject

CHAT = get_dialect("mistral.chat")
_FIM = get_dialect("mistral.fim")
_FIM_PATH = "/v1/fim/completions"
_HOME = "/mistral"
_MODELS = "/v1/models"
_CALLS = {
    "/v1/chat/completions": CHAT,
    "/v1/embeddings": get_dialect("mistral.embeddings"),
    _FIM_PATH: _FIM,
    "/v1/moderations": get_dialect("openai.moderations"),
    "/v1/audio/transcriptions": get_dialect("openai.transcriptions"),
}


def routes() -> dict[str, Route]:
    """The paths that are the same for everybody."""
    return {_FIM_PATH: Route(CALL, call_model, _FIM, _FIM_PATH)}


def find_below_name(path: str) -> Route | None:
    """What stands below the name where no provider is called so: a base URL with the name works in either case."""
    if not path.startswith(_HOME + "/v1/"):
        return None
    below = path.removeprefix(_HOME)
    if below in _CALLS:
        return Route(CALL, call_model, _CALLS[below], path)
    if below == _MODELS:
        return Route(READ, list_models, CHAT, path)
    if below.startswith(_MODELS + "/"):
        model = below.removeprefix(_MODELS + "/")
        return Route(READ, partial(show_model, model=model), CHAT, f"{_HOME}{_MODELS}/{{id}}")
    return None


def is_client(exchange: HttpExchange) -> bool:
    """Whether a path that several protocols share was asked for by one of its SDKs."""
    return CHAT in exchange.inbound.speaks.values()


async def list_models(gateway: Gateway, exchange: HttpExchange) -> None:
    """`GET /v1/models`: the aliases that this key may call."""
    exchange.responder.dialect = CHAT
    allowed = [_card(alias) for alias in await callable_models(gateway, exchange)]
    exchange.is_listing = True
    await exchange.responder.json(200, {"object": "list", "data": allowed})


async def show_model(gateway: Gateway, exchange: HttpExchange, model: str) -> None:
    """`GET /v1/models/{id}`."""
    exchange.responder.dialect = CHAT
    alias = await callable_model(gateway, exchange, model)
    exchange.is_listing = True
    await exchange.responder.json(200, _card(alias))


def _card(alias: Alias) -> JSONObject:
    can = capabilities_of(alias)
    spoken = {name for deployment in alias.deployments for name in deployment.adapter.dialects()}
    capabilities = {
        "completion_chat": any(each.adapter.dialect_for(CHAT) is not None for each in alias.deployments),
        "completion_fim": _FIM.name in spoken,
        "function_calling": can.tools is not False,
        "reasoning": bool(can.reasoning),
        "vision": "image" in can.input_modalities,
        "fine_tuning": False,
    }
    card: JSONObject = {
        "id": alias.name,
        "object": "model",
        "type": "base",
        "created": alias.created,
        "owned_by": next((each.provider for each in alias.deployments), "gateway"),
        "name": alias.name,
        "capabilities": capabilities,
        "aliases": [],
        "deprecation": f"{can.deprecated_on}T00:00:00Z" if can.deprecated_on else None,
    }
    return card if can.context_window is None else {**card, "max_context_length": can.context_window}
