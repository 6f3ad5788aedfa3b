"""OpenAI's transcriptions and translations of sound: https://platform.openai.com/docs/api-reference/audio."""

from __future__ import annotations

import struct
from typing import Any, ClassVar

import msgspec

from providers.adapters.dialects._ending_scanner import EndingScanner
from providers.adapters.dialects._forms import FormWire, is_json, read_form
from providers.adapters.dialects._media_usage import milliseconds, read_tokens
from providers.adapters.dialects._openai_wire import count
from providers.adapters.dialects.base import StreamScanner
from providers.adapters.types import JSONObject, Operation, Units, Usage

BYTES_PER_MS = 16
"""Of compressed sound whose length nobody has said: 128 kbit/s."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


CHARS_PER_S = 15
"""Of speech whose length can be told by what was said alone."""


class _Answer(msgspec.Struct):
    usage: Any = None
    duration: Any = None
    model: Any = None
    text: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


class OpenAITranscriptions(FormWire):
    """A file in a form; text, or JSON with tokens or seconds, comes back. Where it says neither, the file is looked at."""

    name = "openai.transcriptions"
    operation: ClassVar[Operation] = Operation.TRANSCRIPTION
    measures = True

    def asked_units(self, body: bytes) -> Units:
        """An estimate: WAV files say how long they are, others have a usual rate."""
        if is_json(body):
            return ()
        length = sum(_length_ms(body, start, end) for start, end in read_form(body).file_spans())
        return (("millisecond", max(1, length)),)

    def answered_units(self, body: bytes) -> Units:
        """An estimate by what was heard: nobody has the sound."""
        try:
            text = _decode(body).text
        except _UNREADABLE:
            return ()
        return (("millisecond", max(1, len(text) * 1000 // CHARS_PER_S)),) if isinstance(text, str) else ()

    def estimated(self, usage: Usage, asked: Units) -> Usage:
        # A thousand tokens a minute.
        return msgspec.structs.replace(usage, audio_input=sum(amount for _, amount in asked) // 60)

    def used_units(self, asked: Units, said: Units) -> Units:
        return said or asked

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        try:
            answer = _decode(body)
        except _UNREADABLE:
            return None, ""  # It was asked for as text, or subtitles.
        model = answer.model if isinstance(answer.model, str) else ""
        if isinstance(answer.usage, dict):
            return answer.usage, model
        return (None if answer.duration is None else {"type": "duration", "seconds": answer.duration}), model

    def usage(self, raw: JSONObject) -> Usage:
        said = raw.get("seconds", raw.get("prompt_audio_seconds"))
        units: Units = () if said is None else (("millisecond", milliseconds(said)),)
        if "prompt_tokens" in raw:
            return msgspec.structs.replace(super().usage(raw), units=units)
        return read_tokens(raw, units) if count(raw, "input_tokens") or not units else Usage(units=units)

    def scanner(self, *, strip_usage: bool) -> StreamScanner:
        return EndingScanner((b"transcript.text.done", b"transcription.done"))


class OpenAIAudioTranslations(OpenAITranscriptions):
    name = "openai.audio_translations"


def _length_ms(body: bytes, start: int, end: int) -> int:
    size = end - start
    if body[start : start + 4] == b"RIFF" and body[start + 8 : start + 12] == b"WAVE" and size >= 44:
        (rate,) = struct.unpack_from("<I", body, start + 28)
        return size * 1000 // rate if rate else 0
    return size // BYTES_PER_MS
