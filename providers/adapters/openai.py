"""OpenAI: https://platform.openai.com/docs/api-reference."""

from __future__ import annotations

from providers.adapters._openai_compatible import KEPT, MEDIA, OpenAICompatible
from providers.adapters.types import Operation


class OpenAI(OpenAICompatible):
    name = "openai"
    vendor = "openai"
    task_type = "text_generation"
    trial_model = "gpt-4o-mini"
    base_url = "https://api.openai.com/v1"
    chars_per_token = 5.0
    # Reasoning models refuse the older name.
    chat_output_caps = ("max_completion_tokens", "max_tokens")
    speaks_responses = True
    keeps = KEPT
    keeps_natively = frozenset(
        {"assistants", "chat/completions", "containers", "conversations", "evals", "skills", "threads", "videos"}
    )
    operations = OpenAICompatible.operations | MEDIA | {Operation.REALTIME, Operation.MODERATION}
    extensions = frozenset({"custom", "developer", "service_tier", "metadata", "prompt_cache_key"})

    def searches_unasked(self, model: str) -> bool:
        return "-search-" in model
