"""What of a request, or of an answer, is text that a model reads or writes: for those who count its tokens.

Dialects differ in where they have it, and agree on much: what is no text has a few names everywhere. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.conversation import Audio, Block, Reasoning, Refusal, Text, ToolCall
from providers.adapters.dialects.reply import BlockStarted, Delta, Event, Reply
from providers.adapters.errors import MalformedAnswerError
from providers.adapters.field_names import LARGE_BYTES

MOST_NODES = 20_000
"""Values of a body that are looked at; it takes a few milliseconds."""

_WRAPPED = ("generateContentRequest", "generate_content_request")
"""Where a question has all of another one in it."""
_CONVERSATIONS = ("messages", "input", "contents")
_TEXTS = (
    "system", "instructions", "prompt", "suffix", "systemInstruction", "system_instruction", "query", "documents",
    "texts", "content", "requests",
)  # fmt: skip
_TOOLS = ("tools", "functions", "toolConfig", "response_format", "generationConfig")
"""Read by the model as they are written, with the names of their fields."""
_NO_TEXT = frozenset(
    {
        "role", "type", "id", "call_id", "tool_call_id", "tool_use_id", "item_id", "status", "index", "finish_reason",
        "model", "object", "image_url", "file_data", "file_id", "fileData", "data", "inlineData", "inline_data", "url",
        "input_audio", "audio", "document_url", "media_type", "mimeType", "format", "detail", "signature", "logprobs",
        "thoughtSignature", "encrypted_content", "cache_control", "cachePoint", "taskType", "outputDimensionality",
    }
)  # fmt: skip
"""Names of fields, wherever they stand, of which a model reads nothing, or something else than text."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_decode = msgspec.json.Decoder().decode


class Asked(NamedTuple):
    """What a request says."""

    texts: list[str]
    messages: int = 0
    """Around each of them a provider adds some tokens of its own."""
    tokens: int = 0
    """Of input that came as tokens already."""


class _TooMuchError(Exception):
    """It would take too long to look at all of it."""


def texts_of_request(body: bytes, *, longest: int = LARGE_BYTES) -> Asked | None:
    """What a request says; None: it is longer than `longest` or has too many values, or is no JSON object."""
    fields = _object(body, longest)
    if fields is None:
        return None
    fields = next((inner for name in _WRAPPED if isinstance(inner := fields.get(name), dict)), fields)
    said = [fields[name] for name in (*_CONVERSATIONS, *_TEXTS) if name in fields]
    try:
        found = list(_strings(said))
    except _TooMuchError:
        return None
    tools = [msgspec.json.encode(fields[name]).decode() for name in _TOOLS if fields.get(name)]
    messages = sum(len(_objects(fields.get(name))) for name in _CONVERSATIONS)
    return Asked([*filter(None, found), *tools], messages, sum(not each for each in found))


def texts_of_answer(dialect: Dialect, body: bytes) -> list[str] | None:
    """What a whole answer says; None: nobody here can tell."""
    if len(body) > LARGE_BYTES:
        return None
    if dialect.translates:
        try:
            return list(_of_reply(dialect.read_reply(body)))
        except (MalformedAnswerError, *_UNREADABLE):
            return None
    choices = _objects((_object(body) or {}).get("choices"))
    try:
        return list(filter(None, _strings(choices))) if choices else None
    except _TooMuchError:
        return None


def texts_of_event(event: Event) -> Iterator[str]:
    """What an event of a stream says."""
    if isinstance(event, Delta):
        yield event.text
    elif isinstance(event, BlockStarted):
        yield from _of_block(event.block)


def _of_reply(reply: Reply) -> Iterator[str]:
    for choice in reply.choices:
        for block in choice.blocks:
            yield from _of_block(block)


def _of_block(block: Block) -> Iterator[str]:
    match block:
        case Text() | Refusal() | Reasoning():
            yield block.text
        case ToolCall():
            yield block.name
            yield block.arguments
        case Audio():
            yield block.transcript


def _strings(roots: list[Any]) -> Iterator[str]:
    """All strings but those under names that mean no text; an empty one for each token.

    Raises:
        _TooMuchError: there are too many values.
    """
    left, seen = list(reversed(roots)), 0
    while left:
        seen += 1
        if seen > MOST_NODES:
            raise _TooMuchError
        value = left.pop()
        if isinstance(value, str):
            if value:
                yield value
        elif isinstance(value, dict):
            # Where others have a file in base64, a document may stand as text.
            is_document = value.get("type") == "text" and "data" in value
            left += (
                [value["data"]]
                if is_document
                else [each for name, each in reversed(value.items()) if name not in _NO_TEXT]
            )
        elif isinstance(value, list):
            left += reversed(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield ""


def _object(body: bytes, longest: int = LARGE_BYTES) -> dict[str, Any] | None:
    if len(body) > longest:
        return None
    try:
        fields = _decode(body)
    except _UNREADABLE:
        return None
    return fields if isinstance(fields, dict) else None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
