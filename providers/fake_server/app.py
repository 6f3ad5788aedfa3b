"""The fake provider's HTTP surface: raw ASGI, for it must stall, break off and reset as no framework would.

POST /v1/chat/completions   /v1/completions   /v1/embeddings   /v1/messages   /v1/messages/count_tokens
POST /v1beta/models/M:generateContent   :streamGenerateContent   :countTokens   :embedContent   :batchEmbedContents
GET  /v1/models   /v1/realtime (a WebSocket)
GET  /_control/requests     what it was sent (`Record`)
POST /_control/scripts      {"script": {…}, "times": 1}: for the requests that follow
POST /_control/reset        forget all of it
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from providers.adapters.types import JSONObject
from providers.fake_server import contents, media, messages, realtime
from providers.fake_server.answers import CREATED, Answer, count_tokens, embeddings, prompt_of
from providers.fake_server.records import Record
from providers.fake_server.scripts import Script, Scripts
from providers.fake_server.storage import Storage

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MODELS = ("fake-chat", "fake-large", "fake-reasoning", "fake-embedding")
_ERRORS = {
    400: ("invalid_request_error", "invalid_value", "The request is not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-fake***."),
    403: ("invalid_request_error", "unsupported_country_region_territory", "Country not supported."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    503: ("server_error", "overloaded", "The engine is currently overloaded."),
}
_LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


class FakeProvider:
    """One ASGI application with its own memory. `secret` makes it refuse other keys."""

    def __init__(self, *, secret: str = "") -> None:
        self.records: list[Record] = []
        self.scripts = Scripts()
        self._secret = secret
        self._answered = 0
        self._prompts: set[bytes] = set()
        self._storage = Storage()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._talk(scope, receive, send)
        if scope["type"] != "http":
            return
        body = await _read(receive)
        if scope["path"].startswith("/_control/"):
            await self._control(scope, body, send)
            return
        record = _record(scope)
        self.records.append(record)
        exchange = Exchange(record, scope, send)
        answering = asyncio.ensure_future(self._answer(exchange, body))
        leaving = asyncio.ensure_future(_left(receive))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            record.disconnected_at = None if record.reset_at else time.time()
            answering.cancel()
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    async def _talk(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        record = _record({**scope, "method": "WEBSOCKET"})
        self.records.append(record)
        model = dict(parse_qsl(record.query)).get("model", "")
        script = self.scripts.of(dict(record.headers), {"model": model})
        if self._secret and self._secret not in _keys(record):
            script = msgspec.structs.replace(script, status=401)
        await asyncio.sleep(script.delay_ms / 1000)
        record.status = script.status
        if script.status != 200 or not record.path.endswith("/realtime"):
            await realtime.refuse(send, script.status if script.status != 200 else 404, error_body(script))
            return
        await receive()
        await realtime.Realtime(record, script, model, receive, send).run(scope["subprotocols"])

    async def _control(self, scope: MutableMapping[str, Any], body: bytes, send: Send) -> None:
        content: Any = {}
        if scope["path"] == "/_control/requests":
            content = msgspec.to_builtins(self.records)
        elif scope["path"] == "/_control/scripts":
            told = msgspec.json.decode(body, type=_Queued)
            self.scripts.queue(told.script, told.times)
        elif scope["path"] == "/_control/reset":
            self.forget()
        await send_json(send, 200, content)

    def forget(self) -> None:
        """Records, queued scripts and cached prompts."""
        self.records.clear()
        self.scripts.clear()
        self._prompts.clear()
        self._storage.clear()

    async def _answer(self, exchange: Exchange, raw: bytes) -> None:
        record = exchange.record
        try:
            content_type = record.header("content-type") or ""
            is_form = content_type.startswith("multipart/")
            body = media.read_form(content_type, raw) if is_form else json.loads(raw) if raw else {}
            record.body = body
            script = self.scripts.of(dict(record.headers), body)
        except (ValueError, AttributeError, msgspec.ValidationError) as error:
            record.body = raw.decode(errors="replace")
            await exchange.refuse(Script(status=400), str(error))
            return
        if self._secret and self._secret not in _keys(record):
            script = msgspec.structs.replace(script, status=401)
        await asyncio.sleep(script.delay_ms / 1000)
        if script.stall_after == 0:
            await asyncio.Event().wait()
        if script.reset:
            await exchange.reset()
        elif script.status != 200:
            await exchange.refuse(script)
        else:
            await self._dispatch(exchange, body, script, raw)

    async def _dispatch(self, exchange: Exchange, body: JSONObject, script: Script, raw: bytes) -> None:
        match exchange.record.method, exchange.record.path.removeprefix("/v1"):
            case "GET", "/models":
                models = [{"id": name, "object": "model", "created": CREATED, "owned_by": "fake"} for name in MODELS]
                await exchange.send_json(200, {"object": "list", "data": models})
            case "POST", "/embeddings":
                answer = embeddings(body)
                exchange.record.billed = answer["usage"]
                await exchange.send_json(200, answer)
            case "POST", ("/chat/completions" | "/completions") as path:
                await self._complete(exchange, self._compose(body, script), chat=path == "/chat/completions")
            case "POST", ("/messages" | "/messages/count_tokens") as path:
                await self._message(exchange, body, script, counts=path.endswith("count_tokens"))
            case "POST", _ if found := contents.CALL.fullmatch(exchange.record.path):
                await self._content(exchange, body, script, *found.groups())
            case "POST", path if path in media.JSON_ANSWERS:
                await exchange.send_json(200, media.JSON_ANSWERS[path](body))
            case "POST", "/audio/speech":
                await exchange.send_sound(script, media.speech(body))
            case method, path if path.startswith(("/files", "/batches")):
                content_type = exchange.record.header("content-type") or ""
                kept = self._storage.answer(
                    method, path, body, raw=raw, content_type=content_type, complete=self._of_batch
                )
                await self._kept(exchange, kept)
            case _:
                await exchange.refuse(Script(status=404), "Unknown request URL.")

    async def _kept(self, exchange: Exchange, answer: JSONObject | bytes | None) -> None:
        if answer is None:
            await exchange.refuse(Script(status=404), "There is no such object.")
        elif isinstance(answer, bytes):
            await exchange.send_bytes("application/octet-stream", answer)
        else:
            await exchange.send_json(200, answer)

    def _of_batch(self, body: JSONObject) -> JSONObject:
        return self._compose(body, Script()).completion(chat=True)

    def _compose(self, body: JSONObject, script: Script) -> Answer:
        self._answered += 1
        return Answer(body, script, number=self._answered, cached=self._seen(prompt_of(body)))

    def _seen(self, prompt: str) -> bool:
        """Whether a prompt was asked before; from now on it was."""
        digest = hashlib.sha256(prompt.encode()).digest()
        seen = digest in self._prompts
        self._prompts.add(digest)
        return seen

    async def _message(self, exchange: Exchange, body: JSONObject, script: Script, *, counts: bool) -> None:
        if counts:
            tokens = count_tokens(messages.prompt_of(body))
            await exchange.send_json(200, {"input_tokens": tokens})
            return
        if fault := messages.fault(body, exchange.record.header("anthropic-version")):
            await exchange.refuse(Script(status=400), fault)
            return
        self._answered += 1
        seen = self._seen(messages.prompt_of(body))
        message = messages.Message(body, script, number=self._answered, cached=seen)
        exchange.record.id = message.id
        if body.get("stream"):
            await exchange.stream(script, message.events(), message.usage, before=message.before)
        else:
            exchange.record.billed = message.usage()
            await exchange.send_json(200, message.whole())

    async def _content(self, exchange: Exchange, body: JSONObject, script: Script, model: str, method: str) -> None:
        if method in {"embedContent", "batchEmbedContents"}:
            await exchange.send_json(200, contents.vectors(body))
            return
        asked = body.get("generateContentRequest") or body
        if fault := contents.fault(asked, model):
            await exchange.refuse(Script(status=400), fault)
            return
        prompt = contents.prompt_of(asked)
        if method == "countTokens":
            await exchange.send_json(200, {"totalTokens": count_tokens(prompt)})
            return
        self._answered += 1
        answer = contents.Contents(body, script, model=model, number=self._answered, cached=self._seen(prompt))
        exchange.record.id = answer.id
        if method == "streamGenerateContent":
            await exchange.stream(script, answer.events(), answer.usage, before=answer.before)
        else:
            exchange.record.billed = answer.usage()
            await exchange.send_json(200, answer.whole())

    async def _complete(self, exchange: Exchange, answer: Answer, *, chat: bool) -> None:
        exchange.record.id = answer.id
        if answer.body.get("stream"):
            await exchange.stream(answer.script, answer.chunks(chat=chat), answer.usage, before=1 if chat else 0)
        else:
            exchange.record.billed = answer.usage()
            await exchange.send_json(200, answer.completion(chat=chat))


class Exchange:
    """One request's way back to its client."""

    def __init__(self, record: Record, scope: MutableMapping[str, Any], send: Send) -> None:
        self.record = record
        self._scope = scope
        self._send = send

    async def reset(self) -> None:
        """Drop the connection with a TCP reset; does not return."""
        self.record.reset_at = time.time()
        self._scope["extensions"]["fake.reset"]()
        await asyncio.Event().wait()

    async def refuse(self, script: Script, message: str = "") -> None:
        headers = {"retry-after": script.retry_after} if script.retry_after else {}
        await self.send_json(script.status, self._error(script, message), headers)

    @property
    def _speaks_messages(self) -> bool:
        return self.record.path.startswith("/v1/messages")

    @property
    def _speaks_contents(self) -> bool:
        return contents.CALL.fullmatch(self.record.path) is not None

    def _error(self, script: Script, message: str = "") -> JSONObject:
        if self._speaks_contents:
            return contents.error_object(script.status, message)
        return messages.error_object(script.status, message) if self._speaks_messages else error_body(script, message)

    def _event_name(self, data: JSONObject | str) -> str:
        """Anthropic's events say their type twice."""
        return str(data["type"]) if self._speaks_messages and isinstance(data, dict) else ""

    async def send_json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self.record.status = status
        self.record.headers_sent_at = time.time()
        await send_json(self._send, status, content, {**self._usual_headers(), **(headers or {})})
        self.record.pieces_sent = 1
        self.record.finished_at = time.time()

    async def send_bytes(self, content_type: str, content: bytes) -> None:
        self.record.status, self.record.headers_sent_at = 200, time.time()
        headers = {**self._usual_headers(), "content-length": str(len(content))}
        await self._send(_start(200, content_type, headers))
        await self._send({"type": "http.response.body", "body": content})
        self.record.finished_at = time.time()

    async def send_sound(self, script: Script, pieces: Iterable[bytes]) -> None:
        """Piece by piece, as it is spoken."""
        self.record.status, self.record.headers_sent_at = 200, time.time()
        await self._send(_start(200, "audio/mpeg", self._usual_headers()))
        for sent, piece in enumerate(pieces):
            if sent and script.stall_after == sent:
                await asyncio.Event().wait()
            if script.reset_after == sent:
                await self.reset()
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(script.chunk_delay_ms / 1000)
            self.record.pieces_sent += 1
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.record.finished_at = time.time()

    async def stream(
        self, script: Script, events: Iterable[JSONObject], usage: Callable[[int], JSONObject], *, before: int
    ) -> None:
        """Send an answer as events, its words after the first `before`; what was generated by then is billed however
        it ends, by `usage` of so many words.
        """
        self.record.status, self.record.headers_sent_at = 200, time.time()
        self.record.billed = usage(0)
        await self._send(_start(200, "text/event-stream; charset=utf-8", self._usual_headers()))
        for sent, data in enumerate(events):
            if sent and script.chunk_delay_ms:
                await asyncio.sleep(script.chunk_delay_ms / 1000)
            if sent and script.stall_after == sent:
                await asyncio.Event().wait()
            if script.reset_after == sent:
                await self.reset()
            if script.error_after == sent:
                await self._end(script, self._error(msgspec.structs.replace(script, status=503)))
                return
            self.record.billed = usage(max(0, sent + 1 - before))
            await self._send_event(script, json.dumps(data, separators=(",", ":")), self._event_name(data))
        await self._end(
            script, "[DONE]" if script.done and not (self._speaks_messages or self._speaks_contents) else None
        )

    async def _end(self, script: Script, last: JSONObject | str | None) -> None:
        if last is not None:
            await self._send_event(script, last if isinstance(last, str) else json.dumps(last), self._event_name(last))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.record.finished_at = time.time()

    async def _send_event(self, script: Script, data: str, name: str = "") -> None:
        line_end = _LINE_ENDS[script.line_end]
        event = b"data: " + data.encode() + line_end + line_end
        if name:
            event = b"event: " + name.encode() + line_end + event
        size = script.split or len(event)
        for at in range(0, len(event), size):
            await self._send({"type": "http.response.body", "body": event[at : at + size], "more_body": True})
            # Sending waits for nobody while the client keeps up, or once it is gone; other tasks need their turn.
            await asyncio.sleep(0)
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


class _Queued(msgspec.Struct):
    script: Script
    times: int = 1


def error_body(script: Script, message: str = "") -> JSONObject:
    kind, code, text = _ERRORS.get(script.status, ("server_error", "internal_error", "The server had an error."))
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


def _keys(record: Record) -> set[str | None]:
    """The key, wherever the dialects have it."""
    bearer = (record.header("authorization") or "").removeprefix("Bearer ")
    return {bearer, record.header("x-api-key"), record.header("x-goog-api-key")}


def _record(scope: MutableMapping[str, Any]) -> Record:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    return Record(
        scope["method"],
        scope["path"],
        scope["query_string"].decode("latin-1"),
        headers,
        (scope["client"] or ("", 0))[1],
    )


async def _read(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
