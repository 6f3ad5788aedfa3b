"""Together AI: https://docs.together.ai/reference."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import MEDIA, TEXT, OpenAICompatible
from providers.adapters.types import ErrorKind, JSONObject, Operation


class Together(OpenAICompatible):
    name = "together"
    keeps = frozenset({"files", "batches"})
    base_url = "https://api.together.xyz/v1"
    extensions = frozenset({"top_k"})
    operations: ClassVar[frozenset[Operation]] = TEXT | MEDIA | {Operation.RERANK}
    lacks = frozenset({"openai.image_edits", "openai.image_variations"})
    chat_output_caps = ("max_tokens",)

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # https://docs.together.ai/docs/error-codes: 403 means that input and cap exceed the context.
        if status == 403 or (status in {400, 422} and "max_new_tokens" in str(body)):
            return ErrorKind.CONTEXT_TOO_LONG
        return super().error_kind(status, body)
