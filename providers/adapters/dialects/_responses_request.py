"""Requests of OpenAI's Responses, as conversations and back."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._responses_items import ItemReader, ItemWriter
from providers.adapters.dialects._responses_parts import DIALECT
from providers.adapters.dialects._responses_tools import read_choice, read_tools, write_choice, write_tools
from providers.adapters.dialects._thinking import effort_of
from providers.adapters.dialects.base import Limits, Written
from providers.adapters.dialects.conversation import Conversation, OutputFormat, Text, Thinking, Turn
from providers.adapters.errors import InexpressibleError
from providers.adapters.types import JSONObject

_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"
_ELSEWHERE = ("previous_response_id", "conversation", "prompt", "background")
"""What refers to things that the provider keeps: without them, a request says something else."""
_UNSAYABLE = {
    "top_k": "top_k",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "logit_bias": "logit_bias",
}
_SAME = ("temperature", "top_p", "top_logprobs", "metadata", "service_tier", "user")


def read_request(body: bytes, *, model: str = "", stream: bool | None = None) -> Conversation:
    fields = Fields.of_body(body)
    for name in _ELSEWHERE:
        if fields.get(name):
            raise InexpressibleError(
                f"`{name}` refers to what the provider of {DIALECT} keeps, and this model's provider is another; send "
                "the whole input instead.",
                param=name,
            )
    reader = ItemReader()
    if instructions := fields.text("instructions"):
        reader.begin("system", Text(instructions))
    reader.read(fields)
    text = fields.object("text")
    include = fields.texts("include")
    options = fields.object("stream_options")
    asked = fields.boolean("stream")
    is_stream = bool(asked if stream is None else stream)
    read = {
        "turns": reader.turns,
        "model": model or fields.required_text("model"),
        "stream": is_stream,
        "include_usage": is_stream,
        "tools": read_tools(fields),
        "tool_choice": read_choice(fields),
        "output_format": _output_format(text) if text else None,
        "verbosity": text.text("verbosity") if text else "",
        "logprobs": True if _LOGPROBS in include else None,
        **_settings(fields),
    }
    fields.get("model")
    extra = fields.rest()
    if others := [each for each in include if each != _LOGPROBS]:
        extra["include"] = others
    if options and (rest := options.rest()):
        extra["stream_options"] = rest
    return Conversation(**read, extra=extra, dialect=DIALECT)


def _settings(fields: Fields) -> dict[str, Any]:
    return {
        "parallel_tool_calls": fields.boolean("parallel_tool_calls"),
        "max_output_tokens": fields.integer("max_output_tokens"),
        "temperature": fields.number("temperature"),
        "top_p": fields.number("top_p"),
        "top_logprobs": fields.integer("top_logprobs"),
        "thinking": _thinking(fields.object("reasoning")),
        "user": fields.text("user"),
        "metadata": fields.labels("metadata"),
        "service_tier": fields.text("service_tier"),
        "store": fields.boolean("store"),
        "cache_key": fields.text("prompt_cache_key"),
    }


def _thinking(reasoning: Fields | None) -> Thinking | None:
    if reasoning is None:
        return None
    effort = reasoning.text("effort")
    summary = reasoning.text("summary") or reasoning.text("generate_summary")
    if not effort and not summary:
        return None
    return Thinking(effort, visible=True if summary else None, summary=summary)


def _output_format(text: Fields) -> OutputFormat | None:
    wanted = text.object("format")
    if wanted is None:
        return None
    kind = wanted.required_text("type")
    if kind == "text":
        return OutputFormat("text")
    if kind == "json_object":
        return OutputFormat("json")
    if kind != "json_schema":
        raise wanted.wrong("type", "one of text, json_object, json_schema")
    return OutputFormat(
        "json_schema",
        wanted.text("name"),
        wanted.json_object("schema"),
        wanted.text("description"),
        wanted.boolean("strict"),
    )


def write_request(conversation: Conversation, limits: Limits) -> Written:
    _refuse(conversation)
    body: JSONObject = {"model": limits.model}
    turns = conversation.turns
    if turns and (instructions := instructions_of(conversation)) is not None:
        body["instructions"] = instructions
        turns = turns[1:]
    items = ItemWriter(conversation, limits)
    for number, turn in enumerate(turns):
        items.write(turn, number)
    body["input"] = items.items
    if conversation.stream:
        body["stream"] = True
    if tools := write_tools(conversation):
        body["tools"] = tools
        if (choice := write_choice(conversation)) is not None:
            body["tool_choice"] = choice
        if conversation.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = conversation.parallel_tool_calls
    cap, most = conversation.max_output_tokens, limits.max_output_tokens
    if cap is not None:
        body["max_output_tokens"] = cap if most is None else min(cap, most)
    body |= _written_settings(conversation)
    dropped = list(items.dropped)
    dropped += [name for name, field in _UNSAYABLE.items() if getattr(conversation, field) is not None]
    if conversation.dialect == DIALECT:
        include = [*body.pop("include", ()), *conversation.extra.get("include", ())]
        body |= conversation.extra | ({"include": include} if include else {})
    else:
        dropped += conversation.extra
    return Written(msgspec.json.encode(body), tuple(dict.fromkeys(dropped)))


def _refuse(conversation: Conversation) -> None:
    wanted = {
        "n": (conversation.choices or 1) > 1,
        "stop": bool(conversation.stop),
        "modalities": bool(set(conversation.modalities) - {"text"}),
    }
    for name, is_wanted in wanted.items():
        if is_wanted:
            raise InexpressibleError(
                f"`{name}` cannot be said in the dialect {DIALECT} that this model's provider speaks; leave it out or "
                "call another model.",
                param=name,
            )


def instructions_of(conversation: Conversation) -> str | None:
    """The first turn, if it can be said as instructions."""
    match conversation.turns[:1]:
        case (Turn(role="system", blocks=(Text(text=text, cache=None),), name=""),) if text:
            return text
    return None


def _written_settings(conversation: Conversation) -> JSONObject:
    body: JSONObject = {}
    own = conversation.dialect == DIALECT
    for name in _SAME:
        if (value := getattr(conversation, name)) not in (None, ""):
            body[name] = value
    if conversation.cache_key:
        body["prompt_cache_key"] = conversation.cache_key
    include = [_LOGPROBS] if conversation.logprobs else []
    if reasoning := write_thinking(conversation.thinking):
        body["reasoning"] = reasoning
        if not own:
            # The provider keeps nothing, so its thoughts must travel with the conversation.
            include.append(_ENCRYPTED)
    if include:
        body["include"] = include
    if text := write_text(conversation):
        body["text"] = text
    if not own:
        body["store"] = False
    elif conversation.store is not None:
        body["store"] = conversation.store
    return body


def write_thinking(thinking: Thinking | None) -> JSONObject:
    if thinking is None:
        return {}
    effort = effort_of(thinking)
    summary = thinking.summary or ("auto" if thinking.visible else "")
    return {**({"effort": effort} if effort else {}), **({"summary": summary} if summary else {})}


def write_text(conversation: Conversation) -> JSONObject:
    text: JSONObject = {}
    if (wanted := conversation.output_format) is not None:
        text["format"] = _written_format(wanted)
    if conversation.verbosity:
        text["verbosity"] = conversation.verbosity
    return text


def _written_format(wanted: OutputFormat) -> JSONObject:
    if wanted.kind != "json_schema":
        return {"type": "text" if wanted.kind == "text" else "json_object"}
    schema: JSONObject = {"type": "json_schema", "name": wanted.name or "answer", "schema": wanted.schema or {}}
    if wanted.description:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return schema
