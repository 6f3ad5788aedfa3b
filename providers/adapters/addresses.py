"""Paths of providers' own APIs: which name they may have here, and where they are there."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

RESERVED_NAMES = frozenset(
    {
        "admin",
        "api",
        "favicon.ico",
        "health",
        "live",
        "login",
        "logout",
        "manage",
        "metrics",
        "playground",
        "requests",
        "static",
        "teams",
        "v1",
        "v1beta",
        "v2",
        "ws",
    }
)
"""First segments of the gateway's own paths: no provider can be called so."""

_VERSION = re.compile(r"v\d+(?:(?:alpha|beta)\d*)?")


def native_url(base_url: str, target: str) -> str:
    """`target` (a path with its query, as the provider's documentation has it) at the server of `base_url`.

    What the address ends in and the path begins with stands there once: clients leave out more or less of it. Where
    both name a version, the path's holds.

    Example:
        native_url("https://api.acme.example/v1", "/v1/models") == "https://api.acme.example/v1/models"
        native_url("https://acme.example/llm/v1", "/v1/models") == "https://acme.example/llm/v1/models"
        native_url("https://acme.example/v1beta", "/v1/models") == "https://acme.example/v1/models"
        native_url("https://acme.example/v1", "/models") == "https://acme.example/v1/models"
    """
    parts = urlsplit(base_url)
    base = [segment for segment in parts.path.split("/") if segment]
    path, question, query = target.partition("?")
    asked = path.lstrip("/").split("/")
    overlap = next((size for size in range(min(len(base), len(asked)), 0, -1) if base[-size:] == asked[:size]), 0)
    kept = base[: len(base) - overlap]
    if not overlap and kept and _VERSION.fullmatch(kept[-1]) and _VERSION.fullmatch(asked[0]):
        kept = kept[:-1]
    return f"{parts.scheme}://{parts.netloc}/{'/'.join([*kept, *asked])}{question}{query}"
