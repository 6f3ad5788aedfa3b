"""Streams of OpenAI's Responses, written event by event."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.dialects._responses_items import write_output_part, write_reasoning
from providers.adapters.dialects._responses_parts import write_citation
from providers.adapters.dialects._responses_reply import (
    ResponseFrame,
    call_words,
    new_id,
    new_message,
    write_call,
    write_item,
)
from providers.adapters.dialects.base import ERROR_CODES
from providers.adapters.dialects.conversation import Audio, Block, Conversation, Reasoning, Refusal, Text, ToolCall
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Finish,
    Started,
)
from providers.adapters.types import JSONObject, Usage

_encode = msgspec.json.encode
_CODES = {
    "rate_limit_exceeded": "rate_limit_exceeded",
    "context_length_exceeded": "context_length_exceeded",
    "insufficient_quota": "insufficient_quota",
}
"""Those of `ERROR_CODES` that clients of this format know; every other is `server_error`."""


class _Message:
    """A message item that is being written: the texts and refusals that follow each other are its parts."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.item = new_message("in_progress")
        self.open: set[int] = set()
        """The blocks whose parts are not complete."""
        self.is_closing = False
        """Something else follows, so that it ends with its last part."""


class _Part:
    """What one block becomes."""

    def __init__(self, block: Block, index: int, item_id: str, message: _Message | None = None) -> None:
        self.block = block
        self.index = index
        self.item_id = item_id
        self.message = message
        self.number = 0  # among the parts of its message
        self.texts: list[str] = []
        self.sealed: list[tuple[str, str]] = []
        self.annotations: list[JSONObject] = []
        self.logprobs: list[Any] = []
        self.has_summary = False

    @property
    def text(self) -> str:
        return "".join(self.texts)


class ResponsesStreamWriter:
    """Numbers every event, and tells each piece, part and item once more in full when it is complete."""

    def __init__(self, asked: Conversation) -> None:
        self._asked = asked
        self._frame = ResponseFrame(asked, "", "", 0, "")
        self._number = -1
        self._items: list[JSONObject] = []
        self._message: _Message | None = None
        self._parts: dict[int, _Part] = {}
        self._finish: Finish = "other"
        self._usage: Usage | None = None

    def write(self, event: Event) -> bytes:
        match event:
            case Started():
                return self._start(event)
            case Ended():
                return self._end(event)
            case Failed():
                code = _CODES.get(ERROR_CODES[event.kind], "server_error")
                return self._event("response.failed", response=self._frame.failed(self._items, code, event.message))
            case _ if event.choice:
                return b""  # There is only one answer here.
            case Delta():
                return self._delta(self._parts[event.index], event)
            case BlockStarted():
                return self._begin(event)
            case BlockEnded():
                return self._end_of_block(self._parts[event.index])
            case ChoiceEnded():
                self._finish = event.finish
                return self._close_message()

    def _event(self, name: str, /, **fields: Any) -> bytes:
        self._number += 1
        said = {"type": name, "sequence_number": self._number, **fields}
        return b"event: " + name.encode() + b"\ndata: " + _encode(said) + b"\n\n"

    def _of(self, part: _Part, name: str, /, **fields: Any) -> bytes:
        """An event about a part of an item."""
        if part.message is not None:
            fields["content_index"] = part.number
        return self._event(name, item_id=part.item_id, output_index=part.index, **fields)

    def _start(self, event: Started) -> bytes:
        self._frame = ResponseFrame(self._asked, event.id, event.model, event.created, event.service_tier)
        self._usage = event.usage
        begun = self._frame.begun()
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def _end(self, event: Ended) -> bytes:
        response = self._frame.ended(self._items, self._finish, event.usage or self._usage)
        return self._close_message() + self._event(f"response.{response['status']}", response=response)

    # ── items ──

    def _added(self, item: JSONObject) -> bytes:
        self._items.append(item)
        return self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)

    def _done(self, index: int, item: JSONObject) -> bytes:
        self._items[index] = item
        return self._event("response.output_item.done", output_index=index, item=item)

    def _begin(self, event: BlockStarted) -> bytes:
        block = event.block
        if isinstance(block, (Text, Refusal, Audio)):
            return self._begin_part(event.index, Text("") if isinstance(block, Audio) else block)
        before = self._close_message()
        index = len(self._items)
        if isinstance(block, ToolCall):
            part = self._parts[event.index] = _Part(block, index, new_id(call_words(block)[2]))
            empty = msgspec.structs.replace(block, arguments="")
            added = self._added(write_call(empty, item_id=part.item_id, status="in_progress"))
            return before + added + (self._arguments(part, block.arguments) if block.arguments else b"")
        if isinstance(block, Reasoning):
            part = self._parts[event.index] = _Part(block, index, block.id or new_id("rs"))
            added = self._added({"id": part.item_id, "type": "reasoning", "summary": []})
            return before + added + (self._thought(part, block.text) if block.text else b"")
        self._parts[event.index] = _Part(block, index, "")
        item = write_item(block)
        return before if item is None else before + self._added(item) + self._done(index, item)

    def _begin_part(self, block_index: int, block: Text | Refusal) -> bytes:
        written = b""
        message = self._message
        if message is None:
            message = self._message = _Message(len(self._items))
            written = self._added({**message.item, "content": []})
        part = _Part(block, message.index, message.item["id"], message)
        part.number = len(message.item["content"])
        message.item["content"].append(empty := write_output_part(type(block)("")))
        message.open.add(part.number)
        self._parts[block_index] = part
        written += self._of(part, "response.content_part.added", part=empty)
        return written + (self._said(part, block.text, None) if block.text else b"")

    def _close_message(self) -> bytes:
        message, self._message = self._message, None
        if message is None:
            return b""
        message.is_closing = True
        return b"" if message.open else self._done_message(message)

    def _done_message(self, message: _Message) -> bytes:
        message.item["status"] = "completed"
        return self._done(message.index, message.item)

    # ── pieces ──

    def _delta(self, part: _Part, event: Delta) -> bytes:
        match part.block:
            case Text() | Refusal():
                return self._said_more(part, event)
            case ToolCall():
                return self._arguments(part, event.text) if event.text else b""
            case Reasoning():
                if event.signature or event.encrypted:
                    part.sealed.append((event.signature, event.encrypted))
                return self._thought(part, event.text) if event.text else b""
            case _:
                return b""

    def _said_more(self, part: _Part, event: Delta) -> bytes:
        logprobs = (event.logprobs or {}).get("content")
        written = self._said(part, event.text, logprobs) if event.text or logprobs else b""
        if event.citation is None or not (cited := write_citation(event.citation)):
            return written
        part.annotations.append(cited)
        number = len(part.annotations) - 1
        name = "response.output_text.annotation.added"
        return written + self._of(part, name, annotation_index=number, annotation=cited)

    def _said(self, part: _Part, text: str, logprobs: list[Any] | None) -> bytes:
        part.texts.append(text)
        if isinstance(part.block, Refusal):
            return self._of(part, "response.refusal.delta", delta=text)
        part.logprobs += logprobs or ()
        return self._of(part, "response.output_text.delta", delta=text, logprobs=logprobs or [])

    def _arguments(self, part: _Part, text: str) -> bytes:
        part.texts.append(text)
        assert isinstance(part.block, ToolCall)
        kind, name, _ = call_words(part.block)
        return self._of(part, f"response.{_event_word(kind, name)}.delta", delta=text)

    def _thought(self, part: _Part, text: str) -> bytes:
        written = b""
        if not part.has_summary:
            part.has_summary = True
            empty = {"type": "summary_text", "text": ""}
            written = self._of(part, "response.reasoning_summary_part.added", summary_index=0, part=empty)
        part.texts.append(text)
        return written + self._of(part, "response.reasoning_summary_text.delta", summary_index=0, delta=text)

    # ── ends ──

    def _end_of_block(self, part: _Part) -> bytes:
        match part.block:
            case Text() | Refusal():
                return self._end_of_part(part)
            case ToolCall() as call:
                return self._end_of_call(part, call)
            case Reasoning() as thought:
                return self._end_of_thought(part, thought)
            case _:
                return b""

    def _end_of_part(self, part: _Part) -> bytes:
        message = part.message
        assert message is not None
        whole = message.item["content"][part.number]
        if isinstance(part.block, Refusal):
            whole["refusal"] = part.text
            written = self._of(part, "response.refusal.done", refusal=part.text)
        else:
            whole |= {"text": part.text, "annotations": part.annotations}
            if part.logprobs:
                whole["logprobs"] = part.logprobs
            written = self._of(part, "response.output_text.done", text=part.text, logprobs=part.logprobs)
        written += self._of(part, "response.content_part.done", part=whole)
        message.open.discard(part.number)
        return written + (self._done_message(message) if message.is_closing and not message.open else b"")

    def _end_of_call(self, part: _Part, call: ToolCall) -> bytes:
        kind, name, _ = call_words(call)
        whole = write_call(msgspec.structs.replace(call, arguments=part.text), item_id=part.item_id)
        written = self._of(part, f"response.{_event_word(kind, name)}.done", **{name: part.text})
        return written + self._done(part.index, whole)

    def _end_of_thought(self, part: _Part, thought: Reasoning) -> bytes:
        written = b""
        if part.has_summary:
            whole = {"type": "summary_text", "text": part.text}
            written = self._of(part, "response.reasoning_summary_text.done", summary_index=0, text=part.text)
            written += self._of(part, "response.reasoning_summary_part.done", summary_index=0, part=whole)
        block = msgspec.structs.replace(
            thought,
            text=part.text,
            signature=thought.signature + "".join(signature for signature, _ in part.sealed),
            encrypted=thought.encrypted + "".join(encrypted for _, encrypted in part.sealed),
        )
        return written + self._done(part.index, write_reasoning(block, part.item_id))


def _event_word(kind: str, name: str) -> str:
    return f"{kind}_{name}"
