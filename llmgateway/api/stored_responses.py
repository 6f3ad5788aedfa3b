"""`/v1/responses/{id}` and what is below it: responses that the gateway keeps itself; all others are their provider's."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from llmgateway.api.exchange import HttpExchange
from llmgateway.api.kept import KeptEndpoint, stored_response
from llmgateway.api.native import plain_path
from llmgateway.api.own_keys import with_own_key
from llmgateway.api.routes import Route
from llmgateway.pipeline.errors import BadRequestError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.kept_turns import Turn, input_items
from llmgateway.pipeline.protocols import ObjectBook
from llmgateway.pipeline.response_state import not_found, owner_of
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import JSONObject

OPAQUE = get_dialect("native.opaque")
LABEL = "/v1/responses/{id}"
MOST_LISTED = 100
LISTED = 20
"""Items on a page if nothing else is asked, as at OpenAI."""
MOST_LISTED_BYTES = 64 * 2**20
"""Of a conversation whose items are listed."""
_METHODS = {"": ("GET", "DELETE"), "input_items": ("GET",), "cancel": ("POST",)}


class StoredResponses:
    """Finds what is to be done with the path of one response."""

    def __init__(self, book: ObjectBook) -> None:
        self._book = book

    def find(self, path: str) -> Route | None:
        plain = plain_path(path)
        found = stored_response(plain.removeprefix("/v1")) if plain.startswith("/v1/") else None
        if found is None:
            return None
        endpoint = _Endpoint(*found, otherwise=KeptEndpoint(self._book, plain.removeprefix("/v1")))
        return Route(_METHODS[found[1]], endpoint, OPAQUE, LABEL + (found[1] and f"/{found[1]}"))


class _Endpoint:
    def __init__(self, response_id: str, below: str, *, otherwise: KeptEndpoint) -> None:
        self._id = response_id
        self._below = below
        self._at_provider = otherwise

    async def __call__(self, gateway: Gateway, exchange: HttpExchange) -> None:
        inbound = exchange.inbound
        key = exchange.key = await gateway.authenticate(inbound.secret, client_ip=exchange.client_ip)
        if inbound.provider_key:
            key = exchange.key = await with_own_key(gateway, inbound, key, "")
        found = await gateway.responses.find(self._id)
        if found is None or not found.owner.shares_with(owner_of(key)):
            raise not_found(self._id, param=None)
        if found.owner.provider:
            await self._at_provider(gateway, exchange)
            return
        answer = await self._answer(gateway, exchange)
        exchange.is_listing = True
        await exchange.responder.json(200, answer)

    async def _answer(self, gateway: Gateway, exchange: HttpExchange) -> JSONObject:
        if self._below == "cancel":
            raise BadRequestError(f"The response '{self._id}' is complete, so it cannot be cancelled.")
        if exchange.method == "DELETE":
            await gateway.responses.remove(self._id)
            return {"id": self._id, "object": "response", "deleted": True}
        if self._below:
            turns = await gateway.responses.turns(self._id, most_bytes=MOST_LISTED_BYTES)
            if not turns:
                raise not_found(self._id, param=None)
            return _page(turns, exchange.query)
        turn = await gateway.responses.turn(self._id)
        if turn is None:
            raise not_found(self._id, param=None)
        return turn.response


def _page(turns: list[Turn], query: bytes) -> JSONObject:
    """One page of the items, the newest first unless `order` says otherwise."""
    asked = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    items = input_items(turns)
    if asked.get("order", "desc") != "asc":
        items.reverse()
    if after := asked.get("after"):
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise BadRequestError(f"There is no item '{after[:200]}' to begin after.", param="after")
        items = items[places[0] + 1 :]
    limit = _limit(asked.get("limit"))
    shown: list[Any] = items[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > limit,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return LISTED
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MOST_LISTED:
        raise BadRequestError(f"`limit` must be a whole number from 1 to {MOST_LISTED}.", param="limit")
    return int(text)
