"""Providers' own APIs under their names: `/openai/v1/…`, `/anthropic/v1/…`, any provider row's `/<name>/…`.

What the gateway understands is treated like the same call on its own paths; a model may then also be called by the
provider's name for it. Everything else passes through as it is: method, path, query, headers and body.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from llmgateway.api.calls import Named, call_model
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.routes import Route
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import Verbatim
from llmgateway.pipeline.snapshot import Deployment, Snapshot
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import NativeCall

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
OPAQUE = get_dialect("native.opaque")


class NativeSurface:
    """Knows which first segments of a path are providers' in the present configuration."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._deployments: tuple[Deployment, ...] = ()
        self._prefixes: dict[str, Deployment] = {}

    def find(self, path: str) -> Route | None:
        prefix, rest = _split(path)
        deployment = self._of(self._gateway.snapshot).get(prefix)
        if deployment is None or not rest:
            return None
        call = deployment.adapter.native_call(rest)
        dialect = OPAQUE if call is None else get_dialect(call.dialect)
        return Route(METHODS, _Endpoint(deployment.provider, call), dialect, f"/{prefix}/{{path}}")

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

    def __init__(self, provider: str, call: NativeCall | None) -> None:
        self._provider = provider
        self._call = call

    async def __call__(self, gateway: Gateway, exchange: HttpExchange) -> None:
        call, query = self._call, forwarded_query(exchange.query)
        if call is None or exchange.method != "POST":
            exchange.responder.dialect = OPAQUE
            content_type = exchange.inbound.content_type
            _, path = _split(exchange.raw_path)
            verbatim = Verbatim(path + query, method=exchange.method, content_type=content_type)
            await call_model(gateway, exchange, Named(exchange.inbound.model, None, self._provider, verbatim))
            return
        in_path = call.after_model is not None
        verbatim = Verbatim(
            call.before_model if in_path else call.before_model + query,
            f"{call.after_model}{query}" if in_path else None,
        )
        await call_model(gateway, exchange, Named(call.model, call.stream, self._provider, verbatim))


def forwarded_query(query: bytes) -> str:
    """The query for the provider, with its question mark, without the caller's own key."""
    text = query.decode("latin-1")
    if "key=" not in text:
        return f"?{text}" if text else ""
    kept = [(name, value) for name, value in parse_qsl(text, keep_blank_values=True) if name != "key"]
    return f"?{urlencode(kept)}" if kept else ""


def _split(path: str) -> tuple[str, str]:
    """The first segment, and the rest with its leading slash."""
    prefix, slash, rest = path[1:].partition("/")
    return prefix, slash + rest if rest else ""
