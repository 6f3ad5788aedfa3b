"""What OpenAI's dialects have in common: their usage object, their errors, and a body that names its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from providers.adapters.dialects._parameters import CHAT, with_parameters
from providers.adapters.dialects.base import Dialect, StreamScanner, WireError
from providers.adapters.errors import MalformedUsageError
from providers.adapters.sse import UsageScanner, json_usage
from providers.adapters.types import JSONObject, Usage

MAX_COUNT = 10**9
"""Tokens that one answer can have used. More is a provider's fault, and would not fit the ledger as money."""


_TOTALS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


class OpenAIWire(Dialect):
    """Bodies with a top-level `model`, errors in `{"error": {…}}`, usage as `prompt_tokens` and `completion_tokens`."""

    def with_parameters(self, body: bytes, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> bytes:
        return with_parameters(body, defaults, overrides, CHAT)

    def scanner(self, *, strip_usage: bool) -> StreamScanner:
        return UsageScanner(strip_usage)

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        return json_usage(body)

    def usage(self, raw: JSONObject) -> Usage:
        if _TOTALS.issuperset(raw):  # As most servers but OpenAI's own say it.
            return Usage(input=count(raw, "prompt_tokens"), output=count(raw, "completion_tokens"))
        input_tokens = count(raw, "prompt_tokens")
        output_tokens = count(raw, "completion_tokens")
        input_details = member(raw, "prompt_tokens_details")
        output_details = member(raw, "completion_tokens_details")
        cached, audio_in = count(input_details, "cached_tokens"), count(input_details, "audio_tokens")
        reasoning, audio_out = count(output_details, "reasoning_tokens"), count(output_details, "audio_tokens")
        if reasoning and count(raw, "total_tokens") == input_tokens + output_tokens + reasoning:
            # Some count reasoning on top of the completion; their total tells.
            output_tokens += reasoning
        text_in, text_out = input_tokens - cached - audio_in, output_tokens - reasoning - audio_out
        # What was written to the cache is among what was not read from it.
        written = min(count(input_details, "cache_write_tokens"), max(text_in, 0))
        if text_in < 0 or text_out < 0:
            # Details that exceed their own total cannot be split: bill the totals, flag the row.
            return Usage(input=input_tokens, output=output_tokens, consistent=False)
        return Usage(
            input=text_in - written,
            cache_read=cached,
            cache_write_5m=written,
            audio_input=audio_in,
            output=text_out,
            reasoning=reasoning,
            audio_output=audio_out,
        )

    def error_body(self, error: WireError) -> bytes:
        return msgspec.json.encode(
            {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
        )

    def error_event(self, error: WireError) -> bytes:
        return b"\n\ndata: " + self.error_body(error) + b"\n\n"


_OF_THE_CALLER = frozenset(
    {"model", "stream", "stream_options", "user", "safety_identifier", "prompt_cache_key", "metadata"}
)
"""Fields that say who asks, where, and how the answer shall come. No answer of these dialects repeats them."""


def without_caller(fields: JSONObject) -> JSONObject:
    return {name: value for name, value in fields.items() if name not in _OF_THE_CALLER}


def member(raw: JSONObject, name: str) -> JSONObject:
    """The object called `name`; empty where there is none."""
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def count(raw: JSONObject, name: str) -> int:
    """The count called `name`; 0 where there is none.

    Raises:
        MalformedUsageError: it is no count that one answer can have.
    """
    value = raw.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_COUNT:
        raise MalformedUsageError(f"{name} is {value!r}, not a count of tokens")
    return int(value)
