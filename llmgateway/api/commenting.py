"""A stream that ends with a comment on what it used and cost, for clients that ask: its headers were sent too early to say so."""

from __future__ import annotations

from collections.abc import Sequence

from llmgateway.api.responses import Responder
from llmgateway.pipeline.header_lines import HeaderLines
from llmgateway.pipeline.requests import Trailer


class CommentingResponder(Responder):
    """Sends the lines of a whole answer's headers as comments behind the last event. All else goes out as it is."""

    __slots__ = ("_is_stream", "_trailer")

    def __init__(self, inner: Responder, trailer: Trailer) -> None:
        for name in Responder.__slots__:
            setattr(self, name, getattr(inner, name))
        self._trailer = trailer
        self._is_stream = False

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b"") -> None:
        self._is_stream = any(
            name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers
        )
        await super().start(status, headers, lines)

    async def send(self, chunk: bytes, *, more: bool) -> None:
        if self._is_stream and not more and self._trailer.lines:
            chunk += b"".join([b": %b\n" % each for each in self._trailer.lines.split(b"\r\n")[:-1]]) + b"\n"
        await super().send(chunk, more=more)
