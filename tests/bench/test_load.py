"""The load generator: it sends what it was told, and it is not fooled by a fast wrong answer."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bench import wire
from bench.load import Job, percentiles, perform


@asynccontextmanager
async def server(answer: Callable[[int], bytes]) -> AsyncIterator[int]:
    """A server that reads one request after the other and answers the n-th with `answer(n)`."""
    served = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
                served += 1
                if not (reply := answer(served)):
                    break
                writer.write(reply)
        except asyncio.IncompleteReadError:
            pass  # The load generator is done and closed the connection.
        finally:
            writer.close()

    listening = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await listening.wait_closed()


def json_reply(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def chunked_reply(pieces: list[bytes]) -> bytes:
    chunks = b"".join(wire.http_chunk(piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + wire.LAST_HTTP_CHUNK


async def test_it_stops_at_the_count_and_does_not_measure_the_warm_up() -> None:
    async with server(lambda _: json_reply(wire.chat_answer())) as port:
        outcome = await perform(Job(port=port, connections=3, count=20, seconds=30))

    assert (outcome.sent, outcome.measured, outcome.errors) == (23, 20, 0)
    assert 0 < outcome.latency_ms["p50"] <= outcome.latency_ms["p99"] <= outcome.latency_ms["max"]


async def test_it_stops_at_the_time() -> None:
    async with server(lambda _: json_reply(wire.chat_answer())) as port:
        outcome = await perform(Job(port=port, seconds=0.1))

    assert outcome.measured > 1
    assert 0.1 <= outcome.seconds < 1


async def test_a_whole_stream_is_no_error() -> None:
    async with server(lambda _: chunked_reply(wire.stream_events())) as port:
        outcome = await perform(Job(port=port, stream=True, count=5, seconds=30))

    assert (outcome.measured, outcome.errors) == (5, 0)


WRONG: dict[str, Callable[[int], bytes]] = {
    "status": lambda _: json_reply(wire.chat_answer(), b"500 Internal Server Error"),
    "length": lambda _: json_reply(wire.chat_answer()[:-1]),
    "content": lambda _: json_reply(wire.chat_answer().replace(b"quota", b"qu0ta")),
    "not HTTP": lambda _: b"hello\r\n\r\n",
    "closed": lambda number: json_reply(wire.chat_answer()) if number < 3 else b"",
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_answer_is_an_error(answer: Callable[[int], bytes]) -> None:
    async with server(answer) as port:
        outcome = await perform(Job(port=port, count=5, seconds=30))

    assert outcome.errors > 0
    assert outcome.first_error


async def test_a_lost_chunk_is_an_error() -> None:
    async with server(lambda _: chunked_reply(wire.stream_events()[1:])) as port:
        outcome = await perform(Job(port=port, stream=True, count=5, seconds=30))

    assert outcome.errors == outcome.sent


async def test_it_gives_up_after_a_hundred_errors() -> None:
    async with server(lambda _: json_reply(b"{}")) as port:
        outcome = await perform(Job(port=port, seconds=30))

    assert outcome.errors == 100


def test_percentiles_are_of_the_sorted_values() -> None:
    seconds = array("d", [number / 1000 for number in range(100, 0, -1)])

    assert percentiles(seconds) == {"p50": 51.0, "p90": 91.0, "p99": 100.0, "max": 100.0}
