"""The transport on aiohttp's pool keeps the contract, but for one thing that aiohttp decides."""

from __future__ import annotations

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.transport import PooledTransport
from tests.pipeline.transports.contract import TransportContract
from tests.pipeline.transports.contract_scene import send
from tests.pipeline.transports.scripted import OK, answering, upstream


class TestPooledTransport(TransportContract):
    make_transport = PooledTransport

    @pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
    async def test_what_follows_an_answer_is_nobodys_answer(
        self, transport: httpx.AsyncBaseTransport, more: bytes
    ) -> None:
        """Of an answer that has only begun aiohttp takes no notice, so that is not part of the promise."""
        async with upstream(answering(OK + more, OK)) as server:
            assert await send(transport, server) == (200, b"{}")
            assert await send(transport, server) == (200, b"{}")

        assert server.connections == 2
