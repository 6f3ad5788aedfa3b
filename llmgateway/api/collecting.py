"""The other end of a call that the gateway makes in a caller's name: keeps the answer in place of sending it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llmgateway.api.responses import DisconnectWatch
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.header_lines import HeaderLines, pairs

Headers = Sequence[tuple[bytes, bytes]]


class Collector:
    """The pipeline's `Client` for one answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        """The provider's."""
        self.lines: HeaderLines = b""
        """The gateway's own."""
        self.failure: GatewayError | None = None
        self._pieces: list[bytes] = []

    async def start(self, status: int, headers: Headers, lines: HeaderLines = b"") -> None:
        self.status, self.headers, self.lines = status, headers, lines

    async def send(self, chunk: bytes, *, more: bool) -> None:
        self._pieces.append(chunk)

    def send_now(self, chunk: bytes) -> bool:
        self._pieces.append(chunk)
        return True

    async def whole(self, status: int, body: bytes, headers: Headers, lines: HeaderLines = b"") -> None:
        await self.start(status, headers, lines)
        self._pieces = [body]

    async def error(self, error: GatewayError, lines: HeaderLines = b"") -> None:
        self.status, self.failure, self.lines = error.status, error, lines

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)

    def told(self) -> dict[bytes, bytes]:
        """The gateway's own headers by name."""
        return dict(pairs(self.lines))


class SharedWatch(DisconnectWatch):
    """The watch over a client whose request is answered by several calls: whichever asks first begins it."""

    __slots__ = ()

    def watch(self) -> None:
        if self._watcher is None:
            super().watch()


class OneOfSeveral:
    """The presence of a client whose request is answered by several calls at once, each in a task of its own."""

    def __init__(self, watch: SharedWatch) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call runs in a task")
        self.task: asyncio.Task[object] = task
        self._watch = watch

    @property
    def client_left(self) -> bool:
        return self._watch.client_left

    def watch(self) -> None:
        self._watch.watch()
