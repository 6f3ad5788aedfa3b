"""The configuration that a measured gateway runs with: everything that a request can meet."""

from __future__ import annotations

from typing import Any

from bench import wire

INPUT_USD, OUTPUT_USD = "0.15", "0.60"
"""Per million tokens."""
COST_PICO_USD = wire.INPUT_TOKENS * 150_000 + wire.OUTPUT_TOKENS * 600_000
"""Of one request at those prices."""
PROVIDER = "bench-mock"
_PLENTY = 1_000_000_000
_OF_KEY: list[dict[str, Any]] = [
    {"metric": "requests", "per": "minute", "amount": _PLENTY},
    {"metric": "tokens", "per": "minute", "amount": _PLENTY},
    {"metric": "concurrency", "amount": 1_000_000},
    *(
        {"metric": metric, "per": per, "amount": _PLENTY}
        for per in ("hour", "day", "month")
        for metric in ("requests", "tokens")
    ),
]
_OF_TEAM = [limit for limit in _OF_KEY if limit.get("per", "minute") == "minute"]
USUAL_LIMITS = 3
MOST_LIMITS = len(_OF_KEY) + len(_OF_TEAM)


def models(aliases: int) -> list[str]:
    """The aliases of a gateway that has so many."""
    return [wire.MODEL, *(f"{wire.MODEL}-{number:04}" for number in range(1, aliases))]


def configuration(
    upstream_port: int, secret: str, *, limits: int = USUAL_LIMITS, aliases: int = 1, in_flight: int = 0
) -> dict[str, object]:
    """Address and model list, every kind of limit, budgets, alias and price. `limits` are those a request meets: first
    the key's, then its team's. `in_flight`: as many turns, where the usual ones are too few.
    """
    names = models(aliases)
    team: dict[str, Any] = {"budgets": [{"name": "month", "window": "month", "limit_usd": "4000000"}]}
    if limits > len(_OF_KEY):
        team["limits"] = _OF_TEAM[: limits - len(_OF_KEY)]
    return {
        "version": 1,
        **({"settings": {"load": {"max_in_flight": in_flight}}} if in_flight else {}),
        "providers": {
            PROVIDER: {
                "adapter": "openai_compatible",
                "base_url": f"http://127.0.0.1:{upstream_port}/v1",
                "allow_private_network": True,
                "credentials": [{"name": "main", "api_key": "sk-bench-upstream"}],
            }
        },
        "deployments": {PROVIDER: {"provider": PROVIDER, "credential": "main", "model": "bench-upstream"}},
        "aliases": {name: {"targets": [{"deployment": PROVIDER}]} for name in names},
        "prices": [
            {
                "provider": PROVIDER,
                "model": "bench-upstream",
                "input": INPUT_USD,
                "output": OUTPUT_USD,
                "effective_from": "2026-01-01",
            }
        ],
        "networks": {"bench-loopback": ["127.0.0.0/8", "::1"]},
        "teams": {"bench": team},
        "keys": {
            "bench": {
                "team": "bench",
                "secret": secret,
                "models": names,
                "networks": ["bench-loopback"],
                "limits": _OF_KEY[:limits],
                "budgets": [{"name": "day", "window": "day", "limit_usd": "4000000", "mode": "strict"}],
            }
        },
    }
