"""vLLM: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html. Every server has an address of its own."""

from __future__ import annotations

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import ErrorKind, JSONObject, Operation


class VLLM(OpenAICompatible):
    name = "vllm"
    operations = OpenAICompatible.operations | {Operation.TRANSCRIPTION, Operation.RERANK}
    extensions = frozenset({"top_k"})

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # It has no code for this, only words.
        if status == 400 and "maximum context length" in str(body):
            return ErrorKind.CONTEXT_TOO_LONG
        return super().error_kind(status, body)
