"""Watches streams whose last event of a known type brings the usage, and bytes that are no events at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from providers.adapters.errors import MalformedAnswerError
from providers.adapters.events import EventSplitter, ServerEvent
from providers.adapters.types import JSONObject

UsageOf = Callable[[JSONObject, JSONObject | None], JSONObject | None]
"""Usage of an event that ends something, and of those before it."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def plain_usage(event: JSONObject, _before: JSONObject | None) -> JSONObject | None:
    usage = event.get("usage")
    return usage if isinstance(usage, dict) else None


class EndingScanner:
    """A `StreamScanner` of events that name their type. `ends` are the types that bring usage.

    Several of them may come, as for several images. So from the first one on the last byte waits for the end of the
    stream: the ledger has the row before the client has the whole answer.
    """

    def __init__(self, ends: tuple[bytes, ...], usage_of: UsageOf = plain_usage) -> None:
        self.usage_raw: JSONObject | None = None
        self.response_model = ""
        self.error: JSONObject | None = None
        self.done = False
        """Never: see above."""
        self.first_token = False
        self._marks = tuple(b'"%b"' % end for end in ends)
        self._usage_of = usage_of
        self._splitter: EventSplitter | None = EventSplitter()
        self._ended = False
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        if self._splitter is not None:
            try:
                for event in self._splitter.feed(chunk):
                    self._note(event)
            except MalformedAnswerError:
                self._splitter = None  # An event beyond measure: the client gets it, and the rest goes unread.
        if not self._ended or not chunk:
            return chunk
        onward, self._held = self._held + chunk[:-1], chunk[-1:]
        return onward

    def finish(self) -> bytes:
        if self._splitter is not None:
            for event in self._splitter.finish():
                self._note(event)
        held, self._held = self._held, b""
        return held

    def estimated_output(self, chars_per_token: float) -> int:
        return 0

    def _note(self, event: ServerEvent) -> None:
        data = event.data
        self.first_token = True
        is_end = any(mark in data for mark in self._marks)
        if not is_end and b'"error"' not in data:
            return
        try:
            said = _decode(data)
        except _UNREADABLE:
            return  # not for us to judge: the client gets what the provider said
        if isinstance(error := said.get("error"), dict):
            self.error = self.error or error
        elif is_end:
            self._ended = True
            self.usage_raw = self._usage_of(said, self.usage_raw) or self.usage_raw


class BytesScanner:
    """A `StreamScanner` of sound, or anything else that says nothing of itself. The last byte waits for the end."""

    def __init__(self) -> None:
        self.usage_raw: JSONObject | None = None
        self.response_model = ""
        self.error: JSONObject | None = None
        self.done = False
        self.first_token = False
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        if not chunk:
            return chunk
        self.first_token = True
        onward, self._held = self._held + chunk[:-1], chunk[-1:]
        return onward

    def finish(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def estimated_output(self, chars_per_token: float) -> int:
        return 0
