"""Connections of the lean transport: kept, passed on, and given back."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.departure import StaleConnectionError
from llmgateway.pipeline.lean_transport import LeanTransport
from tests.pipeline.transports.contract_scene import CHUNKED, chunk, read, request_to, send
from tests.pipeline.transports.lean_scene import open_places, pool_of
from tests.pipeline.transports.scripted import OK, Peer, answering, upstream

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
