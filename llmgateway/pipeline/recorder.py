"""Passes an answer on to its client and keeps a copy of it, as long as it is small enough.

Whoever else waits for the copy need not wait for the client: it may be given the answer at its own pace, out of what is
kept anyway, while all of it is fetched.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from llmgateway.pipeline.cached_answers import LARGEST_ANSWER
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.header_lines import HeaderLines
from llmgateway.pipeline.requests import Client


class Nobody:
    """A client that only a recorder listens to."""

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b"") -> None: ...

    async def send(self, chunk: bytes, *, more: bool) -> None: ...

    def send_now(self, chunk: bytes) -> bool:
        return True

    async def whole(
        self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b""
    ) -> None: ...

    async def error(self, error: GatewayError, lines: HeaderLines = b"") -> None: ...


class _Backlog:
    """What a slow client has not taken yet. A task of its own sends it, in order."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pieces: deque[tuple[bytes, bool]] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_empty(self) -> bool:
        return self._task is None or (self._task.done() and not self._pieces)

    def add(self, chunk: bytes, *, more: bool) -> None:
        """Raises what sending the pieces before has raised."""
        self._pieces.append((chunk, more))
        if self._task is not None and self._task.done():
            self._task.result()
            self._task = None
        if self._task is None:
            self._task = asyncio.create_task(self._send())

    async def taken(self) -> None:
        """Wait until the client has all of it. Whoever is cancelled meanwhile ends the sending too."""
        if self._task is not None:
            await self._task

    def drop(self) -> None:
        """Send nothing more."""
        self._pieces.clear()
        if self._task is not None and not self._task.cancel() and not self._task.cancelled():
            self._task.exception()  # Nobody else asks for it any more.

    async def _send(self) -> None:
        while self._pieces:
            chunk, more = self._pieces.popleft()
            await self._client.send(chunk, more=more)


class Recorder:
    """Stands before a client. `lines` go out with the headers of its answer.

    `on_too_large` is called once, as soon as there will be nothing to keep; `on_complete` once, as soon as all of the
    answer is here and before its client has read it. With `reads_ahead` a client that reads slowly holds the answer up
    only when it is too large to be kept. Whoever makes such a recorder calls `close`.
    """

    def __init__(
        self,
        client: Client,
        lines: HeaderLines = b"",
        *,
        on_too_large: Callable[[], None] | None = None,
        on_complete: Callable[[], None] | None = None,
        reads_ahead: bool = False,
        most: int = LARGEST_ANSWER,
    ) -> None:
        self.status = 0
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self.finished = False
        """All of it is here."""
        self._client = client
        self._lines = lines
        self._on_too_large = on_too_large
        self._on_complete = on_complete
        self._backlog = _Backlog(client) if reads_ahead else None
        self._most = most
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def body(self) -> bytes | None:
        """None: it is not finished, or was too large."""
        return b"".join(self._pieces) if self.finished and self._size <= self._most else None

    def header(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key == name), b"")

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b"") -> None:
        self.status, self.headers = status, headers
        await self._client.start(status, headers, self._lines + lines)

    async def send(self, chunk: bytes, *, more: bool) -> None:
        self._note(chunk)
        if not more:
            self._complete()
        backlog = self._backlog
        if backlog is None:
            await self._client.send(chunk, more=more)
            return
        if more and backlog.is_empty and self._client.send_now(chunk):
            return
        backlog.add(chunk, more=more)
        if not more or self._size > self._most or self.status != 200:
            await backlog.taken()

    def send_now(self, chunk: bytes) -> bool:
        return False

    async def whole(
        self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b""
    ) -> None:
        self.status, self.headers = status, headers
        self._note(body)
        self._complete()
        await self._client.whole(status, body, headers, self._lines + lines)

    async def error(self, error: GatewayError, lines: HeaderLines = b"") -> None:
        self.status = error.status
        await self._client.error(error, lines)

    def close(self) -> None:
        """The request is over: what its client has not taken by now it does not get."""
        if self._backlog is not None:
            self._backlog.drop()

    def _complete(self) -> None:
        self.finished = True
        if self._on_complete is not None:
            self._on_complete()

    def _note(self, piece: bytes) -> None:
        if self._size > self._most or self.status != 200:
            return
        self._size += len(piece)
        if self._size > self._most:
            self._pieces.clear()
            if self._on_too_large is not None:
                self._on_too_large()
        elif piece:
            self._pieces.append(piece)
