"""DeepSeek: https://api-docs.deepseek.com. Its usage has names of its own for cached input."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import ErrorKind, JSONObject, Operation, Usage


class DeepSeek(OpenAICompatible):
    name = "deepseek"
    trial_model = "deepseek-chat"
    base_url = "https://api.deepseek.com/v1"
    # https://api-docs.deepseek.com/guides/thinking_mode: calls of tools are refused without the thoughts before them.
    extensions = frozenset({"reasoning_content", "reasoning_effort", "thinking"})
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT})
    chat_output_caps = ("max_tokens",)

    def usage(self, raw: JSONObject, dialect: Dialect) -> Usage:
        cached = raw.get("prompt_cache_hit_tokens")
        if cached is not None and not raw.get("prompt_tokens_details"):
            raw = {**raw, "prompt_tokens_details": {"cached_tokens": cached}}
        return super().usage(raw, dialect)

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # It has no code for this, only words.
        if status == 400 and "maximum context length" in str(body):
            return ErrorKind.CONTEXT_TOO_LONG
        return super().error_kind(status, body)
