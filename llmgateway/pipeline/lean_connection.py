"""One HTTP/1.1 connection to an upstream: an asyncio protocol around httptools' parser.

It carries one exchange at a time and knows neither pools nor httpx requests. Nothing here runs in a task of its own:
bytes are parsed where they arrive, and the one reader is woken once per arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

import httptools

from llmgateway.http import httpx
from llmgateway.pipeline.outbox import Outbox

MAX_HEAD_BYTES = 65_536
"""Of a response's head; also of trailers, chunk extensions and interim responses between two pieces of body."""
MAX_HEADERS = 200
MAX_BUFFERED_BYTES = 262_144
"""Body that waits for its reader before the upstream is made to wait."""
SLICE_BYTES = 65_536
"""Of a request body. A larger body is written as fast as the upstream takes it."""

_RESETS = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


def _beginnings(length: int) -> tuple[tuple[bytes, ...], int]:
    """How a chunk of `length` bytes can begin, and how many of them are its content."""
    for digits in range(1, 4):
        size = length - digits - len(b"\r\n\r\n")
        if size > 0 and len(b"%x" % size) == digits:
            forms = dict.fromkeys((b"%x\r\n" % size, b"%X\r\n" % size))
            return tuple(forms), size
    return (), 0


LARGEST_CHUNK = 2048
"""With its framing, of those that are told by their bytes. Larger ones, and other ways to write a size, are for the parser."""
_BEGINNINGS = [_beginnings(length) for length in range(LARGEST_CHUNK)]


def whole_chunk(data: bytes) -> int:
    """The size of what is in it, if `data` is one chunk of a body, no more and no less; else 0."""
    if len(data) >= LARGEST_CHUNK:
        return 0
    beginnings, size = _BEGINNINGS[len(data)]
    return size if data.startswith(beginnings) and data.endswith(b"\r\n") else 0


class _HeadIsAllError(Exception):
    """Ends the parsing of the answer to HEAD, whose framing headers speak of a body that does not follow."""


class Connection(asyncio.Protocol):
    """A connection and the exchange that it carries. Made by the pool; `on_closed` is called once, at once.

    Between `begin` and `is_complete` the exchange is running. `error` is set when it broke; what arrived before is
    still there to `take`.
    """

    __slots__ = (
        "_is_between", "_is_head", "_is_reading_paused", "_is_writing_paused", "_loop", "_on_closed", "_outbox",
        "_overhead", "_parser", "_pieces", "_transport", "_unsent", "_unsent_from", "_waiter", "_wants_close", "body_length", "error", "has_begun",
        "has_head", "headers", "idle_since", "is_busy", "is_closed", "is_complete", "is_reusable", "is_stale", "onward",
        "served", "status", "tap", "watcher",
    )  # fmt: skip

    def __init__(self, on_closed: Callable[[Connection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox.of(self._loop)
        self._on_closed = on_closed
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self.body_length = 0
        """Bytes of the body that nobody has taken yet."""
        self._overhead = 0
        self._unsent: memoryview | None = None
        self._unsent_from = 0
        self._is_head = self._wants_close = self._is_reading_paused = self._is_writing_paused = False
        self.is_busy = self.is_closed = self.served = False
        self.tap: Callable[[], bool] | None = None
        """Called when pieces of the body have come, in place of waking the reader; it is woken when this returns False."""
        self.watcher: Callable[[], None] | None = None
        """Called whenever something has changed, in place of a reader that waits."""
        self.onward: Callable[[bytes, int], bool] | None = None
        """Called with a chunk of the body and the size of its content, where one whole chunk arrived by itself, as most
        streams send them: neither the parser nor the watcher is troubled with it. False: they are."""
        self._is_between = False
        """An exchange is running, the parser has come to the end of a chunk, and nothing of the next one has been seen."""
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.error: httpx.TransportError | None = None
        self.has_begun = self.has_head = self.is_complete = self.is_reusable = self.is_stale = self._is_between = False

    # The exchange, as its caller sees it.

    def send(self, head: bytes, body: bytes, *, is_head: bool, wants_close: bool, at_once: bool = False) -> None:
        """Begin an exchange. Somebody must wait for `head_arrived`, or be its `watcher`.

        `at_once`: it does not wait for what others write in this turn of the event loop.
        """
        if self.served:
            self._reset()
        self.is_busy = True
        self._is_head = is_head
        self._wants_close = wants_close
        if at_once:
            self._outbox.put_alone(self._transport, head + body)
        elif len(body) <= SLICE_BYTES:
            self._outbox.put(self._transport, head + body)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._unsent_from = 0
            self._write_unsent()

    async def head_arrived(self) -> None:
        """Return when the head of the answer is there. Whatever goes wrong closes the connection.

        Raises:
            httpx.TransportError: the connection broke, or what came is no HTTP. `is_stale` tells whether it had been
                dead before the request.
        """
        try:
            while not (self.has_head or self.error):
                self._waiter = self._loop.create_future()
                await self._waiter
        except BaseException:
            self.close()
            raise
        if not self.has_head and self.error is not None:
            raise self.error

    async def arrival(self) -> None:
        """Wait until something has changed: bytes have come, or the connection is gone."""
        self._waiter = self._loop.create_future()
        await self._waiter

    @property
    def has_pieces(self) -> bool:
        return bool(self._pieces)

    def take(self) -> bytes:
        """All of the body that has arrived since it was last taken."""
        pieces = self._pieces
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.body_length = 0
        if self._is_reading_paused:
            self._is_reading_paused = False
            if self.is_alive():
                self._transport.resume_reading()
        return taken

    def put_back(self, pieces: list[bytes]) -> None:
        """Pieces that were taken and not used, in their order."""
        self._pieces[:0] = pieces
        self.body_length += sum(map(len, pieces))

    def leave(self) -> None:
        """Nobody is called any more."""
        self.watcher = self.onward = None

    def abandon(self, error: httpx.TransportError) -> None:
        """Close, and let whoever still reads know why."""
        if not self.is_complete and self.error is None:
            self.error = error
        self.close()
        self._wake()

    def close(self) -> None:
        """At once: nothing that waits to be written is worth sending any more."""
        if self.is_closed:
            return
        self.is_closed = True
        self._is_between = False
        self._unsent = None
        self._transport.abort()
        self._on_closed(self)

    def forget(self) -> None:
        """It was given up while it was being opened: uvloop does not tell it that it is lost, nor do we tell the pool."""
        self.is_closed = True
        self._parser = None
        with contextlib.suppress(AttributeError):  # It may not have got that far.
            del self._transport

    def is_alive(self) -> bool:
        return not (self.is_closed or self._transport.is_closing())

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, though they have all its methods.
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        if self._is_between and self.onward is not None and len(data) < LARGEST_CHUNK:
            # As `whole_chunk`; this runs for every piece of every stream.
            beginnings, size = _BEGINNINGS[len(data)]
            if data.startswith(beginnings) and data.endswith(b"\r\n") and self.onward(data, size):
                return
        if not self.is_busy or self.is_complete or self.is_closed or self._parser is None:
            # Nobody asked for this: whatever it is, it must not become the next request's answer.
            self.is_reusable = False
            if not self.is_busy:
                self.close()
            return
        self._parse(self._parser, data)
        if self.onward is not None:
            self._is_between = self._has_parsed_whole(data)
        tap = self.tap
        if tap is not None and self._pieces and not self.is_complete and self.error is None:
            if tap():
                return
            self.tap = None
        self._wake()

    def _has_parsed_whole(self, data: bytes) -> bool:
        size = whole_chunk(data)
        return bool(size) and self._pieces == [data[-2 - size : -2]] and not self.is_complete and not self.is_closed

    def _parse(self, parser: httptools.HttpResponseParser, data: bytes) -> None:
        self.has_begun = True
        self._overhead += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._on_unparsable(error)
        else:
            if self._overhead > MAX_HEAD_BYTES:
                self._on_overhead()
            elif self.body_length > MAX_BUFFERED_BYTES and not self.is_complete and not self._is_reading_paused:
                self._is_reading_paused = True
                self._transport.pause_reading()

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        # The parser holds methods of this object: without the cycle nothing waits for the garbage collector.
        self._parser = None

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._write_unsent()

    def _write_unsent(self) -> None:
        while (unsent := self._unsent) is not None and not self._is_writing_paused:
            start = self._unsent_from
            self._unsent_from = start + SLICE_BYTES
            if self._unsent_from >= len(unsent):
                self._unsent = None
            self._transport.write(unsent[start : start + SLICE_BYTES])

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.watcher is not None:
            self.watcher()

    def _on_unparsable(self, error: Exception) -> None:
        if self.is_complete:
            self.is_reusable = False
            return
        if isinstance(error, httptools.HttpParserUpgrade):
            reason = "it switched protocols without being asked"
        else:
            reason = str(error.__context__ or error)
        self._break(f"The upstream does not speak HTTP/1.1 properly: {reason}")

    def _on_overhead(self) -> None:
        what = "framing without a piece of body" if self.has_head else "headers"
        self._break(f"The upstream sent over {MAX_HEAD_BYTES} bytes of {what}")

    def _break(self, reason: str) -> None:
        self.error = httpx.RemoteProtocolError(reason)
        self.close()

    def _end(self, exc: Exception | None) -> None:
        """The upstream has closed. Where nothing else tells the length of a body, this is its end."""
        if self.is_closed:
            return
        if self.is_busy and not self.is_complete and self.error is None:
            if exc is None and self.has_head and not self._is_framed():
                self.is_complete = True
            else:
                self._on_broken(exc)
        self.is_reusable = False
        self.close()
        self._wake()

    def _is_framed(self) -> bool:
        return any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in self.headers)

    def _on_broken(self, exc: Exception | None) -> None:
        where = "in the middle of its answer" if self.has_begun else "without an answer"
        self.is_stale = self.served and not self.has_begun and (exc is None or isinstance(exc, _RESETS))
        if exc is None:
            self.error = httpx.RemoteProtocolError(f"The upstream closed the connection {where}")
        elif self._unsent is not None and not self.has_begun:
            self.error = httpx.WriteError(f"The connection broke while the request was being sent: {exc}")
        else:
            self.error = httpx.ReadError(f"The connection broke {where}: {exc}")

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError("something follows the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:
            return  # A trailer. Nobody reads them, and as headers they could claim what the head did not.
        if len(name) == 17 and name.lower() == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise ValueError("a transfer encoding other than chunked, which was not asked for")
        self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if len(self.headers) > MAX_HEADERS:
            raise ValueError(f"more than {MAX_HEADERS} headers")
        if status < 200:
            if status < 100 or status == 101:
                raise ValueError(f"status {status}")
            self.headers = []
            return
        if self._overhead > MAX_HEAD_BYTES and sum(len(n) + len(v) + 4 for n, v in self.headers) > MAX_HEAD_BYTES:
            raise ValueError(f"more than {MAX_HEAD_BYTES} bytes of headers")
        self.status = status
        self.has_head = True
        if self._unsent is not None and status >= 300:
            # A refusal while the body is still being sent: the rest would be read by nobody.
            self._unsent = None
            self._wants_close = True
        if self._is_head:
            self.is_complete = True
            raise _HeadIsAllError

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.body_length += len(piece)
        self._overhead = 0

    def on_message_complete(self) -> None:
        if not self.has_head:
            return  # An interim response; the real one follows.
        assert self._parser is not None
        self.is_complete = True
        self._overhead = 0
        self.is_reusable = self._parser.should_keep_alive() and self._unsent is None and not self._wants_close
