"""What stands behind a path of the data plane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from llmgateway.api.exchange import HttpExchange
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.header_lines import HeaderLines
from providers.adapters.dialects.base import Dialect

Endpoint = Callable[[Gateway, HttpExchange], Awaitable[None]]

READ = ("GET", "HEAD")
CALL = ("POST",)


class Route(NamedTuple):
    """How requests for a path are answered."""

    methods: tuple[str, ...]
    endpoint: Endpoint
    dialect: Dialect
    """In which errors are told, and requests are written where the endpoint calls a model."""
    label: str
    """The path for metrics and logs, with braces around what callers choose: they must not be able to make new labels."""
    lines: HeaderLines = b""
    """Headers of all its answers, errors too."""


Finder = Callable[[str], Route | None]
"""Finds the route of a path that no table can hold, because part of it is a name."""
