"""Gemini's count of tokens: contents, or a request for an answer, that are counted and not answered. It costs nothing."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from providers.adapters.body import RequestHead
from providers.adapters.dialects._gemini_fields import camel
from providers.adapters.dialects._gemini_head import joined, read_fields, with_model
from providers.adapters.dialects._gemini_wire import GeminiWire
from providers.adapters.errors import MalformedBodyError
from providers.adapters.types import JSONObject, Operation

_REQUEST = "generateContentRequest"


class GeminiCountTokens(GeminiWire):
    name = "gemini.count_tokens"
    operation: ClassVar[Operation] = Operation.PASSTHROUGH

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        read_fields(body)
        if not model:
            raise MalformedBodyError("The path names no model; call /v1beta/models/MODEL:countTokens.", param="model")
        return RequestHead(model)

    def with_model(self, body: bytes, head: RequestHead, model: str) -> bytes:
        """A whole request, if there is one, names it once more."""
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        inner = next((name for name in fields if camel(name) == _REQUEST), None)
        if inner is None:
            return body
        return joined({**fields, inner: msgspec.Raw(with_model(bytes(fields[inner]), model))})

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        # What it counts is not what it used.
        return None, ""
