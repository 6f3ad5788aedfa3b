"""What a client is told by the connection itself, before anything knows whose request it is and in which dialect."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from llmgateway.api.asgi_types import RawHeaders, Send

RETRY_AFTER_S = 1
_COME_BACK = {429, 503}


class Refusal(NamedTuple):
    """An answer that ends the connection. It is an ASGI application."""

    status: int
    code: str
    message: str

    @property
    def body(self) -> bytes:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return json.dumps({"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}).encode()

    @property
    def headers(self) -> RawHeaders:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            (b"connection", b"close"),
        ]
        return [*headers, (b"retry-after", b"%d" % RETRY_AFTER_S)] if self.status in _COME_BACK else headers

    def raw(self) -> bytes:
        """As it goes over the wire."""
        lines = b"".join([b"%b: %b\r\n" % header for header in self.headers])
        return STATUS_LINE[self.status] + lines + b"\r\n" + self.body

    async def __call__(self, _scope: Any, _receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


FULL = Refusal(503, "overloaded", "The gateway has as many connections as it can take. Try again in a moment.")
TOO_MANY = Refusal(429, "rate_limit_exceeded", "Your address has too many connections. Close some, or use fewer.")


def head_too_large(headers: int, size: int) -> Refusal:
    """For a request with more headers, or more bytes of them."""
    message = f"The request's headers are too large. Send at most {headers}, of {size // 1024} KB together."
    return Refusal(431, "headers_too_large", message)


def head_too_slow(seconds: float) -> Refusal:
    return Refusal(
        408, "request_timeout", f"The request's headers were not complete after {seconds:g} s. Send it again."
    )


FRAMED_TOO_MUCH = Refusal(400, "invalid_value", "The chunks of the body hold little of it. Send larger ones.")
UNREADABLE_SOCKET = Refusal(
    400, "invalid_value", "A request for a WebSocket has no body, no line over 8 KB and at most 128 headers."
)
