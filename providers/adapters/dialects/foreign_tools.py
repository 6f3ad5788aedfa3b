"""Tools that a provider runs itself, offered to the model of another provider, which does not have them."""

from __future__ import annotations

import msgspec

from providers.adapters.dialects.conversation import Conversation, ForeignTool, ToolChoice
from providers.adapters.errors import InexpressibleError


def without_foreign_tools(conversation: Conversation, dialect: str) -> tuple[Conversation, tuple[str, ...]]:
    """What is left for a provider that speaks `dialect`, and the places of the tools that are not.

    A model that may choose among tools answers without those; coding agents offer them unasked.

    Raises:
        InexpressibleError: one of them must be called, so that there would be another answer.
    """
    places = [
        number
        for number, tool in enumerate(conversation.tools)
        if isinstance(tool, ForeignTool) and tool.dialect != dialect
    ]
    if not places:
        return conversation, ()
    kept = tuple(tool for number, tool in enumerate(conversation.tools) if number not in places)
    choice = conversation.tool_choice
    for number in places:
        tool = conversation.tools[number]
        assert isinstance(tool, ForeignTool)
        if choice is not None and _is_demanded(tool, choice, is_only=not kept):
            raise InexpressibleError(
                f"`tools[{number}]` is `{name_of(tool)}`, which must be called and is a tool of other providers; "
                "leave it out or call another model.",
                param=f"tools[{number}]",
            )
    kept_choice = choice if kept else None
    left = msgspec.structs.replace(conversation, tools=kept, tool_choice=kept_choice)
    return left, tuple(f"tools[{number}]" for number in places)


def name_of(tool: ForeignTool) -> str:
    """How its own dialect calls it."""
    return str(tool.raw.get("name") or tool.raw.get("type") or next(iter(tool.raw), ""))


def _is_demanded(tool: ForeignTool, choice: ToolChoice, *, is_only: bool) -> bool:
    names = {name_of(tool), str(tool.raw.get("type"))}
    if choice.mode == "tool":
        return choice.name in names
    return choice.mode == "required" and (is_only or (bool(choice.allowed) and set(choice.allowed) <= names))
