"""A custom tool works with providers that know functions alone, and its caller does not notice."""

from __future__ import annotations

import json

import pytest

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import Conversation, Text, Tool, ToolCall, ToolResult, Turn
from providers.adapters.dialects.custom_tools import (
    CustomCallWriter,
    as_functions,
    custom_names,
    free_text,
    with_custom_calls,
)
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import Choice, Reply, events_of
from tests.providers.dialects.strategies import folded, read_stream

GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin"'}
PATCH = Tool("patch", "Edits files.", custom=GRAMMAR)
PLAIN = Tool("shell", parameters={"type": "object"})
CALLS = (ToolCall("c1", "patch", "*** Begin\n", custom=True), ToolCall("c2", "shell", "{}"))
ASKED = Conversation(
    "m",
    (
        Turn("user", (Text("Go"),)),
        Turn("assistant", CALLS),
        Turn("user", (ToolResult("c1", (Text("ok"),), custom=True), ToolResult("c2", (Text("ok"),)))),
    ),
    stream=True,
    tools=(PATCH, PLAIN),
)


def test_a_custom_tool_is_a_function_of_one_string() -> None:
    patch, shell = as_functions(ASKED).tools

    assert isinstance(patch, Tool)
    assert patch.custom is None
    assert patch.parameters is not None
    assert patch.parameters["required"] == ["input"]
    assert GRAMMAR["definition"] in patch.parameters["properties"]["input"]["description"]
    assert shell is PLAIN


def test_earlier_calls_and_their_results_are_of_that_function() -> None:
    _, said, results = as_functions(ASKED).turns

    assert said.blocks == (ToolCall("c1", "patch", '{"input":"*** Begin\\n"}'), CALLS[1])
    assert not any(block.custom for block in results.blocks if isinstance(block, ToolResult))


def test_a_conversation_without_custom_tools_stays_the_same_object() -> None:
    conversation = Conversation("m", (), tools=(PLAIN,))

    assert as_functions(conversation) is conversation


@pytest.mark.parametrize("name", ["anthropic.messages", "gemini.generate_content", "bedrock.converse", "openai.chat"])
def test_every_dialect_can_say_it(name: str) -> None:
    written = get_dialect(name).write_request(as_functions(ASKED), Limits("m", max_output_tokens=100))

    assert b'"patch"' in written.body


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input":"a\\nb"}', "a\nb"),
        ('{"input":5}', '{"input":5}'),
        ('{"patch":"a"}', '{"patch":"a"}'),
        ("*** Begin", "*** Begin"),
        ('{"inp', '{"inp'),
        ("5", "5"),
    ],
)
def test_what_the_model_meant_is_found(arguments: str, text: str) -> None:
    assert free_text(arguments) == text


def test_calls_in_an_answer_are_free_text_again() -> None:
    answer = Reply("r", "m", (Choice((ToolCall("c1", "patch", '{"input":"*** Begin\\n"}'), CALLS[1]), "tool_calls"),))

    assert with_custom_calls(answer, custom_names(ASKED)).choices[0].blocks == CALLS


@pytest.mark.parametrize("name", ["openai.responses", "openai.chat"])
def test_calls_in_a_stream_are_free_text_again(name: str) -> None:
    dialect = get_dialect(name)
    answer = Reply("r", "m", (Choice((ToolCall("c1", "patch", '{"input":"*** Begin\\n"}'), CALLS[1]), "tool_calls"),))
    writer = CustomCallWriter(dialect.stream_writer(ASKED), custom_names(ASKED))

    stream = b"".join(writer.write(event) for event in events_of(answer))

    assert folded(read_stream(dialect, stream)).choices[0].blocks == CALLS
    assert json.dumps("*** Begin\n").encode() in stream
