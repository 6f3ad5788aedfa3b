"""Bedrock's Converse: what is written is what its API takes, and its answers lose nothing on the way to others."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from providers.adapters._aws_events import Message
from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import (
    CacheHint,
    Conversation,
    File,
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
from providers.adapters.dialects.reply import Ended, Failed, ReplyBuilder
from providers.adapters.errors import InexpressibleError, MalformedAnswerError
from providers.adapters.types import ErrorKind, Usage
from tests.providers.dialects.strategies import Says, conversations
from tests.providers.test_aws_events import written

CONVERSE = get_dialect("bedrock.converse")
CLAUDE = Limits("eu.anthropic.claude-sonnet-4-5-20250929-v1:0")
NOVA = Limits("amazon.nova-pro-v1:0")
FIXTURES = Path(__file__).parents[1] / "fixtures" / "bedrock"
USAGE = Usage(input=100, cache_read=200, cache_write_5m=60, cache_write_1h=40, output=60)
HELLO = Turn("user", (Text("Hello"),))


def body_of(conversation: Conversation, limits: Limits = NOVA) -> Any:
    return json.loads(CONVERSE.write_request(conversation, limits).body)


def dropped_of(conversation: Conversation, limits: Limits = NOVA) -> tuple[str, ...]:
    return CONVERSE.write_request(conversation, limits).dropped


def folded(stream: bytes, size: int) -> ReplyBuilder:
    reader, builder = CONVERSE.stream_reader(), ReplyBuilder()
    for at in range(0, len(stream), size):
        for event in reader.feed(stream[at : at + size]):
            builder.add(event)
    assert list(reader.finish()) == []
    return builder


def test_a_conversation_with_everything() -> None:
    tool = Tool(
        "weather", "of a city", {"type": "object", "properties": {"city": {"type": "string"}}}, cache=CacheHint()
    )
    asked = Conversation(
        "m",
        (
            Turn("system", (Text("Be brief.", cache=CacheHint("1h")),)),
            Turn("user", (Text("Look:"), Image(Source(data="aW1n", media_type="image/png")))),
            Turn("user", (File(Source(data="cGRm", media_type="application/pdf"), name="Q1: report.pdf"),)),
            Turn("assistant", (Text("Let me see."), ToolCall("call_1", "weather", '{"city":"Paris"}'))),
            Turn("user", (Text("and?"), ToolResult("call_1", (Text("sunny"),), is_error=True))),
            Turn("developer", (Text("Answer in German."),)),
        ),
        tools=(tool,),
        tool_choice=ToolChoice("required"),
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        stop=("END",),
        output_format=OutputFormat("json_schema", "answer", {"type": "object"}),
        service_tier="priority",
    )

    body = body_of(asked)

    assert body == {
        "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"text": "Look:"},
                    {"image": {"format": "png", "source": {"bytes": "aW1n"}}},
                    {"document": {"format": "pdf", "name": "Q1 report pdf", "source": {"bytes": "cGRm"}}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"text": "Let me see."},
                    {"toolUse": {"toolUseId": "call_1", "name": "weather", "input": {"city": "Paris"}}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "call_1", "content": [{"text": "sunny"}], "status": "error"}},
                    {"text": "and?"},
                    {"text": "<system_message>\nAnswer in German.\n</system_message>"},
                ],
            },
        ],
        "toolConfig": {
            "tools": [
                {"toolSpec": {"name": "weather", "description": "of a city", "inputSchema": {"json": tool.parameters}}},
                {"cachePoint": {"type": "default"}},
            ],
            "toolChoice": {"any": {}},
        },
        "inferenceConfig": {"maxTokens": 50, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
        "outputConfig": {
            "textFormat": {
                "type": "json_schema",
                "structure": {"jsonSchema": {"name": "answer", "schema": '{"type":"object"}'}},
            }
        },
        "serviceTier": {"type": "priority"},
    }


def test_models_that_think_in_tokens_get_a_budget_and_others_lose_the_wish() -> None:
    asked = Conversation("m", (HELLO,), thinking=Thinking(effort="medium"), max_output_tokens=20_000, top_k=7)

    claude = body_of(asked, CLAUDE)

    assert claude["additionalModelRequestFields"]["thinking"] == {"type": "enabled", "budget_tokens": 8192}
    assert claude["inferenceConfig"]["maxTokens"] == 20_000
    assert dropped_of(asked) == ("reasoning_effort", "top_k")
    assert body_of(asked, Limits("openai.gpt-oss-120b-1:0"))["additionalModelRequestFields"] == {
        "reasoning_effort": "medium"
    }


def test_thoughts_go_back_to_where_they_came_from_and_nowhere_else() -> None:
    ours = Reasoning("hm", "sig", dialect="bedrock.converse")
    theirs = Reasoning("hm", "sig", dialect="anthropic.messages")
    asked = Conversation("m", (HELLO, Turn("assistant", (ours, theirs, Text("Hi")))))

    content = body_of(asked)["messages"][1]["content"]

    assert content == [{"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}}, {"text": "Hi"}]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"choices": 2}, "n"),
        ({"modalities": ("text", "audio")}, "modalities"),
        ({"turns": (Turn("user", (Image(Source(url="https://x/cat.png")),)),)}, "messages"),
        ({"turns": (Turn("user", (Image(Source(data="x", media_type="image/tiff")),)),)}, "messages"),
        ({"tools": (Tool("grep", custom={"type": "text"}),)}, "tools"),
    ],
)
def test_what_must_not_be_left_out_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    asked = msgspec.structs.replace(Conversation("m", (HELLO,)), **changes)

    with pytest.raises(InexpressibleError) as refused:
        CONVERSE.write_request(asked, NOVA)

    assert refused.value.param == param


def test_what_may_be_left_out_is_said() -> None:
    asked = Conversation(
        "m", (HELLO,), seed=1, logit_bias={"5": 1.0}, parallel_tool_calls=False, user="ana", temperature=1.5
    )

    assert dropped_of(asked) == ("temperature", "seed", "logit_bias", "user", "parallel_tool_calls")
    assert body_of(asked)["inferenceConfig"] == {"temperature": 1}


def test_a_conversation_with_calls_declares_its_tools() -> None:
    calls = (HELLO, Turn("assistant", (ToolCall("c", "weather", "{}"),)), Turn("user", (ToolResult("c"),)))

    assert body_of(Conversation("m", calls))["toolConfig"]["tools"][0]["toolSpec"]["name"] == "weather"


@settings(max_examples=60, deadline=None)
@given(
    conversations(
        Says(
            audio=False, custom_tools=False, choices=False, names=False, files=False, images=False, result_images=False
        )
    )
)
def test_turns_alternate_and_nothing_is_empty(conversation: Conversation) -> None:
    if conversation.tool_choice is not None and conversation.tool_choice.mode == "none":
        conversation = msgspec.structs.replace(conversation, tool_choice=None)

    body = body_of(conversation)

    roles = [message["role"] for message in body["messages"]]
    assert all(one != other for one, other in itertools.pairwise(roles))
    assert all(message["content"] for message in body["messages"])


def test_a_whole_answer() -> None:
    reply = CONVERSE.read_reply((FIXTURES / "chat.json").read_bytes())

    (choice,) = reply.choices
    assert choice.blocks == (
        Reasoning("Paris ist …", "c2ln", dialect="bedrock.converse"),
        Text("Grüße aus Paris 🎉"),
        ToolCall("tooluse_1", "weather", '{"city":"Paris"}'),
    )
    assert (choice.finish, reply.usage, reply.id[:4]) == ("tool_calls", USAGE, "msg_")


@pytest.mark.parametrize("size", [1, 7, 100, 1_000_000])
def test_a_stream_brings_what_a_whole_answer_brings_however_it_is_cut(size: int) -> None:
    whole = CONVERSE.read_reply((FIXTURES / "chat.json").read_bytes())

    reply = folded((FIXTURES / "chat_stream.bin").read_bytes(), size).reply()

    assert (reply.choices, reply.usage) == (whole.choices, whole.usage)


@pytest.mark.parametrize("size", [1, 64, 1_000_000])
def test_a_caller_who_speaks_it_gets_the_same_bytes_and_is_metered(size: int) -> None:
    stream = (FIXTURES / "chat_stream.bin").read_bytes()
    scanner = CONVERSE.scanner(strip_usage=False)

    sent = b"".join(scanner.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + scanner.finish()

    assert sent == stream
    assert scanner.done
    assert scanner.first_token
    assert scanner.usage_raw is not None
    assert CONVERSE.usage(scanner.usage_raw) == USAGE
    assert scanner.estimated_output(4.0) > 5


def test_an_exception_in_a_stream_is_a_failure_of_its_kind() -> None:
    headers = {":message-type": "exception", ":exception-type": "throttlingException"}
    stream = written(Message({":event-type": "messageStart"}, b"{}")) + written(Message(headers, b'{"message":"slow"}'))
    scanner = CONVERSE.scanner(strip_usage=False)
    scanner.feed(stream)

    assert folded(stream, 9).failed == Failed("slow", ErrorKind.RATE_LIMITED)
    assert scanner.error == {"message": "slow", "type": "rate_limited"}


def test_a_stream_that_is_cut_off_has_no_end() -> None:
    stream = (FIXTURES / "chat_stream.bin").read_bytes()[:-20]

    events = list(CONVERSE.stream_reader().feed(stream))

    assert not any(isinstance(event, Ended) for event in events)


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"output":{"message":{"content":[{"toolUse":{}}]}}}'])
def test_an_answer_of_another_shape_is_no_answer(body: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        CONVERSE.read_reply(body)


def test_a_cap_is_lowered_where_it_stands_or_added() -> None:
    low = CONVERSE.with_output_cap(b'{"inferenceConfig":{"maxTokens":5,"topP":1}}', ("max_tokens",), 100)
    high = CONVERSE.with_output_cap(b'{"inferenceConfig":{"maxTokens":500}}', ("max_tokens",), 100)
    none = CONVERSE.with_output_cap(b'{"messages":[]}', ("max_tokens",), 100)

    assert json.loads(low)["inferenceConfig"] == {"maxTokens": 5, "topP": 1}
    assert [json.loads(body)["inferenceConfig"] for body in (high, none)] == [{"maxTokens": 100}, {"maxTokens": 100}]
    assert CONVERSE.read_head(low, model="m", stream=True).max_tokens == 5
