"""httpx's own transport keeps the contract, but for what httpcore decides."""

from __future__ import annotations

import asyncio

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.httpcore_transport import HttpcoreTransport
from llmgateway.pipeline.upstream import classified
from tests.pipeline.transports.certificates import Authority
from tests.pipeline.transports.contract import TransportContract
from tests.pipeline.transports.contract_scene import BROKEN, CHUNKED, chunk, send, through
from tests.pipeline.transports.scripted import OK, Peer, answering, relaying, upstream


class TestHttpcoreTransport(TransportContract):
    make_transport = HttpcoreTransport

    @pytest.mark.parametrize("how", ["eof", "reset"])
    async def test_a_kept_connection_that_was_dead_is_said_to_be(
        self, transport: httpx.AsyncBaseTransport, how: str
    ) -> None:
        """Only that it broke: httpcore does not tell whether the answer had begun. The next one is another."""

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
            with pytest.raises(BROKEN) as caught:
                await send(transport, server)
            assert not classified(caught.value).is_stale
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2

    @pytest.mark.parametrize("more", [b"HT"])
    async def test_what_follows_an_answer_is_nobodys_answer(
        self, transport: httpx.AsyncBaseTransport, more: bytes
    ) -> None:
        """An error, if it is seen at all: a whole answer that comes with another one is taken for the next."""
        async with upstream(answering(OK + more, OK)) as server:
            assert await send(transport, server) == (200, b"{}")
            with pytest.raises(BROKEN):
                await send(transport, server)
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2

    @pytest.mark.parametrize("size", [b"-2", b"zz", b"f" * 21, b""])
    async def test_a_chunk_size_that_is_none(self, transport: httpx.AsyncBaseTransport, size: bytes) -> None:
        """Up to twenty digits are a size to h11."""
        async with upstream(answering(CHUNKED + chunk(b"ok") + size + b"\r\nab\r\n0\r\n\r\n")) as server:
            with pytest.raises(BROKEN):
                await send(transport, server)

    async def test_a_refusal_while_the_body_is_being_sent(self, transport: httpx.AsyncBaseTransport) -> None:
        """It is read when all of the body has been taken."""

        async def script(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
            await peer.reader.readexactly(5_000_000)
            await peer.closed()

        async with upstream(script) as server, asyncio.timeout(5):
            assert await send(transport, server, body=bytes(5_000_000)) == (413, b"big")


async def test_tunnels_that_failed_keep_out_nobody(authority: Authority) -> None:
    """httpcore counts them for ever."""
    async with (
        upstream(answering(OK), tls=authority.server("127.0.0.2")) as wrong,
        upstream(answering(OK), tls=authority.server("127.0.0.1")) as right,
        upstream(relaying([])) as proxy,
    ):
        transport = HttpcoreTransport(max_connections=1, tls=authority.client(), proxies=through(proxy))
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                await send(transport, wrong)
        async with asyncio.timeout(2):
            assert await send(transport, right) == (200, b"{}")
        await transport.aclose()
