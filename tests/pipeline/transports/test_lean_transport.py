"""The lean transport keeps the contract, and no upstream, however broken, makes it hang or tell less than the truth."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl

import httptools
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from llmgateway.http import httpx
from llmgateway.pipeline.departure import StaleConnectionError
from llmgateway.pipeline.lean_connection import Connection
from llmgateway.pipeline.lean_pool import ConnectionPool
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.proxies import Proxies
from tests.pipeline.transports.certificates import Authority
from tests.pipeline.transports.contract import (
    BROKEN,
    CHUNKED,
    TransportContract,
    chunk,
    read,
    request_to,
    send,
)
from tests.pipeline.transports.scripted import OK, Peer, Script, answering, answering_once, relaying, upstream


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


@pytest.fixture
def lean() -> LeanTransport:
    return LeanTransport(max_connections=10)


def pool_of(transport: LeanTransport) -> ConnectionPool:
    return transport._pool


def open_places(transport: LeanTransport) -> tuple[int, int]:
    """Places that are taken, and connections that exist."""
    return pool_of(transport)._open, len(pool_of(transport)._connections)


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


# Connections.


async def test_a_request_may_ask_for_the_connection_to_be_closed(lean: LeanTransport) -> None:
    seen = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append((await peer.request())[0])
            await peer.send(OK)

    async with upstream(script) as server:
        await send(lean, server, connection="close", content_length="99", transfer_encoding="chunked")

    assert b"\r\nConnection: close\r\n" in seen[0]
    assert b"transfer-encoding" not in seen[0]
    assert seen[0].lower().count(b"content-length") == 1
    assert open_places(lean) == (0, 0)


async def test_idle_connections_expire() -> None:
    lean = LeanTransport(max_connections=10)
    pool_of(lean)._keep_alive_s = 0.05
    async with upstream(answering(OK)) as server:
        await send(lean, server)
        assert open_places(lean) == (1, 1)
        await asyncio.sleep(0.15)
        assert open_places(lean) == (0, 0)
        await send(lean, server)

    assert server.connections == 2


async def test_bytes_on_an_idle_connection_close_it(lean: LeanTransport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await asyncio.sleep(0.02)
        await peer.send(OK)
        await peer.closed()

    async with upstream(script) as server:
        await send(lean, server)
        await asyncio.sleep(0.05)

        assert open_places(lean) == (0, 0)


async def test_an_idle_connection_makes_room_for_another_host() -> None:
    lean = LeanTransport(max_connections=1)
    async with upstream(answering(OK)) as one, upstream(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as two:
        expected = [(200, b"{}"), (204, b"")] * 4
        for server, answer in zip((one, two) * 2, expected, strict=False):
            assert await send(lean, server) == answer
        # And those who wait for one host do not keep out who waits for the other.
        async with asyncio.timeout(2):
            assert await asyncio.gather(*[send(lean, server) for server in (one, two) * 4]) == expected
        await lean.aclose()

    assert open_places(lean) == (0, 0)


@pytest.mark.parametrize("kept", [True, False])
async def test_who_gives_up_when_served_passes_the_place_on(kept: bool) -> None:
    lean = LeanTransport(max_connections=1)

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(CHUNKED + chunk(b"one"))
            await asyncio.sleep(0.005)
            if kept:
                await peer.send(b"0\r\n\r\n")

    async with upstream(script) as server:
        response = await lean.handle_async_request(request_to(server))
        waiting = asyncio.create_task(send(lean, server))
        await asyncio.sleep(0.01)
        await response.aclose()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

        async with asyncio.timeout(2):
            response = await lean.handle_async_request(request_to(server))
        await response.aclose()
        await lean.aclose()

    assert open_places(lean) == (0, 0)


async def test_a_dead_connection_takes_the_other_kept_ones_with_it(lean: LeanTransport) -> None:
    """What killed one kept connection, a restart perhaps, killed the others too."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.02)
        await peer.send(OK)
        if peer.number < 3:
            await peer.request()
        else:
            await peer.closed()

    async with upstream(script) as server:
        await asyncio.gather(*[send(lean, server) for _ in range(3)])
        assert server.connections == 3

        with pytest.raises(StaleConnectionError):
            await send(lean, server)
        assert await send(lean, server) == (200, b"{}")
        assert server.connections == 4


async def test_the_last_piece_frees_the_connection(lean: LeanTransport) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await go_on.wait()
        await peer.send(chunk(b"one") + b"0\r\n\r\n")
        await peer.closed()

    async with upstream(script) as server:
        response = await lean.handle_async_request(request_to(server))
        assert isinstance(response.stream, httpx.AsyncByteStream)
        go_on.set()
        assert await anext(aiter(response.stream)) == b"one"

        assert not any(connection.is_busy for connection in pool_of(lean)._connections)
        assert open_places(lean) == (1, 1)


async def test_a_refusal_ends_the_sending(lean: LeanTransport) -> None:
    """Of a body that nobody will look at, only what is on its way arrives."""
    received = 0

    async def script(peer: Peer) -> None:
        nonlocal received
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 429 Too Many\r\ntransfer-encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.02)
        while received < 30_000_000:
            try:
                async with asyncio.timeout(0.05):
                    received += len(await peer.reader.read(65536))
            except TimeoutError:
                break
        await peer.send(b"0\r\n\r\n")
        await peer.closed()

    async with upstream(script) as server, asyncio.timeout(5):
        assert await send(lean, server, body=bytes(30_000_000)) == (429, b"")

    assert received < 20_000_000
    assert open_places(lean) == (0, 0)


async def test_the_connection_is_free_before_a_short_answer_is_read(lean: LeanTransport) -> None:
    async with upstream(answering(OK)) as server:
        first = await lean.handle_async_request(request_to(server))
        second = await lean.handle_async_request(request_to(server))

        assert (await read(first), await read(second)) == (b"{}", b"{}")
        assert server.connections == 1


async def test_a_body_that_was_closed_does_not_seem_to_end(lean: LeanTransport) -> None:
    for answer in (OK, CHUNKED + chunk(b"one")):
        async with upstream(answering(answer)) as server:
            response = await lean.handle_async_request(request_to(server))
            await response.aclose()
            assert isinstance(response.stream, httpx.AsyncByteStream)
            with pytest.raises(httpx.ReadError):
                await anext(aiter(response.stream))


async def test_closing_the_transport_ends_everything() -> None:
    lean = LeanTransport(max_connections=1)

    async with upstream(answering(CHUNKED + chunk(b"one"))) as server:
        response = await lean.handle_async_request(request_to(server))
        reading = asyncio.create_task(read(response))
        waiting = asyncio.create_task(send(lean, server))
        await asyncio.sleep(0.01)
        await lean.aclose()

        with pytest.raises(httpx.ReadError):
            await reading
        with pytest.raises(httpx.ConnectError):
            await waiting
        with pytest.raises(httpx.ConnectError):
            await send(lean, server)
    assert open_places(lean) == (0, 0)


async def test_an_answer_may_begin_before_the_body_is_sent(lean: LeanTransport) -> None:
    """Both flow at once: the upstream repeats what it is sent."""
    body = bytes(range(256)) * 40_000

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
        left = len(body)
        while left:
            piece = await peer.reader.read(65536)
            left -= len(piece)
            await peer.send(piece)
        await peer.closed()

    async with upstream(script) as server, asyncio.timeout(10):
        assert await send(lean, server, body=body) == (200, body)


async def test_a_body_goes_out_as_fast_as_it_is_taken(lean: LeanTransport) -> None:
    """The system's buffer and one slice, not the whole of it, wait in this process."""
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        await peer.reader.readexactly(20_000_000)
        await peer.send(OK)
        await peer.closed()

    async with upstream(script) as server:
        task = asyncio.create_task(send(lean, server, body=bytes(20_000_000)))
        await asyncio.sleep(0.1)
        [connection] = pool_of(lean)._connections
        waiting = connection._transport.get_write_buffer_size()
        go_on.set()
        assert await task == (200, b"{}")

    assert 0 < waiting < 1_000_000


# The same on the loop of production, whose transports differ.


@pytest.mark.parametrize("size", [10, 20_000_000])
def test_on_uvloop(size: int) -> None:
    async def run() -> None:
        lean = LeanTransport(max_connections=3)
        async with upstream(answering(OK, CHUNKED + chunk(b"abc") + b"0\r\n\r\n")) as server:
            assert await send(lean, server, body=bytes(size)) == (200, b"{}")
            assert await send(lean, server, body=bytes(size)) == (200, b"abc")
            assert server.connections == 1
        async with upstream(answering(CHUNKED + chunk(b"abc"))) as server:
            response = await lean.handle_async_request(request_to(server))
            await response.aclose()
        async with upstream(answering_once(CHUNKED + chunk(b"abc"))) as server:
            with pytest.raises(BROKEN):
                await send(lean, server, body=bytes(size))
        await lean.aclose()
        assert open_places(lean) == (0, 0)

    uvloop.run(run())


def test_tls_on_uvloop(authority: Authority) -> None:
    async def run() -> None:
        lean = LeanTransport(max_connections=3, tls=authority.client())
        left = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            await peer.request()
            await peer.send(CHUNKED + chunk(b"one"))
            await peer.closed()
            left.set()

        async with upstream(script, tls=authority.server("127.0.0.1")) as server:
            assert await send(lean, server, body=bytes(5_000_000)) == (200, b"{}")
            response = await lean.handle_async_request(request_to(server))
            await response.aclose()
            async with asyncio.timeout(0.2):
                await left.wait()
            assert server.connections == 1
        async with upstream(answering(OK), tls=authority.server("127.0.0.2")) as server:
            with pytest.raises(httpx.ConnectError):
                await send(lean, server)
        await lean.aclose()
        assert open_places(lean) == (0, 0)

    uvloop.run(run())


def test_who_leaves_while_a_connection_opens_leaves_no_garbage() -> None:
    """uvloop tells nobody that such a connection is lost, and a busy process collects its garbage late."""

    async def run() -> list[object]:
        lean = LeanTransport(max_connections=100, tls=_TLS)
        async with upstream(answering(OK)) as server:
            gc.collect()
            gc.disable()
            for turns in range(40):
                task = asyncio.create_task(send(lean, server, connection="close"))
                for _ in range(turns % 8):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            del task
            await asyncio.sleep(0.05)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found: list[object] = [each for each in gc.garbage if isinstance(each, Connection)]
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        await lean.aclose()
        assert open_places(lean) == (0, 0)
        return found

    assert uvloop.run(run()) == []


@pytest.mark.parametrize("through_tls", [False, True])
def test_a_tunnel_on_uvloop(authority: Authority, through_tls: bool) -> None:
    """Also through a proxy that is itself reached by TLS: one session inside the other."""
    certificate = authority.server("127.0.0.1")

    async def run() -> None:
        heads: list[bytes] = []
        async with (
            upstream(answering(OK), tls=certificate) as server,
            upstream(relaying(heads), tls=certificate if through_tls else None) as proxy,
        ):
            scheme = "https" if through_tls else "http"
            proxies = Proxies.of(f"{scheme}://127.0.0.1:{proxy.port}", {})
            lean = LeanTransport(max_connections=2, tls=authority.client(), proxies=proxies)
            for _ in range(3):
                assert await send(lean, server) == (200, b"{}")
            await lean.aclose()
            assert open_places(lean) == (0, 0)
        assert len(heads) == 1

    uvloop.run(run())


# Any upstream at all.


class _Whole:
    """Whether httptools, fed in one go, finds a complete answer, and what its body is."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.status = 0
        self.is_complete = self.is_framed = False
        self._parser = httptools.HttpResponseParser(self)
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.is_framed = self.is_framed or name.lower() in {b"content-length", b"transfer-encoding"}

    def on_headers_complete(self) -> None:
        if self.is_complete:
            raise ValueError
        self.status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.is_complete = self.status >= 200


PARTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"\r\n", b"\n", b"\r", b"hello",
        b"5\r\nhello\r\n", b"3\r\nab", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n", b"x: \0\r\n",
        b" folded\r\n",
    ]
)  # fmt: skip
ANSWERS = st.one_of(st.lists(PARTS, max_size=8), st.lists(st.one_of(PARTS, st.binary(max_size=12)), max_size=8))


@given(parts=ANSWERS, pauses=st.booleans(), resets=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_broken_upstream_never_hangs_and_a_short_body_is_never_complete(
    parts: list[bytes], pauses: bool, resets: bool
) -> None:
    data = b"".join(parts)
    whole = _Whole(data)

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in parts if pauses else [data]:
            await peer.send(piece)
            await asyncio.sleep(0)
        if resets:
            peer.reset()

    async def run() -> tuple[int, bytes] | None:
        lean = LeanTransport(max_connections=1, tls=_TLS)
        try:
            async with upstream(script) as server, asyncio.timeout(5):
                return await send(lean, server)
        except BROKEN:
            return None
        finally:
            await lean.aclose()
            assert open_places(lean) == (0, 0)

    answer = asyncio.run(run())

    if answer is not None:
        assert answer[0] == whole.status >= 200
        assert answer[1] == whole.body or (whole.is_complete and whole.body.startswith(answer[1]))
        assert whole.is_complete or not whole.is_framed


_TLS = ssl.create_default_context()


# Many at once.


def streaming(events: int, pause_s: float) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(CHUNKED)
            for number in range(events):
                await peer.send(chunk(b"data: %d\n\n" % number))
                await asyncio.sleep(pause_s)
            await peer.send(b"0\r\n\r\n")

    return script


@pytest.mark.slow
def test_a_thousand_streams_at_once() -> None:
    """A third is cancelled in its middle; the others are whole, and no place is lost."""
    whole = b"".join(b"data: %d\n\n" % number for number in range(50))

    async def run() -> list[tuple[int, bytes] | BaseException]:
        lean = LeanTransport(max_connections=800)
        async with upstream(streaming(50, 0.02)) as server:
            results: list[tuple[int, bytes] | BaseException] = []
            for _ in range(3):
                tasks = [asyncio.create_task(send(lean, server, connect_s=60)) for _ in range(1000)]
                for position, task in enumerate(tasks[::3]):
                    asyncio.get_running_loop().call_later(0.003 * position, task.cancel)
                results += await asyncio.gather(*tasks, return_exceptions=True)
            assert len(pool_of(lean)._connections) == pool_of(lean)._open <= 800
            await lean.aclose()
        assert open_places(lean) == (0, 0)
        return results

    results = uvloop.run(run())

    finished = [result for result in results if not isinstance(result, BaseException)]
    assert finished == [(200, whole)] * len(finished)
    assert len(finished) >= 1998
    assert all(isinstance(r, asyncio.CancelledError) for r in results if isinstance(r, BaseException))
