"""Runs the fake provider on uvicorn, with ways to break connections off."""

from __future__ import annotations

import socket
import struct
from typing import cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from providers.fake_server.app import FakeProvider


class _ResettableProtocol(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"fake.reset": self._reset, "fake.close": self._close}  # type: ignore[dict-item]

    def _reset(self) -> None:
        plug = cast("socket.socket", self.transport.get_extra_info("socket"))
        # Without lingering, closing sends a reset and not an orderly end.
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _close(self) -> None:
        self.transport.close()


def make_server(app: FakeProvider, *, host: str = "127.0.0.1", port: int = 0) -> uvicorn.Server:
    """A server that is not running yet; `server.run()` serves until it is told to stop."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_ResettableProtocol,
        ws="websockets-sansio",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
