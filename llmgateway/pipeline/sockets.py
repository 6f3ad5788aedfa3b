"""WebSockets to providers: opened with the deployment's credential, through the operator's proxy, never redirected."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from llmgateway.pipeline.proxies import DEFAULT_PORTS, Proxies

logger = logging.getLogger(__name__)
# At its debug level the library writes every header, our credential included.
logger.setLevel(logging.WARNING)

Frame = str | bytes
MAX_FRAME = 16 * 2**20
"""Bytes of one message, in either direction; the server's own bound for clients is the same."""
MAX_WAITING = 16
"""Messages from a provider that wait for a slow client; then the provider is read no further."""
KEEPALIVE_S = 20.0
CLOSE_S = 1.0
"""How long a provider may take to say goodbye."""
_NOT_SENDABLE = {1004, 1005, 1006, 1015}


class SocketClosedError(Exception):
    """The other side has closed, or is gone. `code` is one that may be sent on."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason


class RefusedHandshakeError(Exception):
    """The provider answered with a status in place of a connection."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body


class Socket(Protocol):
    """One end of a connection. Sending waits for a slow reader. Nobody receives twice at a time."""

    async def receive(self) -> Frame:
        """Raises SocketClosedError."""
        ...

    async def send(self, frame: Frame) -> None:
        """Raises SocketClosedError."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, if anybody is there to hear it."""
        ...


class UpstreamSocket:
    """A connection to a provider."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @property
    def subprotocol(self) -> str | None:
        return self._connection.subprotocol

    async def receive(self) -> Frame:
        try:
            return await self._connection.recv()
        except websockets.ConnectionClosed as error:
            raise _closed(error) from None

    async def send(self, frame: Frame) -> None:
        try:
            await self._connection.send(frame)
        except websockets.ConnectionClosed as error:
            raise _closed(error) from None

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, short(reason))

    def abort(self) -> None:
        """Whatever is not closed by now is dropped."""
        self._connection.transport.abort()


class _Connect(connect):
    """Redirects are errors: the credential is meant for the address that an admin entered."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class SocketOpener:
    """Opens connections to providers. One per process; knows how TLS is checked and which proxy leads where."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, proxies: Proxies | None = None) -> None:
        self._tls = tls
        self._proxies = proxies or Proxies()

    async def open(
        self, url: str, headers: Sequence[tuple[bytes, bytes]], subprotocols: Sequence[str], *, timeout_s: float
    ) -> UpstreamSocket:
        """A connection to `url`, an address that begins with `http`.

        Raises:
            RefusedHandshakeError: the provider answered otherwise.
            OSError, TimeoutError, websockets.WebSocketException: it could not be reached, or does not speak WebSocket.
        """
        parts = urlsplit(url)
        uses_tls = parts.scheme in {"https", "wss"}
        port = parts.port or DEFAULT_PORTS["https" if uses_tls else "http"]
        proxy = self._proxies.to(parts.hostname or "", port, uses_tls=uses_tls)
        try:
            connection = await _Connect(
                parts._replace(scheme="wss" if uses_tls else "ws").geturl(),
                additional_headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
                subprotocols=[Subprotocol(each) for each in subprotocols] or None,
                user_agent_header=None,
                compression=None,
                logger=logger,
                proxy=proxy.url if proxy is not None else None,
                open_timeout=timeout_s,
                ping_interval=KEEPALIVE_S,
                ping_timeout=KEEPALIVE_S,
                close_timeout=CLOSE_S,
                max_size=MAX_FRAME,
                max_queue=MAX_WAITING,
                ssl=(self._tls or True) if uses_tls else None,
            )
        except websockets.InvalidStatus as error:
            raise RefusedHandshakeError(error.response.status_code, bytes(error.response.body or b"")) from None
        return UpstreamSocket(connection)


def _closed(error: websockets.ConnectionClosed) -> SocketClosedError:
    close = error.rcvd or error.sent
    if close is None:
        return SocketClosedError(1014, "upstream connection lost")
    return SocketClosedError(sendable(close.code), close.reason)


def sendable(code: int) -> int:
    """A close code as it may be sent on: some only say that there was none."""
    return 1000 if code in _NOT_SENDABLE else code


def short(reason: str) -> str:
    """A reason has 123 bytes at most."""
    return reason.encode()[:123].decode(errors="ignore")
