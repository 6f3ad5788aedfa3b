"""Cross-origin rules: outermost, so that errors carry them too and preflights need no key."""

from __future__ import annotations

from llmgateway.api.asgi_types import RawHeaders

EXPOSED = (
    b"x-request-id, retry-after, server-timing, x-gateway-model, x-gateway-provider, x-gateway-deployment, "
    b"x-gateway-attempts, x-gateway-cost-usd, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-ratelimit-scope, x-ratelimit-name, x-should-retry, x-budget-name, "
    b"x-budget-limit-usd, x-budget-settled-usd, x-budget-held-usd, x-budget-resets-at, x-llm-input-tokens, "
    b"x-llm-output-tokens, x-llm-total-tokens, x-upstream-request-id"
)


class Cors:
    """What a browser page of `origin` may do. Credentials are never allowed: keys travel in headers."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)

    def headers(self, origin: bytes | None) -> RawHeaders:
        """For every answer to a request from `origin`."""
        if origin is None:
            return []
        if self._any:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED)]
        if origin not in self._origins:
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"vary", b"Origin"),
            (b"access-control-expose-headers", EXPOSED),
        ]

    def preflight(self, requested_headers: bytes | None) -> RawHeaders:
        return [
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", requested_headers or b"authorization, content-type, x-api-key"),
            (b"access-control-max-age", b"600"),
        ]
