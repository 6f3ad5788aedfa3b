"""Reads streams of Anthropic's Messages: https://platform.claude.com/docs/en/build-with-claude/streaming."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from providers.adapters.dialects._messages_blocks import DIALECT, read_arguments, read_citation
from providers.adapters.dialects._messages_errors import kind_of
from providers.adapters.dialects._messages_reply import (
    UNREADABLE,
    answer_usage,
    explanation,
    finish_of,
    known_usage,
    read_content,
    read_reply,
    tier_of,
)
from providers.adapters.dialects.conversation import Foreign, Refusal, ToolCall
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
from providers.adapters.types import JSONObject


class StreamEvent(msgspec.Struct):
    """One event's JSON, unread below."""

    type: str = ""
    index: int = 0
    message: dict[str, Any] | None = None
    content_block: dict[str, Any] | None = None
    delta: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


decode_event = msgspec.json.Decoder(StreamEvent).decode


def merged_usage(known: JSONObject | None, later: JSONObject | None) -> JSONObject | None:
    """Later figures count from the beginning of the answer; those that are not said again still hold."""
    if later is None:
        return known
    return {**(known or {}), **{name: value for name, value in later.items() if value is not None}}


class MessagesReader:
    """Reads one stream into events."""

    def __init__(self) -> None:
        self.usage_raw: JSONObject | None = None
        self.begun_usage_raw: JSONObject | None = None  # usage at the start: of the input, and of hardly any output
        self._splitter = EventSplitter()
        self._foreign: dict[int, _ForeignBlock] = {}
        self._silent_calls: set[int] = set()  # calls without arguments so far
        self._refusal = ""
        self._next = 0
        self._end: ChoiceEnded | None = None
        self._over = False

    def feed(self, chunk: bytes) -> Iterable[Event]:
        for event in self._splitter.feed(chunk):
            yield from self._read(event)

    def finish(self) -> Iterable[Event]:
        for event in self._splitter.finish():
            yield from self._read(event)
        if self._splitter.whole and not self._over:
            self._over = True
            yield from self._whole(self._splitter.whole)

    def _whole(self, body: bytes) -> Iterator[Event]:
        """The provider did not stream, although it was asked to; or it has something to complain about."""
        try:
            error = decode_event(body).error
        except UNREADABLE as problem:
            raise MalformedAnswerError(f"the provider's answer is no JSON object: {problem}") from None
        if error is not None:
            yield _failed(error)
            return
        self.usage_raw, _ = answer_usage(body)
        yield from events_of(read_reply(body))

    def _read(self, event: ServerEvent) -> Iterator[Event]:
        if self._over or event.data == b"[DONE]":  # Some servers end all streams alike.
            return
        try:
            read = decode_event(event.data)
        except UNREADABLE as error:
            raise MalformedAnswerError(f"the provider sent an event that is no JSON: {error}") from None
        match read.type:
            case "message_start":
                yield self._start(read.message or {})
            case "content_block_start":
                yield from self._block(read.index, read.content_block or {})
            case "content_block_delta":
                yield from self._delta(read.index, read.delta or {})
            case "content_block_stop":
                yield from self._stop(read.index)
            case "message_delta":
                self._message(read.delta or {}, read.usage)
            case "message_stop":
                yield from self._finished()
            case "error":
                self._over = True
                yield _failed(read.error or {})

    def _start(self, message: JSONObject) -> Started:
        usage = message.get("usage")
        self.begun_usage_raw = usage if isinstance(usage, dict) else None
        return Started(
            str(message.get("id") or ""),
            str(message.get("model") or ""),
            usage=known_usage(self.begun_usage_raw),
            service_tier=tier_of(self.begun_usage_raw),
        )

    def _block(self, index: int, raw: JSONObject) -> Iterator[Event]:
        self._next = max(self._next, index + 1)
        given = raw.get("input")
        block = read_content({**raw, "input": {}} if raw.get("type") == "tool_use" else raw)
        match block:
            case Foreign():
                self._foreign[index] = _ForeignBlock(raw)
                return
            case ToolCall():
                self._silent_calls.add(index)
                yield BlockStarted(msgspec.structs.replace(block, arguments=""), index)
                if isinstance(given, dict) and given:
                    self._silent_calls.discard(index)
                    yield Delta(index, msgspec.json.encode(given).decode())
            case _:
                yield BlockStarted(block, index)

    def _delta(self, index: int, delta: JSONObject) -> Iterator[Event]:
        if index in self._foreign:
            self._foreign[index].add(delta)
            return
        match delta.get("type"):
            case "text_delta":
                yield Delta(index, _string(delta, "text"))
            case "thinking_delta":
                yield Delta(index, _string(delta, "thinking"))
            case "signature_delta":
                yield Delta(index, signature=_string(delta, "signature"))
            case "input_json_delta":
                if piece := _string(delta, "partial_json"):
                    self._silent_calls.discard(index)
                    yield Delta(index, piece)
            case "citations_delta" if isinstance(delta.get("citation"), dict):
                yield Delta(index, citation=read_citation(delta["citation"]))

    def _stop(self, index: int) -> Iterator[Event]:
        if index in self._foreign:
            yield BlockStarted(self._foreign.pop(index).block(), index)
        elif index in self._silent_calls:
            yield Delta(index, "{}")
        yield BlockEnded(index)

    def _message(self, delta: JSONObject, usage: JSONObject | None) -> None:
        self.usage_raw = merged_usage(self.usage_raw or self.begun_usage_raw, usage)
        if (reason := delta.get("stop_reason")) is not None:
            self._end = ChoiceEnded(finish_of(reason), _string(delta, "stop_sequence"))
        self._refusal = explanation(delta.get("stop_details")) or self._refusal

    def _finished(self) -> Iterator[Event]:
        self._over = True
        if self._refusal:
            yield BlockStarted(Refusal(""), self._next)
            yield Delta(self._next, self._refusal)
            yield BlockEnded(self._next)
        yield self._end or ChoiceEnded("other")
        yield Ended(known_usage(self.usage_raw))


class _ForeignBlock:
    """A block that nobody else has a word for, whole only at its end."""

    def __init__(self, raw: JSONObject) -> None:
        self._raw = dict(raw)
        self._input: list[str] = []

    def add(self, delta: JSONObject) -> None:
        kind = delta.get("type")
        if kind == "input_json_delta":
            self._input.append(_string(delta, "partial_json"))
        else:
            for name, value in delta.items():
                if name != "type" and isinstance(value, str):
                    before = self._raw.get(name)
                    self._raw[name] = before + value if isinstance(before, str) else value

    def block(self) -> Foreign:
        if self._input:
            self._raw["input"] = read_arguments("".join(self._input))
        return Foreign(DIALECT, self._raw)


def _failed(error: JSONObject) -> Failed:
    return Failed(str(error.get("message") or "The provider broke off."), kind_of(error))


def _string(raw: JSONObject, name: str) -> str:
    value = raw.get(name)
    return value if isinstance(value, str) else ""
