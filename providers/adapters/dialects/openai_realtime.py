"""OpenAI's realtime sessions: https://platform.openai.com/docs/api-reference/realtime. JSON events over a WebSocket.

Events pass through as they are. What is read of them is who is answering, how much it used, and which model it is.
"""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

import msgspec

from providers.adapters.dialects._openai_wire import OpenAIWire, count, member
from providers.adapters.dialects.base import WireError
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import JSONObject, Operation, Usage


class RealtimeEvent(msgspec.Struct):
    """Of an event, whichever side sent it, what the gateway looks at."""

    type: str = ""
    event_id: str | None = None
    response: Any = None
    response_id: str | None = None
    session: Any = None
    item_id: str | None = None
    delta: Any = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(RealtimeEvent).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
NO_EVENT = RealtimeEvent()


def read_event(frame: str | bytes) -> RealtimeEvent:
    """What a frame says; nothing, if it is none of the events that there are."""
    if isinstance(frame, bytes):
        return NO_EVENT
    try:
        return _decode(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return NO_EVENT


def with_model(frame: str, model: str) -> str:
    """A `session.update` or `response.create` that names a model, with another one."""
    event = _decode_object(frame)
    for part in (event.get("session"), event.get("response")):
        if isinstance(part, dict) and "model" in part:
            part["model"] = model
    return msgspec.json.encode(event).decode()


def transcription_model(session: Any) -> str:
    """The model that writes down what the caller says; empty: none does."""
    if not isinstance(session, dict):
        return ""
    transcription = member(member(member(session, "audio"), "input"), "transcription")
    model = (transcription or member(session, "input_audio_transcription")).get("model")
    return model if isinstance(model, str) else ""


def detects_turns(session: Any) -> bool | None:
    """Whether the provider answers of its own accord when the caller falls silent; None: the session does not say."""
    if not isinstance(session, dict):
        return None
    for part in (member(member(session, "audio"), "input"), session):
        if "turn_detection" in part:
            detection = part["turn_detection"]
            return isinstance(detection, dict) and detection.get("create_response") is not False
    return None


def output_cap(asked: Any) -> int | None:
    """The most tokens that a response may have, by a session or a response; `inf` is no cap."""
    if not isinstance(asked, dict):
        return None
    cap = asked.get("max_output_tokens", asked.get("max_response_output_tokens"))
    return cap if isinstance(cap, int) and not isinstance(cap, bool) and cap > 0 else None


def failure(response: JSONObject) -> str:
    """Why a response failed, in one word."""
    error = member(member(response, "status_details"), "error")
    return str(error.get("code") or error.get("type") or "upstream_error")[:64]


class OpenAIRealtime(OpenAIWire):
    name = "openai.realtime"
    operation: ClassVar[Operation] = Operation.REALTIME
    json_requests = False
    output_cap_fields = ("max_output_tokens",)

    def usage(self, raw: JSONObject) -> Usage:
        """Of a response, or of a transcription: in tokens, or by the duration of the sound."""
        if raw.get("type") == "duration":
            return Usage(units=(("millisecond", _milliseconds(raw)),))
        input_tokens, output_tokens = count(raw, "input_tokens"), count(raw, "output_tokens")
        heard, said = _details(raw, "input"), _details(raw, "output")
        cached = count(heard, "cached_tokens")
        cached_of = member(heard, "cached_tokens_details")
        audio_in = count(heard, "audio_tokens") - count(cached_of, "audio_tokens")
        image_in = count(heard, "image_tokens") - count(cached_of, "image_tokens")
        audio_out = count(said, "audio_tokens")
        text_in, text_out = input_tokens - cached - audio_in - image_in, output_tokens - audio_out
        if text_in < 0 and cached and not cached_of:
            # Which of the cached tokens were sound is not said: those that cannot have been text.
            audio_in, text_in = audio_in + text_in, 0
        if min(text_in, text_out, audio_in, image_in) < 0:
            return Usage(input=input_tokens, output=output_tokens, consistent=False)
        return Usage(
            input=text_in,
            cache_read=cached,
            audio_input=audio_in,
            image_input=image_in,
            output=text_out,
            audio_output=audio_out,
        )

    def error_event(self, error: WireError) -> bytes:
        return refusal(error, None).encode()


def refusal(error: WireError, event_id: str | None) -> str:
    """An `error` event; `event_id` is that of the caller's event that it is about."""
    told = {
        "type": error.type,
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "event_id": event_id,
    }
    return msgspec.json.encode({"type": "error", "event_id": f"event_{uuid.uuid4().hex}", "error": told}).decode()


def _details(raw: JSONObject, side: str) -> JSONObject:
    """By their present name, or that of the preview."""
    return member(raw, f"{side}_token_details") or member(raw, f"{side}_tokens_details")


def _milliseconds(raw: JSONObject) -> int:
    seconds = raw.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 10**6:
        raise MalformedUsageError(f"seconds is {seconds!r}, not a duration")
    return round(seconds * 1000)
