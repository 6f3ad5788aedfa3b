"""Writes streams of Anthropic's Messages, in which one block ends before the next one begins."""

from __future__ import annotations

import msgspec

from providers.adapters.dialects._messages_blocks import DIALECT
from providers.adapters.dialects._messages_errors import error_event
from providers.adapters.dialects._messages_reply import ending, write_content, write_usage
from providers.adapters.dialects._messages_thoughts import signature_of
from providers.adapters.dialects.base import ERROR_CODES, ERROR_TYPES, WireError
from providers.adapters.dialects.conversation import Audio, Block, Foreign, Reasoning, Refusal, Text, ToolCall
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Started,
    extended,
)
from providers.adapters.types import ErrorKind, JSONObject, Usage

_STATUSES = {
    ErrorKind.RATE_LIMITED: 429,
    ErrorKind.EXCEEDS_LIMIT: 429,
    ErrorKind.OVERLOADED: 529,
    ErrorKind.QUOTA_EXHAUSTED: 402,
    ErrorKind.AUTHENTICATION: 401,
    ErrorKind.PERMISSION_DENIED: 403,
    ErrorKind.CONTEXT_TOO_LONG: 400,
    ErrorKind.CONTENT_POLICY: 400,
    ErrorKind.INVALID_REQUEST: 400,
    ErrorKind.SERVER_ERROR: 500,
}


class _Pending:
    """A block that has begun and is not written to its end."""

    def __init__(self, block: Block) -> None:
        self.block = block
        """With what has come so far; thoughts that others signed are written at their end."""
        self.held: list[Delta] = []
        self.ended = False
        self.shown = False
        """The client has been told that it begins. Texts are shown with their first piece: empty ones are refused when
        they come back."""


class MessagesWriter:
    """Writes the events of one stream. What comes for a block before its turn is held back until the others ended."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._usage: Usage | None = None
        self._pending: dict[int, _Pending] = {}
        self._open: int | None = None  # of those, the one that the client sees
        self._number = 0  # of the blocks that the client has seen
        self._end = ChoiceEnded("other")
        self._refusal = ""

    def write(self, event: Event) -> bytes:
        match event:
            case Started():
                return self._start(event)
            case BlockStarted() if event.choice == 0:
                self._pending[event.index] = _Pending(event.block)
                return self._advance()
            case Delta() if event.choice == 0 and event.index in self._pending:
                return self._delta(event)
            case BlockEnded() if event.choice == 0 and event.index in self._pending:
                self._pending[event.index].ended = True
                return self._advance()
            case ChoiceEnded() if event.choice == 0:
                self._end = event
                return self._all_ended()
            case Ended():
                return self._all_ended() + self._finish(event)
            case Failed():
                kind = event.kind
                return error_event(WireError(_STATUSES[kind], event.message, ERROR_TYPES[kind], ERROR_CODES[kind]))
            case _:
                return b""

    def _start(self, event: Started) -> bytes:
        self._started, self._usage = event, event.usage
        message: JSONObject = {
            "id": event.id,
            "type": "message",
            "role": "assistant",
            "model": event.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": write_usage(event.usage, event.service_tier),
        }
        return _event("message_start", {"message": message})

    def _finish(self, event: Ended) -> bytes:
        end = ending(self._end.finish, self._end.stop_sequence, self._refusal)
        usage = write_usage(event.usage or self._usage)
        return _event("message_delta", {"delta": end, "usage": usage}) + _event("message_stop", {})

    # ── blocks ──

    def _advance(self) -> bytes:
        """Ends the block that the client sees if nothing more will come of it, and goes on to the next."""
        written = bytearray()
        while True:
            if self._open is None:
                if not self._pending:
                    break
                written += self._begin(min(self._pending))
            assert self._open is not None
            pending = self._pending[self._open]
            if not pending.ended:
                break
            written += self._close(pending)
            del self._pending[self._open]
            self._open = None
        return bytes(written)

    def _begin(self, index: int) -> bytes:
        self._open, pending = index, self._pending[index]
        written = self._opened(pending)
        held, pending.held = pending.held, []
        return written + b"".join([self._written(pending, delta) for delta in held])

    def _delta(self, delta: Delta) -> bytes:
        pending = self._pending[delta.index]
        if delta.index == self._open:
            return self._written(pending, delta)
        pending.held.append(delta)
        return b""

    def _all_ended(self) -> bytes:
        for pending in self._pending.values():
            pending.ended = True
        return self._advance()

    def _opened(self, pending: _Pending) -> bytes:
        """How a block begins; nothing for those that are written later."""
        match pending.block:
            case Text() as block:
                return self._text(pending, block.text)
            case Audio() as block:
                return self._text(pending, block.transcript)
            case ToolCall() as block:
                begun = self._content({"type": "tool_use", "id": block.id, "name": block.name, "input": {}})
                piece = {"type": "input_json_delta", "partial_json": block.arguments}
                return begun + self._piece(piece) if block.arguments else begun
            case Reasoning() as block if not _is_redacted(block):
                begun = self._content({"type": "thinking", "thinking": "", "signature": ""})
                return begun + self._piece({"type": "thinking_delta", "thinking": block.text}) if block.text else begun
            case _:
                return b""

    def _written(self, pending: _Pending, delta: Delta) -> bytes:
        match pending.block:
            case Text() | Audio():
                written = self._text(pending, delta.text)
                if delta.citation is not None and delta.citation.dialect == DIALECT and pending.shown:
                    written += self._piece({"type": "citations_delta", "citation": delta.citation.raw})
                return written
            case ToolCall():
                piece = {"type": "input_json_delta", "partial_json": delta.text}
                return self._piece(piece) if delta.text else b""
            case Reasoning() as block:
                # The text is written at once and need not be kept; the proof is written at the end.
                pending.block = extended(block, msgspec.structs.replace(delta, text=""))
                return self._piece({"type": "thinking_delta", "thinking": delta.text}) if delta.text else b""
            case Refusal():
                self._refusal += delta.text
                return b""
            case _:
                return b""

    def _text(self, pending: _Pending, text: str) -> bytes:
        if not text:
            return b""
        begun = b"" if pending.shown else self._content({"type": "text", "text": ""})
        pending.shown = True
        return begun + self._piece({"type": "text_delta", "text": text})

    def _close(self, pending: _Pending) -> bytes:
        match pending.block:
            case Text() | Audio():
                return self._stop() if pending.shown else b""
            case ToolCall():
                return self._stop()
            case Reasoning() as block if not _is_redacted(block):
                signature = signature_of(block, DIALECT)
                piece = {"type": "signature_delta", "signature": signature}
                return (self._piece(piece) if signature else b"") + self._stop()
            case Refusal() as block:
                self._refusal = block.text + self._refusal
                return b""
            case Reasoning() | Foreign() as block:
                return b"".join([self._content(content) + self._stop() for content in write_content(block)])
            case _:
                return b""

    def _content(self, block: JSONObject) -> bytes:
        return _event("content_block_start", {"index": self._number, "content_block": block})

    def _piece(self, delta: JSONObject) -> bytes:
        return _event("content_block_delta", {"index": self._number, "delta": delta})

    def _stop(self) -> bytes:
        self._number += 1
        return _event("content_block_stop", {"index": self._number - 1})


def _is_redacted(block: Reasoning) -> bool:
    return block.dialect == DIALECT and bool(block.encrypted)


def _event(name: str, content: JSONObject) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode({"type": name, **content}))
