"""A stream as one JSON list, for clients of Google's APIs that do not ask for server-sent events."""

from __future__ import annotations

from collections.abc import Sequence

from llmgateway.api.responses import JSON, Responder
from llmgateway.pipeline.header_lines import HeaderLines
from providers.adapters.events import EventSplitter

_EVENTS = b"text/event-stream"


class ArrayResponder(Responder):
    """Sends each event of a stream as an element of a list, as soon as it is there. All else goes out as it is."""

    __slots__ = ("_elements", "_splitter")

    def __init__(self, inner: Responder) -> None:
        for name in Responder.__slots__:
            setattr(self, name, getattr(inner, name))
        self._splitter: EventSplitter | None = None
        """None: the answer is no stream."""
        self._elements = 0

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b"") -> None:
        if _is_stream(headers):
            self._splitter, headers = EventSplitter(), _as_json(headers)
        await super().start(status, headers, lines)

    async def send(self, chunk: bytes, *, more: bool) -> None:
        if self._splitter is None:
            await super().send(chunk, more=more)
            return
        piece = self._written(self._splitter, chunk, more=more)
        if piece or not more:
            await super().send(piece, more=more)

    def send_now(self, chunk: bytes) -> bool:
        return self._splitter is None and super().send_now(chunk)

    async def whole(
        self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b""
    ) -> None:
        if _is_stream(headers):
            body, headers = self._written(EventSplitter(), body, more=False), _as_json(headers)
        await super().whole(status, body, headers, lines)

    def _written(self, splitter: EventSplitter, chunk: bytes, *, more: bool) -> bytes:
        events = [event.data for event in splitter.feed(chunk)]
        if not more:
            events += [event.data for event in splitter.finish()]
        written = b""
        for data in events:
            written += (b",\r\n" if self._elements else b"[") + data
            self._elements += 1
        if more:
            return written
        return written + (b"]" if self._elements else b"[]")


def _is_stream(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-type" and value.lower().startswith(_EVENTS) for name, value in headers)


def _as_json(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [*[header for header in headers if header[0] != b"content-type"], JSON]
