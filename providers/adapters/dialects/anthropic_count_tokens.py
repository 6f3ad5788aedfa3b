"""Anthropic's count of tokens: a request for messages that is counted and not answered. It costs nothing."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.dialects.anthropic_messages import AnthropicMessages
from providers.adapters.types import JSONObject, Operation


class AnthropicCountTokens(AnthropicMessages):
    name = "anthropic.count_tokens"
    operation: ClassVar[Operation] = Operation.PASSTHROUGH
    translates = False
    output_cap_fields = ()

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        # What it counts is not what it used.
        return None, ""
