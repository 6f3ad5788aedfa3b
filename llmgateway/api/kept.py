"""What providers keep for callers: `/v1/files`, `/v1/batches`, `/v1/fine_tuning/…`, `/v1/vector_stores/…`, `/v1/uploads/…`,
and responses by their ids.

Calls pass through as they are. A key sees what its team has made through the gateway; the results of a batch are
charged when they are fetched first.
"""

from __future__ import annotations

import asyncio
import re
import string
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from llmgateway.api.batch_charge import Results, charge, for_all_of_it, model_of_requests
from llmgateway.api.calls import Named, call_model
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.inbound import read_body
from llmgateway.api.inbound_json import as_object
from llmgateway.api.native import climbs, forwarded_query, plain_path
from llmgateway.api.own_keys import with_own_key
from llmgateway.api.routes import Route
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.errors import BadRequestError, NotFoundError, PermissionDeniedError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.protocols import ObjectBook, Owner
from llmgateway.pipeline.requests import Verbatim
from llmgateway.pipeline.response_state import owner_of
from llmgateway.pipeline.snapshot import Deployment, ForeignKey, Key, Snapshot
from providers.adapters.dialects.registry import get_dialect

METHODS = ("GET", "HEAD", "POST", "DELETE")
OPAQUE = get_dialect("native.opaque")
OPAQUE_BASE = get_dialect("native.opaque_base")
FAMILIES = ("files", "batches", "fine_tuning", "vector_stores", "uploads")
RESPONSES = "responses"
"""A family of its own: these are made by calling models, and here only looked at, removed or cancelled."""
_FREE = frozenset({"files", "uploads", RESPONSES})
"""To make these, or to change one, costs nothing."""
_STORED = re.compile(r"/responses/([^/]{1,200})(?:/(input_items|cancel))?", re.IGNORECASE)
_NO_IDS = frozenset({"compact", "input_tokens"})
"""What else can stand below `/responses/`."""
_REFERENCE = re.compile(r"(?:file|batch|vs|ftjob|upload|part)[-_][\w-]+")
_NAMED_FILES = ("output_file_id", "error_file_id")
_CONTENT = re.compile(r"/files/([^/]+)/content", re.IGNORECASE)
_ADDRESS = re.compile(r"/files/([^/]+)/url", re.IGNORECASE)
_JOBS = "/fine_tuning/jobs"
_VERSION = re.compile(r"^/v\d\w*(?=/)", re.IGNORECASE)


class KeptSurface:
    """Answers for all families, on the gateway's own paths and below a provider's prefix."""

    def __init__(self, gateway: Gateway, book: ObjectBook) -> None:
        self._gateway = gateway
        self._book = book

    def find(self, path: str) -> Route | None:
        """A path of the gateway's own."""
        below = plain_path(path).removeprefix("/v1")
        family = _family(below)
        if not path.startswith("/v1/") or family not in FAMILIES or climbs(below):
            return None
        return Route(METHODS, KeptEndpoint(self._book, below), OPAQUE, f"/v1/{family}")

    def find_below(self, deployment: Deployment, path: str, label: str) -> Route | None:
        """A path of a provider's own API."""
        below = _VERSION.sub("", plain_path(path))
        if not _family(below) or not _keeps(deployment, _family(below)):
            return None
        return Route((*METHODS, "PUT", "PATCH"), KeptEndpoint(self._book, below, deployment.provider), OPAQUE, label)


class KeptEndpoint:
    """Answers one path. `provider` is that of the prefix; empty: it has to be found."""

    def __init__(self, book: ObjectBook, path: str, provider: str = "") -> None:
        self._book = book
        self._path = path
        self._provider = provider

    async def __call__(self, gateway: Gateway, exchange: HttpExchange) -> None:
        inbound = exchange.inbound
        is_native = bool(self._provider)
        key = exchange.key = await gateway.authenticate(
            inbound.secret, client_ip=exchange.client_ip, takes_foreign=is_native and not inbound.provider_key
        )
        if inbound.provider_key:
            key = exchange.key = await with_own_key(gateway, inbound, key, self._provider)
        limit = gateway.snapshot.request_body_limit
        body = inbound.body = await read_body(exchange.receive, inbound, limit, timeout_s=exchange.body_timeout_s)
        mine = owner_of(key, self._provider)
        known = await self._book.owners([*_ids_in_path(self._path), *_references(body)])
        self._check(mine, known, body)
        self._check_models(key, exchange.method)
        if not isinstance(key, ForeignKey):
            await self._check_address(known)
        provider = self._provider or (key.provider if isinstance(key, ForeignKey) else "")
        provider = provider or self._provider_for(gateway, key, inbound.model, known)
        mine = owner_of(key, provider)
        family = _family(self._path)
        inbound.forwarded = for_all_of_it(inbound.forwarded)
        query = forwarded_query(exchange.query)
        # What was looked at is what is sent, however the caller wrote it.
        target = "/v1" + quote(self._path, safe=string.punctuation)
        if exchange.method == "POST" and self._path.lower() == _JOBS and _is_foreign(gateway.snapshot, provider, body):
            exchange.responder.dialect = OPAQUE_BASE
        verbatim = Verbatim(
            target + query,
            method=exchange.method,
            content_type=inbound.content_type,
            costs_nothing=family in _FREE,
            settlement=_Settlement(self._book, mine, self._path, gateway, body, is_strict=not self._provider),
        )
        await call_model(gateway, exchange, Named(inbound.model, None, provider, verbatim, is_native=is_native))

    def _check(self, mine: Owner, known: Any, body: bytes) -> None:
        """Raises NotFoundError: what is asked for is another team's, or on our own paths, of nobody here."""
        for each in (*_ids_in_path(self._path), *_references(body)):
            owner = known.get(each)
            if (owner is None and not self._provider) or (owner is not None and not owner.shares_with(mine)):
                raise NotFoundError(
                    f"There is no '{each}' that a key of your team has made through this gateway.",
                    code="object_not_found",
                )

    async def _check_address(self, known: Any) -> None:
        """Raises NotFoundError: where a provider has a file is told of what was uploaded here, not of a batch's results."""
        found = _ADDRESS.fullmatch(self._path)
        if found is not None and (found[1] not in known or await self._book.models([found[1]])):
            raise NotFoundError(
                f"The address of '{found[1]}' is not passed on, for it leads past the gateway. "
                f"GET /v1/files/{found[1]}/content has what is in the file."
            )

    def _check_models(self, key: Key, method: str) -> None:
        """Raises PermissionDeniedError: it would use models, of a key that may use certain ones only."""
        makes = method not in ("GET", "HEAD", "DELETE") and not _ids_in_path(self._path)
        if key.models is not None and makes and _family(self._path) in ("batches", "fine_tuning"):
            raise PermissionDeniedError(
                f"API key '{key.name}' may use certain models only, and the gateway cannot tell which ones this would "
                "use. Ask an admin for a key without a list of models.",
                code="model_not_allowed",
            )

    def _provider_for(self, gateway: Gateway, key: Key, model: str, known: Any) -> str:
        """Where the object is kept; else where `x-gateway-model` leads; else the first model that leads anywhere."""
        if known:
            return str(next(iter(known.values())).provider)
        aliases = gateway.snapshot.aliases
        if model and model not in aliases:
            raise NotFoundError(
                f"The model '{model}' does not exist. GET /v1/models lists the models of this key.",
                code="model_not_found",
            )
        for name in (model,) if model else sorted(aliases):
            if key.models is not None and name not in key.models:
                continue
            for deployment in aliases[name].deployments:
                if _keeps(deployment, _family(self._path)):
                    return deployment.provider
        raise BadRequestError(
            f"None of the models of this key is at a provider that offers {self._path}. Name one that is in the header "
            "`x-gateway-model`.",
        )


class _Settlement:
    """What becomes of an answer before the client gets it: charged, remembered, and cut to what the key may see."""

    def __init__(
        self, book: ObjectBook, mine: Owner, path: str, gateway: Gateway, asked: bytes, *, is_strict: bool
    ) -> None:
        self._book = book
        self._mine = mine
        self._path = path
        self._gateway = gateway
        self._asked = asked
        self._is_strict = is_strict

    async def charge(self, call: Call, content: bytes) -> None:
        """Book the results of a batch on the call that fetches them first, whoever else does so meanwhile or later."""
        found = _CONTENT.fullmatch(self._path)
        if isinstance(call.key, ForeignKey):
            return  # The provider bills whose key it is.
        if found is None or call.request.verbatim is None or call.request.verbatim.method != "GET":
            return
        model = (await self._book.models([found[1]])).get(found[1], "")
        results = [Results(found[1], content, model)]
        await charge(call, results, gateway=self._gateway, book=self._book, mine=self._mine)

    async def onward(self, content: bytes) -> bytes:
        """What the client gets of an answer."""
        if _CONTENT.fullmatch(self._path):
            return content
        answer = as_object(content)
        if answer is None:
            return content
        if isinstance(answer.get("data"), list) and not _ids_in_path(self._path):
            return await self._listed(answer)
        await self._note([answer])
        return content

    async def _listed(self, answer: dict[str, Any]) -> bytes:
        items = [item for item in answer["data"] if isinstance(item, dict)]
        known = await self._book.owners([str(item.get("id")) for item in items])
        shown = [item for item in items if self._may_see(known.get(str(item.get("id"))))]
        await self._note([item for item in shown if str(item.get("id")) in known])
        return msgspec.json.encode({**answer, "data": shown})

    async def _note(self, items: Sequence[dict[str, Any]]) -> None:
        """Remember what the team has made; of what belongs to a batch also its model, for not every result names it."""
        inputs = {str(item.get("input_file_id") or "") for item in items if _made_files(item) and not item.get("model")}
        models = await self._book.models(inputs)
        by_model: dict[str, list[str]] = {}
        for item in items:
            model = str(item.get("model") or models.get(str(item.get("input_file_id")), ""))
            by_model.setdefault(model, []).extend(_ids_of(item))
        if self._path.lower() == "/files" and (model := await asyncio.to_thread(model_of_requests, self._asked)):
            by_model = {model: [each for ids in by_model.values() for each in ids]}
        for model, ids in by_model.items():
            await self._book.remember(ids, self._mine, model=model)

    def _may_see(self, owner: Owner | None) -> bool:
        return not self._is_strict if owner is None else owner.shares_with(self._mine)


def stored_response(path: str) -> tuple[str, str] | None:
    """The id of a response in its path, and what is asked of it: empty, `input_items` or `cancel`."""
    found = _STORED.fullmatch(path)
    return None if found is None or found[1].lower() in _NO_IDS else (found[1], (found[2] or "").lower())


def _is_foreign(snapshot: Snapshot, provider: str, body: bytes) -> bool:
    """Whether a body names a model that is neither an alias nor deployed at the provider.

    Who may make such a job at all may use any model, so that a base that nobody calls through the gateway is no way
    around anything.
    """
    model = (as_object(body) or {}).get("model")
    if not isinstance(model, str) or model in snapshot.aliases:
        return False
    return not any(each.provider == provider and each.model == model for each in snapshot.deployments)


def _keeps(deployment: Deployment, family: str) -> bool:
    if family == RESPONSES:
        return "openai.responses" in deployment.adapter.dialects()
    return family in deployment.adapter.keeps


def _family(path: str) -> str:
    if stored_response(path) is not None:
        return RESPONSES
    first = path[1:].partition("/")[0].lower()
    return first if first in FAMILIES else ""


def _ids_in_path(path: str) -> list[str]:
    """`/files/{id}/content`, `/fine_tuning/jobs/{id}/events`."""
    segments = path.strip("/").split("/")
    return segments[2:3] if segments[0].lower() == "fine_tuning" else segments[1:2]


def _references(body: bytes) -> list[str]:
    """Ids of objects that a JSON body mentions, wherever they stand."""
    answer = as_object(body)
    return [] if answer is None else list(dict.fromkeys(_mentioned(answer)))


def _mentioned(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if _REFERENCE.fullmatch(value):
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _mentioned(each)
    elif isinstance(value, list):
        for each in value:
            yield from _mentioned(each)


def _ids_of(item: dict[str, Any]) -> Iterator[str]:
    """Its own id, and those of files that were made for it."""
    files = item.get("result_files")
    for each in (item.get("id"), *_made_files(item), *(files if isinstance(files, list) else ())):
        if isinstance(each, str) and 0 < len(each) <= 200:
            yield each


def _made_files(item: dict[str, Any]) -> list[Any]:
    """Those with the results of a batch."""
    return [item[name] for name in _NAMED_FILES if item.get(name)]
