"""Tools and their choice in OpenAI's Responses."""

from __future__ import annotations

from typing import Literal

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._responses_parts import DIALECT
from providers.adapters.dialects.conversation import Conversation, ForeignTool, Tool, ToolChoice
from providers.adapters.errors import InexpressibleError
from providers.adapters.types import JSONObject

_MODES: dict[str, Literal["auto", "none", "required"]] = {"auto": "auto", "none": "none", "required": "required"}


def read_tools(fields: Fields) -> tuple[Tool | ForeignTool, ...]:
    return tuple(_tool(tool) for tool in fields.objects("tools"))


def _tool(tool: Fields) -> Tool | ForeignTool:
    kind = tool.required_text("type")
    if kind == "function":
        name, description = tool.required_text("name"), tool.text("description")
        return Tool(name, description, tool.json_object("parameters"), tool.boolean("strict"))
    if kind == "custom":
        format_ = tool.json_object("format") or {"type": "text"}
        return Tool(tool.required_text("name"), tool.text("description"), custom=format_)
    return ForeignTool(DIALECT, tool.raw)


def read_choice(fields: Fields) -> ToolChoice | None:
    """None also for the choice of a tool that only this dialect knows: that stays in `extra`."""
    value = fields.get("tool_choice")
    if value is None:
        return None
    if isinstance(value, str):
        return ToolChoice(_mode(fields, "tool_choice"))
    choice = fields.required_object("tool_choice")
    kind = choice.required_text("type")
    if kind == "allowed_tools":
        names = tuple(tool.text("name") or tool.required_text("type") for tool in choice.objects("tools"))
        return ToolChoice(_mode(choice, "mode"), allowed=names)
    return ToolChoice("tool", choice.required_text("name") if kind in ("function", "custom") else kind)


def _mode(fields: Fields, name: str) -> Literal["auto", "none", "required"]:
    try:
        return _MODES[fields.text(name)]
    except KeyError:
        raise fields.wrong(name, "one of none, auto, required, or an object") from None


def write_tools(conversation: Conversation) -> list[JSONObject]:
    own = conversation.dialect == DIALECT
    return [_written(tool, number, own=own) for number, tool in enumerate(conversation.tools)]


def _written(tool: Tool | ForeignTool, number: int, *, own: bool) -> JSONObject:
    if isinstance(tool, ForeignTool):
        if tool.dialect == DIALECT:
            return tool.raw
        kind = tool.raw.get("type") or next(iter(tool.raw), "")
        raise InexpressibleError(
            f"`tools[{number}]` is `{kind}`, a tool that the dialect {DIALECT} of this model's provider does not know; "
            "leave it out or call another model.",
            param=f"tools[{number}]",
        )
    described: JSONObject = {"name": tool.name, **({"description": tool.description} if tool.description else {})}
    if tool.custom is not None:
        return {"type": "custom", **described, "format": tool.custom}
    # Here functions are strict unless they say otherwise, and elsewhere they are not.
    strict = {} if own and tool.strict is None else {"strict": bool(tool.strict)}
    return {"type": "function", **described, "parameters": tool.parameters, **strict}


def write_choice(conversation: Conversation) -> str | JSONObject | None:
    choice = conversation.tool_choice
    if choice is None:
        return None
    if choice.mode == "tool":
        return _chosen(choice.name, conversation)
    if choice.allowed:
        tools = [_chosen(name, conversation) for name in choice.allowed]
        return {"type": "allowed_tools", "mode": choice.mode, "tools": tools}
    return choice.mode


def _chosen(name: str, conversation: Conversation) -> JSONObject:
    for tool in conversation.tools:
        if isinstance(tool, Tool) and tool.name == name:
            return {"type": "function" if tool.custom is None else "custom", "name": name}
        if isinstance(tool, ForeignTool) and tool.raw.get("type") == name:
            return {"type": name}
    return {"type": "function", "name": name}
