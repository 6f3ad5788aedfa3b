"""One request's way back to its client, for better or for worse: whole, in pieces, slowly, broken off, or garbled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import msgspec

from providers.adapters.types import JSONObject
from providers.fake_server import contents, messages
from providers.fake_server.records import Record
from providers.fake_server.scripts import Script

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

DRIPS_PER_S = 20
"""How often a slow answer brings something."""

_ERRORS = {
    400: ("invalid_request_error", "invalid_value", "The request is not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-fake***."),
    403: ("invalid_request_error", "unsupported_country_region_territory", "Country not supported."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    503: ("server_error", "overloaded", "The engine is currently overloaded."),
}
_REASONS = {
    "context_too_long": (
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
    ),
    "content_policy": (
        "content_policy_violation",
        "Your request was rejected as a result of our safety system.",
    ),
}
_LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


class Exchange:
    """One request's way back to its client."""

    def __init__(self, record: Record, scope: MutableMapping[str, Any], send: Send) -> None:
        self.record = record
        self.script = Script()
        self._scope = scope
        self._send = send

    async def reset(self) -> None:
        """Drop the connection with a TCP reset; does not return."""
        await self._break_off("fake.reset")

    async def _break_off(self, how: str) -> None:
        self.record.reset_at = time.time()
        self._scope["extensions"][how]()
        await asyncio.Event().wait()

    async def refuse(self, script: Script, message: str = "") -> None:
        headers = {"retry-after": script.retry_after} if script.retry_after else {}
        status = 200 if script.inside_200 else _status(script)
        await self.send_json(status, self._error(script, message), headers)

    @property
    def _speaks_messages(self) -> bool:
        return self.record.path.startswith("/v1/messages")

    @property
    def _speaks_contents(self) -> bool:
        return contents.CALL.fullmatch(self.record.path) is not None

    def _error(self, script: Script, message: str = "") -> JSONObject:
        status = _status(script)
        if self._speaks_contents:
            return contents.error_object(status, message, script.error)
        if self._speaks_messages:
            return messages.error_object(status, message, script.error)
        return error_body(script, message)

    def _event_name(self, data: JSONObject | str) -> str:
        """Anthropic's events say their type twice."""
        return str(data["type"]) if self._speaks_messages and isinstance(data, dict) else ""

    async def send_json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self.record.status = status
        self.record.headers_sent_at = time.time()
        body = json.dumps(content, separators=(",", ":")).encode()
        if self.script.malformed_after is not None:
            body = body[: len(body) // 2]
        length = {"content-length": str(len(body))}
        await self._send(_start(status, "application/json", {**self._usual_headers(), **(headers or {}), **length}))
        await self._break_off_within(body)
        await self._send_slowly(body)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.record.pieces_sent = 1
        self.record.finished_at = time.time()

    async def _break_off_within(self, body: bytes) -> None:
        """Of an answer in one piece: what is told of a stream's pieces holds for its halves."""
        reset, truncate = self.script.reset_after, self.script.truncate_after
        if reset is None and truncate is None:
            return
        before = reset if reset is not None else truncate
        await self._send(
            {"type": "http.response.body", "body": body[: len(body) // 2 if before else 0], "more_body": True}
        )
        await self._break_off("fake.reset" if reset is not None else "fake.close")

    async def _send_slowly(self, data: bytes, size: int = 0) -> None:
        """In pieces of `size` bytes, or of as many as the script lets drip."""
        drip = self.script.drip
        size = max(1, drip // DRIPS_PER_S) if drip else size or len(data)
        for at in range(0, len(data), size):
            await self._send({"type": "http.response.body", "body": data[at : at + size], "more_body": True})
            # Sending waits for nobody while the client keeps up, or once it is gone; other tasks need their turn.
            await asyncio.sleep(size / drip if drip else 0)

    async def send_bytes(self, content_type: str, content: bytes) -> None:
        self.record.status, self.record.headers_sent_at = 200, time.time()
        headers = {**self._usual_headers(), "content-length": str(len(content))}
        await self._send(_start(200, content_type, headers))
        await self._send({"type": "http.response.body", "body": content})
        self.record.finished_at = time.time()

    async def send_sound(self, pieces: Iterable[bytes], media_type: str = "audio/mpeg") -> None:
        """Piece by piece, as it is spoken."""
        script = self.script
        self.record.status, self.record.headers_sent_at = 200, time.time()
        await self._send(_start(200, media_type, self._usual_headers()))
        for sent, piece in enumerate(pieces):
            if sent and script.stall_after == sent:
                await asyncio.Event().wait()
            if script.reset_after == sent:
                await self.reset()
            if script.truncate_after == sent:
                break
            await self._send_slowly(piece)
            await asyncio.sleep(script.chunk_delay_ms / 1000)
            self.record.pieces_sent += 1
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.record.finished_at = time.time()

    async def stream(self, events: Iterable[JSONObject], usage: Callable[[int], JSONObject], *, before: int) -> None:
        """Send an answer as events, its words after the first `before`; what was generated by then is billed however
        it ends, by `usage` of so many words.
        """
        script = self.script
        self.record.status, self.record.headers_sent_at = 200, time.time()
        self.record.billed = usage(0)
        await self._send(_start(200, "text/event-stream; charset=utf-8", self._usual_headers()))
        ends_so = script.done and not (self._speaks_messages or self._speaks_contents)
        last: JSONObject | str | None = "[DONE]" if ends_so else None
        for sent, data in enumerate(events):
            if sent and script.chunk_delay_ms:
                await asyncio.sleep(script.chunk_delay_ms / 1000)
            if sent and script.stall_after == sent:
                await asyncio.Event().wait()
            if script.reset_after == sent:
                await self.reset()
            if script.error_after == sent:
                last = self._error(msgspec.structs.replace(script, status=503))
                break
            if script.truncate_after == sent:
                last = None
                break
            self.record.billed = usage(max(0, sent + 1 - before))
            text = json.dumps(data, separators=(",", ":"))
            await self._send_event(
                text[: len(text) // 2] if script.malformed_after == sent else text, self._event_name(data)
            )
        await self._end(last)

    async def _end(self, last: JSONObject | str | None) -> None:
        if last is not None:
            await self._send_event(last if isinstance(last, str) else json.dumps(last), self._event_name(last))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.record.finished_at = time.time()

    async def _send_event(self, data: str, name: str = "") -> None:
        line_end = _LINE_ENDS[self.script.line_end]
        event = b"data: " + data.encode() + line_end + line_end
        if name:
            event = b"event: " + name.encode() + line_end + event
        await self._send_slowly(event, self.script.split)
        self.record.pieces_sent += 1

    def _usual_headers(self) -> dict[str, str]:
        return {
            "x-request-id": f"req_fake_{id(self.record):x}",
            "openai-processing-ms": "7",
            "openai-version": "2020-10-01",
            "x-ratelimit-limit-requests": "10000",
            "x-ratelimit-remaining-requests": "9999",
            "x-ratelimit-reset-requests": "6ms",
        }


def _status(script: Script) -> int:
    return 400 if script.error and script.status == 200 else script.status


def error_body(script: Script, message: str = "") -> JSONObject:
    kind, code, text = _ERRORS.get(_status(script), ("server_error", "internal_error", "The server had an error."))
    code, text = _REASONS.get(script.error, (code, text))
    return {"error": {"message": message or text, "type": kind, "param": None, "code": script.code or code}}


async def send_json(send: Send, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
    body = json.dumps(content, separators=(",", ":")).encode()
    await send(_start(status, "application/json", {**(headers or {}), "content-length": str(len(body))}))
    await send({"type": "http.response.body", "body": body})


def _start(status: int, content_type: str, headers: dict[str, str]) -> Message:
    pairs = {"content-type": content_type, **headers}.items()
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(name.encode(), value.encode()) for name, value in pairs],
    }
