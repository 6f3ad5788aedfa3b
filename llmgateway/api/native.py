"""Providers' own APIs under their names: `/openai/v1/…`, `/anthropic/v1/…`, any provider row's `/<name>/…`.

What the gateway understands is treated like the same call on its own paths; a model may then also be called by the
provider's name for it. Everything else passes through as it is: method, path, query, headers and body.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from llmgateway.api.array_stream import ArrayResponder
from llmgateway.api.batch_charge import for_all_of_it
from llmgateway.api.calls import Named, call_model
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.native_kept import NativeFamily, NativeObjects, family_at
from llmgateway.api.own_keys import with_own_key
from llmgateway.api.routes import Route
from llmgateway.pipeline.errors import NotFoundError, PermissionDeniedError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import Verbatim
from llmgateway.pipeline.response_state import owner_of
from llmgateway.pipeline.snapshot import Deployment, ForeignKey, Snapshot
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import NativeCall

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
OPAQUE = get_dialect("native.opaque")
GENERATE = get_dialect("gemini.generate_content")
_READING = frozenset({"GET", "HEAD", "DELETE"})
"""Methods that call no model."""
_BETWEEN = re.compile(r"[/\\]")
_PAST_US = re.compile(r"/realtime(?:api)?/", re.IGNORECASE)
"""Below it providers hand out keys for browsers, and take calls that nobody here would meter."""
_DOTS = frozenset({".", ".."})
_VERSION = re.compile(r"v\d+\w*", re.ASCII)
_OWN = re.compile(r"/v\d/(.+)")
_OWN_LABEL = "/{own}"
_SLASHES = re.compile(r"/{2,}")


KeptFinder = Callable[[Deployment, str, str], Route | None]
"""Finds what is to be done with objects that the provider keeps, by deployment, path and label."""

_WITHHELD = frozenset(
    {
        "key", "api-key", "api_key", "access_token", "oauth_token", "bearer_token", "subscription-key", "userproject",
        "fields", "callback", "httpheaders", "httpmethod", "outputdefaults", "req", "ct",
    }
)  # fmt: skip
"""Names in a query that mean another credential, another payer, another request, or an answer without its usage."""
_READABLE = frozenset({"json", "sse", "media"})


class NativeSurface:
    """Knows which first segments of a path are providers' in the present configuration."""

    def __init__(self, gateway: Gateway, kept: KeptFinder | None = None) -> None:
        self._gateway = gateway
        self._kept = kept
        self._deployments: tuple[Deployment, ...] = ()
        self._prefixes: dict[str, Deployment] = {}

    def find(self, path: str) -> Route | None:
        prefix, rest = _split(path)
        deployment = self._of(self._gateway.snapshot).get(prefix)
        if deployment is None or not rest or climbs(rest):
            return None
        if _PAST_US.search(rest):
            raise NotFoundError(
                f"{path} is not passed on: what it hands out leads past the gateway. Open a WebSocket at /v1/realtime."
            )
        label = f"/{prefix}/{{path}}"
        if self._kept is not None and (kept := self._kept(deployment, rest, label)) is not None:
            return kept
        return self._route(deployment, rest, label)

    def find_own(self, path: str) -> Route | None:
        """A path at the root that one kind of provider alone has, as its SDK calls it with the gateway for a base URL."""
        found = _OWN.fullmatch(path)
        if found is None or climbs(path):
            return None
        for deployment in self._gateway.snapshot.deployments:
            if any(f"{found[1]}/".startswith(f"{each}/") for each in deployment.adapter.own_paths):
                return self._route(deployment, path, _OWN_LABEL, at_root=True)
        return None

    def _route(self, deployment: Deployment, rest: str, label: str, *, at_root: bool = False) -> Route:
        call = _understood(deployment, rest)
        dialect = OPAQUE if call is None else get_dialect(call.dialect)
        family = family_at(deployment.adapter, plain_path(rest))
        return Route(METHODS, _Endpoint(deployment, call, family, at_root=at_root), dialect, label)

    def serves(self, path: str) -> bool:
        return _split(path)[0] in self._of(self._gateway.snapshot)

    def provider_at(self, prefix: str, dialect: Dialect) -> str:
        """The provider row behind a prefix, if it understands `dialect`; empty: there is none."""
        deployment = self._of(self._gateway.snapshot).get(prefix)
        if deployment is None or dialect.name not in deployment.adapter.dialects():
            return ""
        return deployment.provider

    def _of(self, snapshot: Snapshot) -> dict[str, Deployment]:
        """One deployment of each provider by the prefix: the row's name, or its adapter's where no row is called so."""
        if self._deployments is not snapshot.deployments:
            self._deployments = snapshot.deployments
            by_adapter = {each.adapter.name: each for each in reversed(snapshot.deployments)}
            self._prefixes = {**by_adapter, **{each.provider: each for each in reversed(snapshot.deployments)}}
        return self._prefixes


class _Endpoint:
    """Answers one path below a provider's prefix."""

    def __init__(
        self,
        deployment: Deployment,
        call: NativeCall | None,
        family: NativeFamily | None = None,
        *,
        at_root: bool = False,
    ) -> None:
        self._provider = deployment.provider
        self._call = call
        self._family = family
        self._at_root = at_root
        self._is_address = call is not None and _says_no_more(deployment, call)

    async def __call__(self, gateway: Gateway, exchange: HttpExchange) -> None:
        call = self._call
        if call is None or exchange.method != "POST":
            await self._pass_through(gateway, exchange)
            return
        verbatim = Verbatim(call.before_model + forwarded_query(exchange.query)) if self._is_address else None
        if call.stream and get_dialect(call.dialect) is GENERATE and b"alt=sse" not in exchange.query:
            exchange.responder = ArrayResponder(exchange.responder)
        named = Named(call.model, call.stream, self._provider, verbatim, is_native=True)
        await call_model(gateway, exchange, named)

    async def _pass_through(self, gateway: Gateway, exchange: HttpExchange) -> None:
        """Send on what the gateway does not understand.

        Raises:
            PermissionDeniedError: the key has a list of models, and nobody can tell which ones the call would use.
        """
        exchange.responder.dialect = OPAQUE
        inbound = exchange.inbound
        key = exchange.key = await gateway.authenticate(
            inbound.secret, client_ip=exchange.client_ip, takes_foreign=not inbound.provider_key
        )
        if inbound.provider_key:
            key = exchange.key = await with_own_key(gateway, inbound, key, self._provider)
        if key.models is not None and exchange.method not in _READING:
            raise PermissionDeniedError(
                f"API key '{key.name}' may use certain models only, and the gateway cannot tell which ones this call "
                "would use. Call a path that it understands, or ask an admin for a key without a list of models.",
                code="model_not_allowed",
            )
        path = exchange.raw_path if self._at_root else _split(exchange.raw_path)[1]
        target = quote(path, safe=string.punctuation) + forwarded_query(exchange.query)
        kept = None
        if self._family is not None:
            mine = owner_of(key, self._provider)
            kept = NativeObjects(gateway, mine, self._family, exchange.method)
            inbound.forwarded = for_all_of_it(inbound.forwarded)
            if not (isinstance(key, ForeignKey) and key.is_stranger):
                await kept.check()
        verbatim = Verbatim(target, method=exchange.method, content_type=inbound.content_type, settlement=kept)
        await call_model(gateway, exchange, Named(inbound.model, None, self._provider, verbatim, is_native=True))


def _understood(deployment: Deployment, path: str) -> NativeCall | None:
    """What a path asks, however it is written: servers take doubled slashes, one at the end, and often capitals too."""
    plain = plain_path(path)
    return deployment.adapter.native_call(plain) or deployment.adapter.native_call(plain.lower())


def plain_path(path: str) -> str:
    """Without doubled slashes, and without one at the end."""
    return _SLASHES.sub("/", path).rstrip("/")


def _says_no_more(deployment: Deployment, call: NativeCall) -> bool:
    """Whether a path says which call it is and no more, so that it may stay as it is.

    Another one names a model, or hides another call behind the end of a path; it is understood by its end, and goes to
    the address that the adapter knows.
    """
    if call.after_model is not None:
        return False
    end = deployment.adapter.path(get_dialect(call.dialect), "").partition("?")[0]
    known = urlsplit(deployment.base_url).path.split("/")
    before = call.before_model.removesuffix(end).split("/")
    return all(segment in known or _VERSION.fullmatch(segment) for segment in before if segment)


def climbs(path: str) -> bool:
    """Whether a path could leave the place where the provider's address is."""
    return any(segment.partition(";")[0] in _DOTS for segment in _BETWEEN.split(path))


def forwarded_query(query: bytes) -> str:
    """The query for the provider, with its question mark, without the caller's own key and what providers obey unseen."""
    text = query.decode("latin-1")
    named = parse_qsl(text, keep_blank_values=True)
    kept = [(name, value) for name, value in named if not is_withheld(name, value)]
    if len(kept) == len(named):
        return f"?{quote(text, safe=string.punctuation)}" if text else ""
    return f"?{urlencode(kept)}" if kept else ""


def is_withheld(name: str, value: str) -> bool:
    """Whether a part of a query is kept from providers: as the headers that are, it names who pays, or hides the usage."""
    plain = name.lower().lstrip("$")
    if plain in _WITHHELD or plain.startswith("x-amz-"):
        return True
    return plain == "alt" and value.lower() not in _READABLE


def _split(path: str) -> tuple[str, str]:
    """The first segment, and the rest with its leading slash."""
    prefix, slash, rest = path[1:].partition("/")
    return prefix, slash + rest if rest else ""
