"""An upstream on a real loopback socket that sends exactly the bytes it is told to, and notes what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Peer:
    """One connection, as the upstream sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request. Raises `IncompleteReadError` when the client has left."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        return head, await self.reader.readexactly(int(length[1]) if length else 0)

    async def send(self, *pieces: bytes) -> None:
        """Each piece by itself, so that it can arrive by itself."""
        for piece in pieces:
            if self.writer.is_closing():
                raise ConnectionResetError  # To write all the same is an error of another kind on uvloop.
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0)

    async def closed(self) -> None:
        """Returns when the client has closed."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        # Without lingering, closing a socket is a reset.
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class Upstream:
    port: int = 0
    scheme: str = "http"
    connections: int = 0
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/v1/chat/completions?x=1"


@contextlib.asynccontextmanager
async def upstream(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Runs `script` for every connection. The connection is closed when the script ends."""
    state = Upstream(scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer = Peer(reader, writer, state.connections)
        state.connections += 1
        try:
            await script(peer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # The client has left, or the test is over.
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(*answers: bytes, byte_by_byte: bool = False) -> Script:
    """Answers each request of a connection in turn, the last answer for ever; then waits for the client to close."""

    async def script(peer: Peer) -> None:
        turn = 0
        while True:
            await peer.request()
            answer = answers[min(turn, len(answers) - 1)]
            await peer.send(*([answer[at : at + 1] for at in range(len(answer))] if byte_by_byte else [answer]))
            turn += 1

    return script


def relaying(heads: list[bytes]) -> Script:
    """A proxy: tunnels where it is asked to, else passes requests on as they are. Notes the heads that it read."""

    async def script(peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        method, target, _ = head.split(b" ", 2)
        address = target if method == b"CONNECT" else target.split(b"/")[2]
        host, _, port = address.decode().rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            if method == b"CONNECT":
                await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                writer.write(head)
            await asyncio.gather(_copied(peer.reader, writer, heads), _copied(reader, peer.writer, None))
        finally:
            writer.close()

    return script


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heads: list[bytes] | None) -> None:
    while data := await reader.read(65536):
        if heads is not None and data.startswith(b"POST "):
            heads.append(data)
        writer.write(data)
    writer.close()


def answering_once(*pieces: bytes, pause_s: float = 0) -> Script:
    """Answers one request, and closes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            await peer.send(piece)
            await asyncio.sleep(pause_s)

    return script
