"""Ollama through its OpenAI-compatible endpoint: https://docs.ollama.com/openai. Usually without a key."""

from __future__ import annotations

from providers.adapters._openai_compatible import OpenAICompatible


class Ollama(OpenAICompatible):
    name = "ollama"
    base_url = "http://127.0.0.1:11434/v1"
    chat_output_caps = ("max_tokens",)
