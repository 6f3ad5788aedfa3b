"""Anthropic through its OpenAI-compatible endpoint: https://docs.claude.com/en/api/openai-sdk."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import Operation


class Anthropic(OpenAICompatible):
    name = "anthropic"
    base_url = "https://api.anthropic.com/v1"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT})
    api_key_variables = ("ANTHROPIC_API_KEY", "CLAUDE_API_KEY")
    chars_per_token = 3.0
    # What it tells a model about tools.
    hidden_input_tokens = 1_000
    max_image_tokens = 5_000
