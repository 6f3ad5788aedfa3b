"""Anthropic's Messages: https://platform.claude.com/docs/en/api/messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from providers.adapters.body import RequestHead, read_head, with_output_cap
from providers.adapters.dialects._messages_blocks import DIALECT
from providers.adapters.dialects._messages_errors import error_body, error_event
from providers.adapters.dialects._messages_reply import answer_usage, read_reply, read_usage, write_reply
from providers.adapters.dialects._messages_request import read_request
from providers.adapters.dialects._messages_scanner import MessagesScanner
from providers.adapters.dialects._messages_stream import MessagesReader
from providers.adapters.dialects._messages_stream_writer import MessagesWriter
from providers.adapters.dialects._messages_writing import write_request
from providers.adapters.dialects._parameters import MESSAGES, with_parameters
from providers.adapters.dialects.base import (
    Dialect,
    Limits,
    StreamReader,
    StreamScanner,
    StreamWriter,
    WireError,
    Written,
)
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.reply import Reply
from providers.adapters.errors import MalformedBodyError
from providers.adapters.references import may_name
from providers.adapters.types import Headers, JSONObject, Operation, Usage


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Own(msgspec.Struct):
    metadata: _Metadata | None = None


_decode_own = msgspec.json.Decoder(_Own).decode


def _named(body: bytes, model: str, stream: bool | None) -> bytes:
    """`body` with what the path says, where it says it; a body that names a model besides is refused as naming two."""
    if not model:
        return body
    said = msgspec.json.encode({"model": model} if stream is None else {"model": model, "stream": stream})
    start = body.find(b"{") + 1
    separator = b"" if body[start:].lstrip().startswith(b"}") else b","
    return body[:start] + said[1:-1] + separator + body[start:] if start else body


class AnthropicMessages(Dialect):
    name = DIALECT
    operation: ClassVar[Operation] = Operation.CHAT
    translates = True
    output_cap_fields: ClassVar[tuple[str, ...]] = ("max_tokens",)
    own_headers = (b"anthropic-",)
    request_id_header = b"request-id"
    needed_headers: ClassVar[Headers] = ((b"anthropic-version", b"2023-06-01"),)

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        head = read_head(_named(body, model, stream))
        if body.rfind(b'"user_id"') < 0:
            return head
        try:
            metadata = _decode_own(body).metadata
        except msgspec.ValidationError:
            raise MalformedBodyError("`metadata.user_id` must be a string.", param="metadata.user_id") from None
        return msgspec.structs.replace(head, user=metadata.user_id) if metadata else head

    def may_name_kept(self, body: bytes) -> bool:
        return may_name(body, (b'"file_id"', b'"container"'))

    def deciding_fields(self, fields: JSONObject) -> JSONObject | None:
        # A container is where a provider runs code, and changes from call to call. A cap of 0 only fills its cache.
        if fields.get("container") or fields.get("max_tokens") == 0:
            return None
        return {name: value for name, value in fields.items() if name not in {"model", "stream", "metadata"}}

    def with_parameters(self, body: bytes, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> bytes:
        return with_parameters(body, defaults, overrides, MESSAGES)

    def with_output_cap(self, body: bytes, fields: tuple[str, ...], cap: int) -> bytes:
        # Zero asks for no answer at all, only for the cache to be filled.
        return body if read_head(body).max_tokens == 0 else with_output_cap(body, fields, cap)

    def scanner(self, *, strip_usage: bool) -> StreamScanner:
        return MessagesScanner()

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        return answer_usage(body)

    def usage(self, raw: JSONObject) -> Usage:
        return read_usage(raw)

    def error_body(self, error: WireError) -> bytes:
        return error_body(error)

    def error_event(self, error: WireError) -> bytes:
        return error_event(error)

    def read_request(self, body: bytes, *, model: str = "", stream: bool | None = None) -> Conversation:
        return read_request(_named(body, model, stream))

    def write_request(self, conversation: Conversation, limits: Limits) -> Written:
        return write_request(conversation, limits)

    def read_reply(self, body: bytes) -> Reply:
        return read_reply(body)

    def write_reply(self, reply: Reply, asked: Conversation) -> bytes:
        return write_reply(reply)

    def stream_reader(self) -> StreamReader:
        return MessagesReader()

    def stream_writer(self, asked: Conversation) -> StreamWriter:
        return MessagesWriter()
