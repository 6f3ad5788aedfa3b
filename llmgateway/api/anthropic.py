"""Anthropic's surface: messages."""

from __future__ import annotations

from llmgateway.api.calls import call_model
from llmgateway.api.routes import CALL, Route
from providers.adapters.dialects.registry import get_dialect

MESSAGES = get_dialect("anthropic.messages")


def routes() -> dict[str, Route]:
    """The paths that are the same for everybody."""
    return {"/v1/messages": Route(CALL, call_model, MESSAGES, "/v1/messages")}
