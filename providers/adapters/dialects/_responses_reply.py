"""Answers of OpenAI's Responses, as replies and back; and what whole answers and streams of it share."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec

from providers.adapters.dialects._chat_reply import CallIds, text, whole_number
from providers.adapters.dialects._openai_wire import count, member
from providers.adapters.dialects._responses_items import read_reasoning, write_output_part, write_reasoning
from providers.adapters.dialects._responses_parts import DIALECT, read_citation
from providers.adapters.dialects._responses_request import instructions_of, write_text, write_thinking
from providers.adapters.dialects._responses_tools import write_choice, write_tools
from providers.adapters.dialects._searches import NOTED, search_units
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    Conversation,
    Foreign,
    Image,
    Reasoning,
    Refusal,
    Source,
    Text,
    ToolCall,
)
from providers.adapters.dialects.reply import Choice, Finish, Reply
from providers.adapters.errors import MalformedAnswerError, MalformedUsageError
from providers.adapters.types import JSONObject, Usage

_decode = msgspec.json.Decoder(Any).decode
_INCOMPLETE: dict[str, Finish] = {"max_output_tokens": "length", "content_filter": "content_filter"}
_REASONS: dict[Finish, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def read_reply(body: bytes) -> Reply:
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedAnswerError(f"the answer is not valid JSON: {error}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("output"), list):
        raise MalformedAnswerError("the answer has no list of output items")
    if answer.get("status") == "failed":
        raise MalformedAnswerError(text(member(answer, "error"), "message") or "the provider failed without saying why")
    blocks, logprobs = _blocks(answer["output"])
    return Reply(
        id=text(answer, "id"),
        model=text(answer, "model"),
        choices=(Choice(blocks, read_finish(answer, {type(block) for block in blocks}), logprobs=logprobs),),
        usage=usage_of(answer),
        created=whole_number(answer, "created_at"),
        service_tier=text(answer, "service_tier"),
        dialect=DIALECT,
    )


def _blocks(output: list[Any]) -> tuple[tuple[Block, ...], JSONObject | None]:
    blocks: list[Block] = []
    logprobs: list[Any] = []
    ids = CallIds()
    for item in output:
        if not isinstance(item, dict):
            raise MalformedAnswerError("an output item is not an object")
        if item.get("type") != "message":
            blocks.append(read_item(item, ids))
            continue
        for part in list_of(item, "content"):
            blocks.append(read_part(part))
            logprobs += list_of(part, "logprobs")
    return tuple(blocks), {"content": logprobs} if logprobs else None


def list_of(values: JSONObject, name: str) -> list[Any]:
    """The list called `name`; empty where there is none."""
    value = values.get(name)
    return value if isinstance(value, list) else []


def read_item(item: JSONObject, ids: CallIds) -> Block:
    """What is not a message."""
    match item.get("type"):
        case "function_call":
            return ToolCall(ids.new(text(item, "call_id")), text(item, "name"), text(item, "arguments"))
        case "custom_tool_call":
            return ToolCall(ids.new(text(item, "call_id")), text(item, "name"), text(item, "input"), custom=True)
        case "reasoning":
            return read_reasoning(item)
        case "image_generation_call" if text(item, "result"):
            kind = text(item, "output_format") or "png"
            return Image(Source(data=text(item, "result"), media_type=f"image/{kind}"))
        case _:
            return Foreign(DIALECT, item)


def read_part(part: Any) -> Block:
    """A part of a message of the model."""
    if not isinstance(part, dict):
        raise MalformedAnswerError("a part of a message is not an object")
    if part.get("type") == "refusal":
        return Refusal(text(part, "refusal"))
    cited = [each for each in list_of(part, "annotations") if isinstance(each, dict)]
    return Text(text(part, "text"), tuple(read_citation(each) for each in cited))


def read_finish(answer: JSONObject, kinds: set[type[Any]]) -> Finish:
    if answer.get("status") == "incomplete":
        return _INCOMPLETE.get(text(member(answer, "incomplete_details"), "reason"), "other")
    if ToolCall in kinds:
        return "tool_calls"
    return "refusal" if Refusal in kinds and Text not in kinds else "stop"


def usage_of(answer: JSONObject) -> Usage | None:
    raw = answer.get("usage")
    try:
        return read_usage(raw) if isinstance(raw, dict) else None
    except MalformedUsageError:
        return None  # The answer is still good; who settles reads the figures for himself, and complains.


def read_usage(raw: JSONObject) -> Usage:
    """Raises MalformedUsageError."""
    input_tokens, output_tokens = count(raw, "input_tokens"), count(raw, "output_tokens")
    details = member(raw, "input_tokens_details")
    cached = count(details, "cached_tokens")
    reasoning = count(member(raw, "output_tokens_details"), "reasoning_tokens")
    fresh, said = input_tokens - cached, output_tokens - reasoning
    # What was written to the cache is among what was not read from it.
    written = min(count(details, "cache_write_tokens"), max(fresh, 0))
    if fresh < 0 or said < 0:
        # Details that exceed their own total cannot be split: bill the totals, flag the row.
        return Usage(input=input_tokens, output=output_tokens, consistent=False)
    return Usage(
        input=fresh - written,
        cache_read=cached,
        cache_write_5m=written,
        output=said,
        reasoning=reasoning,
        units=search_units(raw) if NOTED in raw else (),
    )


def write_usage(usage: Usage) -> JSONObject:
    """Inclusive, as this format has it."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total_tokens,
    }


def write_reply(reply: Reply, asked: Conversation) -> bytes:
    choice = reply.choices[0] if reply.choices else Choice(())
    response = ResponseFrame(asked, reply.id, reply.model, reply.created, reply.service_tier)
    items = _items(choice)
    return msgspec.json.encode(response.ended(items, choice.finish, reply.usage))


def _items(choice: Choice) -> list[JSONObject]:
    items: list[JSONObject] = []
    logprobs = (choice.logprobs or {}).get("content")
    for block in choice.blocks:
        if not isinstance(block, (Text, Refusal)):
            if (item := write_item(block)) is not None:
                items.append(item)
            continue
        part = write_output_part(block)
        if logprobs and isinstance(block, Text):
            part["logprobs"], logprobs = logprobs, None
        if not items or items[-1].get("type") != "message":
            items.append(new_message())
        items[-1]["content"].append(part)
    return items


def new_message(status: str = "completed") -> JSONObject:
    return {"id": new_id("msg"), "type": "message", "status": status, "role": "assistant", "content": []}


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def write_item(block: Block) -> JSONObject | None:
    """A whole item that is no message; None: there is no word for it here."""
    match block:
        case ToolCall():
            return write_call(block)
        case Reasoning():
            return write_reasoning(block, block.id or new_id("rs"))
        case Image():
            return {
                "id": new_id("ig"),
                "type": "image_generation_call",
                "status": "completed",
                "result": block.source.data,
            }
        case Audio():
            return {**new_message(), "content": [write_output_part(Text(block.transcript))]}
        case Foreign() if block.dialect == DIALECT:
            return block.raw
        case _:
            return None


def write_call(call: ToolCall, *, item_id: str = "", status: str = "completed") -> JSONObject:
    kind, name, prefix = call_words(call)
    return {
        "id": item_id or new_id(prefix),
        "type": kind,
        "status": status,
        name: call.arguments,
        "call_id": call.id,
        "name": call.name,
    }


def call_words(call: ToolCall) -> tuple[str, str, str]:
    """The type of its item, the field of its arguments, and how its id begins."""
    return ("custom_tool_call", "input", "ctc") if call.custom else ("function_call", "arguments", "fc")


class ResponseFrame:
    """The response around the output, which tells the caller what it asked."""

    def __init__(self, asked: Conversation, given: str, model: str, created: int, service_tier: str) -> None:
        self._fields: JSONObject = {
            # Ids are what stored responses are found by, and other providers' are not made for that.
            "id": given if given.startswith("resp_") else new_id("resp"),
            "object": "response",
            "created_at": created or int(time.time()),
            "model": model or asked.model,
            **_echo(asked),
        }
        if service_tier:
            self._fields["service_tier"] = service_tier

    def begun(self) -> JSONObject:
        return self._with("in_progress", [], None)

    def ended(self, items: list[JSONObject], finish: Finish, usage: Usage | None) -> JSONObject:
        reason = _REASONS.get(finish)
        if finish == "refusal" and not _refuses(items):
            reason = "content_filter"
        response = self._with("incomplete" if reason else "completed", items, usage)
        response["incomplete_details"] = {"reason": reason} if reason else None
        return response

    def failed(self, items: list[JSONObject], code: str, message: str) -> JSONObject:
        return {**self._with("failed", items, None), "error": {"code": code, "message": message}}

    def _with(self, status: str, items: list[JSONObject], usage: Usage | None) -> JSONObject:
        told = None if usage is None else write_usage(usage)
        return {**self._fields, "status": status, "output": items, "usage": told}


def _refuses(items: list[JSONObject]) -> bool:
    messages = [item for item in items if item.get("type") == "message"]
    return any(part.get("type") == "refusal" for item in messages for part in item["content"])


def _echo(asked: Conversation) -> JSONObject:
    own = asked.dialect == DIALECT
    return {
        "error": None,
        "incomplete_details": None,
        "instructions": instructions_of(asked),
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.extra.get("previous_response_id") if own else None,
        "reasoning": {"effort": None, "summary": None, **write_thinking(asked.thinking)},
        "store": asked.store is not False,
        "temperature": asked.temperature if asked.temperature is not None else 1.0,
        "text": {"format": {"type": "text"}, **write_text(asked)},
        "tool_choice": write_choice(asked) or "auto",
        "tools": write_tools(asked) if own else [],
        "top_p": asked.top_p if asked.top_p is not None else 1.0,
        "truncation": asked.extra.get("truncation") or "disabled",
        "user": asked.user or None,
    }
