"""OpenAI's Responses: what is read is what was said, and unmodified clients understand what is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseIncompleteEvent,
    ResponseStreamEvent,
)
from pydantic import TypeAdapter

from providers.adapters.dialects.base import Limits, WireError
from providers.adapters.dialects.conversation import (
    Conversation,
    ForeignTool,
    Image,
    OutputFormat,
    Reasoning,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
)
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import Choice, Ended, Failed, Reply, Started, events_of
from providers.adapters.errors import (
    InexpressibleError,
    MalformedAnswerError,
    MalformedBodyError,
    MalformedUsageError,
)
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

RESPONSES = get_dialect("openai.responses")
SAYS = Says(
    names=False,
    tool_cache=False,
    result_errors=False,
    budget=False,
    top_k=False,
    penalties=False,
    seed=False,
    choices=False,
    logit_bias=False,
    stop=False,
    audio_tokens=False,
    stop_sequence=False,
)
LIMITS = Limits("some-model", extensions=frozenset({"prompt_cache_breakpoint"}))
ASKED = Conversation("m", (), stream=True)


@settings(max_examples=60, deadline=None)
@given(conversations(SAYS, "openai.responses"))
def test_a_request_that_is_written_reads_the_same(conversation: Conversation) -> None:
    written = RESPONSES.write_request(conversation, LIMITS)

    assert written.dropped == ()
    assert RESPONSES.read_request(written.body) == conversation


@settings(max_examples=60, deadline=None)
@given(replies(SAYS, prefix="resp_"))
def test_an_answer_that_is_written_reads_the_same(reply: Reply) -> None:
    assert plain(RESPONSES.read_reply(RESPONSES.write_reply(reply, ASKED))) == reply


@settings(max_examples=60, deadline=None)
@given(replies(SAYS, prefix="resp_"))
def test_a_stream_brings_the_same_answer_however_it_is_cut(reply: Reply) -> None:
    stream = written_stream(RESPONSES, events_of(reply), ASKED)

    assert plain(folded(read_stream(RESPONSES, stream))) == reply
    assert folded(read_stream(RESPONSES, stream, 1)) == folded(read_stream(RESPONSES, stream))


@settings(max_examples=30, deadline=None)
@given(replies(SAYS, prefix="resp_"))
def test_the_official_client_understands_what_is_written(reply: Reply) -> None:
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=omit, text_format=omit)
    read_event = TypeAdapter(ResponseStreamEvent).validate_json
    events = [read_event(data_of(event)) for event in events_in(written_stream(RESPONSES, events_of(reply), ASKED))]

    for event in events:
        state.handle_event(event)

    last = events[-1]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert isinstance(last, (ResponseCompletedEvent, ResponseIncompleteEvent))
    whole = Response.model_validate_json(RESPONSES.write_reply(reply, ASKED))
    for response in (last.response, whole):
        calls = [block for block in reply.choices[0].blocks if isinstance(block, ToolCall)]
        found = [item for item in response.output if item.type == "function_call"]
        texts = [block.text for block in reply.choices[0].blocks if isinstance(block, Text)]
        assert response.output_text == "".join(texts)
        assert [(c.call_id, c.name, c.arguments) for c in found] == [(c.id, c.name, c.arguments) for c in calls]
        assert len({item.id for item in response.output}) == len(response.output)
        assert response.id == reply.id
    assert last.response.usage == whole.usage


def events_in(stream: bytes) -> list[bytes]:
    events = stream.split(b"\n\n")
    assert events[-1] == b""
    return events[:-1]


def data_of(event: bytes) -> bytes:
    name, data = event.split(b"\n")
    payload = data.removeprefix(b"data: ")
    assert name == b"event: " + json.loads(payload)["type"].encode()
    return payload


def read(**fields: Any) -> Conversation:
    return RESPONSES.read_request(json.dumps({"model": "m", "input": "Hi", **fields}).encode())


def written(conversation: Conversation) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(RESPONSES.write_request(conversation, Limits("m")).body)
    return request


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


# ── requests ──


def test_items_become_turns() -> None:
    """As coding agents send them: thoughts, text and parallel calls of one answer, then their results."""
    conversation = read(
        instructions="Be brief.",
        input=[
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Use tools."}]},
            {"role": "user", "content": "Look"},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}],
             "encrypted_content": "zzz"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
            {"type": "function_call", "call_id": "c1", "name": "shell", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "*** Begin"},
            {"type": "function_call_output", "call_id": "c1", "output": "ok"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "done"}]},
        ],
    )  # fmt: skip

    thought = Reasoning("Hm.", encrypted="zzz", id="rs_1", summary=True, dialect="openai.responses")
    assert conversation.turns == (
        Turn("system", (Text("Be brief."),)),
        Turn("developer", (Text("Use tools."),)),
        Turn("user", (Text("Look"),)),
        Turn("assistant", (thought, Text("Looking."), ToolCall("c1", "shell", "{}"),
                           ToolCall("c2", "patch", "*** Begin", custom=True))),
        Turn("user", (ToolResult("c1", (Text("ok"),)), ToolResult("c2", (Text("done"),), custom=True))),
    )  # fmt: skip
    again = RESPONSES.read_request(RESPONSES.write_request(conversation, Limits("m")).body)
    assert again.turns == conversation.turns


def test_settings_are_read() -> None:
    conversation = read(
        reasoning={"effort": "high", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": True}, "verbosity": "low"},
        include=["reasoning.encrypted_content", "message.output_text.logprobs"],
        store=False,
        prompt_cache_key="k",
        truncation="auto",
    )

    assert conversation.thinking == Thinking("high", visible=True, summary="auto")
    assert conversation.output_format == OutputFormat("json_schema", "a", {}, strict=True)
    assert conversation.verbosity == "low"
    assert conversation.logprobs is True
    assert conversation.store is False
    assert conversation.cache_key == "k"
    assert conversation.extra == {"truncation": "auto", "include": ["reasoning.encrypted_content"]}
    again = written(conversation)
    assert set(again["include"]) == {"reasoning.encrypted_content", "message.output_text.logprobs"}
    assert again["truncation"] == "auto"


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "prompt", "background"])
def test_what_the_provider_keeps_cannot_be_translated(field: str) -> None:
    with pytest.raises(InexpressibleError) as raised:
        read(**{field: "resp_1"})

    assert raised.value.param == field


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(MalformedBodyError) as raised:
        read(**fields)

    assert raised.value.param == param


def test_a_provider_keeps_nothing_of_what_came_in_another_dialect() -> None:
    """So that its thoughts come along, sealed, if it thinks."""
    request = written(Conversation("m", (), dialect="acme.messages", thinking=Thinking("low")))

    assert request["store"] is False
    assert request["include"] == ["reasoning.encrypted_content"]


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        (Conversation("m", (), choices=2), "n"),
        (Conversation("m", (), stop=("x",)), "stop"),
        (Conversation("m", (), modalities=("text", "audio")), "modalities"),
        (Conversation("m", (), tools=(ForeignTool("acme.messages", {"type": "web"}),)), "tools[0]"),
        (Conversation("m", (Turn("user", (Image(Source(file_id="f")),)),), dialect="acme.messages"), "input[0]"),
    ],
)
def test_what_would_change_the_meaning_is_refused(conversation: Conversation, param: str) -> None:
    with pytest.raises(InexpressibleError) as raised:
        RESPONSES.write_request(conversation, Limits("m"))

    assert raised.value.param == param


def test_hints_that_have_no_word_are_reported() -> None:
    conversation = Conversation(
        "m", (), seed=1, top_k=2, logit_bias={}, extra={"brand_new": 1}, dialect="acme.messages"
    )

    dropped = RESPONSES.write_request(conversation, Limits("m")).dropped

    assert set(dropped) == {"seed", "top_k", "logit_bias", "brand_new"}


def test_an_answer_that_comes_later_is_refused_before_it_is_asked_for() -> None:
    for name in ("background", "b\\u0061ckground"):
        with pytest.raises(MalformedBodyError) as raised:
            RESPONSES.read_head(b'{"model":"m","input":"Hi","%b":true}' % name.encode())
        assert raised.value.param == "background"
    assert RESPONSES.read_head(b'{"model":"m","input":"background","background":false}').model == "m"


# ── answers ──


def test_thoughts_of_other_dialects_travel_sealed_and_come_back() -> None:
    block = Reasoning("deep", signature="s1", dialect="acme.messages")
    reply = Reply("resp_1", "m", (Choice((block, Text("ok"))),))
    item = json.loads(RESPONSES.write_reply(reply, ASKED))["output"][0]

    assert item["summary"] == [{"type": "summary_text", "text": "deep"}]
    assert "s1" not in json.dumps(item["summary"])
    assert read(input=[item]).turns == (Turn("assistant", (block,)),)
    streamed = json.loads(data_of(events_in(written_stream(RESPONSES, events_of(reply), ASKED))[-1]))
    assert streamed["response"]["output"][0]["encrypted_content"] == item["encrypted_content"]


def test_an_answer_repeats_what_was_asked() -> None:
    asked = read(instructions="Be brief.", tools=[{"type": "web_search"}], tool_choice="required", metadata={"a": "b"})

    answer = json.loads(RESPONSES.write_reply(Reply("x", "m", (Choice((Text("ok"),)),)), asked))

    assert answer["instructions"] == "Be brief."
    assert answer["tools"] == [{"type": "web_search"}]
    assert answer["tool_choice"] == "required"
    assert answer["metadata"] == {"a": "b"}
    assert answer["id"].startswith("resp_")


def test_an_answer_that_is_none_is_refused() -> None:
    failed = b'{"output":[],"status":"failed","error":{"message":"no"}}'
    for wrong in (b"", b"[]", b"{}", b'{"output":[5]}', failed):
        with pytest.raises(MalformedAnswerError):
            RESPONSES.read_reply(wrong)


# ── streams ──

USAGE = {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2}, "output_tokens": 5,
         "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 15}  # fmt: skip
CREATED = {
    "type": "response.created",
    "response": {"id": "resp_1", "model": "m-1", "created_at": 5, "status": "in_progress"},
}
COMPLETED = {
    "type": "response.completed",
    "response": {"id": "resp_1", "model": "m-1", "status": "completed", "usage": USAGE},
}


def test_a_server_that_sends_no_pieces_is_understood() -> None:
    stream = sse(
        CREATED,
        {"type": "response.output_item.done", "output_index": 0,
         "item": {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}},
        {"type": "response.output_item.done", "output_index": 1,
         "item": {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}},
        {"type": "response.output_item.done", "output_index": 2,
         "item": {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}},
        COMPLETED,
    )  # fmt: skip

    reply = folded(read_stream(RESPONSES, stream))

    assert plain(reply).choices == (Choice((Reasoning("Hm."), Text("Hi"), ToolCall("c1", "f", "{}")), "tool_calls"),)
    assert reply.usage == Usage(input=4, cache_read=4, cache_write_5m=2, output=2, reasoning=3)


def test_summaries_in_several_parts_are_set_apart() -> None:
    def part(index: int, text: str) -> list[dict[str, Any]]:
        place = {"item_id": "rs_1", "output_index": 0, "summary_index": index}
        return [
            {"type": "response.reasoning_summary_part.added", **place, "part": {"type": "summary_text", "text": ""}},
            {"type": "response.reasoning_summary_text.delta", **place, "delta": text},
        ]

    item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": text} for text in "ab"],
            "encrypted_content": "zzz"}  # fmt: skip
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    whole = RESPONSES.read_reply(json.dumps({"output": [item], "status": "completed"}).encode())

    reply = folded(read_stream(RESPONSES, sse(CREATED, *part(0, "a"), *part(1, "b"), done, COMPLETED)))

    assert reply.choices == whole.choices
    assert reply.choices[0].blocks == (
        Reasoning("a\n\nb", encrypted="zzz", id="rs_1", summary=True, dialect="openai.responses"),
    )


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (sse({"type": "error", "code": "rate_limit_exceeded", "message": "no"}), ErrorKind.RATE_LIMITED),
        (sse({"type": "error", "error": {"code": "overloaded", "message": "no"}}), ErrorKind.OVERLOADED),
        (sse({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "no"}}}),
         ErrorKind.SERVER_ERROR),
        (b'{"error":{"message":"no","code":429}}', ErrorKind.RATE_LIMITED),
    ],
)  # fmt: skip
def test_an_error_inside_a_stream_is_the_end_of_it(stream: bytes, kind: ErrorKind) -> None:
    assert read_stream(RESPONSES, stream) == [Failed("no", kind)]


def test_a_stream_that_breaks_off_does_not_end() -> None:
    assert not any(isinstance(event, Ended) for event in read_stream(RESPONSES, sse(CREATED)))


def test_an_error_is_told_as_a_failed_response() -> None:
    events = events_in(written_stream(RESPONSES, [Started("resp_1", "m"), Failed("no", ErrorKind.RATE_LIMITED)], ASKED))

    failed = json.loads(data_of(events[-1]))
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "rate_limit_exceeded", "message": "no"}


def test_an_error_from_the_gateway_itself_is_an_event() -> None:
    event = RESPONSES.error_event(WireError(502, "no", "server_error", "upstream_error"))

    told = json.loads(data_of(event.strip()))
    assert told["type"] == "error"
    assert told["message"] == "no"
    assert told["code"] == "upstream_error"


# ── as it passes through ──


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_scanner_learns_and_changes_nothing(size: int) -> None:
    delta = {"type": "response.output_text.delta", "delta": 'Grüße "response.completed"', "sequence_number": 2}
    stream = sse(CREATED, delta, COMPLETED)
    scanner = RESPONSES.scanner(strip_usage=True)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]

    assert b"".join(scanner.feed(piece) for piece in pieces) == stream
    assert scanner.done
    assert scanner.finish() == b""
    assert scanner.first_token
    assert scanner.response_model == "m-1"
    assert scanner.usage_raw == USAGE
    assert scanner.error is None
    assert RESPONSES.usage(USAGE) == Usage(input=4, cache_read=4, cache_write_5m=2, output=2, reasoning=3)


def test_the_scanner_is_not_deceived_by_a_beginning() -> None:
    scanner = RESPONSES.scanner(strip_usage=False)

    scanner.feed(sse(CREATED))

    assert not scanner.done
    assert not scanner.first_token
    assert scanner.estimated_output(4) == 0


def test_the_scanner_estimates_what_broke_off() -> None:
    scanner = RESPONSES.scanner(strip_usage=False)

    scanner.feed(sse(CREATED, *[{"type": "response.output_text.delta", "delta": "a"}] * 5))

    assert scanner.estimated_output(4) == 5


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "x", "message": "no"},
        {"type": "response.failed", "response": {"model": "m-1", "error": {"code": "x", "message": "no"}}},
    ],
)
def test_the_scanner_sees_errors(event: dict[str, Any]) -> None:
    scanner = RESPONSES.scanner(strip_usage=False)

    scanner.feed(sse(event))

    assert scanner.error is not None
    assert scanner.error["message"] == "no"


@pytest.mark.parametrize("wrong", [{"input_tokens": -1}, {"output_tokens": "many"}])
def test_usage_that_is_no_count_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedUsageError):
        RESPONSES.usage(wrong)


def test_details_beyond_their_total_are_flagged() -> None:
    raw = {"input_tokens": 1, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 9}}

    assert RESPONSES.usage(raw) == Usage(input=1, output=2, consistent=False)
