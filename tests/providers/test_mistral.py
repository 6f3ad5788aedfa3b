"""The adapter `mistral` keeps the contract on its own fixtures."""

from __future__ import annotations

from tests.providers.contract import ProviderContract


class TestMistral(ProviderContract):
    name = "mistral"
    dialect_name = "mistral.chat"
