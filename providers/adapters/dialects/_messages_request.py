"""Reads requests of Anthropic's Messages: https://platform.claude.com/docs/en/api/messages/create."""

from __future__ import annotations

from typing import Any

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._messages_blocks import DIALECT, read_blocks, read_cache
from providers.adapters.dialects._messages_errors import THREAD
from providers.adapters.dialects._thinking import UNLIMITED
from providers.adapters.dialects.conversation import (
    Conversation,
    ForeignTool,
    OutputFormat,
    Role,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
)
from providers.adapters.errors import InexpressibleError

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}


def read_request(body: bytes) -> Conversation:
    """Raises MalformedBodyError or InexpressibleError; `param` names the field."""
    fields = Fields.of_body(body)
    if fields.get(THREAD):
        raise InexpressibleError(
            f"`{THREAD}` refers to what the provider of {DIALECT} keeps, and this model's provider is another; send all "
            "messages instead.",
            param=THREAD,
        )
    extra: dict[str, Any] = {}
    turns = (*_system(fields), *(_turn(message) for message in fields.objects("messages")))
    effort, output_format = _output_config(fields, extra)
    tool_choice, parallel = _tool_choice(fields)
    metadata = fields.object("metadata")
    return Conversation(
        model=fields.required_text("model"),
        turns=turns,
        stream=fields.boolean("stream") is True,
        include_usage=True,
        tools=tuple(_tool(tool) for tool in fields.objects("tools")),
        tool_choice=tool_choice,
        parallel_tool_calls=parallel,
        max_output_tokens=fields.integer("max_tokens"),
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        top_k=fields.integer("top_k"),
        stop=fields.texts("stop_sequences"),
        output_format=output_format,
        thinking=_thinking(fields, effort, extra),
        user=metadata.text("user_id") if metadata else "",
        service_tier=_service_tier(fields),
        extra={**extra, **fields.rest()},
        dialect=DIALECT,
    )


def _system(fields: Fields) -> tuple[Turn, ...]:
    if fields.get("system") is None:
        return ()
    blocks = read_blocks(fields, "system")
    return (Turn("system", blocks),) if blocks else ()


def _turn(message: Fields) -> Turn:
    role = _ROLES.get(message.required_text("role"))
    if role is None:
        raise message.wrong("role", "user, assistant or system")
    return Turn(role, read_blocks(message, "content"))


def _tool(tool: Fields) -> Tool | ForeignTool:
    if tool.text("type", "custom") != "custom":
        return ForeignTool(DIALECT, tool.raw)
    return Tool(
        tool.required_text("name"),
        tool.text("description"),
        tool.json_object("input_schema"),
        tool.boolean("strict"),
        cache=read_cache(tool),
    )


def _tool_choice(fields: Fields) -> tuple[ToolChoice | None, bool | None]:
    """Which tools, and whether several at once."""
    choice = fields.object("tool_choice")
    if choice is None:
        return None, None
    alone = choice.boolean("disable_parallel_tool_use")
    parallel = None if alone is None else not alone
    match choice.one_of("type", ("auto", "any", "none", "tool")):
        case "tool":
            return ToolChoice("tool", choice.required_text("name")), parallel
        case "auto":
            return ToolChoice("auto"), parallel
        case "any":
            return ToolChoice("required"), parallel
        case "none":
            return ToolChoice("none"), parallel
        case _:
            raise choice.wrong("type", "auto, any, tool or none")


def _output_config(fields: Fields, extra: dict[str, Any]) -> tuple[str, OutputFormat | None]:
    """The effort and the shape of the answer; the rest goes to `extra`. `output_format` is the older place."""
    config = fields.object("output_config")
    shape = fields.object("output_format")
    effort = ""
    if config is not None:
        effort = config.text("effort")
        shape = config.object("format") or shape
        if rest := config.rest():
            extra["output_config"] = rest
    if shape is None:
        return effort, None
    shape.one_of("type", ("json_schema",))
    return effort, OutputFormat("json_schema", schema=shape.json_object("schema") or {})


def _thinking(fields: Fields, effort: str, extra: dict[str, Any]) -> Thinking | None:
    thinking = fields.object("thinking")
    if thinking is None:
        return Thinking(effort) if effort else None
    display = thinking.text("display")
    visible = {"summarized": True, "omitted": False}.get(display)
    match thinking.required_text("type"):
        case "enabled":
            budget = thinking.integer("budget_tokens")
            if budget is None:
                raise thinking.wrong("budget_tokens", "an integer")
            return Thinking(effort, budget, visible)
        case "adaptive":
            return Thinking(effort, UNLIMITED, visible)
        case "disabled":
            return Thinking(effort, 0)
        case _:
            extra["thinking"] = thinking.raw
            return Thinking(effort) if effort else None


def _service_tier(fields: Fields) -> str:
    """In OpenAI's words."""
    tier = fields.text("service_tier")
    return "default" if tier == "standard_only" else tier
