"""A provider that costs next to nothing: HTTP/1.1 by hand on uvloop, answers made beforehand.

    python -m bench.mock_upstream        prints "port N" and serves until it is stopped

It answers any POST: with JSON, or for `"stream": true` with fifty chunks, in a burst or `bench_pace_ms` apart, and the
usage chunk where `include_usage` was asked for. A stream with `bench_hold` stays open after its first word until
somebody posts `bench_release`. It reads just enough of a request to do so; it is not a web server.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Iterator
from typing import cast

import uvloop

from bench import wire

_STREAM = re.compile(rb'"stream":\s*true')
_INCLUDE_USAGE = re.compile(rb'"include_usage":\s*true')
_PACE = re.compile(wire.PACE_FIELD + rb"\s*(\d+)")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


def _json_response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _pieces(*, include_usage: bool) -> list[bytes]:
    return [wire.http_chunk(event) for event in wire.stream_events(include_usage=include_usage)]


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_CHAT = _json_response(wire.chat_answer())
_MODELS = _json_response(b'{"object":"list","data":[{"id":"bench-upstream","object":"model"}]}')
_LENGTH_REQUIRED = b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_PIECES = {usage: _pieces(include_usage=usage) for usage in (False, True)}
_BURST = {
    usage: _STREAM_HEAD + b"".join(pieces) + wire.LAST_HTTP_CHUNK for usage, pieces in _PIECES.items()
}  # One write per stream: the pieces are there at once, as from a provider that answers from its cache.


held: dict[MockUpstream, bytes] = {}
"""Streams that wait for their release, with what each is still to get."""


class MockUpstream(asyncio.Protocol):
    """One connection. Requests are answered in order; a client that leaves stops its stream."""

    __slots__ = ("buffer", "loop", "timer", "transport")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, though they have all its methods.
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        held.pop(self, None)
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data if self.buffer else data
        while (head_end := data.find(b"\r\n\r\n")) >= 0:
            length = _CONTENT_LENGTH.search(data, 0, head_end)
            body_end = head_end + 4 + (int(length[1]) if length else 0)
            if len(data) < body_end:
                break
            self.answer(data[:head_end], data[head_end + 4 : body_end])
            data = data[body_end:]
        self.buffer = data

    def answer(self, head: bytes, body: bytes) -> None:
        if not body:
            self.transport.write(_MODELS if head.startswith(b"GET ") else _LENGTH_REQUIRED)
        elif not _STREAM.search(body):
            if body == wire.RELEASE:
                release()
            self.transport.write(_CHAT)
        elif pace := _PACE.search(body):
            self.transport.write(_STREAM_HEAD)
            pieces = _PIECES[_INCLUDE_USAGE.search(body) is not None]
            self.write_next(iter(pieces), int(pace[1]) / 1000)
        elif wire.HOLD_FIELD in body:
            role, word, *rest = _PIECES[_INCLUDE_USAGE.search(body) is not None]
            self.transport.write(_STREAM_HEAD + role + word)
            held[self] = b"".join(rest) + wire.LAST_HTTP_CHUNK
        else:
            self.transport.write(_BURST[_INCLUDE_USAGE.search(body) is not None])

    def write_next(self, pieces: Iterator[bytes], pace_s: float) -> None:
        piece = next(pieces, None)
        if piece is None:
            self.timer = None
            self.transport.write(wire.LAST_HTTP_CHUNK)
            return
        self.transport.write(piece)
        self.timer = self.loop.call_later(pace_s, self.write_next, pieces, pace_s)


def release() -> None:
    """Let every held stream end."""
    waiting = list(held.items())
    held.clear()
    for connection, rest in waiting:
        connection.transport.write(rest)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(MockUpstream, "127.0.0.1", 0, backlog=4096)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    gc.freeze()
    gc.disable()  # Nothing here makes reference cycles, and a collection would show up as latency of the target.
    await server.serve_forever()


def main() -> None:
    try:
        uvloop.run(_serve())
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
