"""Answers of Gemini's generateContent, whole: https://ai.google.dev/api/generate-content#generatecontentresponse."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import msgspec

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._gemini_citations import read_citations, write_grounding
from providers.adapters.dialects._gemini_fields import DIALECT, plain_names
from providers.adapters.dialects._gemini_logprobs import read_logprobs, write_logprobs
from providers.adapters.dialects._gemini_parts import (
    CallIds,
    joined_thoughts,
    read_arguments,
    read_part,
    write_call,
    write_media,
    write_thought,
)
from providers.adapters.dialects._gemini_usage import read_usage, write_usage
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    Conversation,
    File,
    Foreign,
    Image,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)
from providers.adapters.dialects.reply import Choice, Finish, Reply
from providers.adapters.errors import MalformedAnswerError, MalformedBodyError, MalformedUsageError
from providers.adapters.types import JSONObject, Usage

_FILTERS = (
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    "MODEL_ARMOR",
)
_FINISHES: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(_FILTERS, "content_filter"),
}
_REASONS: dict[Finish, str] = {
    "stop": "STOP",
    "stop_sequence": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "refusal": "SAFETY",
    "pause": "OTHER",
    "other": "OTHER",
}
BROKEN_CALL = "MALFORMED_FUNCTION_CALL"

_decode = msgspec.json.Decoder(Any).decode


# ── reading ──


class AnswerIds(CallIds):
    """Ids of the calls in one answer: those of the provider, else some that no other answer has."""

    def __init__(self) -> None:
        super().__init__()
        self._base = uuid.uuid4().hex[:24]

    def _make(self) -> str:
        self._made += 1
        return f"call_{self._base}{self._made}"


def read_answer(body: bytes | str) -> JSONObject:
    """Raises MalformedAnswerError if it is not a JSON object."""
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedAnswerError(f"the answer is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedAnswerError("the answer is not a JSON object")
    return plain_names(value)


def read_reply(body: bytes) -> Reply:
    answer, ids = read_answer(body), AnswerIds()
    candidates = list(candidates_of(answer))
    choices = tuple(_choice(candidate, number, ids) for number, candidate in enumerate(candidates))
    return Reply(
        id=str(answer.get("responseId") or ""),
        model=str(answer.get("modelVersion") or ""),
        choices=choices or (Choice((), "content_filter" if is_blocked(answer) else "other"),),
        usage=usage_of(answer),
        dialect=DIALECT,
    )


def candidates_of(answer: JSONObject) -> Iterable[JSONObject]:
    """Raises MalformedAnswerError."""
    candidates = answer.get("candidates") or []
    if not isinstance(candidates, list) or not all(isinstance(each, dict) for each in candidates):
        raise MalformedAnswerError("`candidates` is not a list of objects")
    return map(plain_names, candidates)


def is_blocked(answer: JSONObject) -> bool:
    """The question was not let through to the model."""
    feedback = answer.get("promptFeedback")
    return isinstance(feedback, dict) and bool(plain_names(feedback).get("blockReason"))


def usage_of(answer: JSONObject) -> Usage | None:
    raw = answer.get("usageMetadata")
    try:
        return read_usage(raw) if isinstance(raw, dict) else None
    except MalformedUsageError as error:
        raise MalformedAnswerError(str(error)) from None


def index_of(candidate: JSONObject, number: int) -> int:
    index = candidate.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) else number


def finish_of(candidate: JSONObject) -> str:
    """As Gemini says it; empty: it goes on."""
    reason = candidate.get("finishReason")
    return reason if isinstance(reason, str) and reason != "FINISH_REASON_UNSPECIFIED" else ""


def read_finish(reason: str, *, called: bool) -> Finish:
    """`called`: the answer calls a tool, for which Gemini has no reason of its own."""
    finish = _FINISHES.get(reason, "other")
    return "tool_calls" if finish == "stop" and called else finish


def parts_of(candidate: JSONObject, ids: CallIds) -> list[Block]:
    content = candidate.get("content") or {}
    parts = content.get("parts") if isinstance(content, dict) else None
    if parts is not None and not isinstance(parts, list):
        raise MalformedAnswerError("`parts` is not a list")
    blocks: list[Block] = []
    for number, part in enumerate(parts or ()):
        try:
            fields = Fields.of_value(part, f"parts[{number}]")
            raw = plain_names(fields.raw)
            block = read_part(Fields(raw, fields.path), ids) if raw else Text("")
            if block != Text(""):  # Something must stand in an event that ends an answer.
                blocks.append(block)
        except MalformedBodyError as error:
            raise MalformedAnswerError(error.message) from None
    return blocks


def _choice(candidate: JSONObject, number: int, ids: CallIds) -> Choice:
    blocks = list(joined_thoughts(parts_of(candidate, ids)))
    for position, citation in read_citations(candidate, blocks):
        block = blocks[position]
        if isinstance(block, Text):
            blocks[position] = msgspec.structs.replace(block, citations=(*block.citations, citation))
    called = any(isinstance(block, ToolCall) for block in blocks)
    return Choice(
        tuple(blocks),
        read_finish(finish_of(candidate), called=called),
        logprobs=read_logprobs(candidate.get("logprobsResult")),
        index=index_of(candidate, number),
    )


# ── writing ──


def write_reply(reply: Reply, asked: Conversation) -> bytes:
    written: JSONObject = {"candidates": [_candidate(choice, asked) for choice in reply.choices]}
    if reply.usage is not None:
        written["usageMetadata"] = write_usage(reply.usage)
    return msgspec.json.encode(written | frame(reply.id, reply.model, asked))


def frame(id_: str, model: str, asked: Conversation) -> JSONObject:
    """What every answer and every chunk of one says of itself."""
    return {"modelVersion": model or asked.model, **({"responseId": id_} if id_ else {})}


def write_finish(finish: Finish) -> str:
    return _REASONS[finish]


def write_said(block: Block, asked: Conversation) -> JSONObject | None:
    """A block of an answer as a part; None for what this client is not shown.

    Raises:
        InexpressibleError: it is a call whose arguments are no JSON object.
    """
    match block:
        case Text():
            signed = {"thoughtSignature": block.signature} if block.signature else {}
            return {"text": block.text, **signed} if block.text or signed else None
        case Refusal():
            return {"text": block.text}
        case Reasoning():
            return write_thought(block) if shows_thought(block, asked) else None
        case ToolCall():
            return write_call(block, param="functionCall")
        case Audio() | Image() | File():
            # What is stored at another provider is out of this client's reach.
            return None if block.source.file_id else write_media(block, param="inlineData")
        case Foreign():
            return block.raw if block.dialect == DIALECT else None
        case ToolResult():
            return None  # Of a tool that the provider ran; the text that follows tells of it.


def shows_thought(block: Reasoning, asked: Conversation) -> bool:
    """Thoughts are for those who asked for them; a proof must come along, for its provider wants it back."""
    visible = asked.thinking is not None and bool(asked.thinking.visible)
    return visible or bool(block.signature or block.encrypted or block.id)


def is_broken(block: Block) -> bool:
    """A call that Gemini's clients could not read."""
    return isinstance(block, ToolCall) and not block.custom and read_arguments(block.arguments) is None


def _candidate(choice: Choice, asked: Conversation) -> JSONObject:
    sound = [block for block in choice.blocks if not is_broken(block)]
    broken = [block for block in choice.blocks if isinstance(block, ToolCall) and is_broken(block)]
    shown = [(block, part) for block in sound if (part := write_said(block, asked)) is not None]
    candidate: JSONObject = {
        "content": {"parts": [part for _, part in shown], "role": "model"},
        "finishReason": BROKEN_CALL if broken else write_finish(choice.finish),
        "index": choice.index,
    }
    if broken:
        candidate["finishMessage"] = f"Malformed function call: {broken[0].name} {broken[0].arguments}"
    texts = {number: block for number, (block, _) in enumerate(shown) if isinstance(block, Text)}
    if grounding := write_grounding({number: (text.text, text.citations) for number, text in texts.items()}):
        candidate["groundingMetadata"] = grounding
    if logprobs := write_logprobs(choice.logprobs):
        candidate["logprobsResult"] = logprobs
    return candidate
