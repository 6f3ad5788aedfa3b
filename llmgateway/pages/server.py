"""The process's side: accepts requests on its socket, and has an ASGI application answer them. No Django here."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from llmgateway.api.asgi_types import Message, Receive, Scope, Send
from llmgateway.pages.frames import frame, read_frame
from llmgateway.pages.place import Place
from llmgateway.siblings import short_path
from llmgateway.version import version

logger = logging.getLogger(__name__)

Application = Callable[[Scope, Receive, Send], Awaitable[Any]]

IDLE_S = 600.0
"""Nobody has looked for so long: the process gives its memory back."""
TICK_S = 2.0
BACKLOG = 2048
"""Requests that may come at the same moment."""
QUEUED = 4
"""Pieces of an upload that wait for the application; more stay in the socket, and so with the client."""
LEAVE_S = 10.0
"""How long an application may go on when its client has left."""
_PAGE_LEFT = {"type": "http.disconnect"}
_SOCKET_LEFT = {"type": "websocket.disconnect", "code": 1006}


class PagesServer:
    """Serves until it is told to end, or nobody has looked for `idle_s`."""

    def __init__(
        self, application: Application, place: Place, *, grace_s: float, idle_s: float = IDLE_S, tick_s: float = TICK_S
    ) -> None:
        self._application = application
        self._place = place
        self._grace_s = grace_s
        self._idle_s = idle_s
        self._tick_s = tick_s
        self._greeting = frame({"pid": os.getpid(), "version": version()})
        self._parent = os.getppid()
        self._ending = asyncio.Event()
        self._guests: dict[asyncio.Task[Any], Guest] = {}
        self._last_use = 0.0
        self._inode = 0

    def end(self) -> None:
        """Take no more requests; answer those that are here."""
        self._ending.set()

    async def run(self, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """To be called by who holds the place's lock, so that whatever socket is there is a dead one's."""
        self._place.socket.unlink(missing_ok=True)
        with short_path(self._place.socket) as path:
            listening = await asyncio.start_unix_server(self._welcome, path, backlog=BACKLOG)
            os.chmod(path, 0o600)  # noqa: PTH101  # a path that may be a descriptor's
        self._inode = self._inode_now()
        self._last_use = asyncio.get_running_loop().time()
        on_ready()
        try:
            await self._until_the_end()
        finally:
            listening.close()
            if self._inode_now() == self._inode:
                self._place.socket.unlink(missing_ok=True)
            await self._see_guests_off()

    async def _until_the_end(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._ending.is_set():
            try:
                async with asyncio.timeout(self._tick_s):
                    await self._ending.wait()
            except TimeoutError:
                if self._is_over(loop.time()):
                    self.end()

    def _is_over(self, now: float) -> bool:
        if self._inode_now() != self._inode:
            logger.warning("the socket %s was removed; making way for another process", self._place.socket)
            return True
        if os.getppid() != self._parent:
            return True  # Where no kernel ends us with the server.
        return not self._guests and now - self._last_use >= self._idle_s

    def _inode_now(self) -> int:
        try:
            return self._place.socket.stat().st_ino
        except OSError:
            return 0

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._ending.is_set():
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        guest = self._guests[task] = Guest(reader, writer, self._greeting)
        try:
            await guest.serve(self._application)
        finally:
            del self._guests[task]
            self._last_use = asyncio.get_running_loop().time()

    async def _see_guests_off(self) -> None:
        """WebSockets would never end by themselves; their pages come again. Requests are waited for."""
        for guest in self._guests.values():
            if not guest.is_page:
                guest.see_off()
        if self._guests:
            await asyncio.wait(list(self._guests), timeout=self._grace_s)
        for task in self._guests:
            task.cancel()


class Guest:
    """One request or WebSocket, on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._greeting = greeting
        self._messages: asyncio.Queue[Message] = asyncio.Queue(QUEUED)
        self._goodbye: Message | None = None
        """What is received from now on: the client has left, or the server has gone."""
        self._has_begun = False
        self.is_page = True

    async def serve(self, application: Application) -> None:
        try:
            self._writer.write(self._greeting)
            scope = await read_frame(self._reader)
            if scope is not None:
                self.is_page = scope["type"] == "http"
                await self._answer(application, scope)
        finally:
            self._writer.close()

    def see_off(self) -> None:
        """As if the server had gone."""
        self._writer.close()

    async def _answer(self, application: Application, scope: Scope) -> None:
        answering = asyncio.ensure_future(application(scope, self._receive, self._send))
        listening = asyncio.create_task(self._listen(answering))
        try:
            await answering
        except asyncio.CancelledError:
            answering.cancel()
            if not listening.done():
                raise
        except Exception:
            logger.exception("a page failed: %s", scope["path"])
            if self.is_page and not self._has_begun:
                await self._send({"type": "http.response.start", "status": 500, "headers": []})
                await self._send({"type": "http.response.body", "body": b"Internal Server Error"})
        finally:
            listening.cancel()

    async def _listen(self, answering: asyncio.Future[Any]) -> None:
        """Hear the client, until it leaves; and see to it then that its answer ends."""
        while (message := await read_frame(self._reader)) is not None:
            await self._messages.put(message)
            if message["type"].endswith(".disconnect"):
                break
        else:
            await self._messages.put(_PAGE_LEFT if self.is_page else _SOCKET_LEFT)
        await asyncio.sleep(LEAVE_S)
        answering.cancel()

    async def _receive(self) -> Message:
        if self._goodbye is not None:
            return self._goodbye
        message = await self._messages.get()
        if message["type"].endswith(".disconnect"):
            self._goodbye = message
        return message

    async def _send(self, message: Message) -> None:
        """What nobody hears any more is said all the same, as to a client that has left."""
        self._has_begun = True
        self._writer.write(frame(message))
        try:
            await self._writer.drain()
        except ConnectionError:
            logger.debug("the server has gone before the end of an answer")
