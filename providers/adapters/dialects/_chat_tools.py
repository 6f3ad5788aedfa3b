"""Tools, their calls and their choice in OpenAI's chat requests."""

from __future__ import annotations

from typing import Any, Literal

from providers.adapters.dialects._chat_parts import DIALECT, read_cache, write_cache
from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects.conversation import Conversation, ForeignTool, Tool, ToolCall, ToolChoice
from providers.adapters.errors import InexpressibleError
from providers.adapters.types import JSONObject

_MODES: dict[str, Literal["auto", "none", "required"]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",  # Some servers' word for it.
}
_SIGNATURE = ("google", "thought_signature")
"""Where servers of this format that sign calls have the signature, below `extra_content`."""


def read_tools(fields: Fields) -> tuple[Tool | ForeignTool, ...]:
    tools: list[Tool | ForeignTool] = []
    for tool in fields.objects("tools"):
        kind = tool.text("type", "function")
        if kind == "function":
            tools.append(_function(tool.required_object("function"), tool))
        elif kind == "custom":
            custom = tool.required_object("custom")
            format_ = custom.json_object("format") or {"type": "text"}
            tools.append(Tool(custom.required_text("name"), custom.text("description"), custom=format_))
        else:
            tools.append(ForeignTool(DIALECT, tool.raw))
    return (*tools, *(_function(function, function) for function in fields.objects("functions")))


def _function(function: Fields, tool: Fields) -> Tool:
    return Tool(
        function.required_text("name"),
        function.text("description"),
        function.json_object("parameters"),
        function.boolean("strict"),
        cache=read_cache(tool),
    )


def read_choice(fields: Fields) -> ToolChoice | None:
    """`tool_choice`, or the older `function_call`."""
    name = "tool_choice" if fields.get("tool_choice") is not None else "function_call"
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return ToolChoice(_mode(fields, name))
    choice = fields.required_object(name)
    if name == "function_call":
        return ToolChoice("tool", choice.required_text("name"))
    kind = choice.text("type", "function")
    if kind == "allowed_tools":
        allowed = choice.required_object(kind)
        names = tuple(_name_of_tool(tool) for tool in allowed.objects("tools"))
        return ToolChoice(_mode(allowed, "mode"), allowed=names)
    if kind not in ("function", "custom"):
        raise choice.wrong("type", "one of function, custom, allowed_tools")
    return ToolChoice("tool", choice.required_object(kind).required_text("name"))


def _mode(fields: Fields, name: str) -> Literal["auto", "none", "required"]:
    try:
        return _MODES[fields.text(name)]
    except KeyError:
        raise fields.wrong(name, "one of none, auto, required, or an object") from None


def _name_of_tool(tool: Fields) -> str:
    kind = tool.text("type", "function")
    return tool.required_object(kind).required_text("name")


def read_call(call: Fields) -> ToolCall:
    if call.text("type") == "custom":
        custom = call.required_object("custom")
        return ToolCall(call.required_text("id"), custom.required_text("name"), custom.text("input"), custom=True)
    function = call.required_object("function")
    return ToolCall(
        call.required_text("id"),
        function.required_text("name"),
        function.text("arguments"),
        signature=signature_of(call.raw),
        cache=read_cache(call),
    )


def signature_of(call: JSONObject) -> str:
    value: Any = call.get("extra_content")
    for name in _SIGNATURE:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def write_signature(signature: str) -> JSONObject:
    if not signature:
        return {}
    owner, name = _SIGNATURE
    return {"extra_content": {owner: {name: signature}}}


def write_call(call: ToolCall, *, signed: bool = True) -> JSONObject:
    if call.custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {
        "id": call.id,
        "type": "function",
        "function": function,
        **(write_signature(call.signature) if signed else {}),
    }


def write_tools(conversation: Conversation, extensions: frozenset[str]) -> list[JSONObject]:
    return [_written(tool, number, extensions) for number, tool in enumerate(conversation.tools)]


def _written(tool: Tool | ForeignTool, number: int, extensions: frozenset[str]) -> JSONObject:
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
        return {"type": "custom", "custom": {**described, "format": tool.custom}}
    if tool.parameters is not None:
        described["parameters"] = tool.parameters
    if tool.strict is not None:
        described["strict"] = tool.strict
    return {
        "type": "function",
        "function": described,
        **(write_cache(tool.cache) if "cache_control" in extensions else {}),
    }


def write_choice(conversation: Conversation) -> str | JSONObject | None:
    choice = conversation.tool_choice
    if choice is None:
        return None
    kinds = {tool.name: "custom" for tool in conversation.tools if isinstance(tool, Tool) and tool.custom is not None}
    if choice.mode == "tool":
        return _chosen(choice.name, kinds)
    if choice.allowed:
        tools = [_chosen(name, kinds) for name in choice.allowed]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}
    return choice.mode


def _chosen(name: str, kinds: dict[str, str]) -> JSONObject:
    kind = kinds.get(name, "function")
    return {"type": kind, kind: {"name": name}}
