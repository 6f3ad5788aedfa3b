"""Learns what settlement must know from a stream of Anthropic's Messages while its bytes pass by unchanged."""

from __future__ import annotations

from providers.adapters.dialects._messages_reply import UNREADABLE, answer_usage
from providers.adapters.dialects._messages_stream import decode_event, merged_usage
from providers.adapters.errors import MalformedAnswerError
from providers.adapters.events import EventSplitter, ServerEvent
from providers.adapters.types import JSONObject

EVENT_BYTES = 125
"""What a delta has around the text that it brings."""
# A quote inside a JSON string is escaped, so text of the answer does not match.
_MARKS = (b'"message_start"', b'"message_delta"', b'"message_stop"', b'"error"')


class MessagesScanner:
    """A `StreamScanner` that holds nothing back: usage is in the stream unasked.

    Usage at the start of a stream counts the input and hardly any output, so it is no usage yet: the output of a stream
    that breaks off is estimated.
    """

    __slots__ = (
        "_deltas",
        "_received",
        "_splitter",
        "begun_usage_raw",
        "done",
        "error",
        "first_token",
        "response_model",
        "usage_raw",
    )

    def __init__(self) -> None:
        self.usage_raw: JSONObject | None = None
        self.response_model = ""
        self.error: JSONObject | None = None
        self.done = False
        self.first_token = False
        self.begun_usage_raw: JSONObject | None = None
        """Usage as the stream began."""
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
                self._note_whole(self._splitter.whole)
        return b""

    def estimated_output(self, chars_per_token: float) -> int:
        """One token for each delta, or more where deltas hold much text."""
        text = self._received - EVENT_BYTES * self._deltas
        return max(self._deltas, int(text / chars_per_token)) if self._deltas else 0

    def _note(self, event: ServerEvent) -> None:
        data = event.data
        if not any(mark in data for mark in _MARKS):
            if b'"content_block_delta"' in data:
                self._deltas += 1
                self.first_token = True
            elif b'"content_block_start"' in data:
                self.first_token = True  # The model works, however long it thinks before it says anything.
            return
        try:
            read = decode_event(data)
        except UNREADABLE:
            return  # not for us to judge: the client gets what the provider said
        match read.type:
            case "message_start":
                message = read.message or {}
                self.response_model = self.response_model or str(message.get("model") or "")
                usage = message.get("usage")
                self.begun_usage_raw = usage if isinstance(usage, dict) else None
            case "message_delta" if read.usage is not None:
                self.usage_raw = merged_usage(self.usage_raw or self.begun_usage_raw, read.usage)
            case "message_stop":
                self.done = True
            case "error" if self.error is None:
                self.error = read.error or {"message": "The provider broke off."}

    def _note_whole(self, body: bytes) -> None:
        """The provider answered whole, although a stream was asked for."""
        usage, model = answer_usage(body)
        self.usage_raw = self.usage_raw or usage
        self.response_model = self.response_model or model
