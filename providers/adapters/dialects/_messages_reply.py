"""Whole answers of Anthropic's Messages, their usage and why they ended."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._messages_blocks import DIALECT, read_arguments, read_block, write_text
from providers.adapters.dialects._messages_thoughts import write_thoughts
from providers.adapters.dialects._openai_wire import count, member
from providers.adapters.dialects._searches import search_units
from providers.adapters.dialects.conversation import Audio, Block, Foreign, Reasoning, Refusal, Text, ToolCall
from providers.adapters.dialects.reply import Choice, Finish, Reply
from providers.adapters.errors import MalformedAnswerError, MalformedBodyError, MalformedUsageError
from providers.adapters.types import JSONObject, Usage

_FINISHES: dict[str, Finish] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "compaction": "pause",
    "refusal": "refusal",
}
_STOP_REASONS: dict[Finish, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "stop_sequence": "stop_sequence",
    "tool_calls": "tool_use",
    "pause": "pause_turn",
    "refusal": "refusal",
    "content_filter": "refusal",
    "other": "end_turn",
}
_OWN = ("container", "context_management", "diagnostics")


class Answer(msgspec.Struct):
    """The fields of a message that matter, unread: a surprise in one of them must not hide the others."""

    type: Any = None
    id: Any = None
    model: Any = None
    content: Any = None
    stop_reason: Any = None
    stop_sequence: Any = None
    stop_details: Any = None
    usage: Any = None
    container: Any = None
    context_management: Any = None
    diagnostics: Any = None


decode_answer = msgspec.json.Decoder(Answer).decode
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


# ── reading ──


def answer_usage(body: bytes) -> tuple[JSONObject | None, str]:
    """The usage object and the model of a whole answer; (None, "") for what it does not say."""
    try:
        answer = decode_answer(body)
    except UNREADABLE:
        return None, ""
    usage = answer.usage if isinstance(answer.usage, dict) else None
    return usage, answer.model if isinstance(answer.model, str) else ""


def read_reply(body: bytes) -> Reply:
    try:
        answer = decode_answer(body)
    except UNREADABLE as error:
        raise MalformedAnswerError(f"the provider's answer is no JSON object: {error}") from None
    if not isinstance(answer.content, list):
        raise MalformedAnswerError("the provider's answer has no `content`")
    blocks = [read_content(raw) for raw in answer.content]
    reason, details = finish_of(answer.stop_reason), explanation(answer.stop_details)
    if details:
        blocks.append(Refusal(details))
    stop_sequence = answer.stop_sequence if isinstance(answer.stop_sequence, str) else ""
    return Reply(
        id=str(answer.id or ""),
        model=str(answer.model or ""),
        choices=(Choice(tuple(blocks), reason, stop_sequence),),
        usage=known_usage(answer.usage),
        service_tier=tier_of(answer.usage),
        extra={name: value for name in _OWN if (value := getattr(answer, name)) is not None},
        dialect=DIALECT,
    )


def read_content(raw: Any) -> Block:
    """One block of an answer; raises MalformedAnswerError."""
    try:
        block = read_block(Fields.of_value(raw, "content"))
    except MalformedBodyError as error:
        raise MalformedAnswerError(f"the provider's answer cannot be read: {error}") from None
    if isinstance(block, Reasoning) and not block.dialect:
        # In a stream the signature is still to come.
        return msgspec.structs.replace(block, dialect=DIALECT)
    return block


def finish_of(stop_reason: Any) -> Finish:
    return _FINISHES.get(stop_reason, "other") if isinstance(stop_reason, str) else "other"


def explanation(details: Any) -> str:
    """Why the model refused, where the provider says so."""
    text = details.get("explanation") if isinstance(details, dict) else None
    return text if isinstance(text, str) else ""


def tier_of(usage: Any) -> str:
    tier = usage.get("service_tier") if isinstance(usage, dict) else None
    return tier if isinstance(tier, str) else ""


# ── usage ──


def read_usage(raw: JSONObject) -> Usage:
    """`input_tokens` is without what was cached; `output_tokens` is with the thoughts.

    Raises:
        MalformedUsageError: it is not an object of numbers.
    """
    written, output = count(raw, "cache_creation_input_tokens"), count(raw, "output_tokens")
    details, thoughts = member(raw, "cache_creation"), member(raw, "output_tokens_details")
    short, long = count(details, "ephemeral_5m_input_tokens"), count(details, "ephemeral_1h_input_tokens")
    thinking = count(thoughts, "thinking_tokens")
    splits = not raw.get("cache_creation_input_tokens") or written == short + long
    # Details that do not add up to their total cannot be split: bill the totals, flag the row.
    if not details or not splits:
        short, long = written, 0
    consistent = (splits or not details) and thinking <= output
    thinking = thinking if thinking <= output else 0
    usage = Usage(
        input=count(raw, "input_tokens"),
        cache_read=count(raw, "cache_read_input_tokens"),
        cache_write_5m=short,
        cache_write_1h=long,
        output=output - thinking,
        reasoning=thinking,
        consistent=consistent,
        units=search_units(tools) if isinstance(tools := raw.get("server_tool_use"), dict) else (),
    )
    return _with_compaction(usage, raw)


def _with_compaction(usage: Usage, raw: JSONObject) -> Usage:
    """What a summary of the conversation took is billed and is not in the totals."""
    iterations = raw.get("iterations")
    for each in iterations if isinstance(iterations, list) else ():
        if isinstance(each, dict) and each.get("type") == "compaction":
            usage = _sum(usage, read_usage({name: value for name, value in each.items() if name != "iterations"}))
    return usage


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        input=one.input + other.input,
        cache_read=one.cache_read + other.cache_read,
        cache_write_5m=one.cache_write_5m + other.cache_write_5m,
        cache_write_1h=one.cache_write_1h + other.cache_write_1h,
        output=one.output + other.output,
        reasoning=one.reasoning + other.reasoning,
        consistent=one.consistent and other.consistent,
        units=one.units or other.units,
    )


def known_usage(raw: Any) -> Usage | None:
    """None where there is none, or none that can be read."""
    if not isinstance(raw, dict):
        return None
    try:
        return read_usage(raw)
    except MalformedUsageError:
        return None


def write_usage(usage: Usage | None, service_tier: str = "") -> JSONObject:
    """Clients count on the first four. Sound and images are input like text here."""
    usage = usage or Usage()
    short, long = usage.cache_write_5m, usage.cache_write_1h
    return {
        "input_tokens": usage.input + usage.audio_input + usage.image_input,
        "cache_creation_input_tokens": short + long,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        **({"output_tokens_details": {"thinking_tokens": usage.reasoning}} if usage.reasoning else {}),
        **({"service_tier": service_tier} if service_tier else {}),
    }


# ── writing ──


def write_reply(reply: Reply) -> bytes:
    choice = reply.choices[0] if reply.choices else Choice((), "other")
    native = reply.dialect == DIALECT
    return msgspec.json.encode(
        {
            "id": reply.id,
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": [written for block in choice.blocks for written in write_content(block)],
            **ending(choice.finish, choice.stop_sequence, _refusal(choice)),
            "usage": write_usage(reply.usage, reply.service_tier if native else ""),
            **(reply.extra if native else {}),
        }
    )


def ending(finish: Finish, stop_sequence: str, refusal: str) -> JSONObject:
    """Why a message ended. A text of refusal has its place here, whatever the reason was called elsewhere."""
    reason = "refusal" if refusal else _STOP_REASONS[finish]
    if reason == "stop_sequence" and not stop_sequence:
        reason = "end_turn"
    details = {"type": "refusal", "category": None, "explanation": refusal} if refusal else None
    return {
        "stop_reason": reason,
        "stop_sequence": stop_sequence or None,
        **({"stop_details": details} if details else {}),
    }


def write_content(block: Block) -> list[JSONObject]:
    """A block of an answer. What only another dialect has a word for is left out: it cannot be asked for here."""
    match block:
        case Text():
            return [write_text(block)] if block.text else []
        case ToolCall():
            given = read_arguments(block.arguments)
            return [{"type": "tool_use", "id": block.id, "name": block.name, "input": given}]
        case Reasoning():
            return write_thoughts(block, DIALECT)
        case Audio() if block.transcript:
            return [{"type": "text", "text": block.transcript}]
        case Foreign() if block.dialect == DIALECT:
            return [block.raw]
        case _:
            return []


def _refusal(choice: Choice) -> str:
    return "".join(block.text for block in choice.blocks if isinstance(block, Refusal))
