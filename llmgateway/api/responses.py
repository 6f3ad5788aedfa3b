"""Answers on an ASGI connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from llmgateway.api.asgi_types import RawHeaders, Receive, Send
from llmgateway.api.errors import openai_envelope
from llmgateway.pipeline.errors import GatewayError

JSON = (b"content-type", b"application/json")


class Responder:
    """Sends one answer; the pipeline's `Client`. Adds the headers that every answer carries: request id, cross-origin rules."""

    __slots__ = ("_always", "_send", "started")

    def __init__(self, send: Send, always: RawHeaders) -> None:
        self._send = send
        self._always = always
        self.started = False

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self._always]})

    async def send(self, chunk: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def error(self, error: GatewayError, headers: Sequence[tuple[bytes, bytes]]) -> None:
        body = openai_envelope(error)
        await self.whole(error.status, body, [*headers, *error.headers, JSON])

    async def json(self, status: int, value: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        await self.whole(status, orjson.dumps(value), [*headers, JSON])

    async def whole(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.send(body, more=False)

    async def start_and_end(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """An answer without a body."""
        await self.start(status, headers)
        await self.send(b"", more=False)


class DisconnectWatch:
    """Ends the request of the task it is made in when the client leaves; ASGI servers do not do so by themselves.

    `watch` takes over `receive`, so the request's body must have been read.
    """

    __slots__ = ("_receive", "_task", "_watcher", "client_left")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self.client_left = False

    def watch(self) -> None:
        self._watcher = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue  # A server may repeat that the body is complete.
        self.client_left = True
        if self._task is not None:
            self._task.cancel()

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
