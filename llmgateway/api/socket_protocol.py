"""The server's side of WebSockets: uvicorn's, among the connections that are counted and looked after."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from llmgateway.api import early_refusals
from llmgateway.api.connections import Connections, Verdict


class SocketProtocol(WebSocketsSansIOProtocol):
    """A client's WebSocket, once it has been a request."""

    all: Connections | None = None
    """Among which it counts."""
    address = ""
    verdict = Verdict.WELCOME

    @property
    def unread(self) -> int:
        return self.transport.get_write_buffer_size()

    def end(self, reason: str) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            # The whole request was there. Uvicorn's protocol would keep the connection, and never say anything.
            self.transport.write(early_refusals.UNREADABLE_SOCKET.raw())
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.all is not None:
            self.all.leave(self, self.address, self.verdict)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.all is not None:
            self.all.stalls(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.all is not None:
            self.all.flows(self)
