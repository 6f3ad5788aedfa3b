"""Custom tools, which take free text, for providers that know functions alone.

On the way there such a tool is a function with one string; on the way back a call of it is free text again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.dialects.base import StreamWriter
from providers.adapters.dialects.conversation import Block, Conversation, Tool, ToolCall, ToolResult
from providers.adapters.dialects.reply import BlockEnded, BlockStarted, Delta, Event, Reply
from providers.adapters.types import JSONObject

CUSTOM = "custom"
"""Among the extensions of a provider that knows such tools."""
_FIELD = "input"
_decode = msgspec.json.Decoder(Any).decode
_replace = msgspec.structs.replace


def custom_names(conversation: Conversation) -> frozenset[str]:
    """The tools of the caller that take free text."""
    return frozenset(tool.name for tool in conversation.tools if isinstance(tool, Tool) and tool.custom is not None)


def as_functions(conversation: Conversation) -> Conversation:
    """The same without custom tools; the same object if it has none."""
    if not custom_names(conversation):
        return conversation
    turns = [_replace(turn, blocks=tuple(_plain_block(block) for block in turn.blocks)) for turn in conversation.turns]
    tools = tuple(_function(tool) if isinstance(tool, Tool) else tool for tool in conversation.tools)
    return _replace(conversation, turns=tuple(turns), tools=tools)


def _function(tool: Tool) -> Tool:
    if tool.custom is None:
        return tool
    text: JSONObject = {"type": "string", "description": _description(tool.custom)}
    schema = {"type": "object", "properties": {_FIELD: text}, "required": [_FIELD], "additionalProperties": False}
    return _replace(tool, parameters=schema, custom=None)


def _description(form: JSONObject) -> str:
    """What the free text must look like: a provider that knows no grammars can at least read one."""
    grammar = form.get("grammar", form)
    definition = grammar.get("definition") if isinstance(grammar, dict) else None
    if not definition:
        return "The whole input of the tool, as free text."
    return f"The whole input of the tool, as free text that follows this {grammar.get('syntax', '')} grammar:\n{definition}"


def _plain_block(block: Block) -> Block:
    if isinstance(block, ToolCall) and block.custom:
        return _replace(block, arguments=msgspec.json.encode({_FIELD: block.arguments}).decode(), custom=False)
    return _replace(block, custom=False) if isinstance(block, ToolResult) else block


def free_text(arguments: str) -> str:
    """What a model meant that called the function; the arguments themselves, if it did not keep to the schema."""
    try:
        decoded = _decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    text = decoded.get(_FIELD) if isinstance(decoded, dict) else None
    return text if isinstance(text, str) else arguments


def with_custom_calls(reply: Reply, names: frozenset[str]) -> Reply:
    """`reply` whose calls of the tools called `names` are free text."""
    if not names:
        return reply
    choices = [
        _replace(each, blocks=tuple(_custom_block(block, names) for block in each.blocks)) for each in reply.choices
    ]
    return _replace(reply, choices=tuple(choices))


def _custom_block(block: Block, names: frozenset[str]) -> Block:
    if isinstance(block, ToolCall) and block.name in names and not block.custom:
        return _replace(block, arguments=free_text(block.arguments), custom=True)
    return block


class CustomCallWriter:
    """A `StreamWriter` that makes calls of the tools called `names` free text, and hands all to another.

    The text of such a call comes in one piece: until the string of its JSON has ended, nobody knows what it is.
    """

    def __init__(self, writer: StreamWriter, names: frozenset[str]) -> None:
        self._writer = writer
        self._names = names
        self._arguments: dict[tuple[int, int], list[str]] = {}

    def write(self, event: Event) -> bytes:
        match event:
            case BlockStarted(block=ToolCall(custom=False) as call) if call.name in self._names:
                self._arguments[event.choice, event.index] = [call.arguments]
                return self._writer.write(_replace(event, block=_replace(call, arguments="", custom=True)))
            case Delta() if (pieces := self._arguments.get((event.choice, event.index))) is not None:
                pieces.append(event.text)
                return self._writer.write(_replace(event, text="")) if event.signature else b""
            case BlockEnded() if (pieces := self._arguments.pop((event.choice, event.index), None)) is not None:
                whole = Delta(event.index, free_text("".join(pieces)), event.choice)
                return self._writer.write(whole) + self._writer.write(event)
        return self._writer.write(event)
