"""Mistral's chats: https://docs.mistral.ai/api. OpenAI's in shape, with names and rules of their own.

It refuses fields that it does not know, wants ids of calls in a form of its own, and sends each call of a stream whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from providers.adapters.body import RequestHead
from providers.adapters.dialects._chat_reply import write_usage
from providers.adapters.dialects._chat_request import read_request, write_request
from providers.adapters.dialects._chat_stream_writer import DONE, ChatStreamWriter
from providers.adapters.dialects._mistral_spelling import thought, to_mistral, to_openai
from providers.adapters.dialects.base import Limits, StreamWriter, WireError, Written
from providers.adapters.dialects.conversation import Conversation, ToolCall
from providers.adapters.dialects.openai_chat import OpenAIChat
from providers.adapters.dialects.reply import BlockEnded, BlockStarted, ChoiceEnded, Delta, Ended, Reply
from providers.adapters.errors import MalformedBodyError
from providers.adapters.types import JSONObject

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class MistralChat(OpenAIChat):
    name = "mistral.chat"
    clients = (b"mistral-client",)
    in_place_of = "openai.chat"
    output_cap_fields: ClassVar[tuple[str, ...]] = ("max_tokens",)

    def with_usage_requested(self, body: bytes, head: RequestHead) -> bytes:
        return body  # Streams report it anyway, and the field is refused.

    def read_request(self, body: bytes, *, model: str = "", stream: bool | None = None) -> Conversation:
        try:
            spelled = msgspec.json.encode(to_openai(_decode(body)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedBodyError(f"The request body is not a valid JSON object: {error}.") from None
        asked = read_request(spelled, model=model, stream=stream)
        return msgspec.structs.replace(asked, include_usage=True, dialect=self.name)

    def write_request(self, conversation: Conversation, limits: Limits) -> Written:
        written = write_request(conversation, limits)
        body, unknown = to_mistral(_decode(written.body))
        return Written(msgspec.json.encode(body), tuple(dict.fromkeys((*written.dropped, *unknown))))

    def write_reply(self, reply: Reply, asked: Conversation) -> bytes:
        answer = _decode(super().write_reply(reply, asked))
        for choice in answer["choices"]:
            _spell_thoughts(choice["message"])
        return msgspec.json.encode(answer)

    def stream_writer(self, asked: Conversation) -> StreamWriter:
        return _Writer(asked, self.error_event)


def _spell_thoughts(message: JSONObject) -> None:
    said = message.pop("reasoning_content", None)
    message.pop("reasoning_details", None)
    if said:
        text = message.get("content")
        message["content"] = [thought(said), *([{"type": "text", "text": text}] if text else [])]


class _Writer(ChatStreamWriter):
    """Holds back a call until all of it is there, and the end of a choice until usage is.

    Clients check that every piece of a call names its function, and look for a choice in every event.
    """

    def __init__(self, asked: Conversation, error_event: Callable[[WireError], bytes]) -> None:
        super().__init__(asked, error_event)
        self._held = b""

    def _end_of_choice(self, event: ChoiceEnded) -> bytes:
        before, self._held = self._held, super()._end_of_choice(event)
        return before

    def _end(self, event: Ended) -> bytes:
        held, usage = self._held, event.usage or self._usage
        if held and usage is not None:
            held = held.removesuffix(b"}\n\n") + b',"usage":' + msgspec.json.encode(write_usage(usage)) + b"}\n\n"
        return held + DONE

    def _first(self, choice: Any, event: BlockStarted) -> JSONObject:
        first = super()._first(choice, event)
        return {} if isinstance(event.block, ToolCall) else _spelled(first)

    def _more(self, choice: Any, event: Delta) -> JSONObject:
        if isinstance(block := choice.blocks[event.index], ToolCall):
            more = {"arguments": block.arguments + event.text, "signature": block.signature + event.signature}
            choice.blocks[event.index] = msgspec.structs.replace(block, **more)
            return {}
        return _spelled(super()._more(choice, event))

    def _end_of_block(self, event: BlockEnded) -> bytes:
        choice = self._choices[event.choice]
        block = choice.blocks[event.index]
        if not isinstance(block, ToolCall):
            return b""
        return self._chunk(event.choice, self._call(block, choice.calls[event.index]))


def _spelled(delta: JSONObject) -> JSONObject:
    text = delta.pop("reasoning_content", None)
    return {**delta, "content": [thought(text)]} if text else delta
