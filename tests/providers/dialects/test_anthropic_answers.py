"""Answers, streams and errors of Anthropic's Messages on true bytes, however the network cuts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from providers.adapters.dialects.base import WireError
from providers.adapters.dialects.conversation import (
    Audio,
    Citation,
    Conversation,
    Foreign,
    Reasoning,
    Refusal,
    Source,
    Text,
    ToolCall,
)
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    Choice,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Reply,
    Started,
    events_of,
)
from providers.adapters.errors import MalformedAnswerError, MalformedUsageError
from providers.adapters.types import ErrorKind, Usage
from tests.providers.dialects.strategies import folded, read_stream, written_stream

MESSAGES = get_dialect("anthropic.messages")
FOLDER = Path(__file__).parents[1] / "fixtures" / "anthropic"
ASKED = Conversation("m", (), stream=True)
WHOLE, STREAM = (FOLDER / "chat.json").read_bytes(), (FOLDER / "chat_stream.sse").read_bytes()
SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"
USAGE = Usage(input=14, cache_read=1920, cache_write_5m=100, cache_write_1h=200, output=82, reasoning=40)
CITATION: Any = {
    "type": "web_search_result_location",
    "cited_text": "Paris",
    "url": "https://example.org/",
    "title": "Paris",
    "encrypted_index": "ZW5j",
}


def event(kind: str, **content: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **content}).encode())


def stream_of(*middle: bytes, stop_reason: str = "end_turn", **ending: Any) -> bytes:
    message = {"id": "msg_1", "model": "m", "content": [], "usage": {"input_tokens": 5, "output_tokens": 1}}
    delta = {"stop_reason": stop_reason, **ending}
    return b"".join(
        [
            event("message_start", message=message),
            *middle,
            event("message_delta", delta=delta, usage={"output_tokens": 9, "input_tokens": None}),
            event("message_stop"),
        ]
    )


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    return b"".join(
        [
            event("content_block_start", index=index, content_block=content),
            *[event("content_block_delta", index=index, delta=delta) for delta in deltas],
            event("content_block_stop", index=index),
        ]
    )


# ── whole answers ──


def test_a_whole_answer_is_read() -> None:
    reply = MESSAGES.read_reply(WHOLE)

    assert (reply.id, reply.model, reply.usage) == ("msg_01XFDUDYJgAACzvnptvVoYEL", "claude-sonnet-4-5-20250929", USAGE)
    assert reply.choices == (
        Choice(
            (
                Reasoning("Paris, then. In French or in German?", SIGNATURE, dialect=MESSAGES.name),
                Text("Grüße aus Paris 🎉"),
                ToolCall("toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather", '{"city":"Paris","days":2}'),
            ),
            "tool_calls",
        ),
    )


def test_a_whole_answer_is_written_as_it_came() -> None:
    again = json.loads(MESSAGES.write_reply(MESSAGES.read_reply(WHOLE), ASKED))

    came = json.loads(WHOLE)
    came["usage"].pop("inference_geo")
    assert came["content"][1].pop("citations") is None
    assert again == came


def test_blocks_that_nobody_else_knows_stay_what_they_are() -> None:
    use = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Paris"}}
    cited = {"type": "text", "text": "Paris", "citations": [CITATION]}
    body = json.dumps({"id": "msg_1", "model": "m", "content": [use, cited], "stop_reason": "pause_turn"}).encode()

    [choice] = MESSAGES.read_reply(body).choices

    citation = Citation("https://example.org/", "Paris", "Paris", raw=CITATION, dialect=MESSAGES.name)
    assert choice == Choice((Foreign(MESSAGES.name, use), Text("Paris", (citation,))), "pause")
    assert json.loads(MESSAGES.write_reply(Reply("", "m", (choice,)), ASKED))["content"] == [use, cited]


def test_a_refusal_says_why_in_its_own_place() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "I will not."}
    body = json.dumps({"id": "m", "content": [], "stop_reason": "refusal", "stop_details": details}).encode()

    [choice] = MESSAGES.read_reply(body).choices
    again = json.loads(MESSAGES.write_reply(Reply("", "m", (choice,)), ASKED))

    assert choice == Choice((Refusal("I will not."),), "refusal")
    assert (again["content"], again["stop_reason"], again["stop_details"]["explanation"]) == (
        [],
        "refusal",
        "I will not.",
    )


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"content": "Hi"}', b'{"content": [{"type": "text"}]}']
)
def test_what_is_no_message_is_no_answer(body: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        MESSAGES.read_reply(body)


# ── usage ──


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"input_tokens": 3, "output_tokens": 4}, Usage(input=3, output=4)),
        ({"input_tokens": 3, "cache_creation_input_tokens": 7, "output_tokens": 0}, Usage(input=3, cache_write_5m=7)),
        (
            {"input_tokens": 3, "cache_creation_input_tokens": 7, "cache_creation": {"ephemeral_1h_input_tokens": 5}},
            Usage(input=3, cache_write_5m=7, consistent=False),
        ),
        (
            {
                "cache_creation_input_tokens": 7,
                "cache_creation": {"ephemeral_1h_input_tokens": 7},
                "output_tokens": 4,
                "output_tokens_details": {"thinking_tokens": 5},
            },
            Usage(cache_write_1h=7, output=4, consistent=False),
        ),
        (
            {
                "input_tokens": 3,
                "output_tokens": 4,
                "iterations": [
                    {"type": "compaction", "input_tokens": 100, "output_tokens": 10},
                    {"type": "message", "input_tokens": 3, "output_tokens": 4},
                ],
            },
            Usage(input=103, output=14),
        ),
    ],
)
def test_usage_in_disjoint_buckets(raw: dict[str, Any], usage: Usage) -> None:
    assert MESSAGES.usage(raw) == usage


def test_usage_that_is_no_count_is_refused() -> None:
    with pytest.raises(MalformedUsageError):
        MESSAGES.usage({"input_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": -1}})


# ── streams, read ──


@pytest.mark.parametrize("size", [0, 1, 2, 7, 61])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_brings_the_whole_answer_however_it_is_cut(size: int, line_end: bytes) -> None:
    events = read_stream(MESSAGES, STREAM.replace(b"\n", line_end), size)

    reply, whole = folded(events), MESSAGES.read_reply(WHOLE)
    assert (reply.choices, reply.usage, reply.model) == (whole.choices, whole.usage, whole.model)
    assert isinstance(events[-1], Ended)


def test_comments_and_unknown_events_and_fields_do_no_harm() -> None:
    odd = b": keep-alive\n\n" + event("brand_new", brand={"new": 1})
    text = block(0, {"type": "text", "text": "", "brand": "new"}, {"type": "text_delta", "text": "Hi"}, {"type": "new"})

    [choice] = folded(read_stream(MESSAGES, stream_of(odd, text).replace(b"data: ", b"data:"), 3)).choices

    assert choice == Choice((Text("Hi"),), "stop")


def test_a_stream_that_was_cut_off_has_no_end() -> None:
    events = read_stream(MESSAGES, STREAM[: STREAM.index(b"event: message_delta")])

    assert not any(isinstance(each, (Ended, ChoiceEnded)) for each in events)


def test_blocks_of_tools_that_the_provider_runs_come_whole() -> None:
    use = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ('{"query":', '"Paris"}')]
    result = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    cited = block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Paris"}, {"type": "citations_delta", "citation": CITATION})  # fmt: skip

    events = read_stream(MESSAGES, stream_of(block(0, use, *pieces), block(1, result), cited))

    citation = Citation("https://example.org/", "Paris", "Paris", raw=CITATION, dialect=MESSAGES.name)
    assert folded(events).choices[0].blocks == (
        Foreign(MESSAGES.name, {**use, "input": {"query": "Paris"}}),
        Foreign(MESSAGES.name, result),
        Text("Paris", (citation,)),
    )


@pytest.mark.parametrize(
    ("given", "pieces", "arguments"), [({}, [], "{}"), ({}, ["", '{"a":', "1}"], '{"a":1}'), ({"a": 1}, [], '{"a":1}')]
)
def test_arguments_are_json_however_they_come(given: Any, pieces: list[str], arguments: str) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": given}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]

    [choice] = folded(read_stream(MESSAGES, stream_of(block(0, call, *deltas), stop_reason="tool_use"))).choices

    assert choice == Choice((ToolCall("toolu_1", "f", arguments),), "tool_calls")


def test_a_stream_says_which_stop_sequence_and_why_it_was_refused() -> None:
    stopped = folded(read_stream(MESSAGES, stream_of(stop_reason="stop_sequence", stop_sequence="END")))
    details = {"type": "refusal", "explanation": "No."}
    refused = folded(read_stream(MESSAGES, stream_of(stop_reason="refusal", stop_details=details)))

    assert stopped.choices == (Choice((), "stop_sequence", "END"),)
    assert refused.choices == (Choice((Refusal("No."),), "refusal"),)


@pytest.mark.parametrize("is_json", [True, False])
def test_an_error_in_a_stream(is_json: bool) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    body = json.dumps(error).encode() if is_json else STREAM[: STREAM.index(b"event: content_block_stop")] + event(kind="error", error=error["error"])  # fmt: skip

    *_, last = read_stream(MESSAGES, body, 5)

    assert last == Failed("Overloaded", ErrorKind.OVERLOADED)


def test_a_provider_that_answers_whole_is_understood() -> None:
    reader = MESSAGES.stream_reader()

    events = [*reader.feed(WHOLE[:50]), *reader.feed(WHOLE[50:]), *reader.finish()]

    assert folded(events).choices == MESSAGES.read_reply(WHOLE).choices
    assert reader.usage_raw == json.loads(WHOLE)["usage"]


def test_an_event_that_is_no_json_is_an_error() -> None:
    with pytest.raises(MalformedAnswerError):
        read_stream(MESSAGES, b"data: {oops\n\n")


# ── streams, passing through ──


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_a_stream_passes_through_untouched_and_is_understood(size: int) -> None:
    scanner = MESSAGES.scanner(strip_usage=True)
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]

    forwarded = [scanner.feed(piece) for piece in pieces]

    assert forwarded == pieces
    assert scanner.done, "before the last bytes go out"
    assert scanner.usage_raw is not None
    assert MESSAGES.usage(scanner.usage_raw) == USAGE
    assert scanner.first_token
    assert scanner.finish() == b""


def test_usage_of_a_stream_that_breaks_off_is_not_that_of_its_start() -> None:
    """It would bill hardly any output."""
    scanner = MESSAGES.scanner(strip_usage=False)

    scanner.feed(STREAM[: STREAM.index(b"event: message_delta")])
    scanner.finish()

    assert (scanner.usage_raw, scanner.done) == (None, False)
    assert 8 <= scanner.estimated_output(4.0) <= 600


def test_text_that_looks_like_the_end_is_text() -> None:
    text = '"message_stop" "error" {"type":"message_delta","usage":{"output_tokens":1}}'
    scanner = MESSAGES.scanner(strip_usage=False)

    scanner.feed(event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}))

    assert (scanner.done, scanner.error, scanner.usage_raw) == (False, None, None)


def test_the_scanner_sees_an_error() -> None:
    scanner = MESSAGES.scanner(strip_usage=False)

    scanner.feed(event("error", error={"type": "overloaded_error", "message": "Overloaded"}))

    assert scanner.error == {"type": "overloaded_error", "message": "Overloaded"}


# ── streams, written ──


def kinds(stream: bytes) -> list[tuple[str, int | None]]:
    events = [json.loads(part.partition(b"data: ")[2]) for part in stream.strip().split(b"\n\n")]
    return [(each["type"].removeprefix("content_block_"), each.get("index")) for each in events]


def test_one_block_ends_before_the_next_begins() -> None:
    """Deltas of calls that overlap are held back; those of the first go out at once."""
    one, two = ToolCall("a", "f"), ToolCall("b", "g")
    events: list[Event] = [
        Started("msg_1", "m"),
        BlockStarted(one, 0),
        BlockStarted(two, 1),
        Delta(1, '{"b":'),
        Delta(0, '{"a":1}'),
        Delta(1, "2}"),
        BlockEnded(1),
        BlockEnded(0),
        ChoiceEnded("tool_calls"),
        Ended(Usage(output=1)),
    ]
    writer = MESSAGES.stream_writer(ASKED)

    pieces = [writer.write(each) for each in events]

    stream = b"".join(pieces)
    assert pieces[3] == b""
    assert b'{\\"a\\":1}' in pieces[4]
    assert kinds(stream) == [
        ("message_start", None), ("start", 0), ("delta", 0), ("stop", 0), ("start", 1), ("delta", 1), ("delta", 1),
        ("stop", 1), ("message_delta", None), ("message_stop", None),
    ]  # fmt: skip
    assert folded(read_stream(MESSAGES, stream)).choices[0].blocks == (
        ToolCall("a", "f", '{"a":1}'),
        ToolCall("b", "g", '{"b":2}'),
    )


def test_blocks_that_never_ended_are_ended() -> None:
    events: list[Event] = [Started("msg_1", "m"), BlockStarted(Text(""), 0), Delta(0, "Hi"), BlockStarted(Refusal(""), 1), Delta(1, "No."), Ended()]  # fmt: skip

    [choice] = folded(read_stream(MESSAGES, written_stream(MESSAGES, events, ASKED))).choices

    assert choice == Choice((Text("Hi"), Refusal("No.")), "refusal")


def test_empty_texts_and_what_cannot_be_said_are_not_written() -> None:
    reply = Reply(
        "msg_1",
        "m",
        (
            Choice(
                (
                    Text(""),
                    Foreign("openai.responses", {}),
                    Audio(Source(data="AAEC"), "Spoken"),
                    Reasoning("Hm.", encrypted="enc", dialect="openai.responses"),
                )
            ),
        ),
    )

    stream = written_stream(MESSAGES, events_of(reply), ASKED)
    whole = json.loads(MESSAGES.write_reply(reply, ASKED))["content"]

    [choice] = folded(read_stream(MESSAGES, stream)).choices
    assert [block["type"] for block in whole] == ["text", "thinking"]
    assert choice.blocks[0] == Text("Spoken")
    assert isinstance(choice.blocks[1], Reasoning)
    assert choice.blocks[1].signature == whole[1]["signature"]


def test_an_error_is_told_in_the_stream() -> None:
    writer = MESSAGES.stream_writer(ASKED)

    told = json.loads(writer.write(Failed("Slow down", ErrorKind.RATE_LIMITED)).partition(b"data: ")[2])

    assert (told["type"], told["error"]["type"], told["error"]["message"]) == ("error", "rate_limit_error", "Slow down")


# ── errors ──


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (402, "billing_error"),
        (403, "permission_error"), (404, "not_found_error"), (413, "request_too_large"), (429, "rate_limit_error"),
        (415, "invalid_request_error"), (500, "api_error"), (502, "api_error"), (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)  # fmt: skip
def test_the_gateways_errors_have_anthropics_types(status: int, kind: str) -> None:
    error = WireError(status, "No", type="whatever", code="the_code", param="model")

    body = json.loads(MESSAGES.error_body(error))

    assert body == {
        "type": "error",
        "error": {"type": kind, "message": "No", "code": "the_code", "param": "model"},
    }
    assert MESSAGES.error_event(error).startswith(b"\n\nevent: error\ndata: {")


def test_a_thread_is_refused_in_words_that_sdks_look_for_to_go_on_without() -> None:
    error = WireError(400, "No", type="invalid_request_error", code="invalid_value", param="thread")

    details = json.loads(MESSAGES.error_body(error))["error"]["details"]

    assert details == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


def test_text_without_citations_has_no_such_field() -> None:
    # Vercel's AI SDK refuses a null there.
    reply = Reply("msg_1", "m", (Choice((Text("Hi"),), "stop"),))

    assert json.loads(MESSAGES.write_reply(reply, ASKED))["content"] == [{"type": "text", "text": "Hi"}]


# ── heads ──


def test_the_head_knows_the_end_user_and_the_cap() -> None:
    body = json.dumps(
        {"model": "m", "max_tokens": 7, "metadata": {"user_id": "u"}, "thinking": {"budget_tokens": 5}}
    ).encode()

    head = MESSAGES.read_head(body)

    assert (head.user, head.output_cap(MESSAGES.output_cap_fields), head.thinking_budget) == ("u", 7, 5)


@pytest.mark.parametrize(("asked", "capped"), [(100, 10), (5, 5), (None, 10), (0, 0)])
def test_a_cap_is_lowered_and_never_wakes_a_request_that_wants_no_answer(asked: int | None, capped: int) -> None:
    body = json.dumps({"model": "m", "max_tokens": asked}).encode()

    assert json.loads(MESSAGES.with_output_cap(body, MESSAGES.output_cap_fields, 10))["max_tokens"] == capped
