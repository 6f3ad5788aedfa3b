"""What every transport to upstreams owes the gateway. Each transport's test inherits it and names its class."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline import httpcore_transport, lean_pool
from llmgateway.pipeline import transport as transport_module
from llmgateway.pipeline.departure import ClientTimeout, StaleConnectionError, was_sent
from llmgateway.pipeline.proxies import Proxies, tls_context
from llmgateway.pipeline.upstream import FailureCause, classified
from tests.pipeline.transports.certificates import Authority
from tests.pipeline.transports.scripted import OK, Peer, Upstream, answering, answering_once, relaying, upstream

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


class TransportContract:
    """Inherit, and set `make_transport`: max_connections, and tls, a context that trusts the tests' authority."""

    make_transport: MakeTransport

    @pytest.fixture
    async def transport(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        transport = type(self).make_transport(max_connections=100)
        yield transport
        await transport.aclose()

    # The request.

    async def test_the_request_goes_out_whole(self, transport: httpx.AsyncBaseTransport) -> None:
        seen = []

        async def script(peer: Peer) -> None:
            seen.append(await peer.request())
            await peer.send(OK)

        async with upstream(script) as server:
            await send(transport, server, authorization="Bearer x", content_type="application/json")

        [(head, body)] = seen
        lines = head.split(b"\r\n")
        names = [line.partition(b":")[0].lower() for line in lines[1:-2]]
        assert lines[0] == b"POST /v1/chat/completions?x=1 HTTP/1.1"
        assert sorted(names) == [b"accept", b"authorization", b"content-length", b"content-type", b"host"]
        assert b"\r\nhost: 127.0.0.1:%d\r\n" % server.port in head.replace(b"Host", b"host")
        assert body == b'{"a":1}'

    @pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's; the memory is there already
    async def test_a_large_body_arrives_whole(self, transport: httpx.AsyncBaseTransport) -> None:
        body = bytes(range(256)) * 20_000
        seen = []

        async def script(peer: Peer) -> None:
            seen.append((await peer.request())[1])
            await peer.send(OK)

        async with upstream(script) as server:
            assert await send(transport, server, body=body) == (200, b"{}")

        assert seen == [body]

    async def test_no_answer_is_waited_for_before_the_body(self, transport: httpx.AsyncBaseTransport) -> None:
        """Whatever the caller expects: providers know what we send, and few of them say `100 Continue`."""
        seen = []

        async def script(peer: Peer) -> None:
            seen.append(await peer.request())
            await peer.send(OK)

        async with upstream(script) as server, asyncio.timeout(2):
            assert await send(transport, server, expect="100-continue") == (200, b"{}")

        [(head, body)] = seen
        assert b"expect" not in head.lower()
        assert body == b'{"a":1}'

    @pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b"])
    async def test_no_header_value_makes_another_header(self, transport: httpx.AsyncBaseTransport, value: str) -> None:
        async with upstream(answering(OK)) as server:
            with pytest.raises((httpx.LocalProtocolError, httpx.RemoteProtocolError, ValueError)):
                await send(transport, server, x_name=value)
            assert await send(transport, server) == (200, b"{}")

    # The answer.

    async def test_json(self, transport: httpx.AsyncBaseTransport) -> None:
        async with upstream(answering(OK)) as server:
            response = await transport.handle_async_request(request_to(server))

            assert response.headers.raw[0] == (b"content-type", b"application/json")
            assert await read(response) == b"{}"
        assert was_sent.get()

    async def test_an_empty_header_and_repeated_ones(self, transport: httpx.AsyncBaseTransport) -> None:
        answer = b"HTTP/1.1 200 OK\r\nx-none:\r\nx-two: a \r\nx-two: b\r\ncontent-length: 0\r\n\r\n"
        async with upstream(answering(answer)) as server:
            response = await transport.handle_async_request(request_to(server))

            assert await read(response) == b""
        assert response.headers.raw[:3] == [(b"x-none", b""), (b"x-two", b"a"), (b"x-two", b"b")]

    async def test_chunks(self, transport: httpx.AsyncBaseTransport) -> None:
        answer = CHUNKED + chunk(b"data: 1\n\n") + b"3;name=value\r\nabc\r\n" + b"0\r\n\r\n"
        async with upstream(answering(answer)) as server:
            assert await send(transport, server) == (200, b"data: 1\n\nabc")
            assert await send(transport, server) == (200, b"data: 1\n\nabc")

        assert server.connections == 1

    async def test_trailers_are_no_headers(self, transport: httpx.AsyncBaseTransport) -> None:
        async with upstream(answering(CHUNKED + chunk(b"ab") + b"0\r\nx-late: 1\r\n\r\n")) as server:
            response = await transport.handle_async_request(request_to(server))

            assert await read(response) == b"ab"
            assert "x-late" not in response.headers
            assert await send(transport, server) == (200, b"ab")
        assert server.connections == 1

    @pytest.mark.parametrize(
        "answer",
        [OK, CHUNKED + chunk(b"{") + chunk(b"}") + b"0\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" + OK],
        ids=["length", "chunked", "interim"],
    )
    async def test_bytes_that_come_one_by_one(self, transport: httpx.AsyncBaseTransport, answer: bytes) -> None:
        async with upstream(answering(answer, byte_by_byte=True)) as server:
            assert await send(transport, server) == (200, b"{}")
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 1

    async def test_a_body_that_ends_with_the_connection(self, transport: httpx.AsyncBaseTransport) -> None:
        async with upstream(answering_once(b"HTTP/1.1 200 OK\r\n\r\nab", b"cd", pause_s=0.01)) as server:
            assert await send(transport, server) == (200, b"abcd")
            assert await send(transport, server) == (200, b"abcd")

        assert server.connections == 2

    @pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
    async def test_interim_responses_are_skipped(self, transport: httpx.AsyncBaseTransport, interim: bytes) -> None:
        async with upstream(answering(b"HTTP/1.1 " + interim + b"\r\nlink: x\r\n\r\n" + OK)) as server:
            response = await transport.handle_async_request(request_to(server))

            assert (response.status_code, await read(response)) == (200, b"{}")
            assert "link" not in response.headers

    @pytest.mark.parametrize("status", [204, 304])
    async def test_answers_without_a_body(self, transport: httpx.AsyncBaseTransport, status: int) -> None:
        async with upstream(answering(b"HTTP/1.1 %d X\r\n\r\n" % status)) as server:
            assert await send(transport, server) == (status, b"")
            assert await send(transport, server) == (status, b"")

        assert server.connections == 1

    async def test_head(self, transport: httpx.AsyncBaseTransport) -> None:
        async with upstream(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as server:
            assert await send(transport, server, method="HEAD", body=b"") == (200, b"")
            assert await send(transport, server, method="HEAD", body=b"") == (200, b"")

    async def test_pieces_come_when_they_arrive(self, transport: httpx.AsyncBaseTransport) -> None:
        go_on = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + chunk(b"one"))
            await go_on.wait()
            await peer.send(chunk(b"two") + b"0\r\n\r\n")
            await peer.closed()

        async with upstream(script) as server:
            response = await transport.handle_async_request(request_to(server))
            assert isinstance(response.stream, httpx.AsyncByteStream)
            pieces = aiter(response.stream)
            assert await anext(pieces) == b"one"
            go_on.set()
            assert await anext(pieces) == b"two"
            assert await anext(pieces, b"end") == b"end"
            await response.aclose()

    async def test_an_upstream_is_made_to_wait_for_a_slow_reader(self, transport: httpx.AsyncBaseTransport) -> None:
        sent = 0

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 41943040\r\n\r\n")
            for _ in range(640):
                await peer.send(bytes(65536))
                sent += 65536
            await peer.closed()

        async with upstream(script) as server:
            response = await transport.handle_async_request(request_to(server))
            await asyncio.sleep(0.2)
            before = sent
            body = await read(response)

        # What system buffers hold differs; that the whole 40 MB do not fit is certain.
        assert before < 20_000_000
        assert len(body) == 41_943_040

    async def test_a_slow_drip(self, transport: httpx.AsyncBaseTransport) -> None:
        pieces = [OK[at : at + 9] for at in range(0, len(OK), 9)]
        async with upstream(answering_once(*pieces, pause_s=0.005)) as server:
            assert await send(transport, server) == (200, b"{}")

    @pytest.mark.parametrize("rest", [b"", chunk(b"two")], ids=["within", "after more"])
    async def test_an_upstream_that_says_no_more_has_broken_off(
        self, transport: httpx.AsyncBaseTransport, rest: bytes
    ) -> None:
        """It has closed its half, and would go on reading for ever."""

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + chunk(b"one") + rest)
            peer.writer.write_eof()
            await peer.closed()

        async with upstream(script) as server, asyncio.timeout(2):
            with pytest.raises(BROKEN):
                await send(transport, server)

    async def test_a_half_closed_connection_is_not_used_again(self, transport: httpx.AsyncBaseTransport) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            peer.writer.write_eof()
            await peer.closed()

        async with upstream(script) as server, asyncio.timeout(2):
            assert await send(transport, server) == (200, b"{}")
            await asyncio.sleep(0.02)
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2

    # Keeping connections.

    async def test_a_connection_is_used_again(self, transport: httpx.AsyncBaseTransport) -> None:
        async with upstream(answering(OK)) as server:
            for _ in range(5):
                assert await send(transport, server) == (200, b"{}")

        assert server.connections == 1

    async def test_a_connection_that_was_idle_for_too_long_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (lean_pool, transport_module, httpcore_transport):
            monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.05)
        transport = type(self).make_transport(max_connections=5)
        async with upstream(answering(OK)) as server:
            assert await send(transport, server) == (200, b"{}")
            await asyncio.sleep(0.1)
            assert await send(transport, server) == (200, b"{}")
            await transport.aclose()

        assert server.connections == 2

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        ],
        ids=["close", "1.0"],
    )
    async def test_no_reuse_where_the_upstream_says_so(
        self, transport: httpx.AsyncBaseTransport, answer: bytes
    ) -> None:
        async with upstream(answering(answer)) as server:
            assert await send(transport, server) == (200, b"{}")
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2

    @pytest.mark.parametrize(
        "more", [b"HT", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"], ids=["part", "whole"]
    )
    async def test_what_follows_an_answer_is_nobodys_answer(
        self, transport: httpx.AsyncBaseTransport, more: bytes
    ) -> None:
        async with upstream(answering(OK + more, OK)) as server:
            assert await send(transport, server) == (200, b"{}")
            await asyncio.sleep(0.02)
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2

    @pytest.mark.parametrize("how", ["eof", "reset"])
    async def test_a_kept_connection_that_was_dead_is_said_to_be(
        self, transport: httpx.AsyncBaseTransport, how: str
    ) -> None:
        """Who sends may ask again, and the next request goes out on another connection."""

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            if peer.number == 0:
                await peer.request()
                if how == "reset":
                    peer.reset()
                return
            await peer.closed()

        async with upstream(script) as server:
            assert await send(transport, server) == (200, b"{}")
            with pytest.raises(StaleConnectionError) as caught:
                await send(transport, server)
            assert was_sent.get()
            assert classified(caught.value).is_stale
            assert server.connections == 1
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2

    async def test_a_new_connection_that_dies_is_broken(self, transport: httpx.AsyncBaseTransport) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()

        async with upstream(script) as server:
            with pytest.raises(BROKEN) as caught:
                await send(transport, server)

        assert not classified(caught.value).is_stale
        assert server.connections == 1

    async def test_a_connection_that_was_closed_while_idle_is_not_used(
        self, transport: httpx.AsyncBaseTransport
    ) -> None:
        async with upstream(answering_once(OK)) as server:
            assert await send(transport, server) == (200, b"{}")
            await asyncio.sleep(0.02)
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2

    @pytest.mark.parametrize("how", ["eof", "reset"])
    @pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 2", OK[:30], b"HTTP/1.1 100 Continue\r\n\r\n"])
    async def test_with_a_byte_of_the_answer_a_kept_connection_is_broken(
        self, transport: httpx.AsyncBaseTransport, begun: bytes, how: str
    ) -> None:
        """The provider was at work: to ask it again is for those to decide who know what that costs."""

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            await peer.request()
            await peer.send(begun)
            await asyncio.sleep(0.01)
            if how == "reset":
                peer.reset()

        async with upstream(script) as server:
            await send(transport, server)
            with pytest.raises(BROKEN) as caught:
                await send(transport, server)

        assert not classified(caught.value).is_stale
        assert server.connections == 1

    # What goes wrong.

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            CHUNKED + chunk(b"abc"),
            CHUNKED + b"5\r\nab",
            CHUNKED + chunk(b"abc") + b"0\r\n",
        ],
        ids=["length", "between chunks", "in a chunk", "before the last line"],
    )
    async def test_a_short_body_is_an_error(self, transport: httpx.AsyncBaseTransport, answer: bytes) -> None:
        async with upstream(answering_once(answer)) as server:
            with pytest.raises(BROKEN) as caught:
                await send(transport, server)

        assert classified(caught.value).cause is FailureCause.BROKEN

    @pytest.mark.parametrize("size", [b"-2", b"zz", b"fffffffffffffffff", b""])
    async def test_a_chunk_size_that_is_none(self, transport: httpx.AsyncBaseTransport, size: bytes) -> None:
        async with upstream(answering(CHUNKED + chunk(b"ok") + size + b"\r\nab\r\n0\r\n\r\n")) as server:
            with pytest.raises(BROKEN):
                await send(transport, server)

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 99 No\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HELLO\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000 + b"\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"content-length: 0\r\n\r\n",
        ],
        ids=["status", "no status", "no http", "no colon", "negative", "two lengths", "length and chunked", "nul",
             "long header", "many headers"],
    )  # fmt: skip
    async def test_a_head_that_is_none(self, transport: httpx.AsyncBaseTransport, head: bytes) -> None:
        async with upstream(answering(head)) as server, asyncio.timeout(5):
            with pytest.raises(BROKEN) as caught:
                await send(transport, server)

        assert classified(caught.value).cause is FailureCause.BROKEN

    @pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
    async def test_a_refusal_while_the_body_is_being_sent(self, transport: httpx.AsyncBaseTransport) -> None:
        answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig"

        async def script(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(answer)
            await peer.closed()

        async with upstream(script) as server, asyncio.timeout(5):
            assert await send(transport, server, body=bytes(30_000_000)) == (413, b"big")
            assert await send(transport, server) == (413, b"big")

        assert server.connections == 2

    async def test_a_refused_connection(self, transport: httpx.AsyncBaseTransport) -> None:
        async with upstream(answering(OK)) as server:
            pass
        was_sent.set(False)

        with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
            await send(transport, server)

        assert classified(caught.value).cause is FailureCause.NOT_CONNECTED
        assert not was_sent.get()

    async def test_a_host_that_does_not_exist(self, transport: httpx.AsyncBaseTransport) -> None:
        request = httpx.Request("POST", "http://nowhere.invalid/", content=b"{}")

        with pytest.raises(httpx.ConnectError):
            await transport.handle_async_request(request)

    # Cancellation and limits.

    async def test_cancelling_before_the_head_closes_at_once(self, transport: httpx.AsyncBaseTransport) -> None:
        asked, closed = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            asked.set()
            await peer.closed()
            closed.set()

        async with upstream(script) as server:
            task = asyncio.create_task(send(transport, server))
            await asked.wait()
            task.cancel()
            async with asyncio.timeout(SOON_S):
                await closed.wait()
            with pytest.raises(asyncio.CancelledError):
                await task

    @pytest.mark.parametrize("how", ["cancel", "aclose"])
    async def test_leaving_between_chunks_closes_at_once(self, transport: httpx.AsyncBaseTransport, how: str) -> None:
        closed = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + chunk(b"one"))
            await peer.closed()
            closed.set()

        async def consume(response: httpx.Response) -> None:
            try:
                assert isinstance(response.stream, httpx.AsyncByteStream)
                async for _ in response.stream:
                    pass
            finally:
                await response.aclose()

        async with upstream(script) as server:
            response = await transport.handle_async_request(request_to(server))
            if how == "cancel":
                task = asyncio.create_task(consume(response))
                await asyncio.sleep(0.01)
                task.cancel()
            else:
                await response.aclose()
            async with asyncio.timeout(SOON_S):
                await closed.wait()

    async def test_a_limit_is_kept_and_first_come_is_first_served(self) -> None:
        transport = type(self).make_transport(max_connections=2)
        order: list[bytes] = []
        running = most = 0
        both_are_here = asyncio.Barrier(2)

        async def script(peer: Peer) -> None:
            nonlocal running, most
            while True:
                _, body = await peer.request()
                running += 1
                most = max(most, running)
                order.append(body)
                await both_are_here.wait()
                running -= 1
                await peer.send(OK)

        async with upstream(script) as server:
            bodies = [b"%02d" % number for number in range(12)]
            answers = await asyncio.gather(*[send(transport, server, body=body) for body in bodies])
            await transport.aclose()

        assert answers == [(200, b"{}")] * 12
        assert most == server.connections == 2
        assert [int(body) // 2 for body in order] == [number // 2 for number in range(12)]

    async def test_waiting_for_a_place_ends(self) -> None:
        transport = type(self).make_transport(max_connections=1)

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + chunk(b"one"))
            await peer.closed()

        async with upstream(script) as server:
            response = await transport.handle_async_request(request_to(server))
            was_sent.set(False)
            started = time.monotonic()
            with pytest.raises((httpx.PoolTimeout, httpx.ConnectTimeout)) as caught:
                await send(transport, server, connect_s=0.05)
            assert time.monotonic() - started < 1
            assert not was_sent.get()
            assert classified(caught.value).cause is FailureCause.NOT_CONNECTED
            await response.aclose()
            # The place is free again.
            response = await transport.handle_async_request(request_to(server))
            await response.aclose()
            await transport.aclose()

    async def test_cancelled_requests_leave_their_places(self) -> None:
        transport = type(self).make_transport(max_connections=2)

        async def script(peer: Peer) -> None:
            while True:
                _, body = await peer.request()
                if body == b"stall":
                    await peer.closed()
                    return
                await peer.send(OK)

        async with upstream(script) as server:
            for turn in range(10):
                tasks = [asyncio.create_task(send(transport, server, body=b"stall")) for _ in range(6)]
                for _ in range(turn):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(each, asyncio.CancelledError) for each in results)
            async with asyncio.timeout(2):
                answers = await asyncio.gather(*[send(transport, server) for _ in range(6)])
            await transport.aclose()

        assert answers == [(200, b"{}")] * 6

    # Proxies.

    @pytest.mark.parametrize("secured", [False, True])
    @pytest.mark.parametrize("proxy_secured", [False, True])
    async def test_a_proxy_leads_to_an_upstream(self, authority: Authority, secured: bool, proxy_secured: bool) -> None:
        heads: list[bytes] = []
        seen: list[bytes] = []

        async def script(peer: Peer) -> None:
            while True:
                seen.append((await peer.request())[0])
                await peer.send(OK)

        certificate = authority.server("127.0.0.1")
        async with (
            upstream(script, tls=certificate if secured else None) as server,
            upstream(relaying(heads), tls=certificate if proxy_secured else None) as proxy,
        ):
            transport = type(self).make_transport(
                max_connections=5, tls=authority.client(), proxies=through(proxy, user="me:p%40ss@")
            )
            assert await send(transport, server) == (200, b"{}")
            assert await send(transport, server) == (200, b"{}")
            await transport.aclose()

        assert (server.connections, proxy.connections) == (1, 1)
        credentials = b"\r\nProxy-Authorization: Basic " + base64.b64encode(b"me:p@ss") + b"\r\n"
        assert all(credentials in head for head in heads)
        if secured:
            assert [head.split(b"\r\n")[0] for head in heads] == [b"CONNECT 127.0.0.1:%d HTTP/1.1" % server.port]
            assert not any(b"proxy-authorization" in head.lower() for head in seen)
        else:
            assert [head.split(b"\r\n")[0] for head in heads] == [b"POST %b HTTP/1.1" % server.url.encode()] * 2

    @pytest.mark.parametrize(
        "answer", [b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n", b"", b"nonsense\r\n\r\n"]
    )
    async def test_a_proxy_that_opens_no_tunnel(self, authority: Authority, answer: bytes) -> None:
        async with upstream(answering_once(answer)) as proxy:
            transport = type(self).make_transport(max_connections=1, tls=authority.client(), proxies=through(proxy))
            for _ in range(2):  # The place is free again.
                was_sent.set(False)
                with pytest.raises(httpx.TransportError) as raised:
                    await transport.handle_async_request(
                        httpx.Request("POST", "https://127.0.0.1:9/", stream=httpx.ByteStream(b""))
                    )
                assert classified(raised.value).cause is FailureCause.NOT_CONNECTED
                assert not was_sent.get()
            await transport.aclose()

    # TLS.

    async def test_an_upstream_may_ask_who_we_are(self, authority: Authority, tmp_path: Path) -> None:
        ca_file, certificate = authority.save(tmp_path), authority.identity(tmp_path)
        known = tls_context(ca_file=str(ca_file), certificate=str(certificate))
        unknown = tls_context(ca_file=str(ca_file))
        async with upstream(answering(OK), tls=authority.server("127.0.0.1", asks_back=True)) as server:
            transport = type(self).make_transport(max_connections=5, tls=known)
            assert await send(transport, server) == (200, b"{}")
            await transport.aclose()
            transport = type(self).make_transport(max_connections=5, tls=unknown)
            with pytest.raises(httpx.TransportError):
                await send(transport, server)
            await transport.aclose()

    async def test_tls_with_a_certificate_that_is_trusted(self, authority: Authority) -> None:
        transport = type(self).make_transport(max_connections=5, tls=authority.client())
        async with upstream(answering(OK), tls=authority.server("127.0.0.1")) as server:
            assert await send(transport, server) == (200, b"{}")
            assert await send(transport, server) == (200, b"{}")
            await transport.aclose()

        assert server.connections == 1

    async def test_leaving_a_stream_over_tls_closes_at_once(self, authority: Authority) -> None:
        transport = type(self).make_transport(max_connections=5, tls=authority.client())
        closed = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + chunk(b"one"))
            await peer.closed()
            closed.set()

        async with upstream(script, tls=authority.server("127.0.0.1")) as server:
            response = await transport.handle_async_request(request_to(server))
            await response.aclose()
            async with asyncio.timeout(SOON_S):
                await closed.wait()
            await transport.aclose()

    @pytest.mark.parametrize("trusted", [True, False])
    async def test_tls_that_is_not_to_be_trusted(self, authority: Authority, trusted: bool) -> None:
        """For another name by a known authority, or for the right name by an unknown one."""
        transport = type(self).make_transport(max_connections=5, tls=authority.client() if trusted else None)
        certificate = authority.server("127.0.0.2" if trusted else "127.0.0.1")
        async with upstream(answering(OK), tls=certificate) as server:
            was_sent.set(False)
            with pytest.raises(httpx.ConnectError):
                await send(transport, server)
            await transport.aclose()

        assert not was_sent.get()

    @pytest.mark.parametrize("proxied", [False, True])
    async def test_the_name_that_is_asked_for_is_said_in_the_handshake(
        self, authority: Authority, proxied: bool
    ) -> None:
        """One address may serve many names, each with a certificate of its own."""
        names: list[str | None] = []
        certificate = authority.server("localhost")
        certificate.sni_callback = lambda _plug, name, _context: names.append(name)
        async with upstream(answering(OK), tls=certificate) as server, upstream(relaying([])) as proxy:
            server.host = "localhost"
            proxies = through(proxy) if proxied else None
            transport = type(self).make_transport(max_connections=5, tls=authority.client(), proxies=proxies)
            assert await send(transport, server) == (200, b"{}")
            await transport.aclose()

        assert names == ["localhost"]

    @pytest.mark.parametrize("who", ["upstream", "proxy"])
    async def test_connecting_is_bounded_to_the_end_of_the_handshake(self, authority: Authority, who: str) -> None:
        """Somebody takes the connection, and then says nothing."""

        async def script(peer: Peer) -> None:
            await peer.closed()

        async with upstream(script) as server:
            server.scheme = "https"
            proxies = through(server) if who == "proxy" else None
            transport = type(self).make_transport(max_connections=1, tls=authority.client(), proxies=proxies)
            for _ in range(2):  # The place is free again.
                was_sent.set(False)
                started = time.monotonic()
                with pytest.raises(httpx.TransportError) as raised:
                    await send(transport, server, connect_s=0.1)
                assert time.monotonic() - started < 1
                assert classified(raised.value).cause is FailureCause.NOT_CONNECTED
                assert not was_sent.get()
            await transport.aclose()

    async def test_cancelling_in_the_handshake_leaves_the_place(self, authority: Authority) -> None:
        begun, closed = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.reader.read(1)
            begun.set()
            await peer.closed()
            closed.set()

        async with upstream(script) as server:
            server.scheme = "https"
            transport = type(self).make_transport(max_connections=1, tls=authority.client())
            for _ in range(2):
                begun.clear()
                closed.clear()
                task = asyncio.create_task(send(transport, server))
                async with asyncio.timeout(SOON_S):
                    await begun.wait()
                    task.cancel()
                    await closed.wait()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await transport.aclose()

    async def test_a_plain_server_behind_https(self, authority: Authority) -> None:
        transport = type(self).make_transport(max_connections=5, tls=authority.client())

        async def script(peer: Peer) -> None:
            await peer.reader.read(1)
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with upstream(script) as server:
            server.scheme = "https"
            with pytest.raises(httpx.ConnectError):
                await send(transport, server)
            await transport.aclose()
