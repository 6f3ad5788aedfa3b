"""Errors in the words of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import orjson

from llmgateway.pipeline.errors import GatewayError


def openai_envelope(error: GatewayError) -> bytes:
    """The body of an error answer."""
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )
