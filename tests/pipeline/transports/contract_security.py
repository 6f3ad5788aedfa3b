"""What a transport owes of proxies and TLS."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.departure import was_sent
from llmgateway.pipeline.proxies import tls_context
from llmgateway.pipeline.upstream import FailureCause, classified
from tests.pipeline.transports.certificates import Authority
from tests.pipeline.transports.contract_scene import (
    CHUNKED,
    SOON_S,
    TransportCase,
    chunk,
    request_to,
    send,
    through,
)
from tests.pipeline.transports.scripted import OK, Peer, answering, answering_once, relaying, upstream


class SecurityContract(TransportCase):
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
