"""Mistral: https://docs.mistral.ai/api. Its chat and embeddings are OpenAI's in shape."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import Operation


class Mistral(OpenAICompatible):
    name = "mistral"
    vendor = "mistral"
    task_type = "question_answering"
    trial_model = "mistral-small-latest"
    keeps = frozenset({"files", "fine_tuning"})
    keeps_natively = frozenset({"agents", "batch/jobs", "conversations", "libraries"})
    base_url = "https://api.mistral.ai/v1"
    provider_name = "mistral_ai"
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {Operation.CHAT, Operation.EMBEDDINGS, Operation.TRANSCRIPTION, Operation.MODERATION}
    )
    lacks = frozenset({"openai.audio_translations"})
    chat_output_caps = ("max_tokens",)
