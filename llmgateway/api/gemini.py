"""Gemini's surface: `/v1beta/models/M:generateContent` and what belongs to it.

Its clients call `/v1beta/…`, `/v1/…` or `/gemini/v1beta/…`, as their base URL and their version will have it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from functools import partial
from urllib.parse import parse_qs

from llmgateway.api.array_stream import ArrayResponder
from llmgateway.api.calls import Named, call_model, parse_head
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.inbound import read_body, require_json
from llmgateway.api.listing import callable_model, callable_models
from llmgateway.api.native import METHODS
from llmgateway.api.own_keys import own_provider
from llmgateway.api.routes import CALL, READ, Route
from llmgateway.pipeline.capabilities import capabilities_of
from llmgateway.pipeline.errors import BadRequestError, BudgetExceededError, NotFoundError
from llmgateway.pipeline.estimates import question_tokens
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import Verbatim
from llmgateway.pipeline.routing import answering
from llmgateway.pipeline.snapshot import Alias, Key
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import JSONObject

GENERATE = get_dialect("gemini.generate_content")
_BATCH = get_dialect("gemini.batch_embed_contents")
_CALLS: dict[str, tuple[Dialect, bool | None]] = {
    "generateContent": (GENERATE, False),
    "streamGenerateContent": (GENERATE, True),
    "embedContent": (get_dialect("gemini.embed_content"), None),
    "batchEmbedContents": (_BATCH, None),
}
"""Methods of a model, and whether the answer is a stream."""
_COUNT = get_dialect("gemini.count_tokens")
_COUNT_METHOD = "countTokens"
_ESTIMATED = ((b"x-gateway-token-count", b"estimated"),)
_MODEL = re.compile(r"((?:/([^/]+))?/v1(?:beta|alpha)?/models)/(.+?)(?::(\w+))?")
_LIST = re.compile(r"/gemini/v1(?:beta|alpha)?/models|/v1(?:beta|alpha)/models")
_HOME = "/gemini/"
"""Where this surface is, whatever providers there are."""
_OURS = ("/v1beta/", "/v1alpha/")
KEY_HEADER = b"x-goog-api-key"
"""Who sends the key in it understands lists in Google's words."""
_PAGE = 50
_PAGE_MAX = 1000

ProviderAt = Callable[[str, Dialect], str]
"""The provider whose own API a prefix stands for and speaks the dialect; empty: there is none."""


class GeminiSurface:
    """Finds the routes. `provider_at` tells which prefixes are providers'."""

    def __init__(self, provider_at: ProviderAt) -> None:
        self._provider_at = provider_at

    def find(self, path: str) -> Route | None:
        found = self._find(path) if "/models" in path else None
        if found is None and path.startswith(_OURS):
            # There is nothing, and it is said in Google's words.
            return Route(METHODS, _nothing, GENERATE, "(other)")
        return found

    def _find(self, path: str) -> Route | None:
        if _LIST.fullmatch(path):
            return Route(READ, list_models, GENERATE, path)
        found = _MODEL.fullmatch(path)
        if found is None:
            return None
        before, prefix, model, method = found.groups()
        provider = self._provider_at(prefix, GENERATE) if prefix else ""
        is_home = not prefix or path.startswith(_HOME)
        if not (provider or is_home):
            return None
        label = f"{before}/{{model}}"
        if method in _CALLS:
            dialect, stream = _CALLS[method]
            return Route(CALL, _ModelCall(model, stream, provider), dialect, f"{label}:{method}")
        if method == _COUNT_METHOD:
            return Route(CALL, _TokenCount(model), _COUNT, f"{label}:{method}")
        if method is None and before != "/v1/models" and is_home:
            return Route(READ, partial(show_model, model=model), GENERATE, label)
        return None


class _ModelCall:
    """Asks a model that the path names."""

    def __init__(self, model: str, stream: bool | None, provider: str) -> None:
        self._named = Named(model, stream, provider, is_native=bool(provider))

    async def __call__(self, gateway: Gateway, exchange: HttpExchange) -> None:
        if self._named.stream and b"alt=sse" not in exchange.query:
            exchange.responder = ArrayResponder(exchange.responder)
        await call_model(gateway, exchange, self._named)


class _TokenCount:
    """`POST …:countTokens`: asked of a provider that has the same call, else estimated as limits are.

    The estimate costs nothing and needs no room in any limit. It is also the answer where a budget does not let a call
    pass whose cost nobody knows beforehand.
    """

    def __init__(self, model: str) -> None:
        self._model = model

    async def __call__(self, gateway: Gateway, exchange: HttpExchange) -> None:
        inbound = exchange.inbound
        key = exchange.key = await gateway.authenticate(inbound.secret, client_ip=exchange.client_ip)
        require_json(inbound)
        limit = gateway.snapshot.request_body_limit
        body = await read_body(exchange.receive, inbound, limit, timeout_s=exchange.body_timeout_s)
        inbound.body = body
        exchange.head = parse_head(_COUNT, body, model=self._model)
        now = gateway.clock.time()
        targets = answering(gateway.snapshot, key, self._model, GENERATE, now=now)
        own = own_provider(inbound)
        able = next(
            (each for each in targets if GENERATE.name in each.adapter.dialects() and own in ("", each.provider)), None
        )
        if able is not None:
            verbatim = Verbatim("/models/", ":countTokens")
            with contextlib.suppress(BudgetExceededError):
                await call_model(gateway, exchange, Named(self._model, None, able.provider, verbatim))
                return
        exchange.is_listing = True
        await exchange.responder.json(200, {"totalTokens": question_tokens(body, targets[0])}, _ESTIMATED)


async def list_models(gateway: Gateway, exchange: HttpExchange) -> None:
    """`GET …/models`: the aliases that this key may call, in pages."""
    exchange.responder.dialect = GENERATE
    allowed = await callable_models(gateway, exchange)
    exchange.is_listing = True
    size, start = _page(exchange.query)
    page: JSONObject = {"models": [model_page(alias) for alias in allowed[start : start + size]]}
    if start + size < len(allowed):
        page["nextPageToken"] = str(start + size)
    await exchange.responder.json(200, page)


async def show_model(gateway: Gateway, exchange: HttpExchange, model: str) -> None:
    """`GET …/models/M`."""
    exchange.responder.dialect = GENERATE
    alias = await callable_model(gateway, exchange, model)
    exchange.is_listing = True
    await exchange.responder.json(200, model_page(alias))


def model_page(alias: Alias) -> JSONObject:
    """A model in Google's words."""
    methods: list[str] = []
    for dialect, names in (
        (GENERATE, ("generateContent", "streamGenerateContent", _COUNT_METHOD)),
        (_BATCH, ("embedContent", "batchEmbedContents")),
    ):
        if any(deployment.adapter.dialect_for(dialect) is not None for deployment in alias.deployments):
            methods += names
    can = capabilities_of(alias)
    page: JSONObject = {
        "name": f"models/{alias.name}",
        "displayName": alias.name,
        "supportedGenerationMethods": methods,
    }
    known = {
        "inputTokenLimit": can.context_window,
        "outputTokenLimit": can.max_output_tokens,
        "thinking": can.reasoning,
    }
    return page | {name: value for name, value in known.items() if value is not None}


def _may_call(key: Key, alias: Alias) -> bool:
    return key.models is None or alias.name in key.models


async def _nothing(_: Gateway, exchange: HttpExchange) -> None:
    raise NotFoundError(f"There is no {exchange.method} {exchange.path}. See the documentation for what there is.")


def _no_model(name: str) -> NotFoundError:
    return NotFoundError(
        f"The model '{name}' does not exist or is not allowed for this key. GET /v1beta/models lists those that are.",
        code="model_not_found",
        param="model",
    )


def _page(query: bytes) -> tuple[int, int]:
    """How many models, and from which on.

    Raises:
        BadRequestError: `pageSize` or `pageToken` is no number.
    """
    asked = parse_qs(query.decode("latin-1"))
    numbers = []
    for name, default in (("pageSize", _PAGE), ("pageToken", 0)):
        value = asked.get(name, [""])[0]
        if value and not value.isdecimal():
            raise BadRequestError(f"`{name}` must be a number.", code="invalid_value", param=name)
        numbers.append(int(value[:9]) if value else default)
    return min(numbers[0] or _PAGE, _PAGE_MAX), numbers[1]
