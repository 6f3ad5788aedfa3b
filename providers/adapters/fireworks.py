"""Fireworks AI: https://docs.fireworks.ai/api-reference."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import ErrorKind, JSONObject, Operation


class Fireworks(OpenAICompatible):
    name = "fireworks"
    base_url = "https://api.fireworks.ai/inference/v1"
    extensions = frozenset({"top_k"})
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {Operation.CHAT, Operation.TEXT_COMPLETION, Operation.EMBEDDINGS, Operation.RERANK}
    )
    chat_output_caps = ("max_tokens",)

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # A suspended account: https://docs.fireworks.ai/guides/inference-error-codes.
        if status == 412:
            return ErrorKind.QUOTA_EXHAUSTED
        if status == 400 and "model's maximum" in str(body):
            return ErrorKind.CONTEXT_TOO_LONG
        return super().error_kind(status, body)
