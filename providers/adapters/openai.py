"""OpenAI: https://platform.openai.com/docs/api-reference."""

from __future__ import annotations

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import Operation


class OpenAI(OpenAICompatible):
    name = "openai"
    base_url = "https://api.openai.com/v1"
    chars_per_token = 5.0

    def output_cap_fields(self, operation: Operation) -> tuple[str, ...]:
        # Reasoning models refuse the older name.
        return (
            ("max_completion_tokens", "max_tokens")
            if operation is Operation.CHAT
            else super().output_cap_fields(operation)
        )
