"""Connections to providers, over real sockets of this machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from llmgateway.pipeline.proxies import Proxies, Proxy
from llmgateway.pipeline.sockets import (
    MAX_FRAME,
    RefusedHandshakeError,
    SocketClosedError,
    SocketOpener,
    sendable,
    short,
)

HEADERS = ((b"authorization", b"Bearer provider-secret"),)


class Provider:
    """Echoes what it hears; some words make it do something else. `asked` are the handshakes."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.left: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    def greet(self, connection: ServerConnection, request: Request) -> Response | None:
        self.asked.append(request)
        if request.path == "/moved":
            response = connection.respond(HTTPStatus.FOUND, "")
            response.headers["location"] = "/elsewhere"
            return response
        return connection.respond(HTTPStatus.UNAUTHORIZED, '{"error": {}}') if request.path == "/closed" else None

    async def talk(self, connection: ServerConnection) -> None:
        try:
            async for frame in connection:
                await self._answer(connection, frame)
        finally:
            self.left.put_nowait((connection.close_code, connection.close_reason))

    @staticmethod
    async def _answer(connection: ServerConnection, frame: str | bytes) -> None:
        if frame == "leave":
            await connection.close(4000, "as you wish")
        elif frame == "break":
            connection.transport.abort()
        elif frame == "shout":
            await connection.send(b"\0" * (MAX_FRAME + 1))
        else:
            await connection.send(frame)


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def address(provider: Provider) -> AsyncIterator[str]:
    server: Server
    async with serve(
        provider.talk,
        "127.0.0.1",
        0,
        process_request=provider.greet,
        subprotocols=["realtime"],  # type: ignore[list-item]
    ) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def test_frames_and_goodbyes(provider: Provider, address: str) -> None:
    socket = await SocketOpener().open(f"{address}/realtime?model=m", HEADERS, ["realtime", "other"], timeout_s=5)
    await socket.send("hello")
    await socket.send(b"\0\1")
    heard = [await socket.receive(), await socket.receive()]
    await socket.close(4001, "x" * 200)

    [request] = provider.asked
    assert heard == ["hello", b"\0\1"]
    assert (request.path, request.headers["authorization"]) == ("/realtime?model=m", "Bearer provider-secret")
    assert socket.subprotocol == "realtime"
    assert "user-agent" not in request.headers
    async with asyncio.timeout(2):
        assert await provider.left.get() == (4001, "x" * 123)


@pytest.mark.parametrize(
    ("word", "code", "reason"), [("leave", 4000, "as you wish"), ("break", 1014, "upstream connection lost")]
)
async def test_a_provider_that_leaves(address: str, word: str, code: int, reason: str) -> None:
    socket = await SocketOpener().open(address, HEADERS, ["realtime"], timeout_s=5)
    await socket.send(word)

    with pytest.raises(SocketClosedError) as closed:
        await socket.receive()

    assert (closed.value.code, closed.value.reason) == (code, reason)
    with pytest.raises(SocketClosedError):
        await socket.send("too late")


async def test_a_frame_that_is_too_large_ends_the_connection(address: str) -> None:
    socket = await SocketOpener().open(address, HEADERS, ["realtime"], timeout_s=5)
    await socket.send("shout")

    with pytest.raises(SocketClosedError) as closed:
        await socket.receive()

    assert closed.value.code == 1009


async def test_a_redirect_is_not_followed_for_it_would_take_the_credential_along(
    provider: Provider, address: str
) -> None:
    with pytest.raises(RefusedHandshakeError) as refused:
        await SocketOpener().open(f"{address}/moved", HEADERS, ["realtime"], timeout_s=5)

    assert refused.value.status == 302
    assert [request.path for request in provider.asked] == ["/moved"]


async def test_a_refusal_has_a_status_and_a_body(address: str) -> None:
    with pytest.raises(RefusedHandshakeError) as refused:
        await SocketOpener().open(f"{address}/closed", HEADERS, ["realtime"], timeout_s=5)

    assert (refused.value.status, refused.value.body) == (401, b'{"error": {}}')


async def test_the_operator_s_proxy_is_used(address: str) -> None:
    heard = asyncio.Queue[bytes]()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        way = Proxy.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(Exception, match="403"):
            await SocketOpener(proxies=Proxies(way, way)).open(
                "http://voice.test/v1", HEADERS, ["realtime"], timeout_s=5
            )

    assert heard.get_nowait() == b"CONNECT voice.test:80 HTTP/1.1\r\n"


async def test_no_credential_is_logged_at_any_level(address: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    socket = await SocketOpener().open(address, HEADERS, ["realtime"], timeout_s=5)
    await socket.close(1000, "")

    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
    assert not [line for line in ours if "provider-secret" in line]


def test_only_codes_that_may_be_sent_are_sent_on() -> None:
    assert [sendable(code) for code in (1000, 1005, 1006, 1011, 4321)] == [1000, 1000, 1000, 1011, 4321]
    assert short("ä" * 100).encode() == "ä".encode() * 61
