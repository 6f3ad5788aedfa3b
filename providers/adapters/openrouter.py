"""OpenRouter: https://openrouter.ai/docs/api-reference. It reports what each call cost."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import ErrorKind, JSONObject, Operation


class OpenRouter(OpenAICompatible):
    name = "openrouter"
    keeps_natively = frozenset({"batches"})
    base_url = "https://openrouter.ai/api/v1"
    extensions = frozenset({"cache_control", "reasoning_details", "top_k"})
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.TEXT_COMPLETION})
    reported_cost_field = "cost"
    # https://openrouter.ai/docs/api-reference/errors: the code repeats the status, also inside streams.
    error_codes: ClassVar[dict[str, ErrorKind]] = {
        "402": ErrorKind.QUOTA_EXHAUSTED,
        "403": ErrorKind.CONTENT_POLICY,
        "502": ErrorKind.OVERLOADED,
        "503": ErrorKind.OVERLOADED,
    }

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        if status == 400 and "maximum context length" in str(body):
            return ErrorKind.CONTEXT_TOO_LONG
        return super().error_kind(status, body)
