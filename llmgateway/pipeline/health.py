"""How each provider has been doing lately, as far as the traffic shows."""

from __future__ import annotations

DOWN_AFTER = 5
"""Failures in a row after which a provider counts as down."""


class ProviderHealth:
    """Counts failures in a row per provider. One answer makes a provider healthy again."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}

    def record(self, provider: str, *, ok: bool) -> None:
        if not ok:
            self._failures[provider] = self._failures.get(provider, 0) + 1
        elif provider in self._failures:
            del self._failures[provider]

    def state(self, provider: str) -> str:
        """`healthy`, `degraded` or `down`."""
        failures = self._failures.get(provider, 0)
        if not failures:
            return "healthy"
        return "down" if failures >= DOWN_AFTER else "degraded"
