"""OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.body import RequestHead, with_usage_requested
from providers.adapters.dialects._openai_wire import OpenAIWire
from providers.adapters.types import Operation


class OpenAIChat(OpenAIWire):
    name = "openai.chat"
    operation: ClassVar[Operation] = Operation.CHAT
    output_cap_fields = ("max_completion_tokens", "max_tokens")

    def with_usage_requested(self, body: bytes, head: RequestHead) -> bytes:
        return with_usage_requested(body, head)
