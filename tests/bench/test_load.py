"""The load generator: it sends what it was told, and it is not fooled by a fast wrong answer."""

from __future__ import annotations

import asyncio
import threading
import time
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from bench import wire
from bench.load import percentiles, perform
from bench.traffic import Job


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


async def test_words_are_compared_where_bytes_may_differ() -> None:
    spaced = wire.chat_answer().replace(b'":', b'": ')
    other = wire.chat_answer().replace(b"quota", b"qu0ta")
    outcomes = []
    for body in (spaced, other, b"{}"):
        async with server(partial(lambda body, _: json_reply(body), body)) as port:
            outcomes.append(await perform(Job(port=port, by_meaning=True, count=5, seconds=30)))

    assert [outcome.errors for outcome in outcomes] == [0, 6, 6]
    assert "other words" in outcomes[1].first_error
    assert "no answer" in outcomes[2].first_error


async def test_a_stream_without_its_end_is_an_error_by_its_words_too() -> None:
    async with server(lambda _: chunked_reply(wire.stream_events()[:-1])) as port:
        outcome = await perform(Job(port=port, by_meaning=True, stream=True, count=1, seconds=30))

    assert outcome.errors == outcome.sent


async def test_keys_and_models_take_turns() -> None:
    job = Job(port=1, keys=("one", "two"), models=("a", "b", "c"))

    found = [request.data for request in job.requests()]

    assert [b"Bearer one" in data for data in found] == [True, False, True]
    assert [f'"model":"{name}"'.encode() in data for name, data in zip("abc", found, strict=True)] == [True] * 3


async def test_a_mix_is_measured_by_its_parts() -> None:
    """Three quarters are JSON, and their latency is that of the job; the rest are streams, and give its first tokens."""

    def answer(number: int) -> bytes:
        stream = [request.stream for request in Job(port=1, mix=True).requests()][(number - 1) % 20]
        return chunked_reply(wire.stream_events()) if stream else json_reply(wire.chat_answer())

    async with server(answer) as port:
        outcome = await perform(Job(port=port, mix=True, count=20, seconds=30))

    assert (outcome.measured, outcome.errors) == (20, 0)
    assert outcome.latency_ms
    assert outcome.first_token_ms


async def test_a_rate_is_kept() -> None:
    async with server(lambda _: json_reply(wire.chat_answer())) as port:
        outcome = await perform(Job(port=port, rate=200, connections=4, seconds=0.2))

    assert 36 <= outcome.measured <= 41


async def test_at_a_rate_a_slow_answer_counts_for_those_behind_it() -> None:
    """The second request was due while the first was being answered: it has waited since then, sent or not."""

    def slow(number: int) -> bytes:
        if number == 2:  # The first is warm-up.
            threading.Event().wait(0.15)
        return json_reply(wire.chat_answer())

    async with server(slow) as port:
        outcome = await perform(Job(port=port, rate=50, connections=1, seconds=0.2))

    assert outcome.latency_ms["p50"] > 15


async def test_paced_streams_begin_one_after_the_other() -> None:
    begun: list[float] = []

    def hang_up(_: int) -> bytes:
        begun.append(time.perf_counter())
        return b""

    async with server(hang_up) as port:
        await perform(Job(port=port, stream=True, pace_ms=2, connections=4, seconds=0.01))

    assert begun[3] - begun[0] >= 0.06  # Of the tenth of a second that a stream takes, three quarters.


async def test_a_stream_that_ends_too_early_was_not_held(capsys: pytest.CaptureFixture[str]) -> None:
    async with server(lambda _: chunked_reply(wire.stream_events())) as port:
        outcome = await perform(Job(port=port, stream=True, hold=True, connections=2))

    assert "stay open have ended" in outcome.first_error
    assert capsys.readouterr().out == ""


def test_percentiles_are_of_the_sorted_values() -> None:
    seconds = array("d", [number / 1000 for number in range(100, 0, -1)])

    assert percentiles(seconds) == {"p50": 51.0, "p90": 91.0, "p99": 100.0, "max": 100.0}
