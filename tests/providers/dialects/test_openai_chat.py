"""OpenAI's chat completions: what is read is what was said, and unmodified clients understand what is written."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import (
    Audio,
    CacheHint,
    Conversation,
    File,
    Foreign,
    ForeignTool,
    Image,
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
from providers.adapters.dialects.reply import Choice, ChoiceEnded, Ended, Event, Failed, Reply, Started, events_of
from providers.adapters.errors import InexpressibleError, MalformedAnswerError, MalformedBodyError
from providers.adapters.types import ErrorKind, Usage
from tests.providers.dialects.strategies import (
    Says,
    conversations,
    folded,
    plain,
    read_stream,
    replies,
    written_stream,
)

CHAT = get_dialect("openai.chat")
SAYS = Says(
    result_images=False,
    result_errors=False,
    budget=False,
)
EXTENSIONS = frozenset({"developer", "cache_control", "reasoning_content", "reasoning_details", "extra_content"})
LIMITS = Limits("some-model", output_cap_fields=("max_completion_tokens",), extensions=EXTENSIONS)
ASKED = Conversation("m", (), stream=True, include_usage=True)


@settings(max_examples=60, deadline=None)
@given(conversations(SAYS, "openai.chat"))
def test_a_request_that_is_written_reads_the_same(conversation: Conversation) -> None:
    written = CHAT.write_request(conversation, LIMITS)

    assert written.dropped == ()
    assert CHAT.read_request(written.body) == conversation


@settings(max_examples=60, deadline=None)
@given(replies(SAYS, prefix="chatcmpl-"))
def test_an_answer_that_is_written_reads_the_same(reply: Reply) -> None:
    assert plain(CHAT.read_reply(CHAT.write_reply(reply, ASKED))) == reply


@settings(max_examples=60, deadline=None)
@given(replies(SAYS, prefix="chatcmpl-"))
def test_a_stream_brings_the_same_answer_however_it_is_cut(reply: Reply) -> None:
    stream = written_stream(CHAT, events_of(reply), ASKED)

    assert plain(folded(read_stream(CHAT, stream))) == reply
    assert folded(read_stream(CHAT, stream, 1)) == folded(read_stream(CHAT, stream))


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()


def read(**fields: Any) -> Conversation:
    return CHAT.read_request(body(**fields))


def said(*messages: dict[str, Any]) -> tuple[Turn, ...]:
    return read(messages=list(messages)).turns


def written(conversation: Conversation, *extensions: str) -> dict[str, Any]:
    limits = Limits("m", output_cap_fields=("max_tokens",), extensions=frozenset(extensions))
    request: dict[str, Any] = json.loads(CHAT.write_request(conversation, limits).body)
    return request


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return sse({"id": "c1", "created": 5, "model": "m", "choices": [choice], **more})


def sse(payload: Any) -> bytes:
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


def answer(message: dict[str, Any], finish: str = "stop", **more: Any) -> Choice:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **more}
    return CHAT.read_reply(json.dumps({"id": "c1", "model": "m", "choices": [choice]}).encode()).choices[0]


# ── requests ──


def test_results_of_parallel_calls_make_one_turn() -> None:
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in (1, 2)]

    turns = said(
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "Go on"},
    )

    assert turns == (
        Turn("assistant", (ToolCall("c1", "f", "{}"), ToolCall("c2", "f", "{}"))),
        Turn("user", (ToolResult("c1", (Text("one"),)), ToolResult("c2", (Text("two"),)))),
        Turn("user", (Text("Go on"),)),
    )


def test_functions_are_tools_and_a_call_of_one_is_found_by_its_result() -> None:
    conversation = read(
        functions=[{"name": "f", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
        messages=[
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "ok"},
        ],
    )

    call, result = conversation.turns[0].blocks[0], conversation.turns[1].blocks[0]
    assert conversation.tools == (Tool("f", parameters={"type": "object"}),)
    assert conversation.tool_choice == ToolChoice("tool", "f")
    assert conversation.legacy_functions
    assert isinstance(call, ToolCall)
    assert isinstance(result, ToolResult)
    assert call.id == result.call_id != ""


def test_a_caller_of_functions_gets_a_function_call() -> None:
    asked = Conversation("m", (), legacy_functions=True, stream=True)
    reply = Reply("c1", "m", (Choice((ToolCall("call_1", "f", '{"a":1}'),), "tool_calls"),), created=5)

    whole = json.loads(CHAT.write_reply(reply, asked))["choices"][0]
    stream = written_stream(CHAT, events_of(reply), asked)

    assert whole["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert whole["finish_reason"] == "function_call"
    assert "tool_calls" not in whole["message"]
    assert b"tool_calls" not in stream
    assert b'"finish_reason":"function_call"' in stream


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reasoning_effort": "high"}, Thinking("high")),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Thinking(budget_tokens=2048)),
        ({"thinking": {"type": "disabled"}}, Thinking(budget_tokens=0)),
        ({"reasoning": {"effort": "low", "exclude": True}}, Thinking("low", visible=False)),
        ({"reasoning": {"max_tokens": 500}}, Thinking(budget_tokens=500)),
        ({"reasoning": {"enabled": False}}, Thinking(budget_tokens=0)),
        ({"include_reasoning": True}, Thinking(visible=True)),
        ({}, None),
    ],
)
def test_every_way_to_ask_for_thoughts_is_read(fields: dict[str, Any], expected: Thinking | None) -> None:
    assert read(**fields).thinking == expected


@pytest.mark.parametrize(
    ("thinking", "extensions", "expected"),
    [
        (Thinking(budget_tokens=0), (), {"reasoning_effort": "none"}),
        (Thinking(budget_tokens=10_000), (), {"reasoning_effort": "medium"}),
        (Thinking(budget_tokens=-1), (), {}),
        (Thinking("high"), (), {"reasoning_effort": "high"}),
        (Thinking(budget_tokens=10_000), ("thinking",), {"thinking": {"type": "enabled"}}),
        (
            Thinking(budget_tokens=10_000),
            ("thinking", "budget_tokens"),
            {"thinking": {"type": "enabled", "budget_tokens": 10_000}},
        ),
        (Thinking("none"), ("thinking",), {"thinking": {"type": "disabled"}}),
        (Thinking(budget_tokens=0), ("thinking",), {"thinking": {"type": "disabled"}}),
        (
            Thinking("low"),
            ("thinking", "reasoning_effort"),
            {"thinking": {"type": "enabled"}, "reasoning_effort": "low"},
        ),
    ],
)
def test_thoughts_are_asked_for_in_the_providers_words(
    thinking: Thinking, extensions: tuple[str, ...], expected: dict[str, Any]
) -> None:
    request = written(Conversation("m", (), thinking=thinking), *extensions)

    assert {name: request[name] for name in ("reasoning_effort", "thinking") if name in request} == expected


@pytest.mark.parametrize("hint", [{"cache_control": {"type": "ephemeral", "ttl": "1h"}},
                                  {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}])  # fmt: skip
def test_cache_hints_of_either_kind_are_read(hint: dict[str, Any]) -> None:
    part = {"type": "text", "text": "long", **hint}

    (turn,) = said({"role": "user", "content": [part]})

    assert turn.blocks == (Text("long", cache=CacheHint("1h")),)
    conversation = Conversation("m", (turn,))
    assert written(conversation, *hint)["messages"][0]["content"] == [part]
    assert written(conversation)["messages"][0]["content"] == "long"


def test_what_a_tool_shows_follows_its_result() -> None:
    picture = Image(Source(data="AAEC", media_type="image/png"))
    turn = Turn("user", (ToolResult("c1", (Text("Here."), picture)), Text("What is it?")))

    tool, user = written(Conversation("m", (turn,)))["messages"]

    assert tool == {"role": "tool", "tool_call_id": "c1", "content": "Here."}
    assert user["role"] == "user"
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]
    assert user["content"][1]["image_url"] == {"url": "data:image/png;base64,AAEC"}


def test_thoughts_go_back_only_to_servers_that_want_them_and_signatures_to_their_own_dialect() -> None:
    signed = Reasoning("deep", signature="s1", dialect="acme.messages")
    own = Reasoning("mine", signature="s2", dialect="openai.chat")
    conversation = Conversation("m", (Turn("assistant", (signed, own, Text("ok"))),))

    assert written(conversation)["messages"] == [{"role": "assistant", "content": "ok"}]
    (message,) = written(conversation, "reasoning_content", "reasoning_details")["messages"]
    assert message["reasoning_content"] == "deepmine"
    assert [detail.get("signature") for detail in message["reasoning_details"]] == ["s2"]


def test_signed_thoughts_that_a_client_got_come_back_with_their_owner() -> None:
    block = Reasoning("deep", signature="s1", dialect="acme.messages")
    reply = Reply("c1", "m", (Choice((block, Text("ok"))),))
    message = json.loads(CHAT.write_reply(reply, ASKED))["choices"][0]["message"]

    (turn,) = said(message)

    assert turn.blocks == (block, Text("ok"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": True}, "n"),
        ({"stop": [1]}, "stop"),
        ({"logit_bias": {"5": "x"}}, "logit_bias.5"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(MalformedBodyError) as raised:
        read(**fields)

    assert raised.value.param == param
    assert param in raised.value.message


def test_what_nobody_knows_is_kept_and_goes_back_to_the_same_dialect_alone() -> None:
    conversation = read(prediction={"type": "content", "content": "x"}, brand_new=1)

    assert conversation.extra == {"prediction": {"type": "content", "content": "x"}, "brand_new": 1}
    assert written(conversation)["brand_new"] == 1
    other = msgspec.structs.replace(conversation, dialect="acme.messages", top_k=5)
    result = CHAT.write_request(other, Limits("m"))
    assert "brand_new" not in json.loads(result.body)
    assert set(result.dropped) == {"prediction", "brand_new", "top_k"}


@pytest.mark.parametrize(
    "conversation",
    [
        Conversation("m", (Turn("user", (Foreign("acme.messages", {"type": "search_result"}),)),)),
        Conversation("m", (Turn("user", (Image(Source(file_id="file-1")),)),)),
        Conversation("m", (Turn("user", (File(Source(url="https://example.org/a.pdf")),)),)),
        Conversation("m", (Turn("user", (Audio(Source(url="https://example.org/a.wav")),)),)),
        Conversation("m", (), tools=(ForeignTool("acme.messages", {"type": "web_search_20260101"}),)),
    ],
)
def test_what_would_change_the_meaning_is_refused_with_its_place(conversation: Conversation) -> None:
    with pytest.raises(InexpressibleError) as raised:
        CHAT.write_request(conversation, Limits("m"))

    assert raised.value.param in ("messages[0].content", "tools[0]")
    assert "openai.chat" in raised.value.message


# ── answers ──


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_are_read_by_either_name(field: str) -> None:
    assert answer({"content": "4", field: "2+2"}).blocks == (Reasoning("2+2"), Text("4"))


def test_thoughts_inside_a_content_list_are_read() -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "4"}]

    assert answer({"content": content}).blocks == (Reasoning("hm"), Text("4"))


def test_pieces_of_one_thought_are_put_together() -> None:
    details = [
        {"type": "reasoning.summary", "summary": "I think", "id": "rs_1", "index": 0},
        {"type": "reasoning.encrypted", "data": "zzz", "id": "rs_1", "index": 0},
    ]

    blocks = answer({"content": "4", "reasoning": "I think", "reasoning_details": details}).blocks

    thought = Reasoning("I think", encrypted="zzz", id="rs_1", summary=True, dialect="openai.chat")
    assert blocks == (thought, Text("4"))


def test_calls_without_ids_or_with_the_same_get_their_own() -> None:
    calls = [{"id": given, "function": {"name": "f", "arguments": {"a": 1}}} for given in ("", "x", "x")]

    choice = answer({"content": None, "tool_calls": calls})

    ids = [block.id for block in choice.blocks if isinstance(block, ToolCall)]
    assert len(set(ids)) == 3
    assert ids[1] == "x"
    assert all(ids)
    assert choice.finish == "tool_calls"
    assert isinstance(choice.blocks[0], ToolCall)
    assert json.loads(choice.blocks[0].arguments) == {"a": 1}


@pytest.mark.parametrize(
    ("finish", "expected"),
    [("length", "length"), ("model_length", "length"), ("content_filter", "content_filter"), ("mystery", "other")],
)
def test_ends_are_read(finish: str, expected: str) -> None:
    assert answer({"content": "x"}, finish).finish == expected


def test_pictures_and_sound_of_an_answer_survive() -> None:
    reply = Reply(
        "c1",
        "m",
        (Choice((Audio(Source(data="AAEC"), "hi", "audio_1"), Image(Source(data="AAEC", media_type="image/png")))),),
        created=5,
    )

    assert plain(CHAT.read_reply(CHAT.write_reply(reply, ASKED))) == reply
    assert plain(folded(read_stream(CHAT, written_stream(CHAT, events_of(reply), ASKED)))) == reply


def test_an_answer_that_is_none_is_refused() -> None:
    for wrong in (b"", b"[]", b"{}", b'{"choices":[{}]}', b"<html>"):
        with pytest.raises(MalformedAnswerError):
            CHAT.read_reply(wrong)


# ── streams ──


def test_parallel_calls_arrive_piece_by_piece() -> None:
    def call(index: int, arguments: str, **start: Any) -> bytes:
        function = {"arguments": arguments, **({"name": start.pop("name")} if "name" in start else {})}
        return chunk({"tool_calls": [{"index": index, **start, "function": function}]})

    stream = b"".join(
        [
            chunk({"role": "assistant", "content": None}),
            call(0, "", id="a", name="f"),
            call(0, '{"x'),
            call(0, '":1}'),
            call(1, "{}", id="b", name="g"),
            chunk({}, "tool_calls"),
            b"data: [DONE]\n\n",
        ]
    )

    reply = folded(read_stream(CHAT, stream, 7))

    assert reply.choices == (Choice((ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}")), "tool_calls"),)


def test_calls_that_all_have_the_same_number_are_told_apart_by_id() -> None:
    calls = [{"index": 0, "id": given, "function": {"name": "f", "arguments": given}} for given in ("a", "b")]

    reply = folded(read_stream(CHAT, b"".join(chunk({"tool_calls": [call]}) for call in calls) + chunk({}, "stop")))

    assert reply.choices[0].blocks == (ToolCall("a", "f", "a"), ToolCall("b", "f", "b"))
    assert reply.choices[0].finish == "tool_calls"


def test_usage_is_found_wherever_it_stands() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    ends = [
        chunk({"content": "x"}, "stop", usage=usage) + b"data: [DONE]\n\n",
        chunk({"content": "x"}, "stop") + sse({"id": "c1", "choices": [], "usage": usage}) + b"data: [DONE]\n\n",
        chunk({"content": "x"}, "stop", x_groq={"usage": usage}),
        chunk({"content": "x"}, usage=usage) + chunk({}, "stop", usage=None) + b"data: [DONE]",
    ]

    for stream in ends:
        assert read_stream(CHAT, stream)[-1] == Ended(Usage(input=3, output=2)), stream


def test_a_stream_that_breaks_off_does_not_end() -> None:
    events = read_stream(CHAT, chunk({"content": "x"}))

    assert not any(isinstance(event, (Ended, Failed)) for event in events)


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (sse({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}), ErrorKind.RATE_LIMITED),
        (sse({"error": "slow down"}), ErrorKind.SERVER_ERROR),
        (b'event: error\ndata: {"message":"slow down","code":503}\n\n', ErrorKind.OVERLOADED),
        (b'{"error":{"message":"slow down","code":429}}', ErrorKind.RATE_LIMITED),
    ],
)
def test_an_error_inside_a_stream_is_the_end_of_it(stream: bytes, kind: ErrorKind) -> None:
    events = read_stream(CHAT, stream + (b"" if stream.startswith(b"{") else chunk({"content": "late"}, "stop")))

    assert events == [Failed("slow down", kind)]


def test_an_error_is_told_to_the_client_as_its_library_expects() -> None:
    stream = written_stream(CHAT, [Started("c1", "m", 5), Failed("slow down", ErrorKind.RATE_LIMITED)], ASKED)

    error = json.loads(stream.rpartition(b"data: ")[2])["error"]
    assert error == {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
    assert b"[DONE]" not in stream


def test_garbage_fails_the_stream() -> None:
    for stream in (b"data: {nonsense\n\n", b"data: 5\n\n", b"[1,2]"):
        assert isinstance(read_stream(CHAT, stream)[-1], Failed), stream


def test_a_whole_answer_in_place_of_a_stream_becomes_one() -> None:
    whole = {"id": "c1", "model": "m", "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}],
             "usage": {"prompt_tokens": 3, "completion_tokens": 2}}  # fmt: skip
    reader = CHAT.stream_reader()

    events = [*reader.feed(json.dumps(whole).encode()), *reader.finish()]

    assert folded(events).choices == (Choice((Text("x"),)),)
    assert reader.usage_raw == whole["usage"]


def test_usage_is_told_only_to_those_who_asked() -> None:
    events: list[Event] = [
        Started("c1", "m", 5),
        ChoiceEnded("stop"),
        Ended(Usage(input=3, cache_read=1, output=2, reasoning=4)),
    ]

    told = written_stream(CHAT, events, ASKED)
    untold = written_stream(CHAT, events, Conversation("m", (), stream=True))

    usage = json.loads(told.split(b"\n\n")[-3].removeprefix(b"data: "))
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == 4
    assert usage["usage"]["prompt_tokens_details"]["cached_tokens"] == 1
    assert usage["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4
    assert usage["usage"]["total_tokens"] == 10
    assert b"usage" not in untold
    assert told.endswith(b"data: [DONE]\n\n")
    assert untold.endswith(b"data: [DONE]\n\n")


@settings(max_examples=30, deadline=None)
@given(replies(SAYS, prefix="chatcmpl-"))
def test_the_official_client_understands_what_is_written(reply: Reply) -> None:
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    lines = written_stream(CHAT, events_of(reply), ASKED).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") for line in lines[:-1])

    for line in lines[:-2]:
        state.handle_chunk(ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")))
    streamed = state.current_completion_snapshot
    whole = ChatCompletion.model_validate_json(CHAT.write_reply(reply, ASKED))

    for choice, other, expected in zip(whole.choices, streamed.choices, reply.choices, strict=True):
        calls = [block for block in expected.blocks if isinstance(block, ToolCall)]
        for message in (choice.message, other.message):
            texts = "".join(block.text for block in expected.blocks if isinstance(block, Text))
            assert (message.content or "") == texts
            found = [call for call in message.tool_calls or [] if call.type == "function"]
            assert [(c.id, c.function.name, c.function.arguments) for c in found] == [
                (c.id, c.name, c.arguments) for c in calls
            ]
        assert other.finish_reason == choice.finish_reason
    assert streamed.usage == whole.usage
