"""The transport on aiohttp's pool keeps the contract, but for two things that aiohttp decides."""

from __future__ import annotations

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.transport import PooledTransport
from tests.pipeline.transports.contract import TransportContract, send
from tests.pipeline.transports.scripted import OK, Peer, answering, upstream


class TestPooledTransport(TransportContract):
    make_transport = PooledTransport

    async def test_no_second_try_once_a_byte_of_the_answer_is_there(self, transport: httpx.AsyncBaseTransport) -> None:
        """aiohttp reports a connection that ended in a status line like one that was dead all along: it is tried again."""

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            if peer.number == 0:
                await peer.request()
                await peer.send(b"HTTP/1.1 2")

        async with upstream(script) as server:
            await send(transport, server)
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2

    @pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
    async def test_what_follows_an_answer_is_nobodys_answer(
        self, transport: httpx.AsyncBaseTransport, more: bytes
    ) -> None:
        """Of an answer that has only begun aiohttp takes no notice, so that is not part of the promise."""
        async with upstream(answering(OK + more, OK)) as server:
            assert await send(transport, server) == (200, b"{}")
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2
