"""The adapter `fireworks` keeps the contract on its own fixtures."""

from __future__ import annotations

from tests.providers.contract import ProviderContract


class TestFireworks(ProviderContract):
    name = "fireworks"
