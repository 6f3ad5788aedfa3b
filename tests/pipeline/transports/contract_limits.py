"""What a transport owes of requests that are given up, and of places."""

from __future__ import annotations

import asyncio
import time

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.departure import was_sent
from llmgateway.pipeline.upstream import FailureCause, classified
from tests.pipeline.transports.contract_scene import (
    CHUNKED,
    SOON_S,
    TransportCase,
    chunk,
    request_to,
    send,
)
from tests.pipeline.transports.scripted import OK, Peer, upstream


class LimitsContract(TransportCase):
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
