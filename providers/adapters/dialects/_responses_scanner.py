"""Learns what settlement must know from a stream of OpenAI's Responses while its bytes pass by unchanged."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.dialects._searches import RESPONSES_MARK, noted, searches_of_response
from providers.adapters.errors import MalformedAnswerError
from providers.adapters.events import EventSplitter, ServerEvent
from providers.adapters.sse import json_usage
from providers.adapters.types import JSONObject

EVENT_BYTES = 260
"""What a delta has around the text that it brings."""
# A quote inside a JSON string is escaped, so text of the answer does not match.
_ENDS = (b'"response.completed"', b'"response.incomplete"', b'"response.failed"')
_MARKS = (*_ENDS, b'"response.created"', b'"error"')
_DELTA = b'.delta"'
_BEGUN = b'"response.output_item.added"'
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Response(msgspec.Struct):
    model: Any = None
    usage: Any = None
    error: Any = None
    output: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    response: _Response | None = None
    error: Any = None
    message: Any = None
    code: Any = None


_decode = msgspec.json.Decoder(_Event).decode


def answer_usage(body: bytes) -> tuple[JSONObject | None, str]:
    """The usage object and the model of a whole answer, the searches among its items noted in it."""
    raw, model = json_usage(body)
    if raw is None or RESPONSES_MARK not in body:
        return raw, model
    try:
        return noted(raw, searches_of_response(msgspec.json.decode(body))), model
    except _UNREADABLE:
        return raw, model  # not for us to judge: the client gets what the provider said


class ResponsesScanner:
    """A `StreamScanner` that holds nothing back: usage is in the last event, unasked."""

    __slots__ = ("_deltas", "_received", "_splitter", "done", "error", "first_token", "response_model", "usage_raw")

    def __init__(self) -> None:
        self.usage_raw: JSONObject | None = None
        self.response_model = ""
        self.error: JSONObject | None = None
        self.done = False
        self.first_token = False
        self._splitter: EventSplitter | None = EventSplitter()
        self._received = 0
        self._deltas = 0

    def feed(self, chunk: bytes) -> bytes:
        self._received += len(chunk)
        if self._splitter is not None:
            try:
                for event in self._splitter.feed(chunk):
                    self._note(event)
            except MalformedAnswerError:
                self._splitter = None  # An event beyond measure: the client gets it, and the rest goes unread.
        return chunk

    def finish(self) -> bytes:
        if self._splitter is not None:
            for event in self._splitter.finish():
                self._note(event)
            if self._splitter.whole:
                usage, model = answer_usage(self._splitter.whole)
                self.usage_raw, self.response_model = self.usage_raw or usage, self.response_model or model
        return b""

    def estimated_output(self, chars_per_token: float) -> int:
        """One token for each delta, or more where deltas hold much text."""
        text = self._received - EVENT_BYTES * self._deltas
        return max(self._deltas, int(text / chars_per_token)) if self._deltas else 0

    def _note(self, event: ServerEvent) -> None:
        data = event.data
        if not any(mark in data for mark in _MARKS):
            if _DELTA in data:
                self._deltas += 1
                self.first_token = True
            elif _BEGUN in data:
                self.first_token = True  # The model works, however long it thinks before it says anything.
            return
        try:
            read = _decode(data)
        except _UNREADABLE:
            return  # not for us to judge: the client gets what the provider said
        if read.type == "error":
            self._fail(read.error or {"message": read.message, "code": read.code})
        elif read.response is not None:
            self._learn(read.type, read.response)

    def _learn(self, kind: str, response: _Response) -> None:
        if isinstance(response.model, str):
            self.response_model = self.response_model or response.model
        if isinstance(response.usage, dict):
            self.usage_raw = noted(response.usage, searches_of_response({"output": response.output}))
        if kind == "response.failed":
            self._fail(response.error or {"message": "The provider failed without saying why."})
        self.done = self.done or kind in ("response.completed", "response.incomplete", "response.failed")

    def _fail(self, error: Any) -> None:
        if self.error is None:
            self.error = error if isinstance(error, dict) else {"message": str(error)}
