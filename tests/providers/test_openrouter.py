"""The adapter `openrouter` keeps the contract on its own fixtures."""

from __future__ import annotations

from tests.providers.contract import ProviderContract


class TestOpenRouter(ProviderContract):
    name = "openrouter"
