"""Gemini's streams: read however they are cut, written as Gemini would, and scanned on their way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.dialects.conversation import (
    Citation,
    Reasoning,
    Text,
    ToolCall,
)
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    Choice,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Started,
)
from providers.adapters.types import ErrorKind, Usage
from tests.providers.dialects.gemini_scene import ASKED, GEMINI, chunk
from tests.providers.dialects.strategies import (
    folded,
    read_stream,
    written_stream,
)

# ── streams ──


def event(content: dict[str, Any], end: str = "\r\n\r\n") -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}{end}".encode()


LAST_USAGE = {"promptTokenCount": 8, "candidatesTokenCount": 12, "thoughtsTokenCount": 3, "totalTokenCount": 23}
STREAM = (
    event(chunk({"text": "Hm.", "thought": True}))
    + event(chunk({"text": "Grüße"}))
    + b": keep-alive\n\n"
    + event(chunk({"text": " 世界"}), "\n\n")
    + event(chunk({"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"}))
    + event(chunk({"text": ""}, finish="STOP", usage=LAST_USAGE))
)


@pytest.mark.parametrize("size", [0, 1, 7, 64])
def test_a_stream_is_read_however_it_is_cut(size: int) -> None:
    events = read_stream(GEMINI, STREAM, size)

    assert events[0] == Started("r1", "gemini-2.5-flash", usage=Usage(input=8))
    reply = folded(events)
    (choice,) = reply.choices
    thought, text, call = choice.blocks[:3]
    assert thought == Reasoning("Hm.", summary=True, dialect=GEMINI.name)
    assert text == Text("Grüße 世界")
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments, call.signature) == ("f", '{"a":1}', "c2ln")
    assert choice.finish == "tool_calls"
    assert reply.usage == Usage(input=8, output=12, reasoning=3)
    assert isinstance(events[-1], Ended)


def test_each_piece_is_an_event_as_soon_as_it_is_there() -> None:
    reader = GEMINI.stream_reader()

    events = [*reader.feed(event(chunk({"text": "Hi"})))]

    assert events[1:] == [BlockStarted(Text(""), 0), Delta(0, "Hi")]


def test_a_call_begins_with_its_signature() -> None:
    part = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "c2ln"}
    started = [each for each in read_stream(GEMINI, event(chunk(part))) if isinstance(each, BlockStarted)]

    assert [getattr(each.block, "signature", "") for each in started] == ["c2ln"]


def test_a_signed_text_ends_its_block() -> None:
    stream = event(chunk({"text": "a", "thoughtSignature": "eA=="})) + event(
        chunk({"text": "b", "thoughtSignature": "eQ=="}, finish="STOP")
    )

    assert folded(read_stream(GEMINI, stream)).choices[0].blocks == (
        Text("a", signature="eA=="),
        Text("b", signature="eQ=="),
    )


def test_a_reason_on_every_event_ends_nothing_early() -> None:
    stream = event(chunk({"text": "a"}, finish="STOP")) + event(chunk({"text": "b"}, finish="STOP", usage=LAST_USAGE))

    reply = folded(read_stream(GEMINI, stream))

    assert reply.choices == (Choice((Text("ab"),)),)
    assert reply.usage == Usage(input=8, output=12, reasoning=3)


def test_citations_at_the_end_of_a_stream_point_into_the_whole_text() -> None:
    last = chunk({"text": "世界"}, finish="STOP")
    last["candidates"][0]["groundingMetadata"] = {
        "groundingChunks": [{"web": {"uri": "https://example.org/", "title": "T"}}],
        "groundingSupports": [
            {"segment": {"startIndex": 3, "endIndex": 9, "text": "世界"}, "groundingChunkIndices": [0]}
        ],
    }

    early = chunk({"text": "ü "})
    early["candidates"][0]["groundingMetadata"] = last["candidates"][0]["groundingMetadata"]

    reply = folded(read_stream(GEMINI, event(early) + event(last)))

    assert reply.choices[0].blocks == (
        Text("ü 世界", (Citation("https://example.org/", "T", start=2, end=4, dialect=GEMINI.name),)),
    )


def test_a_stream_that_was_cut_off_does_not_end() -> None:
    events = read_stream(GEMINI, event(chunk({"text": "Hal"})))

    assert not any(isinstance(each, (Ended, ChoiceEnded)) for each in events)


def test_a_blocked_question_ends_its_stream() -> None:
    events = read_stream(GEMINI, event({"promptFeedback": {"blockReason": "SAFETY"}, "responseId": "r"}))

    assert events == [Started("r", ""), ChoiceEnded("content_filter"), Ended(None)]


def test_an_error_inside_a_stream() -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}

    events = read_stream(
        GEMINI, event(chunk({"text": "a"})) + event(error) + event(chunk({"text": "b"}, finish="STOP"))
    )

    assert events[-1] == Failed("The model is overloaded.", ErrorKind.OVERLOADED)


def test_a_stream_that_came_as_a_list_is_read() -> None:
    body = json.dumps([chunk({"text": "a"}), chunk({"text": "b"}, finish="STOP")]).encode()

    assert folded(read_stream(GEMINI, body, 5)).choices == (Choice((Text("ab"),)),)


def test_a_stream_is_written_as_gemini_would() -> None:
    events: list[Event] = [
        Started("r1", "m", usage=Usage(input=3)),
        BlockStarted(Text(""), 0),
        Delta(0, "Hi"),
        BlockEnded(0),
        BlockStarted(ToolCall("c1", "f"), 1),
        Delta(1, '{"a"'),
        Delta(1, ":1}"),
        BlockEnded(1),
        ChoiceEnded("tool_calls"),
        Ended(Usage(input=3, output=5)),
    ]

    stream = written_stream(GEMINI, events, ASKED)

    chunks = [json.loads(line.removeprefix(b"data: ")) for line in stream.split(b"\r\n\r\n") if line]
    assert [each["candidates"][0]["content"]["parts"] for each in chunks] == [
        [{"text": "Hi"}],
        [{"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}}],
        [{"text": ""}],
    ]
    assert [each["candidates"][0].get("finishReason") for each in chunks] == [None, None, "STOP"]
    assert chunks[0]["usageMetadata"]["promptTokenCount"] == 3
    assert chunks[-1]["usageMetadata"]["totalTokenCount"] == 8
    assert {each["responseId"] for each in chunks} == {"r1"}


def test_an_error_is_written_in_googles_words() -> None:
    told = json.loads(GEMINI.stream_writer(ASKED).write(Failed("Too much.", ErrorKind.RATE_LIMITED))[6:])

    assert told["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert told["error"]["code"] == 429


# ── the scanner ──


@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
def test_a_client_gets_the_bytes_of_the_provider(size: int) -> None:
    scanner = GEMINI.scanner(strip_usage=False)

    before = b"".join(scanner.feed(STREAM[at : at + size]) for at in range(0, len(STREAM), size))
    learned = scanner.usage_raw
    rest = scanner.finish()

    assert before + rest == STREAM
    # What looks like the end waits for the ledger, which by then knows what it costs.
    assert rest.startswith(b"data: ")
    assert b"finishReason" in rest
    assert learned == LAST_USAGE
    assert scanner.usage_raw == LAST_USAGE
    assert scanner.response_model == "gemini-2.5-flash"
    assert scanner.first_token
    assert scanner.error is None


def test_nothing_else_is_held_back() -> None:
    scanner = GEMINI.scanner(strip_usage=False)
    first, last = event(chunk({"text": "a"})), event(chunk({"text": "b"}, finish="STOP"))

    assert scanner.feed(first) == first
    assert scanner.feed(last) == b""
    assert scanner.feed(b": ping\n\n") == b""
    assert scanner.feed(first) == last + b": ping\n\n" + first


def test_an_error_in_a_stream_is_noticed() -> None:
    scanner = GEMINI.scanner(strip_usage=False)

    scanner.feed(event({"error": {"code": 500, "message": "no", "status": "INTERNAL"}}))

    assert scanner.error is not None
    assert scanner.error["message"] == "no"


def test_a_stream_without_usage_is_estimated() -> None:
    scanner = GEMINI.scanner(strip_usage=False)

    scanner.feed(event({"candidates": [{"content": {"parts": [{"text": "x" * 4000}]}}]}))

    assert 800 <= scanner.estimated_output(4.0) <= 1100
