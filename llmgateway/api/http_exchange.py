"""The server's side of one HTTP/1.1 request: uvicorn's cycle with an answer path of our own.

Head and first piece of body leave in one write, as ASGI asks servers to do. A header's name is examined once per process,
and all values together by counting line breaks, where uvicorn runs two regular expressions for each header.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from llmgateway.api.asgi_types import Message, Scope
from llmgateway.pipeline.header_lines import HeaderLines
from llmgateway.pipeline.outbox import Departing

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

MAX_REMEMBERED = 1000
"""Header names of which we remember what they mean."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PLAIN, _LENGTH, _ENCODING, _CONNECTION = range(4)
_KINDS = {b"content-length": _LENGTH, b"transfer-encoding": _ENCODING, b"connection": _CONNECTION}
_BODILESS = frozenset({204, 304})


class Names(dict[bytes, tuple[int, bytes]]):
    """What a header means to the protocol, and how its line begins, by its name as the application writes it."""

    def __missing__(self, name: bytes) -> tuple[int, bytes]:
        if not _TOKEN.fullmatch(name):
            raise RuntimeError(f"{name!r} is no header name")
        lower = name.lower()
        known = (_KINDS.get(lower, _PLAIN), lower + b": ")
        if len(self) < MAX_REMEMBERED:
            self[name] = known
        return known


_names = Names()


class Arrival:
    """The few things of `asyncio.Event` that one waiting task needs."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self, *, is_set: bool = False) -> None:
        self._is_set = is_set
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        while not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


def answer_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Status line and headers, checked, without the last line's end. None of the headers concerns the connection."""
    lines = [STATUS_LINE[status][:-2]]
    for name, value in headers:
        lines.append(_names[name][1] + value)
    return checked_head(lines)


def checked_head(lines: list[bytes]) -> bytes:
    """The lines as a head: whatever a value holds, it makes no other header and no other answer."""
    head = b"\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise RuntimeError("a header of the answer holds a line break or a NUL")
    return head


class Exchange(RequestResponseCycle):
    """One request and its answer. `receive` is uvicorn's; the answer is written here."""

    _head: bytes | None = None
    """Of the answer, until its first piece of body comes."""
    task: asyncio.Task[None] | None = None
    """In which it is answered."""
    access_log = False
    disconnected = response_started = response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0

    def __init__(
        self,
        scope: Scope,
        server: HttpToolsProtocol,
        *,
        expect_100_continue: bool,
        keep_alive: bool,
        body: bytes | None = None,
    ) -> None:
        """As uvicorn's own, whose dozen arguments are the same for every request of a connection. `body`: all of it."""
        self.scope = cast("HTTPScope", scope)
        self.transport = server.transport
        self.flow = server.flow
        self.logger = server.logger
        self.default_headers = server.server_state.default_headers
        self.message_event = cast("asyncio.Event", Arrival(is_set=body is not None))
        self.on_response = server.on_response_complete
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_100_continue
        self.body = bytearray(body or b"")
        self.more_body = body is None

    async def send(self, message: Message) -> None:  # type: ignore[override]  # uvicorn's own types are private
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self._start(message)
        elif not self.response_complete:
            self._continue(message)
        else:
            raise RuntimeError(f"{message['type']} was sent after the end of the answer")

    def answer_at_once(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], own: HeaderLines, body: bytes
    ) -> bool:
        """Send a complete answer without waiting; `own` lines say its length.

        False: that is not possible now, and nothing was sent.
        """
        if self.flow.write_paused or self.disconnected or self.response_started:
            return False
        self.chunked_encoding, self.expected_content_length = False, len(body)
        head = self._head_of(status, headers, own)
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(head + self._framed(body, more=False))
        self._end()
        return True

    async def taken(self) -> None:
        """Wait until next to nothing of the answer waits for the client any more, or the client has left."""
        cast("Departing", self.transport).laid_off()
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    def start_at_once(self, status: int, headers: Sequence[tuple[bytes, bytes]], own: HeaderLines) -> bool:
        """Begin an answer without waiting; its head leaves with the first piece of its body. False: nothing was done."""
        if self.flow.write_paused or self.disconnected or self.response_started:
            return False
        self._begin(status, headers, own)
        return True

    def go_on(self) -> None:
        """The answer has begun, in chunks."""
        self.chunked_encoding, self.response_started = True, True

    def _start(self, message: Message) -> None:
        if message["type"] != "http.response.start":
            raise RuntimeError(f"an answer begins with http.response.start, not {message['type']}")
        self._begin(message["status"], message.get("headers", ()), b"")

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], own: HeaderLines) -> None:
        self.chunked_encoding, self.expected_content_length = None, 0
        head = self._head_of(status, headers, own)
        self.response_started = True
        self.waiting_for_100_continue = False
        self._head = head

    def _head_of(self, status: int, headers: Iterable[tuple[bytes, bytes]], own: HeaderLines) -> bytes:
        """The answer's head, checked."""
        lines = [STATUS_LINE[status][:-2]]
        says_close = False
        if self.default_headers:
            headers = (*self.default_headers, *headers)
        for name, value in headers:
            kind, beginning = _names[name]
            if kind:
                says_close |= self._note(kind, value)
            lines.append(beginning + value)
        if not (self.keep_alive or says_close):
            lines.append(b"connection: close")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _BODILESS:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked")
        return b"%b\r\n%b\r\n" % (checked_head(lines), own)

    def _note(self, kind: int, value: bytes) -> bool:
        """Take in a header that the protocol itself obeys; whether it closes the connection."""
        if kind == _LENGTH and self.chunked_encoding is None:
            self.expected_content_length = int(value)
            self.chunked_encoding = False
        elif kind == _ENCODING and value.lower() == b"chunked":
            self.expected_content_length = 0
            self.chunked_encoding = True
        elif kind == _CONNECTION and b"close" in [token.strip().lower() for token in value.split(b",")]:
            self.keep_alive = False
            return True
        return False

    def _continue(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            raise RuntimeError(f"http.response.body is due, not {message['type']}")
        self._write(message.get("body", b""), more=message.get("more_body", False))

    def send_at_once(self, body: bytes, *, more: bool) -> bool:
        """Send the next piece of body without waiting. False: that is not possible now, and nothing was sent."""
        if self.flow.write_paused or self.disconnected or self.response_complete or not self.response_started:
            return False
        self._write(body, more=more)
        return True

    def _write(self, body: bytes, *, more: bool) -> None:
        data = self._framed(body, more=more)
        if self._head is not None:
            data = self._head + data
            self._head = None
        if data:
            self.transport.write(data)
        if not more:
            self._end()

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        """A piece of body as it goes out."""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            return b""
        if self.chunked_encoding:
            if not body:
                return b"" if more else b"0\r\n\r\n"
            return b"%x\r\n%b\r\n" % (len(body), body) if more else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        if len(body) > self.expected_content_length:
            raise RuntimeError("the answer is longer than its content-length")
        self.expected_content_length -= len(body)
        return body

    def _end(self) -> None:
        if self.expected_content_length:
            raise RuntimeError("the answer is shorter than its content-length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
