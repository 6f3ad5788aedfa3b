"""Streams of OpenAI's Responses, read into events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from providers.adapters.dialects._chat_reply import CallIds, text, whole_number
from providers.adapters.dialects._chat_stream_reader import failure_of
from providers.adapters.dialects._openai_wire import member
from providers.adapters.dialects._responses_items import read_reasoning
from providers.adapters.dialects._responses_parts import DIALECT, read_citation
from providers.adapters.dialects._responses_reply import (
    list_of,
    read_finish,
    read_item,
    read_part,
    read_reply,
    usage_of,
)
from providers.adapters.dialects._searches import noted, searches_of_response
from providers.adapters.dialects.conversation import Block, Reasoning, Refusal, Text, ToolCall
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Started,
    events_of,
)
from providers.adapters.errors import MalformedAnswerError
from providers.adapters.events import EventSplitter, ServerEvent
from providers.adapters.types import ErrorKind, JSONObject

_decode = msgspec.json.Decoder(Any).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_Key = tuple[int, int]
_WHOLE = -1
"""The part of an item that has no parts."""
_CALLS = ("function_call", "custom_tool_call")


class ResponsesStreamReader:
    """Reads what the deltas bring; where a server leaves them out, what it says when a thing is complete."""

    def __init__(self) -> None:
        self.usage_raw: JSONObject | None = None
        self._splitter = EventSplitter()
        self._ids = CallIds()
        self._blocks: dict[_Key, int] = {}
        self._open: set[int] = set()
        self._filled: set[int] = set()  # blocks of which something was said
        self._kinds: set[type[Any]] = set()
        self._has_started = False
        self._is_over = False
        self._readers: dict[str, Callable[[JSONObject], Iterator[Event]]] = {
            "created": self._start,
            "in_progress": self._start,
            "output_text.delta": self._text,
            "refusal.delta": self._refusal,
            "function_call_arguments.delta": self._arguments,
            "custom_tool_call_input.delta": self._arguments,
            "reasoning_summary_part.added": self._next_summary,
            "reasoning_summary_text.delta": self._summary,
            "reasoning_text.delta": self._raw_thought,
            "output_text.annotation.added": self._annotation,
            "content_part.done": self._content_done,
            "output_item.added": self._item_added,
            "output_item.done": self._item_done,
            "completed": self._end,
            "incomplete": self._end,
            "failed": self._failed,
            "error": self._error,
        }

    def feed(self, chunk: bytes) -> Iterator[Event]:
        return self._read(self._splitter.feed(chunk))

    def finish(self) -> Iterator[Event]:
        yield from self._read(self._splitter.finish())
        if (whole := self._splitter.whole) and not self._is_over:
            yield from self._whole(whole)

    def _read(self, events: Iterator[ServerEvent]) -> Iterator[Event]:
        try:
            for event in events:
                if not self._is_over and event.data != b"[DONE]":
                    yield from self._event(event.data)
        except MalformedAnswerError as error:
            yield from self._fail(str(error), ErrorKind.SERVER_ERROR)

    def _event(self, data: bytes) -> Iterator[Event]:
        try:
            event = _decode(data)
        except _UNREADABLE:
            raise MalformedAnswerError("the provider sent an event that is not JSON") from None
        if not isinstance(event, dict):
            raise MalformedAnswerError("the provider sent an event that is not a JSON object")
        reader = self._readers.get(text(event, "type").removeprefix("response."))
        if reader is not None:
            yield from reader(event)

    # ── events, by their type ──

    def _start(self, event: JSONObject) -> Iterator[Event]:
        if self._has_started:
            return
        self._has_started = True
        response = member(event, "response")
        created, tier = whole_number(response, "created_at"), text(response, "service_tier")
        yield Started(text(response, "id"), text(response, "model"), created, service_tier=tier)

    def _text(self, event: JSONObject) -> Iterator[Event]:
        return self._said(event, Text(""))

    def _refusal(self, event: JSONObject) -> Iterator[Event]:
        return self._said(event, Refusal(""))

    def _said(self, event: JSONObject, empty: Text | Refusal) -> Iterator[Event]:
        key = _part_key(event)
        yield from self._begin(key, empty)
        index = self._blocks[key]
        self._filled.add(index)
        logprobs = event.get("logprobs")
        told = {"content": logprobs} if isinstance(logprobs, list) and logprobs else None
        yield Delta(index, text(event, "delta"), logprobs=told)

    def _annotation(self, event: JSONObject) -> Iterator[Event]:
        key = _part_key(event)
        yield from self._begin(key, Text(""))
        yield Delta(self._blocks[key], citation=read_citation(member(event, "annotation")))

    def _arguments(self, event: JSONObject) -> Iterator[Event]:
        return self._more(_item_key(event), text(event, "delta"))

    def _summary(self, event: JSONObject) -> Iterator[Event]:
        return self._thought(event, summary=True)

    def _raw_thought(self, event: JSONObject) -> Iterator[Event]:
        return self._thought(event, summary=False)

    def _thought(self, event: JSONObject, *, summary: bool) -> Iterator[Event]:
        key = _item_key(event)
        yield from self._begin(key, Reasoning(id=text(event, "item_id"), summary=summary, dialect=DIALECT))
        yield from self._more(key, text(event, "delta"))

    def _next_summary(self, event: JSONObject) -> Iterator[Event]:
        return self._more(_item_key(event), "\n\n" if whole_number(event, "summary_index") else "")

    def _item_added(self, event: JSONObject) -> Iterator[Event]:
        item = member(event, "item")
        if item.get("type") in _CALLS:
            yield from self._call(_item_key(event), item)

    def _content_done(self, event: JSONObject) -> Iterator[Event]:
        return self._end_of_part(_part_key(event), read_part(event.get("part")))

    def _item_done(self, event: JSONObject) -> Iterator[Event]:
        key, item = _item_key(event), member(event, "item")
        kind = item.get("type")
        if kind == "message":
            for number, part in enumerate(list_of(item, "content")):
                if (key[0], number) not in self._blocks:
                    yield from self._end_of_part((key[0], number), read_part(part))
            return
        if kind in _CALLS:
            yield from self._call(key, item)
        elif kind == "reasoning":
            yield from self._whole_thought(key, read_reasoning(item))
        else:
            yield from self._begin(key, read_item(item, self._ids))
        yield from self._close(key)

    def _end(self, event: JSONObject) -> Iterator[Event]:
        yield from self._start(event)
        response = member(event, "response")
        self.usage_raw = noted(response.get("usage"), searches_of_response(response))
        for index in sorted(self._open):
            yield BlockEnded(index)
        self._is_over = True
        yield ChoiceEnded(read_finish(response, self._kinds))
        yield Ended(usage_of(response))

    def _failed(self, event: JSONObject) -> Iterator[Event]:
        return self._fail(*failure_of(member(event, "response").get("error") or {}))

    def _error(self, event: JSONObject) -> Iterator[Event]:
        return self._fail(*failure_of(event.get("error") or event))

    # ── blocks ──

    def _begin(self, key: _Key, block: Block) -> Iterator[Event]:
        """The block under `key`, unless it has begun."""
        if key in self._blocks:
            return
        index = self._blocks[key] = len(self._blocks)
        self._open.add(index)
        self._kinds.add(type(block))
        yield BlockStarted(block, index)

    def _more(self, key: _Key, piece: str) -> Iterator[Event]:
        if piece and key in self._blocks:
            self._filled.add(self._blocks[key])
            yield Delta(self._blocks[key], piece)

    def _rest(self, key: _Key, whole: str) -> Iterator[Event]:
        """All of it, where nothing came in pieces."""
        return self._more(key, "" if self._blocks[key] in self._filled else whole)

    def _close(self, key: _Key) -> Iterator[Event]:
        index = self._blocks[key]
        if index in self._open:
            self._open.discard(index)
            yield BlockEnded(index)

    def _call(self, key: _Key, item: JSONObject) -> Iterator[Event]:
        if key not in self._blocks:
            block = read_item(item, self._ids)
            assert isinstance(block, ToolCall)
            yield from self._begin(key, msgspec.structs.replace(block, arguments=""))
        yield from self._rest(key, text(item, "input" if item.get("type") == "custom_tool_call" else "arguments"))

    def _end_of_part(self, key: _Key, part: Block) -> Iterator[Event]:
        if not isinstance(part, (Text, Refusal)):
            return
        yield from self._begin(key, type(part)(""))
        yield from self._rest(key, part.text)
        yield from self._close(key)

    def _whole_thought(self, key: _Key, block: Reasoning) -> Iterator[Event]:
        yield from self._begin(key, msgspec.structs.replace(block, text="", signature="", encrypted=""))
        yield from self._rest(key, block.text)
        if block.encrypted or block.signature:
            yield Delta(self._blocks[key], encrypted=block.encrypted, signature=block.signature)

    def _fail(self, message: str, kind: ErrorKind) -> Iterator[Event]:
        if not self._is_over:
            self._is_over = True
            yield Failed(message, kind)

    def _whole(self, body: bytes) -> Iterator[Event]:
        """No events came, but an answer or an error as for a caller who wants no stream."""
        try:
            decoded = _decode(body)
            answer: JSONObject = decoded if isinstance(decoded, dict) else {}
            if error := answer.get("error"):
                yield from self._fail(*failure_of(error))
                return
            reply = read_reply(body)
        except (MalformedAnswerError, *_UNREADABLE):
            yield from self._fail("the provider answered with something that is no stream", ErrorKind.SERVER_ERROR)
            return
        self.usage_raw = noted(answer.get("usage"), searches_of_response(answer))
        self._is_over = True
        yield from events_of(reply)


def _part_key(event: JSONObject) -> _Key:
    return whole_number(event, "output_index"), whole_number(event, "content_index")


def _item_key(event: JSONObject) -> _Key:
    return whole_number(event, "output_index"), _WHOLE
