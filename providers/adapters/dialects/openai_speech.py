"""OpenAI's speech: https://platform.openai.com/docs/api-reference/audio/createSpeech. Text in, sound out."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from providers.adapters.body import RequestHead, read_head
from providers.adapters.dialects._ending_scanner import BytesScanner, EndingScanner
from providers.adapters.dialects._media_usage import read_tokens
from providers.adapters.dialects._openai_wire import OpenAIWire
from providers.adapters.dialects.base import StreamScanner
from providers.adapters.errors import MalformedBodyError
from providers.adapters.types import JSONObject, Operation, Units, Usage


class _Asked(msgspec.Struct):
    """Unparsed, for what should be a word may be an object of a million fields."""

    input: msgspec.Raw = msgspec.Raw(b"")
    stream_format: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_Asked).decode
_decode_text = msgspec.json.Decoder(str).decode


class OpenAISpeech(OpenAIWire):
    """Sound as it comes, or as events with usage at their end. What it costs by the character is in the request."""

    name = "openai.speech"
    operation: ClassVar[Operation] = Operation.SPEECH
    measures = True
    counts_units = True
    media_type = b"audio/mpeg"

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        head = read_head(body)
        spoken = bytes(head.input)
        if spoken and spoken[:1] != b'"' and spoken != b"null":
            raise MalformedBodyError("`input` must be a string: the text to be spoken.", param="input")
        return msgspec.structs.replace(head, stream=True) if _text(_decode(body).stream_format) == "sse" else head

    def asked_units(self, body: bytes) -> Units:
        characters = len(_text(_decode(body).input))
        return (("character", characters),) if characters else ()

    def estimated(self, usage: Usage, asked: Units) -> Usage:
        # About fifteen characters are spoken in a second, which has twenty tokens.
        return Usage(input=usage.input, audio_output=sum(amount for _, amount in asked) * 4 // 3)

    def is_stream(self, content_type: bytes) -> bool:
        return not content_type.lower().startswith(b"application/json")

    def scanner(self, *, strip_usage: bool) -> StreamScanner:
        # `strip_usage` is said of streams of events alone.
        return EndingScanner((b"speech.audio.done",)) if strip_usage else BytesScanner()

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        return None, ""

    def usage(self, raw: JSONObject) -> Usage:
        tokens = read_tokens(raw)
        return msgspec.structs.replace(tokens, output=0, audio_output=tokens.output)


def _text(raw: msgspec.Raw) -> str:
    """What a string says; empty for anything else."""
    return _decode_text(raw) if bytes(raw)[:1] == b'"' else ""
