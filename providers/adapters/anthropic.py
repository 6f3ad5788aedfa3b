"""Anthropic: https://platform.claude.com/docs/en/api/overview."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.base import Adapter
from providers.adapters.dialects._messages_errors import kind_of
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import ErrorKind, Headers, JSONObject, NativeCall, Operation

_COUNT = "anthropic.count_tokens"


class Anthropic(Adapter):
    name = "anthropic"
    keeps_natively = frozenset({"files", "messages/batches", "skills"})
    vendor = "claude"
    task_type = "summarization"
    trial_model = "claude-haiku-4-5"
    base_url = "https://api.anthropic.com/v1"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT})
    api_key_variables = ("ANTHROPIC_API_KEY", "CLAUDE_API_KEY")
    chars_per_token = 3.0
    # What it tells a model about tools.
    hidden_input_tokens = 1_000
    max_image_tokens = 5_000

    def dialects(self) -> tuple[str, ...]:
        return ("anthropic.messages",)

    def path(self, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        return "/messages/count_tokens" if dialect.name == _COUNT else "/messages"

    def native_call(self, path: str) -> NativeCall | None:
        if path.endswith("/messages/count_tokens"):
            return NativeCall(_COUNT, path)
        return super().native_call(path)

    def headers(self, secret: str | None) -> Headers:
        return ((b"x-api-key", secret.encode("latin-1")),) if secret else ()

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        return kind_of((body or {}).get("error"), status)
