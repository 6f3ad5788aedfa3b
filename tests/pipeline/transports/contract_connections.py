"""What a transport owes of kept connections, and of what goes wrong on them."""

from __future__ import annotations

import asyncio

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline import httpcore_transport, lean_pool
from llmgateway.pipeline import transport as transport_module
from llmgateway.pipeline.departure import StaleConnectionError, was_sent
from llmgateway.pipeline.upstream import FailureCause, classified
from tests.pipeline.transports.contract_scene import (
    BROKEN,
    CHUNKED,
    TransportCase,
    chunk,
    send,
)
from tests.pipeline.transports.scripted import OK, Peer, answering, answering_once, upstream


class ConnectionsContract(TransportCase):
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
