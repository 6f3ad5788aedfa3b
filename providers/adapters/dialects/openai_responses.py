"""OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import msgspec

from providers.adapters.body import RequestHead, read_head
from providers.adapters.dialects._openai_wire import OpenAIWire
from providers.adapters.dialects._parameters import RESPONSES, with_parameters
from providers.adapters.dialects._responses_parts import DIALECT
from providers.adapters.dialects._responses_reply import read_reply, read_usage, write_reply
from providers.adapters.dialects._responses_request import read_request, write_request
from providers.adapters.dialects._responses_scanner import ResponsesScanner, answer_usage
from providers.adapters.dialects._responses_stream_reader import ResponsesStreamReader
from providers.adapters.dialects._responses_stream_writer import ResponsesStreamWriter
from providers.adapters.dialects.base import Limits, StreamReader, StreamScanner, StreamWriter, WireError, Written
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.reply import Reply
from providers.adapters.errors import MalformedBodyError
from providers.adapters.references import may_name
from providers.adapters.types import JSONObject, Operation, Usage

LONGEST_ID = 200


class _Own(msgspec.Struct):
    background: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    store: Any = None


class _Item(msgspec.Struct):
    id: Any = None
    type: Any = None
    role: Any = None

    @property
    def is_reference(self) -> bool:
        """Its type may be left out, as may that of messages, which have a role."""
        return isinstance(self.id, str) and (self.type == "item_reference" or (self.type is None and self.role is None))


class _Input(msgspec.Struct):
    input: list[_Item]


class Reference(NamedTuple):
    """What a request has to do with what is kept of others."""

    previous_response_id: str
    """Empty: it goes on from none."""
    conversation: str
    """The id of one that the provider keeps."""
    store: bool | None
    """Whether its answer is to be kept; None: it does not say."""
    items: tuple[str, ...] = ()
    """Ids of items of earlier answers that stand for the items themselves."""


_KEPT_ELSEWHERE = ("previous_response_id", "conversation", "prompt", "background")
_decode_input = msgspec.json.Decoder(_Input).decode
_NAMES_KEPT = (b'"file_id"', b'"file_ids"', b'"vector_store_ids"', b'"container"')
_decode_own = msgspec.json.Decoder(_Own).decode


def read_reference(body: bytes) -> Reference:
    """Of a body whose head could be read.

    Raises:
        MalformedBodyError: a field is not what it should be.
    """
    own = _decode_own(body)
    conversation = own.conversation
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    store = own.store
    if store is not None and not isinstance(store, bool):
        raise MalformedBodyError("`store` must be true or false.", param="store")
    previous = _id(own.previous_response_id, "previous_response_id")
    return Reference(previous, _id(conversation, "conversation"), store, _referred_items(body))


def _referred_items(body: bytes) -> tuple[str, ...]:
    """Most bodies are passed over without reading their items; JSON can write any letter as an escape."""
    if not may_name(body, (b'"id"',)):
        return ()
    try:
        items = _decode_input(body).input
    except (msgspec.MsgspecError, RecursionError):
        return ()  # A text, or what no provider takes.
    return tuple([item.id for item in items if item.is_reference])


def _id(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > LONGEST_ID:
        raise MalformedBodyError(f"`{name}` must be an id: a string of up to {LONGEST_ID} characters.", param=name)
    return value


class OpenAIResponses(OpenAIWire):
    name = DIALECT
    operation: ClassVar[Operation] = Operation.CHAT
    translates = True
    refers_to_kept = True
    output_cap_fields = ("max_output_tokens",)

    def with_parameters(self, body: bytes, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> bytes:
        return with_parameters(body, defaults, overrides, RESPONSES)

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        head = read_head(body)
        if _decode_own(body).background:
            raise MalformedBodyError(
                "`background` is not offered: an answer that comes later can be neither metered nor billed. Leave it "
                "out, and stream if the answer takes long.",
                param="background",
            )
        return head

    def may_name_kept(self, body: bytes) -> bool:
        return may_name(body, _NAMES_KEPT)

    def deciding_fields(self, fields: JSONObject) -> JSONObject | None:
        # An answer repeats what was asked, so everything decides it. Without `store: false` it is kept at the provider,
        # to be gone on from.
        if fields.get("store") is not False or any(fields.get(name) for name in _KEPT_ELSEWHERE):
            return None
        return {name: value for name, value in fields.items() if name not in {"model", "stream", "stream_options"}}

    def scanner(self, *, strip_usage: bool) -> StreamScanner:
        return ResponsesScanner()

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        return answer_usage(body)

    def usage(self, raw: JSONObject) -> Usage:
        return read_usage(raw)

    def error_event(self, error: WireError) -> bytes:
        said = {
            "type": "error",
            "sequence_number": 0,
            "code": error.code,
            "message": error.message,
            "param": error.param,
        }
        return b"\n\nevent: error\ndata: " + msgspec.json.encode(said) + b"\n\n"

    def read_request(self, body: bytes, *, model: str = "", stream: bool | None = None) -> Conversation:
        return read_request(body, model=model, stream=stream)

    def write_request(self, conversation: Conversation, limits: Limits) -> Written:
        return write_request(conversation, limits)

    def read_reply(self, body: bytes) -> Reply:
        return read_reply(body)

    def write_reply(self, reply: Reply, asked: Conversation) -> bytes:
        return write_reply(reply, asked)

    def stream_reader(self) -> StreamReader:
        return ResponsesStreamReader()

    def stream_writer(self, asked: Conversation) -> StreamWriter:
        return ResponsesStreamWriter(asked)
