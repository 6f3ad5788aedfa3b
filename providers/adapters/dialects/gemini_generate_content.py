"""Gemini's generateContent and streamGenerateContent: https://ai.google.dev/api/generate-content.

The path says which model, and whether the answer is a stream; the body says neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from providers.adapters.body import RequestHead
from providers.adapters.dialects._gemini_fields import DIALECT
from providers.adapters.dialects._gemini_head import capped, read_generate_head
from providers.adapters.dialects._gemini_reply import read_reply, write_reply
from providers.adapters.dialects._gemini_request import read_conversation
from providers.adapters.dialects._gemini_scanner import GeminiScanner
from providers.adapters.dialects._gemini_stream_reader import GeminiStreamReader
from providers.adapters.dialects._gemini_stream_writer import GeminiStreamWriter
from providers.adapters.dialects._gemini_wire import GeminiWire
from providers.adapters.dialects._gemini_writing import RequestWriter
from providers.adapters.dialects._parameters import GENERATE, with_parameters
from providers.adapters.dialects.base import (
    Limits,
    StreamReader,
    StreamScanner,
    StreamWriter,
    Written,
)
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.reply import Reply
from providers.adapters.types import JSONObject, Operation


class GeminiGenerateContent(GeminiWire):
    name = DIALECT
    operation: ClassVar[Operation] = Operation.CHAT
    translates: ClassVar[bool] = True
    output_cap_fields: ClassVar[tuple[str, ...]] = ("max_tokens",)
    own_headers: ClassVar[tuple[bytes, ...]] = (b"x-goog-",)

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        return read_generate_head(body, model=model, stream=stream)

    def deciding_fields(self, fields: JSONObject) -> JSONObject | None:
        # What `cachedContent` names can be deleted and made anew; `labels` are for bills.
        if fields.get("cachedContent") or fields.get("cached_content"):
            return None
        return {name: value for name, value in fields.items() if name not in {"model", "labels"}}

    def with_parameters(self, body: bytes, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> bytes:
        return with_parameters(body, defaults, overrides, GENERATE)

    def with_output_cap(self, body: bytes, fields: tuple[str, ...], cap: int) -> bytes:
        return capped(body, cap)

    def scanner(self, *, strip_usage: bool) -> StreamScanner:
        return GeminiScanner()

    def read_request(self, body: bytes, *, model: str = "", stream: bool | None = None) -> Conversation:
        return read_conversation(body, model=model, stream=bool(stream))

    def write_request(self, conversation: Conversation, limits: Limits) -> Written:
        return RequestWriter(conversation, limits).written()

    def read_reply(self, body: bytes) -> Reply:
        return read_reply(body)

    def write_reply(self, reply: Reply, asked: Conversation) -> bytes:
        return write_reply(reply, asked)

    def stream_reader(self) -> StreamReader:
        return GeminiStreamReader()

    def stream_writer(self, asked: Conversation) -> StreamWriter:
        return GeminiStreamWriter(asked)
