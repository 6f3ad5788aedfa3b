"""OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.body import RequestHead, with_usage_requested
from providers.adapters.dialects._chat_reply import read_reply, write_reply
from providers.adapters.dialects._chat_request import read_request, write_request
from providers.adapters.dialects._chat_stream_reader import ChatStreamReader
from providers.adapters.dialects._chat_stream_writer import ChatStreamWriter
from providers.adapters.dialects._openai_wire import OpenAIWire, without_caller
from providers.adapters.dialects.base import Limits, StreamReader, StreamWriter, Written
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.reply import Reply
from providers.adapters.references import may_name
from providers.adapters.types import JSONObject, Operation


class OpenAIChat(OpenAIWire):
    name = "openai.chat"
    operation: ClassVar[Operation] = Operation.CHAT
    translates = True
    output_cap_fields: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")

    def deciding_fields(self, fields: JSONObject) -> JSONObject | None:
        return None if fields.get("store") else without_caller(fields)

    def may_name_kept(self, body: bytes) -> bool:
        return may_name(body, (b'"file_id"',))

    def with_usage_requested(self, body: bytes, head: RequestHead) -> bytes:
        return with_usage_requested(body, head)

    def read_request(self, body: bytes, *, model: str = "", stream: bool | None = None) -> Conversation:
        return read_request(body, model=model, stream=stream)

    def write_request(self, conversation: Conversation, limits: Limits) -> Written:
        return write_request(conversation, limits)

    def read_reply(self, body: bytes) -> Reply:
        return read_reply(body, self.usage)

    def write_reply(self, reply: Reply, asked: Conversation) -> bytes:
        return write_reply(reply, asked)

    def stream_reader(self) -> StreamReader:
        return ChatStreamReader(self.usage, self.read_reply)

    def stream_writer(self, asked: Conversation) -> StreamWriter:
        return ChatStreamWriter(asked, self.error_event)
