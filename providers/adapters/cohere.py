"""Cohere through its OpenAI-compatible endpoint: https://docs.cohere.com/docs/compatibility-api."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import ErrorKind, JSONObject, Operation


class Cohere(OpenAICompatible):
    name = "cohere"
    base_url = "https://api.cohere.ai/compatibility/v1"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.EMBEDDINGS, Operation.RERANK})
    chat_output_caps = ("max_tokens",)
    # It refuses the field and reports usage in the last chunk all the same.
    takes_stream_options = False

    def url(self, base_url: str, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        # Reranking is not among what it offers in OpenAI's form.
        if dialect.operation is Operation.RERANK:
            return base_url.removesuffix("/v1").removesuffix("/compatibility") + "/v2/rerank"
        return super().url(base_url, dialect, model, stream=stream)

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # Errors are `{"message": "<text>"}`, or that inside OpenAI's envelope.
        text = str(body)
        if status in {400, 422} and "too many tokens" in text:
            return ErrorKind.CONTEXT_TOO_LONG
        if status == 429 and "trial" in text.lower():
            return ErrorKind.QUOTA_EXHAUSTED
        return super().error_kind(status, body)
