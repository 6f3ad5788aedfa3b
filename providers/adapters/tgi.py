"""Hugging Face's text-generation-inference: https://huggingface.co/docs/text-generation-inference. Every server has its address."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import ErrorKind, JSONObject, Operation


class TGI(OpenAICompatible):
    name = "tgi"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.TEXT_COMPLETION})
    chat_output_caps = ("max_tokens",)

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # `{"error": "<text>", "error_type": "<word>"}`; too many requests at once is its way to say overloaded.
        kind = str((body or {}).get("error_type", ""))
        if kind == "overloaded" or status == 429:
            return ErrorKind.OVERLOADED
        if kind == "validation" and "tokens" in str(body):
            return ErrorKind.CONTEXT_TOO_LONG
        return super().error_kind(status, body)
