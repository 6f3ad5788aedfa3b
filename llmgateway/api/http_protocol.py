"""The server's side of HTTP/1.1: uvicorn's httptools protocol with an answer path of our own.

Requests, upgrades, pipelining and limits stay uvicorn's. What differs saves 6 µs of an answer with 22 headers:

- Head and first piece of body leave in one write, as ASGI asks servers to do.
- A header's name is examined once per process, and all values together by counting line breaks, where uvicorn runs
  two regular expressions for each header.
- A connection has one keep-alive timer that looks at its clock, not one that is made and cancelled for each request.
- What several requests say in one turn of the event loop is sent one after the other at its end.
- A body that arrived whole with its head is handed over in the scope, so that nobody has to wait for it.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, service_unavailable
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from llmgateway.api.asgi_types import WHOLE_BODY, Message, Scope
from llmgateway.pipeline.header_lines import HeaderLines
from llmgateway.pipeline.outbox import Departing

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

    def __init__(self) -> None:
        self._is_set = False
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


class Exchange(RequestResponseCycle):
    """One request and its answer. `receive` is uvicorn's; the answer is written here."""

    _head: bytes | None = None
    """Of the answer, until its first piece of body comes."""

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

    def start_at_once(self, status: int, headers: Sequence[tuple[bytes, bytes]], own: HeaderLines) -> bool:
        """Begin an answer without waiting; its head leaves with the first piece of its body. False: nothing was done."""
        if self.flow.write_paused or self.disconnected or self.response_started:
            return False
        self._begin(status, headers, own)
        return True

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
        """The answer's head, checked: whatever a value holds, it makes no other header and no other answer."""
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
        head = b"\r\n".join(lines)
        breaks = len(lines) - 1
        if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
            raise RuntimeError("a header of the answer holds a line break or a NUL")
        return b"%b\r\n%b\r\n" % (head, own)

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


class GatewayProtocol(HttpToolsProtocol):
    """A client's connection."""

    _idle_since = 0.0
    """When the last answer ended, by the event loop's clock; 0: a request is on its way."""
    _answering: RequestResponseCycle | None = None
    """The request that is being answered; `cycle` is the one that came last."""
    _departing: Departing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        self._departing = Departing(transport)
        super().connection_made(cast("asyncio.Transport", self._departing))

    def eof_received(self) -> None:
        """The event loop closes the connection next; what was said before must be on its way."""
        self._departing.laid_off()

    def handle_websocket_upgrade(self) -> None:
        self.transport = self._departing.laid_off()
        super().handle_websocket_upgrade()

    def on_headers_complete(self) -> None:
        """As in uvicorn, with `Exchange` in place of its own cycle."""
        parser, scope = self.parser, cast("Scope", self.scope)
        http_version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if http_version != "1.1":
            scope["http_version"] = http_version
        if parser.should_upgrade() and self._should_upgrade():
            return
        url = httptools.parse_url(self.url)
        raw_path = url.path
        path = raw_path.decode("ascii")
        scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = url.query or b""
        scope["extensions"] = {}
        before = self.cycle
        self.cycle = Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=cast("asyncio.Event", Arrival()),
            expect_100_continue=self.expect_100_continue,
            keep_alive=http_version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        app = service_unavailable if self._is_full() else self.app
        if before is None or before.response_complete:
            self._begin(self.cycle, app)
        else:
            # A client that does not wait for the answer before its next request.
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, cast("Any", app)))

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the request that came last; where others wait behind it, another is being answered."""
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def _is_full(self) -> bool:
        limit = self.limit_concurrency
        return limit is not None and (len(self.connections) >= limit or len(self.tasks) >= limit)

    def _begin(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        cycle = self.cycle
        if cycle is not None and not cycle.more_body and len(cycle.body) <= HIGH_WATER_LIMIT:
            cast("Scope", cycle.scope)["extensions"][WHOLE_BODY] = bytes(cycle.body)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._begin(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_if_idle_after(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        self._idle_since = 0.0
        super().data_received(data)

    def _unset_keepalive_if_required(self) -> None:
        """For every arrival uvicorn takes the timer down; ours finds out by itself. At the end it goes."""
        if self.transport.is_closing():
            super()._unset_keepalive_if_required()

    def _close_if_idle_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if not self._idle_since or self.transport.is_closing():
            return
        remaining = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if remaining > 0:
            self._close_if_idle_after(remaining)
        else:
            self.transport.close()
