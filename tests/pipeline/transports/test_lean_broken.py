"""No upstream, however broken, makes the lean transport hang or tell less than the truth."""

from __future__ import annotations

import asyncio
import contextlib

import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgateway.pipeline.lean_transport import LeanTransport
from tests.pipeline.transports.contract_scene import BROKEN, send
from tests.pipeline.transports.lean_scene import TLS, open_places
from tests.pipeline.transports.scripted import Peer, upstream

# Any upstream at all.


class _Whole:
    """Whether httptools, fed in one go, finds a complete answer, and what its body is."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.status = 0
        self.is_complete = self.is_framed = False
        self._parser = httptools.HttpResponseParser(self)
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.is_framed = self.is_framed or name.lower() in {b"content-length", b"transfer-encoding"}

    def on_headers_complete(self) -> None:
        if self.is_complete:
            raise ValueError
        self.status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.is_complete = self.status >= 200


PARTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"\r\n", b"\n", b"\r", b"hello",
        b"5\r\nhello\r\n", b"3\r\nab", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n", b"x: \0\r\n",
        b" folded\r\n",
    ]
)  # fmt: skip
ANSWERS = st.one_of(st.lists(PARTS, max_size=8), st.lists(st.one_of(PARTS, st.binary(max_size=12)), max_size=8))


@given(parts=ANSWERS, pauses=st.booleans(), resets=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_broken_upstream_never_hangs_and_a_short_body_is_never_complete(
    parts: list[bytes], pauses: bool, resets: bool
) -> None:
    data = b"".join(parts)
    whole = _Whole(data)

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in parts if pauses else [data]:
            await peer.send(piece)
            await asyncio.sleep(0)
        if resets:
            peer.reset()

    async def run() -> tuple[int, bytes] | None:
        lean = LeanTransport(max_connections=1, tls=TLS)
        try:
            async with upstream(script) as server, asyncio.timeout(5):
                return await send(lean, server)
        except BROKEN:
            return None
        finally:
            await lean.aclose()
            assert open_places(lean) == (0, 0)

    answer = asyncio.run(run())

    if answer is not None:
        assert answer[0] == whole.status >= 200
        assert answer[1] == whole.body or (whole.is_complete and whole.body.startswith(answer[1]))
        assert whole.is_complete or not whole.is_framed
