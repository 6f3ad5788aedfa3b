"""Upstreams made up by chance, sound and broken ones: what is whole arrives whole however it is cut, what is not is never
taken for whole. All three transports.
"""

from __future__ import annotations

import asyncio
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgateway.pipeline.httpcore_transport import HttpcoreTransport
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.transport import PooledTransport
from tests.pipeline.transports.contract_scene import BROKEN, chunk, send
from tests.pipeline.transports.scripted import Peer, upstream

_TLS = ssl.create_default_context()  # Takes longer than everything else here together.
TRANSPORTS = (LeanTransport, PooledTransport, HttpcoreTransport)
Transport = type[LeanTransport | PooledTransport | HttpcoreTransport]
on_each = pytest.mark.parametrize("transport", TRANSPORTS, ids=["lean", "aiohttp", "httpcore"])
quickly = settings(max_examples=20, deadline=None)

BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b';a="b c"'])
TRAILERS = st.sampled_from([b"", b"x-late: 1\r\n", b"x-a: b\r\nx-c:\r\n"])
CUTS = st.lists(st.integers(min_value=1, max_value=60), max_size=12)


def chunked(pieces: list[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    sized = [b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces]
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(sized) + b"0\r\n" + trailer + b"\r\n"


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in pieces of those sizes, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in [*pieces, data] if piece]


def ask(transport: Transport, *pieces: bytes, half: bool = False, times: int = 1) -> list[tuple[int, bytes]]:
    """What so many requests on one connection get, each answered by the pieces, one after the other.

    The upstream then closes; with `half` only its own side, and reads on.
    """

    async def script(peer: Peer) -> None:
        for _ in range(times):
            await peer.request()
            for piece in pieces:
                await peer.send(piece)
                await asyncio.sleep(0)
        if half:
            peer.writer.write_eof()
            await peer.closed()

    async def run() -> list[tuple[int, bytes]]:
        made = transport(max_connections=1, tls=_TLS)
        try:
            async with upstream(script) as server, asyncio.timeout(5):
                return [await send(made, server) for _ in range(times)]
        finally:
            await made.aclose()

    return asyncio.run(run())


@on_each
@given(pieces=BODIES, extension=EXTENSIONS, trailer=TRAILERS, sizes=CUTS)
@quickly
def test_chunks_arrive_whole_however_they_are_cut(
    transport: Transport, pieces: list[bytes], extension: bytes, trailer: bytes, sizes: list[int]
) -> None:
    answer = cut(chunked(pieces, extension, trailer), sizes)

    assert ask(transport, *answer, times=2) == [(200, b"".join(pieces))] * 2


@on_each
@given(pieces=BODIES.filter(bool), keep=st.floats(min_value=0, max_value=1, exclude_max=True), half=st.booleans())
@quickly
def test_less_than_all_is_an_error_wherever_it_ends(
    transport: Transport, pieces: list[bytes], keep: float, half: bool
) -> None:
    """Also for an upstream that closes its side alone."""
    whole = chunked(pieces)

    with pytest.raises(BROKEN):
        ask(transport, whole[: int(len(whole) * keep)], half=half)


@on_each
@given(
    size=st.one_of(
        st.sampled_from([b"", b" ", b"-1", b"+1", b"0x2", b"2 2", b"2_", b"\xb2", b"1" * 30, b"2\r2", b"2;\n", b"2\0"]),
        st.binary(min_size=1, max_size=3).filter(lambda text: text[:1].strip(b"0123456789abcdefABCDEF;\r\n") != b""),
    )
)
@quickly
def test_what_is_no_size_of_a_chunk_ends_it(transport: Transport, size: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"ok") + size + b"\r\nab\r\n0\r\n\r\n"

    with pytest.raises(BROKEN):
        ask(transport, answer)


@on_each
@given(
    length=st.integers(min_value=0, max_value=20),
    names=st.sampled_from([(b"Content-Length", b"Transfer-Encoding"), (b"content-length", b"TRANSFER-ENCODING")]),
    length_first=st.booleans(),
    apart=st.booleans(),
)
@quickly
def test_two_ways_to_tell_the_length_are_believed_in_none(
    transport: Transport, length: int, names: tuple[bytes, bytes], length_first: bool, apart: bool
) -> None:
    lines = [b"%b: %d\r\n" % (names[0], length), names[1] + b": chunked\r\n"]
    if not length_first:
        lines.reverse()
    if apart:
        lines.insert(1, b"x-between: 1\r\n")

    with pytest.raises(BROKEN):
        ask(transport, b"HTTP/1.1 200 OK\r\n" + b"".join(lines) + b"\r\n" + chunk(b"hello") + b"0\r\n\r\n")


@on_each
@given(size=st.integers(min_value=260_000, max_value=500_000), count=st.sampled_from([1, 2, 5_000]))
@settings(max_examples=6, deadline=None)
def test_a_head_beyond_every_bound_is_refused(transport: Transport, size: int, count: int) -> None:
    line = b"x-much: " + b"a" * (size // count) + b"\r\n"

    with pytest.raises(BROKEN):
        ask(transport, b"HTTP/1.1 200 OK\r\n" + line * count + b"content-length: 0\r\n\r\n")


@on_each
@given(size=st.integers(min_value=0, max_value=7_000), count=st.integers(min_value=1, max_value=7))
@settings(max_examples=10, deadline=None)
def test_a_head_within_the_bounds_is_taken(transport: Transport, size: int, count: int) -> None:
    line = b"x-much: " + b"a" * size + b"\r\n"

    assert ask(transport, b"HTTP/1.1 200 OK\r\n" + line * count + b"content-length: 0\r\n\r\n") == [(200, b"")]
