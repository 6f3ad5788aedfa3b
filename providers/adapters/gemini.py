"""Google's Gemini through its OpenAI-compatible endpoint: https://ai.google.dev/gemini-api/docs/openai."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import ErrorKind, JSONObject, Operation, Usage


class Gemini(OpenAICompatible):
    name = "gemini"
    base_url = "https://generativelanguage.googleapis.com/v1beta/openai"
    provider_name = "gcp.gemini"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.EMBEDDINGS})

    def usage(self, raw: JSONObject, dialect: Dialect) -> Usage:
        usage = super().usage(raw, dialect)
        # Thinking is billed as output, but only `total_tokens` counts it.
        total = raw.get("total_tokens")
        thinking = total - usage.total_tokens if isinstance(total, int) else 0
        return msgspec.structs.replace(usage, reasoning=usage.reasoning + thinking) if thinking > 0 else usage

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # A key that is not valid is a 400 here.
        if status == 400 and "API_KEY_INVALID" in str(body):
            return ErrorKind.AUTHENTICATION
        return super().error_kind(status, body)
