"""The lean transport on uvloop, by itself, through TLS and through tunnels."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest
import uvloop

from llmgateway.http import httpx
from llmgateway.pipeline.lean_connection import Connection
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.proxies import Proxies
from tests.pipeline.transports.certificates import Authority
from tests.pipeline.transports.contract_scene import BROKEN, CHUNKED, chunk, request_to, send
from tests.pipeline.transports.lean_scene import TLS, open_places, pool_of
from tests.pipeline.transports.scripted import OK, Peer, Script, answering, answering_once, relaying, upstream

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
        lean = LeanTransport(max_connections=100, tls=TLS)
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
