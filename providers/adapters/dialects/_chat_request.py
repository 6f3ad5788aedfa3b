"""OpenAI's chat requests, as conversations and back."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.dialects._chat_messages import MessageReader, MessageWriter
from providers.adapters.dialects._chat_parts import DIALECT
from providers.adapters.dialects._chat_tools import read_choice, read_tools, write_choice, write_tools
from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._thinking import effort_of
from providers.adapters.dialects.base import Limits, Written
from providers.adapters.dialects.conversation import Conversation, OutputFormat, Thinking
from providers.adapters.types import JSONObject

_OUTPUT_CAPS = ("max_completion_tokens", "max_tokens")
# By their names here: ours.
_COMMON = {
    name: name
    for name in (
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "logprobs", "top_logprobs"),
        *("logit_bias", "modalities", "audio", "verbosity", "user"),
    )
} | {"n": "choices"}
# What many servers do not know and refuse; the names of those that cannot be left out without a word.
_REPORTED = ("top_k", "service_tier")


def read_request(body: bytes, *, model: str = "", stream: bool | None = None) -> Conversation:
    fields = Fields.of_body(body)
    options = fields.object("stream_options")
    is_legacy = fields.get("functions") is not None and fields.get("tools") is None
    asked = fields.boolean("stream")
    is_stream = bool(asked if stream is None else stream)
    read = {
        "model": model or fields.required_text("model"),
        "turns": MessageReader().read(fields),
        "stream": is_stream,
        "include_usage": bool(options and options.boolean("include_usage")),
        "tools": read_tools(fields),
        "tool_choice": read_choice(fields),
        "legacy_functions": is_legacy,
        **_settings(fields),
    }
    fields.get("model")
    return Conversation(**read, extra=fields.rest(), dialect=DIALECT)


def _settings(fields: Fields) -> dict[str, Any]:
    caps = [cap for name in _OUTPUT_CAPS if (cap := fields.integer(name)) is not None]
    return {
        "parallel_tool_calls": fields.boolean("parallel_tool_calls"),
        # Of two different caps the larger, for either may be obeyed; -1 is no cap.
        "max_output_tokens": max(caps) if caps and min(caps) > 0 else None,
        "temperature": fields.number("temperature"),
        "top_p": fields.number("top_p"),
        "top_k": fields.integer("top_k"),
        "stop": fields.text_or_texts("stop"),
        "presence_penalty": fields.number("presence_penalty"),
        "frequency_penalty": fields.number("frequency_penalty"),
        "seed": fields.integer("seed"),
        "choices": fields.integer("n"),
        "logprobs": fields.boolean("logprobs"),
        "top_logprobs": fields.integer("top_logprobs"),
        "logit_bias": fields.numbers("logit_bias"),
        "output_format": _output_format(fields),
        "thinking": _thinking(fields),
        "verbosity": fields.text("verbosity"),
        "modalities": fields.texts("modalities"),
        "audio": fields.json_object("audio"),
        "user": fields.text("user"),
        "metadata": fields.labels("metadata"),
        "service_tier": fields.text("service_tier"),
        "store": fields.boolean("store"),
        "cache_key": fields.text("prompt_cache_key"),
    }


def _output_format(fields: Fields) -> OutputFormat | None:
    wanted = fields.object("response_format")
    if wanted is None:
        return None
    kind = wanted.required_text("type")
    if kind == "text":
        return OutputFormat("text")
    if kind == "json_object":
        return OutputFormat("json")
    if kind != "json_schema":
        raise wanted.wrong("type", "one of text, json_object, json_schema")
    schema = wanted.required_object("json_schema")
    return OutputFormat(
        "json_schema",
        schema.text("name"),
        schema.json_object("schema"),
        schema.text("description"),
        schema.boolean("strict"),
    )


def _thinking(fields: Fields) -> Thinking | None:
    """`reasoning_effort`, and what servers and clients of this format have beside it."""
    effort, budget, visible = fields.text("reasoning_effort"), None, None
    if (reasoning := fields.object("reasoning")) is not None:
        effort = effort or reasoning.text("effort")
        budget = reasoning.integer("max_tokens")
        if reasoning.boolean("enabled") is False:
            budget = 0
        visible = False if reasoning.boolean("exclude") else None
    if (thinking := fields.object("thinking")) is not None:
        kind = thinking.text("type", "enabled")
        budget = 0 if kind == "disabled" else thinking.integer("budget_tokens")
        if kind == "enabled" and budget is None and not effort:
            effort = "medium"
    shown = fields.boolean("include_reasoning")
    visible = shown if shown is not None else visible
    if not effort and budget is None and visible is None:
        return None
    return Thinking(effort, budget, visible)


def write_request(conversation: Conversation, limits: Limits) -> Written:
    messages = MessageWriter(limits)
    for number, turn in enumerate(conversation.turns):
        messages.write(turn, number)
    body: JSONObject = {"model": limits.model, "messages": messages.messages}
    dropped = list(messages.dropped)
    if conversation.stream:
        body["stream"] = True
        if conversation.include_usage or limits.inject_usage:
            body["stream_options"] = {"include_usage": True}
    if tools := write_tools(conversation, limits.extensions):
        body["tools"] = tools
        if conversation.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = conversation.parallel_tool_calls
        if (choice := write_choice(conversation)) is not None:
            body["tool_choice"] = choice
    _write_settings(body, conversation, limits)
    _write_thinking(body, conversation.thinking, limits.extensions)
    dropped += _write_optional(body, conversation, limits)
    return Written(msgspec.json.encode(body), tuple(dict.fromkeys(dropped)))


def _write_settings(body: JSONObject, conversation: Conversation, limits: Limits) -> None:
    cap = conversation.max_output_tokens
    if cap is not None:
        most = limits.max_output_tokens
        body[limits.output_cap_fields[0] if limits.output_cap_fields else "max_tokens"] = (
            cap if most is None else min(cap, most)
        )
    if conversation.output_format is not None:
        body["response_format"] = _written_format(conversation.output_format)
    for name, field in _COMMON.items():
        if (value := getattr(conversation, field)) is not None and value not in ("", ()):
            body[name] = value


def _written_format(wanted: OutputFormat) -> JSONObject:
    if wanted.kind == "json_schema":
        schema: JSONObject = {"name": wanted.name or "answer", "schema": wanted.schema or {}}
        if wanted.description:
            schema["description"] = wanted.description
        if wanted.strict is not None:
            schema["strict"] = wanted.strict
        return {"type": "json_schema", "json_schema": schema}
    return {"type": "text" if wanted.kind == "text" else "json_object"}


def _write_thinking(body: JSONObject, thinking: Thinking | None, extensions: frozenset[str]) -> None:
    if thinking is None:
        return
    effort = effort_of(thinking)
    if "thinking" not in extensions:
        if effort:
            body["reasoning_effort"] = effort
        return
    # These have a switch, and some of them a word or a number beside it.
    if effort == "none":
        body["thinking"] = {"type": "disabled"}
        return
    body["thinking"] = {"type": "enabled"}
    if "budget_tokens" in extensions and (thinking.budget_tokens or 0) > 0:
        body["thinking"]["budget_tokens"] = thinking.budget_tokens
    if "reasoning_effort" in extensions and effort:
        body["reasoning_effort"] = effort


def _write_optional(body: JSONObject, conversation: Conversation, limits: Limits) -> list[str]:
    """What not every server takes. Returns what was left out."""
    own = conversation.dialect == DIALECT
    optional = {
        "top_k": conversation.top_k,
        "service_tier": conversation.service_tier or None,
        "metadata": conversation.metadata,
        "store": conversation.store,
        "prompt_cache_key": conversation.cache_key or None,
    }
    dropped = []
    for name, value in optional.items():
        if value is not None and (own or name in limits.extensions):
            body[name] = value
        elif value is not None and name in _REPORTED:
            dropped.append(name)
    if own:
        body.update(conversation.extra)
        return dropped
    return [*dropped, *conversation.extra]
