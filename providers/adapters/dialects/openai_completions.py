"""OpenAI's older text completions: https://platform.openai.com/docs/api-reference/completions."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from providers.adapters.body import RequestHead, with_usage_requested
from providers.adapters.dialects._openai_wire import OpenAIWire, without_caller
from providers.adapters.events import EventSplitter
from providers.adapters.types import JSONObject, Operation


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode
_DONE = b"[DONE]"


class OpenAICompletions(OpenAIWire):
    name = "openai.completions"
    operation: ClassVar[Operation] = Operation.TEXT_COMPLETION
    output_cap_fields = ("max_tokens",)

    def deciding_fields(self, fields: JSONObject) -> JSONObject | None:
        return without_caller(fields)

    def is_complete(self, body: bytes, *, stream: bool) -> bool:
        ends = _stream_ends(body) if stream else _ends(body)
        return bool(ends) and all(end in {"stop", "length"} for end in ends.values())

    def with_usage_requested(self, body: bytes, head: RequestHead) -> bytes:
        return with_usage_requested(body, head)


def _ends(body: bytes) -> dict[int, str | None]:
    """Why each choice of an answer ended; empty where it is none."""
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return {}
    return {} if answer.error else {choice.index: choice.finish_reason for choice in answer.choices}


def _stream_ends(body: bytes) -> dict[int, str | None]:
    """The same of a stream; empty where it was cut."""
    splitter = EventSplitter()
    events = [event.data for event in (*splitter.feed(body), *splitter.finish())]
    if _DONE not in events:
        return {}
    ends: dict[int, str | None] = {}
    for data in events[: events.index(_DONE)]:
        for index, end in _ends(data).items():
            ends[index] = end or ends.get(index)
    return ends
