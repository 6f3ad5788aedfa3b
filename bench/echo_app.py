"""The least an ASGI server can do: read the request, send the fixed answer. What any Python gateway pays at least."""

from __future__ import annotations

from typing import Any

from bench import wire

_CHAT = wire.chat_answer()
_STREAM = b"".join(wire.stream_events())


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """No upstream, no parsing, no headers that are not needed."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    stream = b'"stream":true' in body
    answer = _STREAM if stream else _CHAT
    content_type = b"text/event-stream" if stream else b"application/json"
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
