"""The fake provider's realtime sessions: OpenAI's events over a WebSocket, with a conversation that is billed again and again.

Sound that is appended is a turn of the caller until a piece of it is silent (zeroes); then, unless turn detection is
off, the answer begins by itself. `x-fake-script` of the handshake, or the model's name, tells what to do badly:
`status` refuses the handshake, `stall_after` and `reset_after` count the deltas of a response.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from providers.adapters.types import JSONObject
from providers.fake_server.answers import WORDS, count_tokens
from providers.fake_server.records import Record
from providers.fake_server.scripts import Script

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DEFAULT_WORDS = 8
SOUND_BYTES_PER_TOKEN = 4800
"""100 ms of PCM at 24 kHz."""
CACHE_BLOCK = 16


class Realtime:
    """One session. `record.body` is what the caller sent, `record.billed` the usage of each response and transcription."""

    def __init__(self, record: Record, script: Script, model: str, receive: Receive, send: Send) -> None:
        self._record = record
        self._script = script
        self._receive = receive
        self._send = send
        self._numbers = itertools.count(1)
        self._session: JSONObject = {
            "type": "realtime",
            "id": f"sess_fake{id(record):x}",
            "model": model,
            "output_modalities": ["audio"],
            "audio": {"input": {"turn_detection": {"type": "server_vad"}, "transcription": None}},
        }
        self._text_tokens = 0
        """Of the conversation."""
        self._sound_tokens = 0
        self._cached = 0
        self._buffer = bytearray()
        self._response: asyncio.Task[None] | None = None
        self._billed: JSONObject = {"responses": [], "transcriptions": []}
        record.billed = self._billed
        record.body = []

    async def run(self, subprotocols: list[str]) -> None:
        chosen = "realtime" if "realtime" in subprotocols else None
        await self._send({"type": "websocket.accept", "subprotocol": chosen})
        self._record.status = 101
        self._record.headers_sent_at = time.time()
        await self._tell("session.created", session=self._session)
        try:
            while (message := await self._receive())["type"] != "websocket.disconnect":
                await self._hear(message)
            self._record.close_code = message.get("code")
            self._record.disconnected_at = time.time()
        finally:
            await self._stop()

    async def _hear(self, message: Message) -> None:
        if message.get("bytes") is not None:
            await self._send({"type": "websocket.send", "bytes": message["bytes"]})  # An echo, to see that it came.
            return
        event = json.loads(message["text"])
        self._record.body.append(event)
        kind = event.get("type")
        if kind == "session.update":
            _merge(self._session, event["session"])
            await self._tell("session.updated", session=self._session)
        elif kind == "conversation.item.create":
            self._text_tokens += count_tokens(json.dumps(event["item"].get("content", "")))
            await self._tell("conversation.item.added", item={"id": self._next("item"), **event["item"]})
        elif kind == "input_audio_buffer.append":
            await self._take_sound(base64.b64decode(event["audio"]))
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "response.create":
            await self._respond(event)
        elif kind == "response.cancel":
            await self._stop()
        else:
            await self._complain("invalid_value", f"There is no event '{kind}'.", event)

    async def _take_sound(self, sound: bytes) -> None:
        self._buffer += sound
        if sound.strip(b"\0") or self._session["audio"]["input"].get("turn_detection") is None:
            return
        await self._tell("input_audio_buffer.speech_stopped", item_id="item_next")
        await self._commit()
        await self._respond({})

    async def _commit(self) -> None:
        item_id, sound = self._next("item"), bytes(self._buffer)
        self._buffer.clear()
        tokens = max(1, len(sound) // SOUND_BYTES_PER_TOKEN)
        self._sound_tokens += tokens
        await self._tell("input_audio_buffer.committed", item_id=item_id)
        transcription = self._session["audio"]["input"].get("transcription")
        if not transcription:
            return
        if transcription["model"].startswith("whisper"):
            usage: JSONObject = {"type": "duration", "seconds": len(sound) / 48_000}
        else:
            details = {"audio_tokens": tokens, "text_tokens": 0}
            usage = {
                "type": "tokens", "input_tokens": tokens, "input_token_details": details,
                "output_tokens": 3, "total_tokens": tokens + 3,
            }  # fmt: skip
        self._billed["transcriptions"].append(usage)
        await self._tell(
            "conversation.item.input_audio_transcription.completed",
            item_id=item_id, content_index=0, transcript="what was said", usage=usage,
        )  # fmt: skip

    async def _respond(self, event: JSONObject) -> None:
        if self._response is not None and not self._response.done():
            code = "conversation_already_has_active_response"
            await self._complain(code, "Conversation already has an active response in progress.", event)
            return
        asked = event.get("response") or {}
        response_id = self._next("resp")
        usage = self._usage()
        self._billed["responses"].append(usage)
        await self._tell(
            "response.created", response={"id": response_id, "object": "realtime.response", "status": "in_progress"}
        )
        self._response = asyncio.ensure_future(self._speak(response_id, asked, usage))

    async def _speak(self, response_id: str, asked: JSONObject, usage: JSONObject) -> None:
        speaks = (asked.get("output_modalities") or self._session["output_modalities"]) == ["audio"]
        script, status = self._script, "completed"
        cap = asked.get("max_output_tokens")
        wanted = DEFAULT_WORDS if script.tokens is None else script.tokens
        words = min(wanted, cap) if isinstance(cap, int) else wanted
        try:
            for number in range(words):
                await asyncio.sleep(script.chunk_delay_ms / 1000)
                if script.stall_after == number:
                    await asyncio.Event().wait()
                if script.reset_after == number:
                    await self._send({"type": "websocket.close", "code": 1011, "reason": "fake failure"})
                    return
                await self._say(response_id, WORDS[number % len(WORDS)] + " ", usage, speaks=speaks)
        except asyncio.CancelledError:
            status = "cancelled"
        self._text_tokens += usage["output_token_details"]["text_tokens"]
        self._sound_tokens += usage["output_token_details"]["audio_tokens"]
        done: JSONObject = {"id": response_id, "object": "realtime.response", "status": status, "usage": usage}
        if script.usage == "none":
            done["usage"] = None
        await self._tell("response.done", response=done)

    async def _say(self, response_id: str, word: str, usage: JSONObject, *, speaks: bool) -> None:
        """One token of text; of sound, also two of that."""
        _add(usage, "text_tokens", 1)
        if speaks:
            _add(usage, "audio_tokens", 2)
            sound = base64.b64encode(b"\1" * 4800).decode()
            await self._tell("response.output_audio.delta", response_id=response_id, delta=sound)
        kind = "response.output_audio_transcript.delta" if speaks else "response.output_text.delta"
        await self._tell(kind, response_id=response_id, delta=word)

    def _usage(self) -> JSONObject:
        """Of a response that has not said anything: it has heard the whole conversation once more."""
        heard = self._text_tokens + self._sound_tokens
        cached, self._cached = self._cached, heard // CACHE_BLOCK * CACHE_BLOCK
        cached_sound = min(cached, self._sound_tokens)
        return {
            "input_tokens": heard,
            "output_tokens": 0,
            "total_tokens": heard,
            "input_token_details": {
                "text_tokens": self._text_tokens, "audio_tokens": self._sound_tokens, "cached_tokens": cached,
                "cached_tokens_details": {"text_tokens": cached - cached_sound, "audio_tokens": cached_sound},
            },
            "output_token_details": {"text_tokens": 0, "audio_tokens": 0},
        }  # fmt: skip

    async def _stop(self) -> None:
        if self._response is not None:
            self._response.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._response

    async def _complain(self, code: str, message: str, event: JSONObject) -> None:
        told = {"type": "invalid_request_error", "code": code, "message": message, "event_id": event.get("event_id")}
        await self._tell("error", error=told)

    async def _tell(self, kind: str, **more: Any) -> None:
        event = {"type": kind, "event_id": self._next("event"), **more}
        await self._send({"type": "websocket.send", "text": json.dumps(event)})
        self._record.pieces_sent += 1

    def _next(self, kind: str) -> str:
        return f"{kind}_fake{next(self._numbers)}"


async def refuse(send: Send, status: int, content: JSONObject) -> None:
    """Answer a handshake with an error."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": json.dumps(content).encode()})


def _add(usage: JSONObject, bucket: str, tokens: int) -> None:
    usage["output_token_details"][bucket] += tokens
    usage["output_tokens"] += tokens
    usage["total_tokens"] += tokens


def _merge(into: JSONObject, changes: JSONObject) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value
