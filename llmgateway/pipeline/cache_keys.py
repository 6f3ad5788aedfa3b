"""Which requests have the same answer: the digest by which it is kept, and what requests say about it themselves."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from llmgateway.pipeline.cached_answers import STREAM, STREAM_WITH_USAGE, WHOLE
from llmgateway.pipeline.errors import BadRequestError
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.route_rules import CacheSettings
from llmgateway.pipeline.routing import Routed
from llmgateway.pipeline.snapshot import Alias, ForeignKey, Key
from providers.adapters.types import JSONObject, Operation

MODES = ("", "on", "off", "refresh")
"""What `x-gateway-cache` may say."""

_NEUTRAL = frozenset(
    {
        b"user-agent", b"pragma", b"cache-control", b"date", b"priority", b"dnt", b"tracestate", b"traceparent", b"baggage",
        b"sentry-trace", b"uber-trace-id", b"idempotency-key", b"x-correlation-id", b"x-client-request-id", b"x-amzn-trace-id",
        b"x-cloud-trace-context", b"x-requested-with", b"content-encoding", b"x-app",
    }
)  # fmt: skip
_NEUTRAL_PREFIXES = (b"accept", b"x-stainless-", b"x-b3-", b"x-datadog-", b"cf-", b"if-")
_MAX_AGE = re.compile(rb"max-age\s*=\s*\"?(\d{1,9})")
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder(order="deterministic").encode

MOST_VALUES = 300_000
"""Commas and colons of a body. To compare what has more of them would take so long that others had to wait."""


class Wish(msgspec.Struct, frozen=True):
    """What a request says about kept answers, by `x-gateway-cache` and `cache-control`."""

    asks: bool = False
    """It wants one, whether or not its alias keeps answers."""
    reads: bool = True
    stores: bool = True
    max_age_s: float | None = None
    """It takes none that is as old as this."""


def wish_of(request: ModelRequest) -> Wish:
    """Raises BadRequestError for a word that `x-gateway-cache` does not know."""
    said = request.cache
    if said not in MODES:
        raise BadRequestError(
            f"`x-gateway-cache` is '{said}'. Send on, off or refresh, or leave it out.", param="x-gateway-cache"
        )
    control = b", ".join([value for name, value in request.headers if name == b"cache-control"]).lower()
    stores = said != "off" and b"no-store" not in control
    found = _MAX_AGE.search(control)
    max_age_s = float(found[1]) if found else None
    reads = stores and said != "refresh" and b"no-cache" not in control and max_age_s != 0
    return Wish(asks=said in {"on", "refresh"}, reads=reads, stores=stores, max_age_s=max_age_s)


def form_of(request: ModelRequest) -> str:
    if not request.head.stream:
        return WHOLE
    return STREAM_WITH_USAGE if request.head.asked_for_usage else STREAM


def is_convertible(request: ModelRequest) -> bool:
    """Whether an answer that came as a stream can be given whole, and the other way round."""
    dialect = request.dialect
    return dialect.operation is Operation.CHAT and dialect.translates and dialect.translates_requests


def tenant_of(key: Key) -> str:
    """Whose answers are one another's: those of a team; of a key without one, its own."""
    return f"team:{key.team_id}" if key.team_id else f"key:{key.id}"


def deciding_fields(request: ModelRequest, key: Key) -> JSONObject | None:
    """Of the body. None: its answer must not be kept, or is not worth it.

    A caller's own key at a provider may be withdrawn there, which nobody would notice here.
    """
    verbatim = request.verbatim
    if isinstance(key, ForeignKey) or (verbatim is not None and verbatim.settlement is not None):
        return None
    body = request.body
    if len(body) > MOST_VALUES and body.count(b",") + body.count(b":") > MOST_VALUES:
        return None
    try:
        return request.dialect.deciding_fields(_decode(request.body))
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None


def scope_of(request: ModelRequest, key: Key, routed: Routed, settings: CacheSettings) -> list[Any]:
    """Everything but the body that decides an answer: who asks, in which protocol, and who may answer."""
    verbatim = request.verbatim
    return [
        request.dialect.name,
        request.provider,
        [] if verbatim is None else [verbatim.method, verbatim.before_model, verbatim.after_model],
        "" if is_convertible(request) else form_of(request),
        request.strict,
        tenant_of(key),
        settings.generation,
        [_terms_of(alias) for alias in _aliases(routed, key)],
        sorted([each.id, each.provider, each.base_url, each.model] for each in routed.reached.deployments),
        sorted(
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in request.headers
            if name not in _NEUTRAL and not name.startswith(_NEUTRAL_PREFIXES)
        ),
    ]


def digest_of(scope: list[Any], asked: Any) -> bytes:
    """32 bytes. The order of names in objects makes no difference."""
    return hashlib.blake2b(_encode([scope, asked]), digest_size=32).digest()


def _aliases(routed: Routed, key: Key) -> list[Alias]:
    """All whose parameters and generations may count, whether or not their deployments are well just now.

    Those that the key may not call are left out: who may has an answer of theirs, which is not for this key.
    """
    found: dict[str, Alias] = {}
    open_ones = [routed.alias, *routed.hops]
    while open_ones:
        alias = open_ones.pop(0)
        if alias.name not in found:
            found[alias.name] = alias
            nested = [target.alias for target in alias.targets if target.alias is not None]
            open_ones += [each for each in nested if key.models is None or each.name in key.models]
    return [found[name] for name in (routed.alias.name, *sorted(found.keys() - {routed.alias.name}))]


def _terms_of(alias: Alias) -> list[Any]:
    parameters, cache = alias.parameters, alias.cache
    set_here = [] if parameters is None else [dict(parameters.defaults), dict(parameters.overrides)]
    return [alias.name, cache.generation if cache else 0, set_here]
