"""Bedrock's Converse and ConverseStream: https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference.html.

Any dialect is translated into it. A caller who speaks it reaches Bedrock alone: it is not translated from.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from providers.adapters.body import RequestHead
from providers.adapters.dialects._converse_reply import (
    ConverseReader,
    ConverseScanner,
    answer_usage,
    read_reply,
    read_usage,
)
from providers.adapters.dialects._converse_writing import DIALECT, write_request
from providers.adapters.dialects.base import Dialect, Limits, StreamReader, StreamScanner, WireError, Written
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.reply import Reply
from providers.adapters.errors import MalformedBodyError
from providers.adapters.types import JSONObject, Operation, Usage


class _Inference(msgspec.Struct):
    max_tokens: int | None = msgspec.field(default=None, name="maxTokens")


class _Request(msgspec.Struct):
    inference: _Inference | None = msgspec.field(default=None, name="inferenceConfig")


_decode = msgspec.json.Decoder(_Request).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class BedrockConverse(Dialect):
    name = DIALECT
    operation: ClassVar[Operation] = Operation.CHAT
    translates = True
    translates_requests = False
    output_cap_fields = ("max_tokens",)
    own_headers = (b"x-amzn-", b"x-amz-")

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        try:
            inference = _decode(body).inference
        except msgspec.ValidationError:
            raise MalformedBodyError(
                "`inferenceConfig.maxTokens` must be an integer.", param="inferenceConfig.maxTokens"
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedBodyError(f"The request body is not valid JSON: {error}.") from None
        return RequestHead(model=model, stream=stream, max_tokens=inference.max_tokens if inference else None)

    def with_model(self, body: bytes, head: RequestHead, model: str) -> bytes:
        return body  # The path names it.

    def with_output_cap(self, body: bytes, fields: tuple[str, ...], cap: int) -> bytes:
        request = _decode_fields(body)
        inference = msgspec.json.decode(request.get("inferenceConfig", b"{}"), type=dict[str, msgspec.Raw])
        present = msgspec.json.decode(inference.get("maxTokens", b"null"), type=int | None)
        if present is None or not 0 < present <= cap:
            inference["maxTokens"] = msgspec.Raw(b"%d" % cap)
        request["inferenceConfig"] = msgspec.Raw(msgspec.json.encode(inference))
        return msgspec.json.encode(request)

    def scanner(self, *, strip_usage: bool) -> StreamScanner:
        return ConverseScanner()

    def is_stream(self, content_type: bytes) -> bool:
        return content_type.startswith(b"application/vnd.amazon.eventstream")

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        return answer_usage(body)

    def usage(self, raw: JSONObject) -> Usage:
        return read_usage(raw)

    def error_body(self, error: WireError) -> bytes:
        return msgspec.json.encode({"message": error.message})

    def error_event(self, error: WireError) -> bytes:
        # Clients take a stream that ends without its metadata for broken off; a frame of ours they might not know.
        return b""

    def write_request(self, conversation: Conversation, limits: Limits) -> Written:
        return write_request(conversation, limits)

    def read_reply(self, body: bytes) -> Reply:
        return read_reply(body)

    def stream_reader(self) -> StreamReader:
        return ConverseReader()
