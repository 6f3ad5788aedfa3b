"""Requests for WebSockets that cannot be read."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from llmgateway.api.socket_protocol import SocketProtocol
from tests.api.test_http_protocol import Pipe, Wire, saying

LINES = (
    b"host: test\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class TakenOver(Pipe):
    """By the protocol of a WebSocket."""

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol


async def asked(request: bytes) -> TakenOver:
    wire = Wire(saying())
    wire.protocol.ws_protocol_class = cast("Any", SocketProtocol)
    pipe = TakenOver()
    wire.protocol.connection_made(pipe)
    wire.protocol.data_received(request)
    return pipe


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"GET /ws HTTP/1.1\r\n" + LINES + b"content-length: 2\r\n\r\n{}", id="with-a-body"),
        pytest.param(
            b"GET /ws HTTP/1.1\r\n" + LINES + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="with-chunks"
        ),
        pytest.param(b"GET /ws HTTP/1.1\r\n" + LINES + b"x: " + b"a" * 9000 + b"\r\n\r\n", id="with-a-long-line"),
        pytest.param(b"GET /ws HTTP/1.1\r\n" + LINES + b"x: y\r\n" * 150 + b"\r\n", id="with-many-headers"),
    ],
)
async def test_one_that_cannot_be_read_is_told_so_and_keeps_no_connection(said: bytes) -> None:
    pipe = await asked(said)

    head, _, body = b"".join(pipe.writes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_value"
    assert pipe.closed


async def test_one_that_can_be_read_is_for_the_application() -> None:
    pipe = await asked(b"GET /ws HTTP/1.1\r\n" + LINES + b"\r\n")

    assert not pipe.closed
    assert pipe.get_protocol().handshake_initiated
