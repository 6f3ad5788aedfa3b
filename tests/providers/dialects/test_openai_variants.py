"""What servers and clients of OpenAI's two chat formats say in ways of their own, or seldom."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    Citation,
    Conversation,
    File,
    Foreign,
    Image,
    Reasoning,
    Refusal,
    Source,
    Text,
    Thinking,
    ToolCall,
    Turn,
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
    Reply,
    Started,
    events_of,
)
from tests.providers.dialects.strategies import folded, plain, read_stream, written_stream
from tests.providers.dialects.test_openai_chat import chunk, written
from tests.providers.dialects.test_openai_responses import COMPLETED, CREATED, USAGE, sse
from tests.providers.dialects.test_openai_responses import read as read_responses

CHAT, RESPONSES = get_dialect("openai.chat"), get_dialect("openai.responses")
BOTH = pytest.mark.parametrize("dialect", [CHAT, RESPONSES], ids=lambda dialect: dialect.name)
ASKED = Conversation("m", (), stream=True, include_usage=True)
DONE = b"data: [DONE]\n\n"


def streamed(*deltas: dict[str, Any], finish: str = "stop") -> Reply:
    return folded(read_stream(CHAT, b"".join(chunk(delta) for delta in deltas) + chunk({}, finish) + DONE, 5))


# ── chat streams ──


def test_signed_thoughts_are_put_together_from_their_pieces() -> None:
    reply = streamed(
        {"reasoning": "I ", "reasoning_details": [{"type": "reasoning.text", "text": "I ", "index": 0}]},
        {"reasoning": "think", "reasoning_details": [{"type": "reasoning.text", "text": "think", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.text", "signature": "s1", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "zzz", "index": 1}]},
        {"content": "4"},
    )

    assert reply.choices[0].blocks == (
        Reasoning("I think", signature="s1", dialect="openai.chat"),
        Reasoning(encrypted="zzz", dialect="openai.chat"),
        Text("4"),
    )


def test_plain_thoughts_beside_sealed_ones_are_not_lost() -> None:
    reply = streamed({"reasoning_content": "Hm."}, {"content": [{"type": "text", "text": "4"}]})

    assert reply.choices[0].blocks == (Reasoning("Hm."), Text("4"))


def test_a_function_call_of_the_old_kind_comes_piece_by_piece() -> None:
    reply = streamed(
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
        finish="function_call",
    )

    (call,) = reply.choices[0].blocks
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments, reply.choices[0].finish) == ("f", "{}", "tool_calls")
    assert call.id


def test_calls_without_numbers_are_told_apart_by_their_ids() -> None:
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": "1"}},
        {"function": {"arguments": "2"}},
        {"id": "b", "function": {"name": "g", "arguments": "3"}},
    ]

    reply = streamed(*[{"tool_calls": [call]} for call in calls])

    assert reply.choices[0].blocks == (ToolCall("a", "f", "12"), ToolCall("b", "g", "3"))


def test_citations_behind_a_call_belong_to_the_text_before_it() -> None:
    cited = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}

    reply = streamed({"content": "x"}, {"tool_calls": [call]}, {"annotations": [cited]})

    assert reply.choices[0].blocks[0] == Text("x", (Citation("u", "t", start=0, end=1),))


def test_the_signature_of_a_call_survives_a_stream_and_comes_back() -> None:
    call = ToolCall("c1", "f", "{}", signature="sig")
    reply = Reply("r", "m", (Choice((call,), "tool_calls"),))

    stream = written_stream(CHAT, events_of(reply), ASKED)
    message = json.loads(CHAT.write_reply(reply, ASKED))["choices"][0]["message"]
    (turn,) = CHAT.read_request(json.dumps({"model": "m", "messages": [message]}).encode()).turns

    assert folded(read_stream(CHAT, stream)).choices[0].blocks == (call,)
    assert turn.blocks == (call,)
    assert "extra_content" not in json.dumps(written(Conversation("m", (turn,))))
    assert "extra_content" in json.dumps(written(Conversation("m", (turn,)), "extra_content"))


@BOTH
@pytest.mark.parametrize(
    "block",
    [Text("Hi"), Reasoning("Hm."), Refusal("No."), ToolCall("c1", "f", "{}"), ToolCall("c1", "f", "x", custom=True)],
)
def test_a_block_may_begin_with_all_it_says(dialect: Any, block: Block) -> None:
    events: list[Event] = [
        Started("r", "m"), BlockStarted(block, 0), BlockEnded(0), ChoiceEnded("stop"), Ended()
    ]  # fmt: skip

    assert plain(folded(read_stream(dialect, written_stream(dialect, events, ASKED)))).choices[0].blocks == (block,)


@BOTH
def test_blocks_that_overlap_are_told_apart(dialect: Any) -> None:
    events: list[Event] = [
        Started("r", "m"),
        BlockStarted(Text(""), 0),
        BlockStarted(ToolCall("c1", "f"), 1),
        BlockStarted(ToolCall("c2", "g"), 2),
        Delta(2, "2"),
        Delta(0, "Hi"),
        Delta(1, "1"),
        BlockEnded(1),
        BlockEnded(2),
        BlockEnded(0),
        ChoiceEnded("tool_calls"),
        Ended(),
    ]

    reply = folded(read_stream(dialect, written_stream(dialect, events, ASKED)))

    said = set(reply.choices[0].blocks)
    assert said == {Text("Hi"), ToolCall("c1", "f", "1"), ToolCall("c2", "g", "2")}


def test_a_message_ends_with_the_last_of_its_parts() -> None:
    events: list[Event] = [
        Started("r", "m"),
        BlockStarted(Text(""), 0),
        BlockStarted(Text(""), 1),
        BlockStarted(ToolCall("c1", "f"), 2),
        BlockEnded(0),
        Delta(1, "late"),
        BlockEnded(1),
        BlockEnded(2),
        ChoiceEnded("tool_calls"),
        Ended(),
    ]

    stream = written_stream(RESPONSES, events, ASKED)

    told = [
        json.loads(line.removeprefix("data: ")) for line in stream.decode().split("\n") if line.startswith("data: ")
    ]
    (done,) = [each for each in told if each["type"] == "response.output_item.done" and each["output_index"] == 0]
    assert [part["text"] for part in done["item"]["content"]] == ["", "late"]


def test_pieces_of_a_thought_in_one_answer_are_put_together() -> None:
    details = [{"type": "reasoning.text", "text": text, "index": 0} for text in ("a", "b")]
    message = {"role": "assistant", "content": "4", "reasoning_details": details}

    (turn,) = CHAT.read_request(json.dumps({"model": "m", "messages": [message]}).encode()).turns

    assert turn.blocks == (Reasoning("ab", dialect="openai.chat"), Text("4"))


# ── what only Responses have ──


def test_files_and_images_of_items_are_read_and_written() -> None:
    parts = [
        {"type": "input_file", "file_url": "https://example.org/a.pdf"},
        {"type": "input_file", "file_id": "file_1"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAEC"},
        {"type": "input_image", "detail": "low", "file_id": "file_2"},
        {"type": "input_audio", "input_audio": {"data": "AAEC", "format": "mp3"}},
        {"type": "brand_new", "x": 1},
    ]
    conversation = read_responses(input=[{"type": "message", "role": "user", "content": parts}])

    assert conversation.turns[0].blocks == (
        File(Source(url="https://example.org/a.pdf")),
        File(Source(file_id="file_1")),
        File(Source(data="AAEC", media_type="application/pdf"), "a.pdf"),
        Image(Source(file_id="file_2"), "low"),
        Audio(Source(data="AAEC", media_type="audio/mpeg")),
        Foreign("openai.responses", {"type": "brand_new", "x": 1}),
    )
    again = json.loads(RESPONSES.write_request(conversation, Limits("m")).body)
    assert again["input"][0]["content"] == parts


def test_items_of_the_providers_own_tools_stay_where_they_are() -> None:
    items = [
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot"}},
    ]
    conversation = read_responses(input=items)

    assert [turn.role for turn in conversation.turns] == ["assistant", "user"]
    assert json.loads(RESPONSES.write_request(conversation, Limits("m")).body)["input"] == items


def test_what_a_model_drew_and_cited_is_read_and_written() -> None:
    file_citation = {"type": "file_citation", "file_id": "f", "filename": "a", "index": 1}
    answer = {
        "id": "resp_1", "model": "m", "status": "completed", "created_at": 5,
        "output": [
            {"type": "image_generation_call", "id": "ig_1", "result": "AAEC", "output_format": "webp"},
            {"type": "message", "content": [{"type": "output_text", "text": "x", "annotations": [file_citation]}]},
            {"type": "web_search_call", "id": "ws_1"},
        ],
    }  # fmt: skip

    reply = RESPONSES.read_reply(json.dumps(answer).encode())
    again = json.loads(RESPONSES.write_reply(reply, ASKED))["output"]
    events = read_stream(RESPONSES, written_stream(RESPONSES, events_of(reply), ASKED))

    assert reply.choices[0].blocks == (
        Image(Source(data="AAEC", media_type="image/webp")),
        Text("x", (Citation(raw=file_citation, dialect="openai.responses"),)),
        Foreign("openai.responses", {"type": "web_search_call", "id": "ws_1"}),
    )
    assert again[0]["result"] == "AAEC"
    assert again[1]["content"][0]["annotations"] == [file_citation]
    assert again[2] == answer["output"][2]  # type: ignore[index]
    assert folded(events).choices[0].blocks[1:] == reply.choices[0].blocks[1:]


def test_probabilities_of_tokens_travel_both_ways() -> None:
    token = {"token": "x", "logprob": -0.1, "bytes": [120], "top_logprobs": []}
    reply = Reply("resp_1", "m", (Choice((Text("x"),), logprobs={"content": [token]}),), created=5)

    for dialect in (CHAT, RESPONSES):
        whole = dialect.read_reply(dialect.write_reply(reply, ASKED))
        pieces = folded(read_stream(dialect, written_stream(dialect, events_of(reply), ASKED)))
        assert whole.choices[0].logprobs == pieces.choices[0].logprobs == {"content": [token]}


def test_a_whole_answer_in_place_of_a_stream_becomes_one() -> None:
    completed: Any = COMPLETED["response"]
    whole = {
        **completed,
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "x"}]}],
    }
    body = json.dumps(whole).encode()
    reader, scanner = RESPONSES.stream_reader(), RESPONSES.scanner(strip_usage=False)

    events = [*reader.feed(body), *reader.finish()]

    assert folded(events).choices == (Choice((Text("x"),)),)
    assert reader.usage_raw == USAGE
    assert scanner.feed(body) + scanner.finish() == body
    assert (scanner.usage_raw, scanner.response_model) == (USAGE, "m-1")


def test_thoughts_told_in_full_are_read_too() -> None:
    delta = {"type": "response.reasoning_text.delta", "output_index": 0, "item_id": "rs_1", "delta": "deep"}

    reply = folded(read_stream(RESPONSES, sse(CREATED, delta, COMPLETED)))

    assert reply.choices[0].blocks == (Reasoning("deep", id="rs_1", dialect="openai.responses"),)


def test_an_effort_is_a_number_of_tokens_and_back() -> None:
    assert read_responses(reasoning={"effort": "low"}).thinking == Thinking("low")
    budget = Conversation("m", (Turn("user", (Text("x"),)),), thinking=Thinking(budget_tokens=8192))

    assert json.loads(RESPONSES.write_request(budget, Limits("m")).body)["reasoning"] == {"effort": "medium"}
