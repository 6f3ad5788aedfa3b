"""The adapter `tgi` keeps the contract on its own fixtures."""

from __future__ import annotations

from tests.providers.contract import ProviderContract


class TestTGI(ProviderContract):
    name = "tgi"
