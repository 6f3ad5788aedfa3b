"""Requests of Anthropic's Messages as clients really write them, and as the API takes them from callers of other dialects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import (
    Audio,
    CacheHint,
    Conversation,
    File,
    Foreign,
    ForeignTool,
    Image,
    OutputFormat,
    Reasoning,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import Choice, Reply
from providers.adapters.errors import InexpressibleError, MalformedBodyError

MESSAGES = get_dialect("anthropic.messages")
OLD, NEW = Limits("claude-sonnet-4-5"), Limits("claude-opus-5")
HELLO = Turn("user", (Text("Hi"),))
SERVER_RESULT: Any = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
RICH: Any = {
    "model": "claude-opus-5",
    "max_tokens": 1000,
    "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAEC"}},
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
                {
                    "type": "document",
                    "title": "Paper",
                    "citations": {"enabled": True},
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "AAEC"},
                },
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A story."}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "ZW5j"},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": ["a", 1]}},
                SERVER_RESULT,
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "is_error": True,
                    "content": [
                        {"type": "text", "text": "Seen"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAEC"}},
                    ],
                }
            ],
        },
        {"role": "system", "content": "Be brief."},
    ],
    "tools": [
        {
            "name": "look",
            "description": "Looks",
            "input_schema": {"type": "object"},
            "strict": True,
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "web_search_20260318", "name": "web_search"},
    ],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "thinking": {"type": "adaptive", "display": "summarized"},
    "output_config": {
        "effort": "max",
        "format": {"type": "json_schema", "schema": {"type": "object"}},
        "task_budget": 5,
    },
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u-1"},
    "service_tier": "standard_only",
    "mcp_servers": [{"type": "url", "url": "https://example.org"}],
    "temperature": None,
    "stream": True,
}


def written(conversation: Conversation, limits: Limits = OLD) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(MESSAGES.write_request(conversation, limits).body)
    return body


def chat(*turns: Turn, **settings: Any) -> Conversation:
    """As read from OpenAI's chat."""
    return Conversation("m", turns or (HELLO,), dialect="openai.chat", **settings)


def test_everything_that_a_request_can_say_is_read() -> None:
    read = MESSAGES.read_request(json.dumps(RICH).encode())

    picture = Image(Source(data="AAEC", media_type="image/png"))
    assert read.turns == (
        Turn("system", (Text("Be kind.", cache=CacheHint("1h")),)),
        Turn(
            "user",
            (
                Text("What is this?", cache=CacheHint()),
                picture,
                Image(Source(url="https://example.org/a.png")),
                Image(Source(file_id="file_1")),
                File(Source(data="AAEC", media_type="application/pdf"), "Paper", citations=True),
                File(Source(), text="A story."),
            ),
        ),
        Turn(
            "assistant",
            (
                Reasoning("Hm.", "c2ln", dialect=MESSAGES.name),
                Reasoning(encrypted="ZW5j", dialect=MESSAGES.name),
                ToolCall("toolu_1", "look", '{"at":["a",1]}'),
                Foreign(MESSAGES.name, SERVER_RESULT),
            ),
        ),
        Turn("user", (ToolResult("toolu_1", (Text("Seen"), picture), is_error=True),)),
        Turn("system", (Text("Be brief."),)),
    )
    assert read.tools == (
        Tool("look", "Looks", {"type": "object"}, strict=True, cache=CacheHint()),
        ForeignTool(MESSAGES.name, RICH["tools"][1]),
    )
    assert (read.tool_choice, read.parallel_tool_calls) == (ToolChoice("required"), False)
    assert read.thinking == Thinking("max", -1, visible=True)
    assert read.output_format == OutputFormat("json_schema", schema={"type": "object"})
    assert (read.max_output_tokens, read.stop, read.user, read.service_tier) == (1000, ("END",), "u-1", "default")
    assert read.extra == {"output_config": {"task_budget": 5}, "mcp_servers": RICH["mcp_servers"]}
    assert read.stream


def test_what_was_read_is_written_as_it_was() -> None:
    read = MESSAGES.read_request(json.dumps(RICH).encode())

    again = written(read, NEW)

    assert MESSAGES.read_request(json.dumps(again).encode()) == read
    assert again["messages"][2] == RICH["messages"][2]
    assert again["tools"] == RICH["tools"]
    assert again["output_config"] == RICH["output_config"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"system": {"text": "x"}}, "system"),
        ({"tools": [{"description": "x"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "sometimes"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"stop_sequences": [1]}, "stop_sequences"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(change: dict[str, Any], param: str) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], **change}

    with pytest.raises(MalformedBodyError) as raised:
        MESSAGES.read_request(json.dumps(body).encode())

    assert raised.value.param == param


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
def test_a_thread_is_refused_where_nobody_keeps_it(thread: dict[str, str]) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], "thread": thread}

    with pytest.raises(InexpressibleError) as raised:
        MESSAGES.read_request(json.dumps(body).encode())

    assert raised.value.param == "thread"


# ── from other dialects ──


def test_results_of_tools_come_first_in_one_turn_behind_their_calls() -> None:
    body = written(
        chat(
            HELLO,
            Turn("assistant", (Text(""), ToolCall("call:1", "f", '{"a":1}'), ToolCall("b", "f", ""))),
            Turn("user", (ToolResult("call:1", (Text("one"),)),)),
            Turn("user", (Text("And?"),)),
            Turn("user", (ToolResult("b", ()),)),
            tools=(Tool("f"),),
        )
    )

    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    first, second = body["messages"][1]["content"]
    assert (first["input"], second["input"]) == ({"a": 1}, {})
    content = body["messages"][2]["content"]
    assert [block["type"] for block in content] == ["tool_result", "tool_result", "text"]
    assert [block["tool_use_id"] for block in content[:2]] == [first["id"], second["id"]]
    assert first["id"].replace("_", "").isalnum()


def test_system_turns_stand_where_the_model_takes_them() -> None:
    asked = chat(
        Turn("system", (Text("A"),)), Turn("developer", (Text("B"),)), HELLO, Turn("system", (Text("C"),)),
        Turn("assistant", (Text("Yes"),)), HELLO, Turn("system", (Text("D"),)), HELLO,
    )  # fmt: skip

    old, new = written(asked), written(asked, NEW)

    assert old["system"] == new["system"] == [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    assert [message["role"] for message in old["messages"]] == ["user", "assistant", "user"]
    assert [block["text"] for block in old["messages"][0]["content"]] == [
        "Hi",
        "<system_message>\nC\n</system_message>",
    ]
    # D stands before a turn of the user, where no model takes it.
    assert [message["role"] for message in new["messages"]] == ["user", "system", "assistant", "user"]
    assert len(new["messages"][3]["content"]) == 3


def test_a_conversation_of_system_turns_alone_is_the_users() -> None:
    body = written(chat(Turn("system", (Text("A"),)), Turn("system", (Text("Write a poem."),))))

    assert (body["system"], body["messages"]) == ("A", [{"role": "user", "content": "Write a poem."}])


@pytest.mark.parametrize(
    ("limits", "cap", "expected"),
    [
        (OLD, None, 4096),
        (OLD, 100, 100),
        (Limits("m", max_output_tokens=8000), None, 8000),
        (Limits("m", max_output_tokens=8000), 9000, 8000),
    ],
)
def test_there_is_always_a_cap_and_never_a_higher_one(limits: Limits, cap: int | None, expected: int) -> None:
    assert written(chat(max_output_tokens=cap), limits)["max_tokens"] == expected


@pytest.mark.parametrize(
    ("thinking", "cap", "expected", "max_tokens"),
    [
        (Thinking("low"), None, {"type": "enabled", "budget_tokens": 2048}, 6144),
        (Thinking("high"), 10_000, {"type": "enabled", "budget_tokens": 5000}, 10_000),
        (Thinking(budget_tokens=3000), 4000, {"type": "enabled", "budget_tokens": 3000}, 4000),
        (Thinking(budget_tokens=100), 4000, {"type": "enabled", "budget_tokens": 1024}, 4000),
        (Thinking("none"), None, {"type": "disabled"}, 4096),
        (Thinking("low"), 1500, None, 1500),
        (Thinking(visible=True), None, None, 4096),
    ],
)
def test_older_models_get_a_budget_below_the_cap(
    thinking: Thinking, cap: int | None, expected: Any, max_tokens: int
) -> None:
    body = written(chat(thinking=thinking, max_output_tokens=cap))

    assert (body.get("thinking"), body["max_tokens"]) == (expected, max_tokens)


@pytest.mark.parametrize(
    ("thinking", "expected", "effort"),
    [
        (Thinking("minimal"), {"type": "adaptive"}, "low"),
        (Thinking("high"), {"type": "adaptive"}, "high"),
        (Thinking(budget_tokens=8192), {"type": "adaptive"}, "medium"),
        (Thinking(budget_tokens=-1, visible=False), {"type": "adaptive", "display": "omitted"}, None),
        (Thinking("none"), {"type": "disabled"}, None),
    ],
)
def test_newer_models_get_an_effort(thinking: Thinking, expected: Any, effort: str | None) -> None:
    body = written(chat(thinking=thinking), NEW)

    assert (body["thinking"], body.get("output_config", {}).get("effort")) == (expected, effort)


def test_models_that_always_think_are_told_to_think_little() -> None:
    result = MESSAGES.write_request(chat(thinking=Thinking("none")), Limits("claude-fable-5"))

    assert (json.loads(result.body)["output_config"], result.dropped) == ({"effort": "low"}, ("reasoning_effort",))


@pytest.mark.parametrize("signed", [True, False])
def test_calls_that_are_being_answered_need_the_thoughts_before_them(signed: bool) -> None:
    thought = (Reasoning("Hm.", "c2ln", dialect=MESSAGES.name),) if signed else (Reasoning("Hm."),)
    turns = (HELLO, Turn("assistant", (*thought, ToolCall("a", "f"))), Turn("user", (ToolResult("a"),)))

    result = MESSAGES.write_request(chat(*turns, tools=(Tool("f"),), thinking=Thinking("low")), OLD)

    assert ("thinking" in json.loads(result.body)) == signed
    assert result.dropped == (() if signed else ("reasoning_effort", "reasoning"))


@pytest.mark.parametrize(
    ("limits", "settings", "sent", "dropped"),
    [
        (OLD, {"temperature": 1.5}, {"temperature": 1}, ("temperature",)),
        (OLD, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5}, ("top_p",)),
        (OLD, {"top_p": 0.9, "top_k": 5}, {"top_p": 0.9, "top_k": 5}, ()),
        (Limits("glm-5"), {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}, ()),
        (NEW, {"temperature": 1, "top_p": 1}, {}, ()),
        (NEW, {"temperature": 0.5, "top_k": 5}, {}, ("temperature", "top_k")),
        (OLD, {"thinking": Thinking("low"), "temperature": 0, "top_p": 0.96}, {"top_p": 0.96}, ("temperature",)),
    ],
)
def test_sampling_goes_as_far_as_the_model_takes_it(
    limits: Limits, settings: Any, sent: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    result = MESSAGES.write_request(chat(**settings), limits)

    body = json.loads(result.body)
    assert {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body} == sent
    assert result.dropped == dropped


def test_what_may_be_left_out_is_reported_by_its_name() -> None:
    asked = chat(
        seed=0, presence_penalty=0.5, frequency_penalty=0.0, logprobs=True, top_logprobs=2, logit_bias={"1": 1},
        user="alice@example.org", service_tier="flex", store=True, verbosity="low", cache_key="k",
        output_format=OutputFormat("json"), extra={"prediction": {}},
    )  # fmt: skip

    result = MESSAGES.write_request(asked, OLD)

    assert set(result.dropped) == {
        "seed", "presence_penalty", "logprobs", "top_logprobs", "logit_bias", "user", "service_tier", "store",
        "verbosity", "prompt_cache_key", "response_format", "prediction",
    }  # fmt: skip
    assert "JSON" in json.loads(result.body)["system"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (chat(choices=2), "n"),
        (chat(modalities=("text", "audio")), "modalities"),
        (chat(stop=("\n",)), "stop"),
        (chat(tools=(Tool("f", custom={"type": "text"}),)), "tools"),
        (chat(tools=(ForeignTool("openai.responses", {"type": "web_search"}),)), "tools"),
        (chat(Turn("user", (Audio(Source(data="AAEC")),))), "messages"),
        (chat(Turn("user", (Image(Source(file_id="file_1")),))), "messages"),
        (chat(Turn("user", (Image(Source(data="AAEC", media_type="image/tiff")),))), "messages"),
        (chat(Turn("user", (File(Source(data="AAEC", media_type="application/msword")),))), "messages"),
        (chat(Turn("assistant", (Foreign("gemini.generate_content", {}),))), "messages"),
    ],
)
def test_what_must_not_be_left_out_is_refused_by_name(asked: Conversation, param: str) -> None:
    with pytest.raises(InexpressibleError, match=r"anthropic\.messages") as raised:
        MESSAGES.write_request(asked, OLD)

    assert raised.value.param == param


def test_files_become_documents() -> None:
    turn = Turn(
        "user",
        (
            Image(Source(data="iVBORw0KGgoAAAA=")),
            File(Source(data="JVBERi0x"), "a.pdf"),
            File(Source(data="aGVsbG8=", media_type="text/plain")),
            File(Source(url="https://example.org/a.pdf")),
        ),
    )

    sources = [block["source"] for block in written(chat(turn))["messages"][0]["content"]]

    assert sources == [
        {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgoAAAA="},
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
        {"type": "text", "media_type": "text/plain", "data": "hello"},
        {"type": "url", "url": "https://example.org/a.pdf"},
    ]


def test_tools_are_chosen_in_the_apis_words() -> None:
    tools = (Tool("f", parameters={"properties": {}}, strict=True), Tool("g"))

    body = written(chat(tools=tools, tool_choice=ToolChoice("required", allowed=("f",)), parallel_tool_calls=False))

    assert body["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}, "strict": True}]
    assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert "tool_choice" not in written(chat(parallel_tool_calls=False))
    assert written(chat(tools=tools, tool_choice=ToolChoice("none"), parallel_tool_calls=True))["tool_choice"] == {
        "type": "none"
    }


def test_calls_in_the_history_declare_their_tools() -> None:
    """The API refuses calls of tools that nobody declared."""
    turns = (HELLO, Turn("assistant", (ToolCall("a", "f", "{"),)), Turn("user", (ToolResult("a"), Text("And?"))))

    body = written(chat(*turns))

    assert (body["tools"], body["tool_choice"]) == (
        [{"name": "f", "input_schema": {"type": "object"}}],
        {"type": "none"},
    )
    assert body["messages"][1]["content"][0]["input"] == {"invalid_json": "{"}


def test_a_schema_says_that_there_is_nothing_else() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {}}}, "b": {"enum": [{}]}},
        "$defs": {"open": {"type": "object", "additionalProperties": True}},
    }

    shape = written(chat(output_format=OutputFormat("json_schema", "x", schema)))["output_config"]["format"]["schema"]

    assert shape["additionalProperties"] is False
    assert shape["properties"]["a"]["items"]["additionalProperties"] is False
    assert shape["$defs"] == schema["$defs"]
    assert shape["properties"]["b"] == {"enum": [{}]}


def test_thoughts_that_others_signed_come_back_to_them() -> None:
    """An Anthropic client sends back what stands in `signature`; other providers' proofs travel there."""
    theirs = Reasoning("Hm.", "sig", "enc", "rs_1", summary=True, dialect="openai.responses")
    answer = MESSAGES.write_reply(Reply("msg_1", "m", (Choice((theirs,)),)), chat())
    [block] = json.loads(answer)["content"]
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "assistant", "content": [block]}]}

    read = MESSAGES.read_request(json.dumps(body).encode())

    assert read.turns[0].blocks == (theirs,)
    assert block["thinking"] == "Hm."
    unsigned = {**body, "messages": [{"role": "assistant", "content": [{**block, "signature": ""}]}]}
    assert MESSAGES.read_request(json.dumps(unsigned).encode()).turns[0].blocks == (Reasoning("Hm."),)


def test_the_answers_beginning_does_not_end_in_white_space() -> None:
    body = written(chat(HELLO, Turn("assistant", (Text("Once upon \n"),))))

    assert body["messages"][1]["content"] == "Once upon"
