"""Passes an answer on to its client and keeps a copy of it, as long as it is small enough."""

from __future__ import annotations

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


class Recorder:
    """Stands before a client. `lines` go out with the headers of its answer.

    `on_too_large` is called once, as soon as there will be nothing to keep.
    """

    def __init__(
        self,
        client: Client,
        lines: HeaderLines = b"",
        *,
        on_too_large: Callable[[], None] | None = None,
        most: int = LARGEST_ANSWER,
    ) -> None:
        self.status = 0
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self.finished = False
        """All of it went out."""
        self._client = client
        self._lines = lines
        self._on_too_large = on_too_large
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
        await self._client.send(chunk, more=more)
        self.finished = not more

    def send_now(self, chunk: bytes) -> bool:
        return False

    async def whole(
        self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b""
    ) -> None:
        self.status, self.headers = status, headers
        self._note(body)
        await self._client.whole(status, body, headers, self._lines + lines)
        self.finished = True

    async def error(self, error: GatewayError, lines: HeaderLines = b"") -> None:
        self.status = error.status
        await self._client.error(error, lines)

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
