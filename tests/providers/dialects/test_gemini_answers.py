"""Gemini's answers, the usage that they report, and errors in Google's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.dialects.base import WireError
from providers.adapters.dialects.conversation import (
    Citation,
    Conversation,
    Image,
    Reasoning,
    Source,
    Text,
    ToolCall,
)
from providers.adapters.dialects.reply import (
    Choice,
    Reply,
    events_of,
)
from providers.adapters.errors import MalformedAnswerError, MalformedUsageError
from providers.adapters.types import Usage
from tests.providers.dialects.gemini_scene import ASKED, GEMINI
from tests.providers.dialects.strategies import (
    folded,
    read_stream,
    written_stream,
)

# ── answers ──

ANSWER: dict[str, Any] = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "Thinking.", "thought": True},
                    {"text": "Grüße an 世界."},
                    {"functionCall": {"name": "look", "args": {"at": "it"}}, "thoughtSignature": "c2ln"},
                    {"functionCall": {"name": "look", "args": {}}},
                ],
            },
            "finishReason": "STOP",
            "groundingMetadata": {
                "groundingChunks": [{"web": {"uri": "https://example.org/", "title": "Example"}}],
                "groundingSupports": [
                    {
                        "segment": {"partIndex": 1, "startIndex": 11, "endIndex": 17, "text": "世界"},
                        "groundingChunkIndices": [0],
                    }
                ],
            },
            "logprobsResult": {
                "chosenCandidates": [{"token": "G", "logProbability": -0.5}],
                "topCandidates": [{"candidates": [{"token": "G", "logProbability": -0.5}, {"token": "H"}]}],
            },
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "toolUsePromptTokenCount": 5,
        "totalTokenCount": 155,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 70},
            {"modality": "IMAGE", "tokenCount": 20},
            {"modality": "AUDIO", "tokenCount": 10},
        ],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 36}, {"modality": "AUDIO", "tokenCount": 4}],
        "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 20}],
    },
    "modelVersion": "gemini-2.5-flash",
    "responseId": "resp1",
}
USAGE = Usage(input=39, cache_read=40, audio_input=6, image_input=20, output=20, reasoning=30)


def test_everything_that_an_answer_says_is_understood() -> None:
    reply = GEMINI.read_reply(json.dumps(ANSWER).encode())

    (choice,) = reply.choices
    thought, text, first, second = choice.blocks
    assert thought == Reasoning("Thinking.", summary=True, dialect=GEMINI.name)
    assert text == Text(
        "Grüße an 世界.", (Citation("https://example.org/", "Example", start=9, end=11, dialect=GEMINI.name),)
    )
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert (first.name, first.arguments, first.signature) == ("look", '{"at":"it"}', "c2ln")
    assert first.id
    assert first.id != second.id
    assert choice.finish == "tool_calls"
    assert choice.logprobs == {
        "content": [
            {
                "token": "G",
                "logprob": -0.5,
                "bytes": [71],
                "top_logprobs": [
                    {"token": "G", "logprob": -0.5, "bytes": [71]},
                    {"token": "H", "logprob": 0.0, "bytes": [72]},
                ],
            }
        ]
    }
    assert (reply.id, reply.model, reply.usage) == ("resp1", "gemini-2.5-flash", USAGE)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        ("SOMETHING_NEW", "other"),
    ],
)
def test_reasons_to_end(reason: str, finish: str) -> None:
    answer = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": reason}]}

    assert GEMINI.read_reply(json.dumps(answer).encode()).choices[0].finish == finish


def test_a_question_that_was_blocked_is_an_empty_answer_of_the_filter() -> None:
    answer = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}

    assert GEMINI.read_reply(json.dumps(answer).encode()).choices == (Choice((), "content_filter"),)


def test_arguments_that_are_no_object_are_a_malformed_call() -> None:
    reply = Reply("r", "m", (Choice((ToolCall("a", "f", '{"x":'),), "tool_calls"),))

    for answer in (
        json.loads(GEMINI.write_reply(reply, ASKED)),
        json.loads(written_stream(GEMINI, events_of(reply), ASKED).split(b"\r\n\r\n")[-2][6:]),
    ):
        (candidate,) = answer["candidates"]
        assert candidate["finishReason"] == "MALFORMED_FUNCTION_CALL"
        assert '{"x":' in candidate["finishMessage"]


def test_thoughts_are_for_those_who_asked() -> None:
    reply = Reply("r", "m", (Choice((Reasoning("Hm."), Text("Ho"))),))

    hidden = json.loads(GEMINI.write_reply(reply, Conversation("m", ())))
    shown = json.loads(GEMINI.write_reply(reply, ASKED))

    assert hidden["candidates"][0]["content"]["parts"] == [{"text": "Ho"}]
    assert shown["candidates"][0]["content"]["parts"][0] == {"text": "Hm.", "thought": True}


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"candidates": 7}', b'{"candidates":[{"content":{"parts":7}}]}'])
def test_an_answer_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        GEMINI.read_reply(body)


# ── usage ──


def test_usage_of_a_whole_answer() -> None:
    raw, model = GEMINI.answer_usage(json.dumps(ANSWER).encode())

    assert raw is not None
    assert GEMINI.usage(raw) == USAGE
    assert model == "gemini-2.5-flash"
    assert GEMINI.answer_usage(b"no") == (None, "")


def test_what_was_cached_is_text_first_where_nobody_says() -> None:
    raw = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 95,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}, {"modality": "AUDIO", "tokenCount": 10}],
    }

    assert GEMINI.usage(raw) == Usage(cache_read=95, audio_input=5)


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (
            {"promptTokenCount": 10, "cachedContentTokenCount": 99, "candidatesTokenCount": 5},
            Usage(input=10, output=5, consistent=False),
        ),
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 99},
            Usage(input=10, output=5, consistent=False),
        ),
    ],
)
def test_figures_that_contradict_each_other_are_flagged(raw: dict[str, Any], usage: Usage) -> None:
    assert GEMINI.usage(raw) == usage


@pytest.mark.parametrize("wrong", [{"promptTokenCount": "many"}, {"promptTokenCount": -1}, {"promptTokensDetails": 7}])
def test_usage_that_is_no_count_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedUsageError):
        GEMINI.usage(wrong)


# ── errors ──


def test_our_errors_are_in_googles_envelope() -> None:
    error = WireError(429, "Too many requests.", "rate_limit_error", "rate_limit_exceeded", "contents")

    told = json.loads(GEMINI.error_body(error))["error"]

    assert (told["code"], told["status"], told["message"]) == (429, "RESOURCE_EXHAUSTED", "Too many requests.")
    assert told["details"][0]["reason"] == "rate_limit_exceeded"
    assert told["details"][1]["fieldViolations"][0]["field"] == "contents"
    assert json.loads(GEMINI.error_event(error).strip().removeprefix(b"data: ")) == {"error": told}


def test_tokens_of_images_in_an_answer_are_known_as_such() -> None:
    raw = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 1300,
        "totalTokenCount": 1310,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}, {"modality": "TEXT", "tokenCount": 10}],
    }

    usage = GEMINI.usage(raw)

    assert usage == Usage(input=10, output=1300, units=(("image_token", 1290),))
    assert GEMINI.usage({**raw, "candidatesTokenCount": 5}) == Usage(input=10, output=5, consistent=False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_images_in_an_answer_pass_on_with_what_they_cost(stream: bool) -> None:
    image = Image(Source(data="aGVsbG8=", media_type="image/png"))
    reply = Reply(
        "r", "m", (Choice((Text("Here."), image), "stop"),), Usage(output=1300, units=(("image_token", 1290),))
    )
    asked = Conversation("m", (), stream=stream)

    if stream:
        read = folded(read_stream(GEMINI, written_stream(GEMINI, events_of(reply), asked)))
    else:
        read = GEMINI.read_reply(GEMINI.write_reply(reply, asked))

    assert (read.usage, read.choices[0].blocks[1]) == (reply.usage, image)
