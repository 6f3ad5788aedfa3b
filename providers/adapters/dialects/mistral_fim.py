"""Mistral's filling in of what stands between a prompt and a suffix: https://docs.mistral.ai/api. It is not translated."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.dialects._openai_wire import OpenAIWire, without_caller
from providers.adapters.types import JSONObject, Operation


class MistralFim(OpenAIWire):
    name = "mistral.fim"
    operation: ClassVar[Operation] = Operation.TEXT_COMPLETION
    output_cap_fields: ClassVar[tuple[str, ...]] = ("max_tokens",)

    def deciding_fields(self, fields: JSONObject) -> JSONObject | None:
        return without_caller(fields)
