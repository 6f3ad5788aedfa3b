"""The lean transport keeps the contract, and says exactly what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from yarl import URL

from llmgateway.http import httpx
from llmgateway.pipeline.lean_transport import LeanTransport
from tests.pipeline.transports.contract import TransportContract
from tests.pipeline.transports.contract_scene import CHUNKED, chunk, request_to, send
from tests.pipeline.transports.lean_scene import open_places
from tests.pipeline.transports.scripted import OK, Peer, answering, answering_once, upstream


class TestLeanTransport(TransportContract):
    make_transport = LeanTransport


class PostingTransport(LeanTransport):
    """Answers POST requests by the hot path's own door."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST" or "wire" not in request.extensions:
            return await super().handle_async_request(request)
        sent, body = request.extensions["wire"]
        endpoint = self.endpoint(
            URL(str(request.url), encoded=True), sent, connect_timeout_s=request.extensions["client_timeout"].connect
        )
        status, headers, stream = await self.post(endpoint, [], body)
        return httpx.Response(status, headers=headers, stream=stream, request=request)


class TestPosting(TransportContract):
    make_transport = PostingTransport


async def test_a_post_sends_the_single_requests_headers_and_those_of_all(lean: LeanTransport) -> None:
    seen = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            seen.append((await peer.request())[0])
            await peer.send(OK)

    async with upstream(script) as server:
        endpoint = lean.endpoint(URL(server.url), [(b"authorization", b"Bearer x")], connect_timeout_s=2)
        await lean.post(endpoint, [(b"accept", b"a/b"), (b"x-one", b"1"), (b"connection", b"close")], b"{}")
        status, _, stream = await lean.post(endpoint, [], b"")

    assert (status, stream.take_whole()) == (200, b"{}")
    where = b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % server.port
    assert seen == [
        where + b"accept: a/b\r\nx-one: 1\r\nauthorization: Bearer x\r\nContent-Length: 2\r\n\r\n",
        where + b"Accept: */*\r\nauthorization: Bearer x\r\nContent-Length: 0\r\n\r\n",
    ]


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\rb", b"a\0b"])
async def test_no_value_of_a_post_makes_another_header(lean: LeanTransport, value: bytes) -> None:
    endpoint = lean.endpoint(URL("http://127.0.0.1:9/"), [], connect_timeout_s=2)

    with pytest.raises(httpx.LocalProtocolError, match="line break"):
        await lean.post(endpoint, [(b"x-name", value)], b"")
    with pytest.raises(httpx.LocalProtocolError, match="line break"):
        lean.endpoint(URL("http://127.0.0.1:9/"), [(b"x-name", value)], connect_timeout_s=2)
    assert open_places(lean) == (0, 0)


async def test_the_headers_of_an_endpoint_may_name_host_and_accept(lean: LeanTransport) -> None:
    seen = []

    async def script(peer: Peer) -> None:
        seen.append((await peer.request())[0])
        await peer.send(OK)

    async with upstream(script) as server:
        fixed = [(b"Host", b"other.test"), (b"accept", b"a/b"), (b"content-length", b"99"), (b"connection", b"close")]
        await lean.post(lean.endpoint(URL(server.url), fixed, connect_timeout_s=2), [], b"{}")

    assert seen == [
        b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: other.test\r\naccept: a/b\r\nContent-Length: 2\r\n\r\n"
    ]


# Exactly which error.


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "101"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "transfer encoding"),
        (b"HTTP/1.1 000 Nothing\r\ncontent-length: 0\r\n\r\n", "status 0"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 201 + b"\r\n", "more than 200 headers"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", "65536 bytes of headers"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000, "65536 bytes of headers"),
        (CHUNKED + chunk(b"a") + b"0\r\nx: " + b"a" * 300_000, "65536 bytes of framing"),
        (CHUNKED + b"1;" + b"x" * 300_000, "65536 bytes of framing"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "65536 bytes of headers"),
    ],
    ids=["upgrade", "gzip", "status 0", "many headers", "long header", "endless header", "endless trailer",
         "endless extension", "endless interim"],
)  # fmt: skip
async def test_what_is_no_http_is_said_so(lean: LeanTransport, answer: bytes, message: str) -> None:
    """Although the upstream keeps the connection open."""
    async with upstream(answering(answer)) as server, asyncio.timeout(5):
        with pytest.raises(httpx.RemoteProtocolError, match=message):
            await send(lean, server)

        assert open_places(lean) == (0, 0)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"])
async def test_an_early_end_is_said_so(lean: LeanTransport, answer: bytes) -> None:
    async with upstream(answering_once(answer)) as server:
        with pytest.raises(httpx.RemoteProtocolError, match="closed the connection"):
            await send(lean, server)

    assert open_places(lean) == (0, 0)


async def test_a_reset_in_a_body_is_a_read_error(lean: LeanTransport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"one"))
        await asyncio.sleep(0.02)
        peer.reset()

    async with upstream(script) as server:
        with pytest.raises(httpx.ReadError):
            await send(lean, server)


async def test_a_silent_host_is_a_connect_timeout(lean: LeanTransport) -> None:
    """A server that takes no connections: its queue is full."""
    async with contextlib.AsyncExitStack() as stack:
        plug = stack.enter_context(contextlib.closing(socket.socket()))
        plug.bind(("127.0.0.1", 0))
        plug.listen(0)
        fillers = []
        for _ in range(3):
            filler = stack.enter_context(contextlib.closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex(plug.getsockname())
            fillers.append(filler)
        request = httpx.Request(
            "POST",
            f"http://127.0.0.1:{plug.getsockname()[1]}/",
            content=b"{}",
            extensions={"timeout": {"connect": 0.1}},
        )

        with pytest.raises(httpx.ConnectTimeout):
            await lean.handle_async_request(request)

    assert open_places(lean) == (0, 0)


async def test_waiting_for_a_place_is_a_pool_timeout() -> None:
    lean = LeanTransport(max_connections=1)
    async with upstream(answering(CHUNKED + chunk(b"one"))) as server:
        response = await lean.handle_async_request(request_to(server))
        with pytest.raises(httpx.PoolTimeout, match="MAX_UPSTREAM_CONNECTIONS"):
            await send(lean, server, connect_s=0.05)
        await response.aclose()

    assert open_places(lean) == (0, 0)


@pytest.mark.parametrize(
    "request_",
    [
        httpx.Request("POST", "http://127.0.0.1/", headers=[(b"bad name", b"x")], content=b""),
        httpx.Request("POST", "http://127.0.0.1/", headers=[(b"", b"x")], content=b""),
        httpx.Request("POST", "http://127.0.0.1/", headers=[(b"x:y", b"x")], content=b""),
        httpx.Request("PO ST", "http://127.0.0.1/", content=b""),
    ],
    ids=["space", "empty", "colon", "method"],
)
async def test_a_request_that_is_none_is_not_sent(lean: LeanTransport, request_: httpx.Request) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        await lean.handle_async_request(request_)

    assert open_places(lean) == (0, 0)


async def test_other_schemes_are_not_spoken(lean: LeanTransport) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await lean.handle_async_request(httpx.Request("GET", "ftp://127.0.0.1/"))
