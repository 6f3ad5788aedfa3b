"""Reads requests of Gemini's generateContent: https://ai.google.dev/api/generate-content."""

from __future__ import annotations

from typing import Any, Literal

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._gemini_fields import DIALECT, proto, proto_object, proto_objects
from providers.adapters.dialects._gemini_parts import CallIds, joined_thoughts, read_part
from providers.adapters.dialects._gemini_schema import json_schema
from providers.adapters.dialects.conversation import (
    Conversation,
    Foreign,
    ForeignTool,
    OutputFormat,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
)
from providers.adapters.types import JSONObject

_ROLES: dict[str, Literal["user", "assistant"]] = {"": "user", "user": "user", "function": "user", "model": "assistant"}
_MODALITIES = {"TEXT": "text", "IMAGE": "image", "AUDIO": "audio"}


def read_conversation(body: bytes, *, model: str, stream: bool) -> Conversation:
    fields = proto(Fields.of_body(body))
    config = proto_object(fields, "generationConfig") or Fields({}, "generationConfig")
    tools, choice = _tools(fields), _choice(fields)
    fields.get("model")  # The path has it.
    turns = (*_system(fields), *_turns(fields))
    read: dict[str, Any] = {**_sampling(config), "output_format": _output_format(config), "thinking": _thinking(config)}
    extra = fields.rest() | {f"generationConfig.{name}": value for name, value in config.rest().items()}
    return Conversation(
        model,
        turns,
        stream=stream,
        include_usage=stream,
        tools=tools,
        tool_choice=choice,
        store=fields.boolean("store"),
        service_tier=_service_tier(fields.text("serviceTier")),
        extra={name: value for name, value in extra.items() if name not in {"store", "serviceTier"}},
        dialect=DIALECT,
        **read,
    )


def _system(fields: Fields) -> tuple[Turn, ...]:
    """What stands before all contents. Stored contents are a block that no other dialect can say."""
    blocks = []
    cached = fields.text("cachedContent")
    if cached:
        blocks.append(Foreign(DIALECT, {"cachedContent": cached}))
    instruction = proto_object(fields, "systemInstruction")
    ids = CallIds()
    parts = [] if instruction is None else [read_part(part, ids) for part in proto_objects(instruction, "parts")]
    return (Turn("system", (*blocks, *parts)),) if blocks or parts else ()


def _turns(fields: Fields) -> list[Turn]:
    ids = CallIds()
    turns = []
    for content in proto_objects(fields, "contents"):
        role = content.text("role")
        if role not in _ROLES:
            raise content.wrong("role", "user or model")
        blocks = [read_part(part, ids) for part in proto_objects(content, "parts")]
        turns.append(Turn(_ROLES[role], joined_thoughts(blocks)))
    return turns


def _tools(fields: Fields) -> tuple[Tool | ForeignTool, ...]:
    tools: list[Tool | ForeignTool] = []
    for tool in proto_objects(fields, "tools"):
        tools += [_function(function) for function in proto_objects(tool, "functionDeclarations")]
        tools += [ForeignTool(DIALECT, {name: value}) for name, value in tool.rest().items()]
    return tuple(tools)


def _function(function: Fields) -> Tool:
    schema = function.json_object("parametersJsonSchema")
    if schema is None and (own := function.json_object("parameters")) is not None:
        schema = json_schema(own)
    return Tool(function.required_text("name"), function.text("description"), schema)


def _choice(fields: Fields) -> ToolChoice | None:
    holder = proto_object(fields, "toolConfig")
    config = None if holder is None else proto_object(holder, "functionCallingConfig")
    if config is None:
        return None
    mode, allowed = config.text("mode").upper(), config.texts("allowedFunctionNames")
    if mode == "NONE":
        return ToolChoice("none")
    if mode == "ANY":
        return ToolChoice("tool", allowed[0]) if len(allowed) == 1 else ToolChoice("required", allowed=allowed)
    if mode in {"", "AUTO", "VALIDATED", "MODE_UNSPECIFIED"}:
        return ToolChoice("auto", allowed=allowed)
    raise config.wrong("mode", "one of AUTO, ANY, NONE, VALIDATED")


def _sampling(config: Fields) -> dict[str, Any]:
    return {
        "max_output_tokens": config.integer("maxOutputTokens"),
        "temperature": config.number("temperature"),
        "top_p": config.number("topP"),
        "top_k": config.integer("topK"),
        "stop": config.texts("stopSequences"),
        "presence_penalty": config.number("presencePenalty"),
        "frequency_penalty": config.number("frequencyPenalty"),
        "seed": config.integer("seed"),
        "choices": config.integer("candidateCount"),
        "logprobs": config.boolean("responseLogprobs"),
        "top_logprobs": config.integer("logprobs"),
        "modalities": _modalities(config),
    }


def _modalities(config: Fields) -> tuple[str, ...]:
    names = [name.upper() for name in config.texts("responseModalities")]
    if not set(names) <= _MODALITIES.keys():
        raise config.wrong("responseModalities", "a list of TEXT, IMAGE, AUDIO")
    return tuple(_MODALITIES[name] for name in names)


def _output_format(config: Fields) -> OutputFormat | None:
    media_type = config.text("responseMimeType")
    schema = config.json_object("responseJsonSchema")
    own = config.json_object("responseSchema")
    if media_type not in {"", "text/plain", "application/json"}:
        raise config.wrong("responseMimeType", "text/plain or application/json")
    if schema is None and own is not None:
        schema = json_schema(own)
    if schema is not None:
        return OutputFormat("json_schema", schema=schema)
    if media_type == "application/json":
        return OutputFormat("json")
    return OutputFormat("text") if media_type else None


def _thinking(config: Fields) -> Thinking | None:
    fields = proto_object(config, "thinkingConfig")
    if fields is None:
        return None
    level = fields.text("thinkingLevel").lower()
    return Thinking(
        effort="" if level == "thinking_level_unspecified" else level,
        budget_tokens=fields.integer("thinkingBudget"),
        visible=fields.boolean("includeThoughts"),
    )


def _service_tier(name: str) -> str:
    return {"standard": "default", "unspecified": "", "service_tier_unspecified": ""}.get(name.lower(), name.lower())


def generation_config(extra: JSONObject) -> tuple[JSONObject, JSONObject]:
    """What `extra` holds, apart: fields of the body, and of its `generationConfig`."""
    inner = {name.partition(".")[2]: value for name, value in extra.items() if name.startswith("generationConfig.")}
    return {name: value for name, value in extra.items() if not name.startswith("generationConfig.")}, inner
