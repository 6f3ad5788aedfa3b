"""What providers that speak OpenAI's protocol have in common."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.base import Adapter
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import ErrorKind, Headers, JSONObject, Operation, Usage

PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.TEXT_COMPLETION: "/completions",
    Operation.EMBEDDINGS: "/embeddings",
}


MAX_COUNT = 10**9
"""Tokens that one answer can have used. More is a provider's fault, and would not fit the ledger as money."""


class OpenAICompatible(Adapter):
    """An OpenAI-shaped API: bearer token, `/chat/completions`, `usage.prompt_tokens`."""

    operations: ClassVar[frozenset[Operation]] = frozenset(PATHS)
    error_codes: ClassVar[dict[str, ErrorKind]] = {}
    """What the provider's own error codes mean, before its status is looked at."""

    def path(self, operation: Operation, model: str) -> str:
        return PATHS[operation]

    def headers(self, secret: str | None) -> Headers:
        return ((b"authorization", b"Bearer " + secret.encode("latin-1")),) if secret else ()

    def usage(self, raw: JSONObject) -> Usage:
        input_tokens = _count(raw, "prompt_tokens")
        output_tokens = _count(raw, "completion_tokens")
        input_details = _object(raw, "prompt_tokens_details")
        output_details = _object(raw, "completion_tokens_details")
        cached, audio_in = _count(input_details, "cached_tokens"), _count(input_details, "audio_tokens")
        reasoning, audio_out = _count(output_details, "reasoning_tokens"), _count(output_details, "audio_tokens")
        if reasoning and _count(raw, "total_tokens") == input_tokens + output_tokens + reasoning:
            # Some count reasoning on top of the completion; their total tells.
            output_tokens += reasoning
        text_in, text_out = input_tokens - cached - audio_in, output_tokens - reasoning - audio_out
        if text_in < 0 or text_out < 0:
            # Details that exceed their own total cannot be split: bill the totals, flag the row.
            return Usage(input=input_tokens, output=output_tokens, consistent=False)
        return Usage(
            input=text_in,
            cache_read=cached,
            audio_input=audio_in,
            output=text_out,
            reasoning=reasoning,
            audio_output=audio_out,
        )

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        error = _object(body or {}, "error")
        code = str(error.get("code") or error.get("type") or "")
        if code in self.error_codes:
            return self.error_codes[code]
        if status in (401, 403):
            return ErrorKind.AUTHENTICATION
        if code == "insufficient_quota" or status == 402:
            return ErrorKind.QUOTA_EXHAUSTED
        if status == 429:
            return ErrorKind.RATE_LIMITED
        if status in (503, 529):
            return ErrorKind.OVERLOADED
        if status >= 500 or status == 408:
            return ErrorKind.SERVER_ERROR
        if code == "context_length_exceeded":
            return ErrorKind.CONTEXT_TOO_LONG
        if code in {"content_policy_violation", "content_filter"}:
            return ErrorKind.CONTENT_POLICY
        return ErrorKind.INVALID_REQUEST

    def output_cap_fields(self, operation: Operation) -> tuple[str, ...]:
        if operation is Operation.CHAT:
            return ("max_tokens", "max_completion_tokens")
        return ("max_tokens",) if operation is Operation.TEXT_COMPLETION else ()


def _object(raw: JSONObject, name: str) -> JSONObject:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _count(raw: JSONObject, name: str) -> int:
    value = raw.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_COUNT:
        raise MalformedUsageError(f"{name} is {value!r}, not a count of tokens")
    return int(value)
