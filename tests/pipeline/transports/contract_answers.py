"""What a transport owes of requests and answers."""

from __future__ import annotations

import asyncio

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.departure import was_sent
from tests.pipeline.transports.contract_scene import (
    BROKEN,
    CHUNKED,
    TransportCase,
    chunk,
    read,
    request_to,
    send,
)
from tests.pipeline.transports.scripted import OK, Peer, answering, answering_once, upstream


class AnswersContract(TransportCase):
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
