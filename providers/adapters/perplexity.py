"""Perplexity: https://docs.perplexity.ai/api-reference. Every answer searches the web, which is billed by request."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import Operation


class Perplexity(OpenAICompatible):
    name = "perplexity"
    base_url = "https://api.perplexity.ai"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT})
    chat_output_caps = ("max_tokens",)
    # What its searches bring in is counted as input of some models.
    hidden_input_tokens = 200_000
