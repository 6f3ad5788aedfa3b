"""Answers that come compressed, although the gateway asks for them as they are: they are read before anything else is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from llmgateway.http import httpx
from llmgateway.pipeline.upstream import UpstreamAnswer

RawHeaders = Sequence[tuple[bytes, bytes]]
_PLAIN = {b"", b"identity"}


def encoding_of(headers: RawHeaders) -> bytes:
    """`gzip`, `br`, `zstd`, several of them with commas; empty: none."""
    for name, value in headers:
        if name == b"content-encoding":
            encoding = value.strip().lower()
            return b"" if encoding in _PLAIN else encoding
    return b""


def decoded(
    answer: UpstreamAnswer, headers: RawHeaders, encoding: bytes
) -> tuple[UpstreamAnswer, list[tuple[bytes, bytes]]]:
    """`answer` and its headers without the encoding. What it is written in stays unknown until it is read."""
    plain = answer.stream if answer.whole is None else httpx.ByteStream(answer.whole)
    stream = _Decoded(plain, encoding)
    kept = [header for header in headers if header[0] != b"content-encoding"]
    return msgspec.structs.replace(answer, stream=stream, whole=None), kept


class _Decoded(httpx.AsyncByteStream):
    """The pieces of a stream, each as soon as it can be read."""

    def __init__(self, stream: httpx.AsyncByteStream, encoding: bytes) -> None:
        self._stream = stream
        self._response = httpx.Response(200, headers=[(b"content-encoding", encoding)], stream=stream)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.aiter_bytes():
                if piece:
                    yield piece
        except httpx.DecodingError as error:
            raise httpx.ReadError(f"the answer is not in the encoding that it names: {error}") from error

    async def aclose(self) -> None:
        await self._stream.aclose()
