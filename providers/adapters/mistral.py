"""Mistral: https://docs.mistral.ai/api. What it shares with OpenAI is alike in shape, its chats and embeddings not in words."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import NativeCall, Operation

_PATHS = {
    "mistral.chat": "/chat/completions",
    "mistral.embeddings": "/embeddings",
    "mistral.fim": "/fim/completions",
    "mistral.ocr": "/ocr",
}


class Mistral(OpenAICompatible):
    name = "mistral"
    vendor = "mistral"
    task_type = "question_answering"
    trial_model = "mistral-small-latest"
    keeps = frozenset({"files", "fine_tuning"})
    keeps_natively = frozenset({"agents", "batch/jobs", "conversations", "libraries"})
    own_paths = frozenset({"agents", "batch", "chat/moderations", "classifications", "libraries", "ocr"})
    base_url = "https://api.mistral.ai/v1"
    provider_name = "mistral_ai"
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {
            Operation.CHAT, Operation.TEXT_COMPLETION, Operation.EMBEDDINGS, Operation.TRANSCRIPTION,
            Operation.MODERATION, Operation.OCR,
        }
    )  # fmt: skip
    extensions = frozenset({"metadata", "prompt_cache_key", "reasoning_content", "service_tier", "top_k"})
    lacks = frozenset({"openai.audio_translations", "openai.chat", "openai.completions", "openai.embeddings"})

    def dialects(self) -> tuple[str, ...]:
        return (*_PATHS, *super().dialects())

    def path(self, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        return _PATHS.get(dialect.name) or super().path(dialect, model, stream=stream)

    def native_call(self, path: str) -> NativeCall | None:
        # Of conversations, in a form of its own.
        return None if path.endswith("/chat/moderations") else super().native_call(path)
