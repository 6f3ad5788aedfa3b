"""Groq: https://console.groq.com/docs/openai. Streams carry usage in `x_groq` as well."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import Operation


class Groq(OpenAICompatible):
    name = "groq"
    trial_model = "llama-3.1-8b-instant"
    keeps = frozenset({"files", "batches"})
    base_url = "https://api.groq.com/openai/v1"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.SPEECH, Operation.TRANSCRIPTION})
