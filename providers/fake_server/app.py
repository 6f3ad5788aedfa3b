"""The fake provider's HTTP surface: raw ASGI, for it must stall, break off and reset as no framework would.

POST /v1/chat/completions   /v1/completions   /v1/embeddings   /v1/messages   /v1/messages/count_tokens
POST /v1/responses          GET, DELETE /v1/responses/ID   GET /v1/responses/ID/input_items
POST /v1beta/models/M:generateContent   :streamGenerateContent   :countTokens   :embedContent   :batchEmbedContents
GET  /v1/models   /v1/realtime (a WebSocket)
GET  /_control/requests     what it was sent (`Record`)
POST /_control/scripts      {"script": {…}, "times": 1}: for the requests that follow
PUT  /_control/faults       {"seed": 7, "rules": [{"when": "chance < 0.1", "do": {…}}]}: until others are set
GET  /_control/faults       the rules, and how often each has held
POST /_control/reset        forget all of it
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from providers.adapters.types import JSONObject
from providers.fake_server import contents, media, messages, realtime
from providers.fake_server.answers import CREATED, Answer, count_tokens, embeddings, prompt_of
from providers.fake_server.exchange import Exchange, Message, Send, error_body, send_json
from providers.fake_server.faults import Faults, PlanError, read_plan
from providers.fake_server.records import Record
from providers.fake_server.responses import Responses
from providers.fake_server.scripts import Script, Scripts
from providers.fake_server.storage import Storage

Receive = Callable[[], Awaitable[Message]]

MODELS = ("fake-chat", "fake-large", "fake-reasoning", "fake-embedding")


class FakeProvider:
    """One ASGI application with its own memory. `secret` makes it refuse other keys.

    Without `control` nobody can read what it was sent, so it is not kept, or tell it to fail.
    """

    def __init__(self, *, secret: str = "", control: bool = True) -> None:
        self.records: list[Record] = []
        self.scripts = Scripts()
        self.faults = Faults()
        self._control_is_open = control
        self._secret = secret
        self._answered = 0
        self._prompts: set[bytes] = set()
        self._storage = Storage()
        self._responses = Responses()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._talk(scope, receive, send)
        if scope["type"] != "http":
            return
        body = await _read(receive)
        if scope["path"].startswith("/_control/"):
            await self._control(scope, body, send)
            return
        record = self._recorded(scope)
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
        record = self._recorded({**scope, "method": "WEBSOCKET"})
        model = dict(parse_qsl(record.query)).get("model", "")
        script = self._script(record, {"model": model, "stream": True})
        await self._wait(script)
        record.status = script.status
        if script.status != 200 or not record.path.endswith("/realtime"):
            await realtime.refuse(send, script.status if script.status != 200 else 404, error_body(script))
            return
        await receive()
        await realtime.Realtime(record, script, model, receive, send).run(scope["subprotocols"])

    def _recorded(self, scope: MutableMapping[str, Any]) -> Record:
        record = _record(scope)
        if self._control_is_open:
            self.records.append(record)
        return record

    def _script(self, record: Record, body: JSONObject) -> Script:
        """What happens to a request. Raises msgspec.ValidationError for one that asks for the impossible."""
        headers = dict(record.headers)
        call = contents.CALL.fullmatch(record.path)
        usual = self.faults.of(
            model=call[1] if call else str(body.get("model", "")),
            path=record.path,
            stream=call[2] == "streamGenerateContent" if call else bool(body.get("stream")),
            headers=headers,
        )
        script = self.scripts.of(headers, body, usual)
        wrong_key = self._secret and self._secret not in _keys(record)
        return msgspec.structs.replace(script, status=401) if wrong_key else script

    async def _wait(self, script: Script) -> None:
        await asyncio.sleep((script.delay_ms + self.faults.jitter(script.jitter_ms)) / 1000)

    async def _control(self, scope: MutableMapping[str, Any], body: bytes, send: Send) -> None:
        content: Any = {}
        status = 200
        path = scope["path"] if self._control_is_open else ""
        try:
            if path == "/_control/requests":
                content = msgspec.to_builtins(self.records)
            elif path == "/_control/scripts":
                told = msgspec.json.decode(body, type=_Queued)
                self.scripts.queue(told.script, told.times)
            elif path == "/_control/faults":
                if scope["method"] != "GET":
                    self.faults.follow(read_plan(msgspec.json.decode(body)))
                content = self.faults.standing()
            elif path == "/_control/reset":
                self.forget()
            else:
                status, content = 404, error_body(Script(status=404), "Unknown request URL.")
        except (PlanError, msgspec.DecodeError) as error:
            status, content = 400, error_body(Script(status=400), str(error))
        await send_json(send, status, content)

    def forget(self) -> None:
        """Records, queued scripts, rules and cached prompts."""
        self.records.clear()
        self.scripts.clear()
        self.faults.clear()
        self._prompts.clear()
        self._storage.clear()
        self._responses.clear()

    async def _answer(self, exchange: Exchange, raw: bytes) -> None:
        record = exchange.record
        try:
            content_type = record.header("content-type") or ""
            is_form = content_type.startswith("multipart/")
            body = media.read_form(content_type, raw) if is_form else json.loads(raw) if raw else {}
            record.body = body
            exchange.script = script = self._script(record, body)
        except (ValueError, AttributeError, msgspec.ValidationError) as error:
            record.body = raw.decode(errors="replace")
            await exchange.refuse(Script(status=400), str(error))
            return
        await self._wait(script)
        if script.stall_after == 0:
            await asyncio.Event().wait()
        if script.reset:
            await exchange.reset()
        elif script.status != 200 or script.error:
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
            case method, path if path.startswith("/responses"):
                await self._respond(exchange, body, script, method=method, path=path)
            case "POST", _ if found := contents.CALL.fullmatch(exchange.record.path):
                await self._content(exchange, body, script, *found.groups())
            case "POST", path if path in media.JSON_ANSWERS:
                await exchange.send_json(200, media.JSON_ANSWERS[path](body))
            case "POST", "/audio/speech":
                as_events = body.get("stream_format") == "sse"
                pieces = media.spoken_events(body) if as_events else media.speech(body)
                await exchange.send_sound(pieces, "text/event-stream" if as_events else "audio/mpeg")
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
            await exchange.stream(message.events(), message.usage, before=message.before)
        else:
            exchange.record.billed = message.usage()
            await exchange.send_json(200, message.whole())

    async def _respond(self, exchange: Exchange, body: JSONObject, script: Script, *, method: str, path: str) -> None:
        if path != "/responses":
            await self._kept(exchange, self._responses.answer(method, path))
            return
        said = self._responses.said(body)
        if said is None:
            await exchange.refuse(Script(status=400), "There is no such previous response.")
            return
        response = self._responses.begin(body, said, script, cached=self._seen(str(said)))
        exchange.record.id = response.id
        if body.get("stream"):
            await exchange.stream(response.events(), response.usage, before=3)
        else:
            exchange.record.billed = response.usage()
            await exchange.send_json(200, response.whole())

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
            await exchange.stream(answer.events(), answer.usage, before=answer.before)
        else:
            exchange.record.billed = answer.usage()
            await exchange.send_json(200, answer.whole())

    async def _complete(self, exchange: Exchange, answer: Answer, *, chat: bool) -> None:
        exchange.record.id = answer.id
        if answer.body.get("stream"):
            await exchange.stream(answer.chunks(chat=chat), answer.usage, before=1 if chat else 0)
        else:
            exchange.record.billed = answer.usage()
            await exchange.send_json(200, answer.completion(chat=chat))


class _Queued(msgspec.Struct):
    script: Script
    times: int = 1


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
