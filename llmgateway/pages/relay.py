"""Takes requests for pages to the process that makes them. Whatever happens to it, they are answered. No Django here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from llmgateway.api.asgi_types import Message, Receive, Scope, Send
from llmgateway.pages.frames import frame, portable, read_frame
from llmgateway.pages.keeper import Keeper, Wire

logger = logging.getLogger(__name__)

Application = Callable[[Scope, Receive, Send], Awaitable[Any]]

ASK_THE_GATEWAY = ("/admin/explain", "/manage/api/v1/explain")
"""Beginnings of the paths whose pages ask the running gateway, and so are made in its process."""
REPEATABLE = ("GET", "HEAD")
MOST_REPEATED_BYTES = 64 * 1024
SERVICE_RESTART = 1012
"""Close code of the IANA's list: come again. The dashboard's page does."""
_INTERRUPTED = (
    "The gateway was interrupted while it worked on this, and cannot say whether it was done. "
    "Look whether it was, and try again if not."
)


class Relay:
    """The ASGI application of all pages. `here` makes them in this process: without a keeper, all."""

    def __init__(self, here: Application) -> None:
        self._here = here
        self.keeper: Keeper | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire = None
        if self.keeper is not None and not scope["path"].startswith(ASK_THE_GATEWAY):
            is_page = scope["type"] == "http"
            wire = await (self.keeper.reach() if is_page else self.keeper.reach_patiently())
        if wire is None:
            await self._here(scope, receive, send)
            return
        visit = Visit(scope, receive, send)
        if not await visit.run(wire):
            await self._after_loss(visit)

    def facts(self) -> dict[str, Any]:
        """For `/health`."""
        if self.keeper is None:
            return {"made": "here", "pid": 0}
        return {"made": self.keeper.state, "pid": self.keeper.pid}

    async def _after_loss(self, visit: Visit) -> None:
        """The process has ended amid a request."""
        scope = visit.scope
        if visit.has_begun:
            await visit.break_off()
        elif visit.is_repeatable:
            await self._here(scope, visit.repeat, visit.send)
        else:
            logger.warning("the process that makes pages ended amid %s %s", scope["method"], scope["path"])
            await answer_interrupted(scope, visit.send)


class Visit:
    """One request or WebSocket that another process answers."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.send = send
        self.has_begun = False
        """Whether the client has been told anything."""
        self._receive = receive
        self._is_page = scope["type"] == "http"
        self._may_repeat = not self._is_page or scope["method"] in REPEATABLE
        self._kept: list[Message] = []
        """What was received, of requests that may be asked again."""
        self._kept_bytes = 0
        self._client_left = False

    async def run(self, wire: Wire) -> bool:
        """Whether it was answered to its end, or nobody waits for that. False: the process has ended before."""
        reader, writer = wire
        writer.write(frame(portable(self.scope)))
        telling = asyncio.create_task(self._tell(writer))
        try:
            while (message := await read_frame(reader)) is not None:
                self.has_begun = True
                await self.send(message)
                if _is_last(message):
                    return True
            return self._client_left
        finally:
            telling.cancel()
            writer.close()
            await asyncio.wait([telling])
            _raise_unless_gone(telling)

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        """Say what comes from the client, as fast as it is taken."""
        while not self._client_left:
            message = await self._receive()
            self._keep(message)
            self._client_left = message["type"].endswith(".disconnect")
            writer.write(frame(message))
            await writer.drain()

    def _keep(self, message: Message) -> None:
        if not self._may_repeat or self.has_begun:
            self._kept.clear()
            return
        self._kept.append(message)
        self._kept_bytes += len(message.get("body") or b"")
        self._may_repeat = self._kept_bytes <= MOST_REPEATED_BYTES

    @property
    def is_repeatable(self) -> bool:
        """Asking once more does nothing that asking once does not: a page to read, or a WebSocket that is not open yet."""
        return self._may_repeat

    async def repeat(self) -> Message:
        """As `receive` of the server, from the beginning."""
        return self._kept.pop(0) if self._kept else await self._receive()

    async def break_off(self) -> None:
        """The client must see that what it has is not all."""
        if self._is_page:
            # Servers close the connection of an answer that does not end.
            logger.warning("the process that makes pages ended amid the answer of %s", self.scope["path"])
        else:
            await self.send({"type": "websocket.close", "code": SERVICE_RESTART})


async def answer_interrupted(scope: Scope, send: Send) -> None:
    """502, as a program or a person can read it."""
    accepts = b",".join(value for name, value in scope["headers"] if name == b"accept")
    if b"text/html" in accepts:
        kind, body = b"text/html; charset=utf-8", _page()
    else:
        kind, body = b"application/json", msgspec.json.encode({"error": _error()})
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 502, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _error() -> dict[str, Any]:
    return {"message": _INTERRUPTED, "type": "server_error", "param": None, "code": "interrupted", "fields": {}}


def _page() -> bytes:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Interrupted</title>'
        f'<h1>Interrupted</h1><p>{_INTERRUPTED}</p><p><a href="">Back to this page</a></p>'
    ).encode()


def _raise_unless_gone(telling: asyncio.Task[None]) -> None:
    """That the process has gone is seen where it is listened to."""
    if telling.cancelled():
        return
    failure: BaseException | None = telling.exception()
    if failure is not None and not isinstance(failure, ConnectionError):
        raise failure


def _is_last(message: Message) -> bool:
    kind = message["type"]
    if kind.endswith(".body"):
        return not message.get("more_body", False)
    return bool(kind == "websocket.close")
