"""The adapter `anthropic` keeps the contract on its own fixtures."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.types import JSONObject
from tests.providers.contract import ProviderContract


class TestAnthropic(ProviderContract):
    name = "anthropic"
    dialect_name = "anthropic.messages"
    input_field = "input_tokens"
    contradiction: ClassVar[JSONObject] = {
        "input_tokens": 10,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 99},
    }

    def reported(self, raw: JSONObject) -> tuple[int, int]:
        cached = raw["cache_creation_input_tokens"] + raw["cache_read_input_tokens"]
        return raw["input_tokens"] + cached, raw["output_tokens"]
