"""Answers on an ASGI connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from llmgateway.api.asgi_types import RawHeaders, Receive, Send
from llmgateway.api.http_exchange import Exchange
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.header_lines import HeaderLines, line, pairs
from providers.adapters.dialects.base import Dialect, WireError

JSON = (b"content-type", b"application/json")
LARGE_BYTES = 65_536
"""Whoever is answered more than this keeps its turn until it has taken nearly all of it."""


class Responder:
    """Sends one answer; the pipeline's `Client`. Adds the headers that every answer carries: request id, cross-origin rules."""

    __slots__ = ("_always", "_cross_origin", "_exchange", "_send", "dialect", "started")

    def __init__(
        self, send: Send, always: HeaderLines, dialect: Dialect, cross_origin: RawHeaders | None = None
    ) -> None:
        self._send = send
        server = getattr(send, "__self__", None)
        self._exchange = server if isinstance(server, Exchange) else None
        """Our own server's side of the request; None: another server, which is spoken to in ASGI."""
        self._always = always
        self._cross_origin = cross_origin
        self.dialect = dialect
        """In which errors are told."""
        self.started = False

    def tell_request_id(self, request_id: str) -> None:
        """Also under the name that clients of the dialect look for."""
        if name := self.dialect.request_id_header:
            self._always += line(name, request_id.encode())

    def tell_always(self, lines: HeaderLines) -> None:
        """Headers of every answer of a path, errors too."""
        self._always += lines

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b"") -> None:
        if self._cross_origin:
            headers = (*headers, *self._cross_origin)
        self.started = True
        lines += self._always
        if self._exchange is not None and self._exchange.start_at_once(status, headers, lines):
            return
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *pairs(lines)]})

    async def send(self, chunk: bytes, *, more: bool) -> None:
        if self._exchange is not None and self._exchange.send_at_once(chunk, more=more):
            return
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    def send_now(self, chunk: bytes) -> bool:
        return self._exchange is not None and self._exchange.send_at_once(chunk, more=True)

    async def error(self, error: GatewayError, lines: HeaderLines = b"") -> None:
        body = self.dialect.error_body(WireError(error.status, error.message, error.type, error.code, error.param))
        await self.whole(error.status, body, [*error.headers, JSON], lines)

    async def json(self, status: int, value: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        await self.whole(status, orjson.dumps(value), [*headers, JSON])

    async def whole(
        self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b""
    ) -> None:
        if self._cross_origin:
            headers = (*headers, *self._cross_origin)
        self.started = True
        lines = b"%bcontent-length: %d\r\n%b" % (lines, len(body), self._always)
        # Without two messages and four coroutines.
        if self._exchange is not None and self._exchange.answer_at_once(status, headers, lines, body):
            if len(body) > LARGE_BYTES:
                await self._exchange.taken()
            return
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *pairs(lines)]})
        await self.send(body, more=False)

    async def start_and_end(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """An answer without a body."""
        await self.start(status, headers)
        await self.send(b"", more=False)


class DisconnectWatch:
    """Ends the request of the task it is made in when the client leaves; ASGI servers do not do so by themselves.

    `watch` takes over `receive`, so the request's body must have been read.
    """

    __slots__ = ("_receive", "_watcher", "client_left", "task")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        server = getattr(receive, "__self__", None)
        # Our own server knows; asking asyncio takes as long as ten of these lines.
        task = server.task if isinstance(server, Exchange) else asyncio.current_task()
        if task is None:
            raise RuntimeError("a request runs in a task")
        self.task: asyncio.Task[object] = task
        self._watcher: asyncio.Task[None] | None = None
        self.client_left = False

    def watch(self) -> None:
        if self._watcher is None:  # It may have begun while the request waited for its turn.
            self._watcher = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                continue  # A server may repeat that the body is complete.
        except asyncio.CancelledError:
            return  # Raised, it would stay in the task with this frame, and all of the request with them: a cycle.
        server = getattr(self._receive, "__self__", None)
        if isinstance(server, Exchange) and not server.disconnected:
            return  # The answer is complete, and on its way to a client that is still there.
        self.client_left = True
        self.task.cancel()

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
