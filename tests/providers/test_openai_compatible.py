"""The adapter `openai_compatible` keeps the contract on its own fixtures."""

from __future__ import annotations

from tests.providers.contract import ProviderContract


class TestOpenAICompatible(ProviderContract):
    name = "openai_compatible"
