"""Cuts server-sent events out of a stream of bytes, however the network cut it. No I/O, nothing about any one provider."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from providers.adapters.errors import MalformedAnswerError

EVENT_MAX = 16 * 1024 * 1024
"""A larger event is not read, so that an endless line cannot fill the memory."""
# A line ends in LF, CR or CRLF; an event ends where a second end follows at once.
BOUNDARY = re.compile(rb"\n(?:\n|\r\n?)|\r\r\n?")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    data: bytes
    name: str
    """What its `event` line says; most often nothing."""


class EventSplitter:
    """Gives the events of one stream that say something. One per stream; not for several threads.

    A body that is plain JSON, as of a provider that answers whole although a stream was asked for, has no events:
    `whole` has it at the end.

    Example:
        splitter = EventSplitter()
        for chunk in upstream:
            for event in splitter.feed(chunk):
                read(event.data)
        for event in splitter.finish():
            read(event.data)
    """

    __slots__ = ("_carry", "_is_json", "_looked")

    def __init__(self) -> None:
        self._carry = bytearray()
        self._looked = 0  # bytes of the carry in which no event ends
        self._is_json: bool | None = None

    @property
    def whole(self) -> bytes:
        """The body, if it is JSON and no event stream."""
        return bytes(self._carry) if self._is_json else b""

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that end in here.

        Raises:
            MalformedAnswerError: an event is too large to be read.
        """
        carry = self._carry
        carry += chunk
        if self._is_json is None and (start := bytes(carry[:64]).removeprefix(BYTE_ORDER_MARK).lstrip()):
            self._is_json = start[:1] in b"{["
        position = 0
        while not self._is_json and (boundary := BOUNDARY.search(carry, max(self._looked, position))):
            event = read_event(carry[position : boundary.start()])
            position = self._looked = boundary.end()
            if event is not None:
                yield event
        del carry[:position]
        # The last three bytes may be the first of a boundary.
        self._looked = max(len(carry) - 3, 0)
        if len(carry) > EVENT_MAX:
            raise MalformedAnswerError(f"the provider sent an event of more than {EVENT_MAX} bytes")

    def finish(self) -> Iterator[ServerEvent]:
        """The stream is over: an event that lacks its blank line counts as complete."""
        if self._is_json:
            return
        event = read_event(self._carry)
        self._carry.clear()
        if event is not None:
            yield event


def read_event(event: bytes | bytearray) -> ServerEvent | None:
    """What the lines of one event say; None if it has no data, as a comment or a keep-alive."""
    name = b""
    values: list[bytes] = []
    for line in bytes(event).removeprefix(BYTE_ORDER_MARK).splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            values.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip()
    data = b"\n".join(values).strip()
    return ServerEvent(data, name.decode("utf-8", "replace")) if data else None
