"""Whole chunks that go on without the parser make the same body as with it, however a stream is cut or broken."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmgateway.pipeline.lean_connection import LARGEST_CHUNK, Connection, whole_chunk

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = st.sampled_from(
    [
        b"5\r\nhello\r\n", b"A\r\n0123456789\r\n", b"a\r\n5\r\nhello\r\n\r\n", b"1\r\n\n\r\n", b"3\r\n1\r\n\r\n", b"05\r\nhello\r\n", b"5;x=y\r\nhello\r\n",
        b"0\r\n\r\n", b"4\r\nhello\r\n", b"6\r\nhello\r\n", b"+5\r\nhello\r\n", b"0x5\r\nhello\r\n", b" 5\r\nhello\r\n", b"5\r\nhel", b"lo\r\n", b"\r\n", b"5\r\n", b"1e\r\n",
        b"%x\r\n%b\r\n" % (2040, b"x" * 2040), b"%x\r\n%b\r\n" % (2047, b"x" * 2047), b"%x\r\n%b\r\n" % (5000, b"y" * 5000),
    ]
)  # fmt: skip


class Wire:
    """A transport that nobody listens to."""

    def abort(self) -> None:
        """It is gone."""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        """Nobody reads it."""


def begun(**hooks: Any) -> Connection:
    """With the head of its answer read."""
    connection = Connection(lambda _: None)
    connection.connection_made(cast("Any", Wire()))
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", is_head=False, wants_close=False)
    connection.data_received(HEAD)
    for name, hook in hooks.items():
        setattr(connection, name, hook)
    return connection


def outcome(connection: Connection, body: bytes) -> tuple[bytes, bool, str]:
    return body + connection.take(), connection.is_complete, str(connection.error or "")


async def both(arrivals: list[bytes]) -> tuple[Any, Any, int]:
    """What came of it without and with going on, and how many pieces went on."""
    body = bytearray()
    gone_on = 0

    def onward(framed: bytes, size: int) -> bool:
        nonlocal gone_on
        piece = framed[-2 - size : -2]
        assert framed == b"%x\r\n%b\r\n" % (len(piece), piece) or framed == b"%X\r\n%b\r\n" % (len(piece), piece)
        body.extend(piece)
        gone_on += 1
        return True

    plain, quick = begun(), begun(onward=onward)
    read = bytearray()
    for data in arrivals:
        plain.data_received(data)
        quick.data_received(data)
        body += quick.take()
        read += plain.take()
    return outcome(plain, bytes(read)), outcome(quick, bytes(body)), gone_on


@given(arrivals=st.lists(st.one_of(CHUNKS, st.lists(CHUNKS, max_size=3).map(b"".join)), max_size=8))
@example([b"5\r\nhello\r\n"] * 3)
@example([b"1e\r\n", *[b"5\r\nhello\r\n"] * 3, b"\r\n", b"0\r\n\r\n"])
@settings(max_examples=400, deadline=None)
def test_whatever_arrives_is_the_same_body(arrivals: list[bytes]) -> None:
    ours, theirs, _ = asyncio.run(both(arrivals))
    assert ours == theirs


async def test_whole_chunks_go_on_from_the_second_on() -> None:
    ours, theirs, gone_on = await both([b"5\r\nhello\r\n"] * 4 + [b"0\r\n\r\n"])

    assert ours == theirs == (b"hello" * 4, True, "")
    assert gone_on == 3


async def test_after_a_cut_the_parser_must_see_a_whole_chunk_first() -> None:
    whole = b"5\r\nhello\r\n"
    ours, theirs, gone_on = await both([whole, whole, b"5\r\nhel", b"lo\r\n", whole, whole])

    assert ours == theirs
    assert gone_on == 2


async def test_a_piece_that_nobody_takes_is_parsed() -> None:
    connection = begun(onward=lambda *_: False)
    for _ in range(3):
        connection.data_received(b"5\r\nhello\r\n")

    assert connection.take() == b"hello" * 3


async def test_the_next_answer_on_the_connection_is_read_from_its_beginning() -> None:
    connection = begun(onward=lambda *_: True)
    for data in (b"5\r\nhello\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n"):
        connection.data_received(data)
    connection.leave()
    connection.is_busy, connection.served = False, True
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", is_head=False, wants_close=False)
    connection.data_received(HEAD + b"2\r\nok\r\n0\r\n\r\n")

    assert connection.is_reusable
    assert connection.take() == b"hellook"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"5\r\nhello",
        b"5\r\nhello\r\n5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"5\nhello\n",
        b"5 \r\nhello\r\n",
        b"5_0\r\nhello\r\n",
    ],
)
def test_what_is_not_one_whole_chunk_is_for_the_parser(data: bytes) -> None:
    assert whole_chunk(data) == 0


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 17, 255, 256, 257, LARGEST_CHUNK - 8])
@pytest.mark.parametrize("form", [b"%x", b"%X"])
def test_one_whole_chunk_is_told_by_its_length(size: int, form: bytes) -> None:
    chunk = form % size + b"\r\n" + b"x" * size + b"\r\n"

    assert whole_chunk(chunk) == size
    assert whole_chunk(chunk + b"x") == whole_chunk(chunk[:-1]) == whole_chunk(b"0" + chunk) == 0
