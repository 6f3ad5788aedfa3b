"""Streams of OpenAI's chat completions, written event by event."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from providers.adapters.dialects._chat_reasoning import write_details
from providers.adapters.dialects._chat_reply import (
    new_id,
    shifted,
    write_citation,
    write_finish,
    write_image,
    write_usage,
)
from providers.adapters.dialects._chat_tools import write_signature
from providers.adapters.dialects.base import ERROR_CODES, ERROR_TYPES, WireError
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    Conversation,
    Image,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
)
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Started,
)
from providers.adapters.types import JSONObject, Usage

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class _Choice:
    """What was said so far of one choice."""

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}  # as they began
        self.calls: dict[int, int] = {}  # by block: the number of the call
        self.thoughts: dict[int, list[Delta]] = {}  # those of blocks that may be signed
        self.texts: dict[int, int] = {}  # by block: how much text stood before it
        self.length = 0  # of the text

    def kinds(self) -> set[type[Any]]:
        return {type(block) for block in self.blocks.values()}


class ChatStreamWriter:
    """Writes what unmodified clients understand: `data` lines alone, `[DONE]` at the end."""

    def __init__(self, asked: Conversation, error_event: Callable[[WireError], bytes]) -> None:
        self._asked = asked
        self._error_event = error_event
        self._head = b""
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None

    def write(self, event: Event) -> bytes:
        match event:
            case Delta():
                return self._delta(event)
            case BlockStarted():
                return self._block(event)
            case BlockEnded():
                return self._end_of_block(event)
            case ChoiceEnded():
                return self._end_of_choice(event)
            case Started():
                return self._start(event)
            case Ended():
                return self._end(event)
            case Failed():
                error = WireError(502, event.message, ERROR_TYPES[event.kind], ERROR_CODES[event.kind])
                return self._error_event(error)

    def _start(self, event: Started) -> bytes:
        head: JSONObject = {
            "id": event.id or new_id(),
            "object": "chat.completion.chunk",
            "created": event.created or int(time.time()),
            "model": event.model or self._asked.model,
        }
        if event.service_tier:
            head["service_tier"] = event.service_tier
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._usage = event.usage
        return self._role(0) if 0 not in self._choices else b""

    def _chunk(self, number: int, delta: JSONObject, finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": number, "delta": delta, "finish_reason": finish, **more}
        return self._head + _encode(choice) + b"]}\n\n"

    def _role(self, number: int) -> bytes:
        self._choices[number] = _Choice()
        return self._chunk(number, {"role": "assistant", "content": ""})

    def _known(self, number: int) -> bytes:
        return b"" if number in self._choices else self._role(number)

    def _block(self, event: BlockStarted) -> bytes:
        role = self._known(event.choice)
        choice = self._choices[event.choice]
        choice.blocks[event.index] = event.block
        delta = self._first(choice, event)
        return role + self._chunk(event.choice, delta) if delta else role

    def _first(self, choice: _Choice, event: BlockStarted) -> JSONObject:
        match event.block:
            case ToolCall() as call:
                choice.calls[event.index] = number = len(choice.calls)
                return self._call(call, number)
            case Text() as text:
                choice.texts[event.index] = choice.length
                choice.length += len(text.text)
                return {"content": text.text} if text.text else {}
            case Reasoning() as thought:
                choice.thoughts[event.index] = []
                return {"reasoning_content": thought.text} if thought.text else {}
            case Refusal() as refusal:
                return {"refusal": refusal.text} if refusal.text else {}
            case Audio() as sound:
                return {"audio": {"id": sound.id}} if sound.id else {}
            case Image() as image:
                return {"images": [write_image(image)]}
            case _:
                return {}  # There is no word for it here.

    def _call(self, call: ToolCall, number: int) -> JSONObject:
        if self._asked.legacy_functions:
            return {"function_call": {"name": call.name, "arguments": call.arguments}}
        kind, arguments = ("custom", "input") if call.custom else ("function", "arguments")
        called = {"name": call.name, arguments: call.arguments}
        started = {"index": number, "id": call.id, "type": kind, kind: called, **write_signature(call.signature)}
        return {"tool_calls": [started]}

    def _delta(self, event: Delta) -> bytes:
        choice = self._choices[event.choice]
        delta = self._more(choice, event)
        if event.logprobs is not None:
            return self._chunk(event.choice, delta, logprobs=event.logprobs)
        return self._chunk(event.choice, delta) if delta else b""

    def _more(self, choice: _Choice, event: Delta) -> JSONObject:
        match choice.blocks[event.index]:
            case Text():
                return self._text(choice, event)
            case ToolCall() as call:
                return self._arguments(choice, call, event)
            case Reasoning():
                choice.thoughts[event.index].append(event)
                return {"reasoning_content": event.text} if event.text else {}
            case Refusal():
                return {"refusal": event.text} if event.text else {}
            case Audio():
                sound = {"data": event.audio, "transcript": event.text}
                return {"audio": {name: value for name, value in sound.items() if value}}
            case _:
                return {}

    def _text(self, choice: _Choice, event: Delta) -> JSONObject:
        delta: JSONObject = {"content": event.text} if event.text else {}
        choice.length += len(event.text)
        if event.citation and (cited := write_citation(shifted(event.citation, choice.texts[event.index]))):
            delta["annotations"] = [cited]
        return delta

    def _arguments(self, choice: _Choice, call: ToolCall, event: Delta) -> JSONObject:
        if self._asked.legacy_functions:
            return {"function_call": {"arguments": event.text}} if event.text else {}
        if not (event.text or event.signature):
            return {}
        delta: JSONObject = {"index": choice.calls[event.index]}
        if event.text:
            delta |= {"custom": {"input": event.text}} if call.custom else {"function": {"arguments": event.text}}
        return {"tool_calls": [{**delta, **write_signature(event.signature)}]}

    def _end_of_block(self, event: BlockEnded) -> bytes:
        choice = self._choices[event.choice]
        block = choice.blocks[event.index]
        if not isinstance(block, Reasoning):
            return b""
        # Thoughts that somebody signed are told once more in full, for they must come back unchanged.
        deltas = choice.thoughts[event.index]
        whole = msgspec.structs.replace(
            block,
            text=block.text + "".join(delta.text for delta in deltas),
            signature=block.signature + "".join(delta.signature for delta in deltas),
            encrypted=block.encrypted + "".join(delta.encrypted for delta in deltas),
        )
        number = list(choice.thoughts).index(event.index)
        details = write_details(whole, number)
        return self._chunk(event.choice, {"reasoning_details": details}) if details else b""

    def _end_of_choice(self, event: ChoiceEnded) -> bytes:
        role = self._known(event.choice)
        finish = write_finish(event.finish, self._choices[event.choice].kinds(), self._asked)
        more = {"stop_reason": event.stop_sequence} if event.stop_sequence else {}
        return role + self._chunk(event.choice, {}, finish, **more)

    def _end(self, event: Ended) -> bytes:
        usage = event.usage or self._usage
        if usage is None or not self._asked.include_usage:
            return DONE
        return self._head + b'],"usage":' + _encode(write_usage(usage)) + b"}\n\n" + DONE
