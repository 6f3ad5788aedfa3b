"""Bedrock's side of Converse: reads requests as the provider would, and writes its answers. Knows the wire alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from providers.adapters._aws_events import Message
from providers.adapters.dialects.conversation import (
    Block,
    CacheHint,
    Conversation,
    File,
    Image,
    OutputFormat,
    Reasoning,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from providers.adapters.dialects.reply import Choice, Reply
from tests.providers.dialects.strategies import Says
from tests.providers.test_aws_events import written

SAYS = Says(
    developer=False, system_anywhere=False, names=False, audio=False, custom_tools=False, allowed_tools=False,
    strict=False, refusals=False, citations=False, top_k=False, penalties=False, seed=False, choices=False,
    logprobs=False, logit_bias=False, verbosity=False, user=False, parallel=False, reasoning_tokens=False,
    audio_tokens=False, service_tier=False,
)  # fmt: skip
_STOPS = {
    "stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "tool_calls": "tool_use",
    "content_filter": "content_filtered",
}  # fmt: skip


# ── requests ──


def read_request(body: bytes, like: Conversation) -> Conversation:
    """What `body` says. Model and stream are in the path."""
    asked: dict[str, Any] = json.loads(body)
    inference, tools = asked.get("inferenceConfig", {}), asked.get("toolConfig", {})
    system = tuple(_blocks(asked.get("system", [])))
    turns = [Turn(each["role"], tuple(_blocks(each["content"]))) for each in asked["messages"]]
    return Conversation(
        like.model,
        (*((Turn("system", system),) if system else ()), *turns),
        stream=like.stream,
        tools=tuple(_tools(tools.get("tools", []))),
        tool_choice=_choice(tools.get("toolChoice")),
        max_output_tokens=inference.get("maxTokens"),
        temperature=inference.get("temperature"),
        top_p=inference.get("topP"),
        stop=tuple(inference.get("stopSequences", ())),
        output_format=_format(asked.get("outputConfig")),
        metadata=asked.get("requestMetadata"),
    )


def _blocks(content: list[Any]) -> Iterator[Block]:
    """A cache point belongs to what stands before it."""
    for number, each in enumerate(content):
        after = content[number + 1] if number + 1 < len(content) else {}
        hint = _hint(after["cachePoint"]) if "cachePoint" in after else None
        match each:
            case {"text": str(text)}:
                yield Text(text, cache=hint)
            case {"image": {"format": kind, "source": {"bytes": data}}}:
                yield Image(Source(data=data, media_type=f"image/{kind}"), cache=hint)
            case {"document": {"format": "pdf", "name": name, "source": {"bytes": data}}}:
                yield File(Source(data=data, media_type="application/pdf"), name, cache=hint)
            case {"toolUse": {"toolUseId": call_id, "name": name, "input": given}}:
                yield ToolCall(call_id, name, json.dumps(given, separators=(",", ":"), ensure_ascii=False))
            case {"toolResult": {"toolUseId": call_id, "content": told, **more}}:
                yield ToolResult(call_id, tuple(_blocks(told)), is_error=more.get("status") == "error")  # type: ignore[arg-type]
            case _:
                assert each.keys() == {"cachePoint"}, each


def _hint(point: dict[str, str]) -> CacheHint:
    assert point.pop("type") == "default"
    return CacheHint(point.get("ttl", ""))


def _tools(tools: list[Any]) -> Iterator[Tool]:
    for number, each in enumerate(tools):
        if "cachePoint" in each:
            continue
        spec = each["toolSpec"]
        hinted = number + 1 < len(tools) and "cachePoint" in tools[number + 1]
        hint = _hint(dict(tools[number + 1]["cachePoint"])) if hinted else None
        yield Tool(spec["name"], spec.get("description", ""), spec["inputSchema"]["json"], cache=hint)


def _choice(choice: dict[str, Any] | None) -> ToolChoice | None:
    match choice:
        case {"tool": {"name": name}}:
            return ToolChoice("tool", name)
        case {"any": {}}:
            return ToolChoice("required")
        case _:
            return None


def _format(output: dict[str, Any] | None) -> OutputFormat | None:
    if output is None:
        return None
    schema = output["textFormat"]["structure"]["jsonSchema"]
    return OutputFormat("json_schema", schema["name"], json.loads(schema["schema"]))


# ── answers ──


def write_reply(reply: Reply) -> bytes:
    (choice,) = reply.choices
    message = {"role": "assistant", "content": [_content(block) for block in choice.blocks]}
    return json.dumps({"output": {"message": message}, **_end(choice), "usage": _usage(reply)}).encode()


def _content(block: Block) -> dict[str, Any]:
    match block:
        case Text():
            return {"text": block.text}
        case Reasoning():
            return {"reasoningContent": {"reasoningText": {"text": block.text}}}
        case ToolCall():
            return {"toolUse": {"toolUseId": block.id, "name": block.name, "input": json.loads(block.arguments)}}
        case _:
            raise AssertionError(f"no model answers with {block!r}")


def _end(choice: Choice) -> dict[str, Any]:
    told = {"additionalModelResponseFields": {"stop_sequence": choice.stop_sequence}} if choice.stop_sequence else {}
    return {"stopReason": _STOPS[choice.finish], **told}


def _usage(reply: Reply) -> dict[str, int]:
    assert reply.usage is not None
    return {
        "inputTokens": reply.usage.input,
        "outputTokens": reply.usage.output,
        "cacheReadInputTokens": reply.usage.cache_read,
        "cacheWriteInputTokens": reply.usage.cache_write_5m,
    }


def write_stream(reply: Reply) -> bytes:
    return b"".join(_event(kind, payload) for kind, payload in _events(reply))


def _event(kind: str, payload: dict[str, Any]) -> bytes:
    return written(Message({":message-type": "event", ":event-type": kind}, json.dumps(payload).encode()))


def _events(reply: Reply) -> Iterable[tuple[str, dict[str, Any]]]:
    (choice,) = reply.choices
    yield "messageStart", {"role": "assistant"}
    for number, block in enumerate(choice.blocks):
        place = {"contentBlockIndex": number}
        if isinstance(block, ToolCall):
            named = {"toolUseId": block.id, "name": block.name}
            yield "contentBlockStart", {**place, "start": {"toolUse": named}}
        for delta in _deltas(block):
            yield "contentBlockDelta", {**place, "delta": delta}
        yield "contentBlockStop", place
    yield "messageStop", _end(choice)
    yield "metadata", {"usage": _usage(reply)}


def _deltas(block: Block) -> Iterator[dict[str, Any]]:
    """In two pieces each."""
    match block:
        case Text():
            yield from ({"text": piece} for piece in _halves(block.text))
        case Reasoning():
            yield from ({"reasoningContent": {"text": piece}} for piece in _halves(block.text))
        case ToolCall():
            yield from ({"toolUse": {"input": piece}} for piece in _halves(block.arguments))


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    return text[:middle], text[middle:]
