"""Watches a stream of Gemini's on its way to a client of the same dialect."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.dialects._gemini_fields import plain_names
from providers.adapters.dialects._searches import GEMINI_MARKS, noted, searches_of_gemini
from providers.adapters.events import BOUNDARY, EVENT_MAX, read_event
from providers.adapters.types import JSONObject

AROUND = 350
"""Bytes that an event has around the text that it brings."""

_LAST = (b'"finishReason"', b'"finish_reason"', b'"promptFeedback"', b'"prompt_feedback"')
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Seen(msgspec.Struct):
    """What settlement wants of an event."""

    usage: Any = msgspec.field(default=None, name="usageMetadata")
    spelled_usage: Any = msgspec.field(default=None, name="usage_metadata")
    model: Any = msgspec.field(default=None, name="modelVersion")
    spelled_model: Any = msgspec.field(default=None, name="model_version")
    error: Any = None


_decode = msgspec.json.Decoder(_Seen).decode


class GeminiScanner:
    """Learns what settlement must know. The client gets the provider's bytes and no others, event by event.

    Nothing says that a stream is complete, and usage may come behind what looks like its end. So an event that may be
    the last one waits for the next, or for the end of the bytes: the ledger has the row before the client has that.
    """

    def __init__(self) -> None:
        self.usage_raw: JSONObject | None = None
        self.response_model = ""
        self.error: JSONObject | None = None
        self.done = False
        """Never: see above."""
        self.first_token = False
        self._carry = bytearray()  # an event that has not ended
        self._looked = 0  # bytes of it in which no event ends
        self._held = bytearray()  # what may be the last event, and what said nothing behind it
        self._after_cr = False  # an LF that comes next belongs to the event before
        self._received = 0
        self._events = 0
        self._searches = 0

    def feed(self, chunk: bytes) -> bytes:
        self._received += len(chunk)
        carry, onward, position = self._carry, bytearray(), 0
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                (self._held or onward).extend(chunk[:1])
                chunk = chunk[1:]
        carry += chunk
        while boundary := BOUNDARY.search(carry, max(self._looked, position)):
            event = bytes(carry[position : boundary.end()])
            position = self._looked = boundary.end()
            onward += self._passed(event)
            self._after_cr = position == len(carry) and event.endswith(b"\r")
        del carry[:position]
        # The last three bytes may be the first of a boundary.
        self._looked = max(len(carry) - 3, 0)
        if len(carry) > EVENT_MAX:
            # Passed on unread, so that an endless line cannot fill the memory.
            onward += self._held + carry
            self._forget()
        return bytes(onward)

    def finish(self) -> bytes:
        """The stream is over. An event that lacks its blank line counts as complete."""
        rest = bytes(self._held + self._carry)
        if (event := read_event(self._carry)) is not None:
            self._learn(event.data)
        self._forget()
        return rest

    def estimated_output(self, chars_per_token: float) -> int:
        text = max(self._received - AROUND * self._events, 0)
        return max(self._events, int(text / chars_per_token))

    def _forget(self) -> None:
        self._held.clear()
        self._carry.clear()
        self._looked = 0

    def _passed(self, event: bytes) -> bytes:
        """What goes to the client now that `event` has come."""
        found = read_event(event)
        if found is None and self._held:
            self._held += event
            return b""
        before = bytes(self._held)
        self._held.clear()
        if found is not None:
            self._learn(found.data)
            if any(mark in found.data for mark in _LAST):
                self._held += event
                return before
        return before + event

    def _learn(self, data: bytes) -> None:
        self._events += 1
        self.first_token = self.first_token or b'"parts"' in data
        try:
            seen = _decode(data)
        except _UNREADABLE:
            return  # not for us to judge: the client gets what the provider said
        usage, model = seen.usage or seen.spelled_usage, seen.model or seen.spelled_model
        if any(mark in data for mark in GEMINI_MARKS):
            self._searches = max(self._searches, _searches(data))
        if isinstance(usage, dict) or self._searches:
            self.usage_raw = noted(usage if isinstance(usage, dict) else self.usage_raw, self._searches)
        if isinstance(model, str):
            self.response_model = self.response_model or model
        if seen.error is not None and self.error is None:
            self.error = plain_names(seen.error) if isinstance(seen.error, dict) else {"message": str(seen.error)}


def _searches(data: bytes) -> int:
    try:
        return searches_of_gemini(msgspec.json.decode(data))
    except _UNREADABLE:
        return 0  # what was read of it so far is the little that is asked for, and the rest is not JSON
