"""A tool that only other providers run may be offered, and may not be demanded."""

from __future__ import annotations

import pytest

from providers.adapters.dialects.conversation import Conversation, ForeignTool, Tool, ToolChoice
from providers.adapters.dialects.foreign_tools import without_foreign_tools
from providers.adapters.errors import InexpressibleError

SEARCH = ForeignTool("acme.responses", {"type": "web_search"})
NAMED = ForeignTool("acme.messages", {"type": "search_2026", "name": "search"})
SHELL = Tool("shell")


def offering(*tools: Tool | ForeignTool, choice: ToolChoice | None = None) -> Conversation:
    return Conversation("m", (), tools=tools, tool_choice=choice)


@pytest.mark.parametrize("choice", [None, ToolChoice("auto"), ToolChoice("none"), ToolChoice("tool", "shell"),
                                    ToolChoice("required")])  # fmt: skip
def test_one_that_is_only_offered_is_left_out_and_reported(choice: ToolChoice | None) -> None:
    left, dropped = without_foreign_tools(offering(SHELL, SEARCH, NAMED, choice=choice), "acme.chat")

    assert left.tools == (SHELL,)
    assert left.tool_choice == choice
    assert dropped == ("tools[1]", "tools[2]")


def test_the_dialects_own_stay() -> None:
    conversation = offering(SHELL, SEARCH)

    assert without_foreign_tools(conversation, SEARCH.dialect) == (conversation, ())


def test_without_any_tool_there_is_nothing_to_choose() -> None:
    left, _ = without_foreign_tools(offering(SEARCH, choice=ToolChoice("auto")), "acme.chat")

    assert left.tools == ()
    assert left.tool_choice is None


@pytest.mark.parametrize(
    "conversation",
    [
        offering(SHELL, SEARCH, choice=ToolChoice("tool", "web_search")),
        offering(SHELL, NAMED, choice=ToolChoice("tool", "search")),
        offering(SHELL, SEARCH, choice=ToolChoice("required", allowed=("web_search",))),
        offering(SEARCH, choice=ToolChoice("required")),
    ],
)
def test_one_that_must_be_called_is_refused_with_its_place(conversation: Conversation) -> None:
    with pytest.raises(InexpressibleError) as raised:
        without_foreign_tools(conversation, "acme.chat")

    assert raised.value.param in ("tools[0]", "tools[1]")
