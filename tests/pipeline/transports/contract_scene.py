"""What the contract of transports says it with: a transport to be tested, and short ways to ask by it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.departure import ClientTimeout
from llmgateway.pipeline.proxies import Proxies
from tests.pipeline.transports.scripted import Upstream

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BROKEN = (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)
SOON_S = 0.2
MakeTransport = Callable[..., httpx.AsyncBaseTransport]


def request_to(
    server: Upstream, *, method: str = "POST", body: bytes = b'{"a":1}', connect_s: float = 2, **headers: str
) -> httpx.Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    extensions = {"client_timeout": ClientTimeout(connect_s), "wire": (raw, body)}
    return httpx.Request(method, server.url, headers=raw, stream=httpx.ByteStream(body), extensions=extensions)


async def read(response: httpx.Response) -> bytes:
    """All of the body as the gateway reads it: the bare stream."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([piece async for piece in response.stream])
    finally:
        await response.stream.aclose()


async def send(transport: httpx.AsyncBaseTransport, server: Upstream, **request: Any) -> tuple[int, bytes]:
    response = await transport.handle_async_request(request_to(server, **request))
    return response.status_code, await read(response)


def through(proxy: Upstream, *, user: str = "") -> Proxies:
    return Proxies.of(f"{proxy.scheme}://{user}127.0.0.1:{proxy.port}", {})


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class TransportCase:
    """Names the class that is tested."""

    make_transport: MakeTransport

    @pytest.fixture
    async def transport(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        transport = type(self).make_transport(max_connections=100)
        yield transport
        await transport.aclose()
