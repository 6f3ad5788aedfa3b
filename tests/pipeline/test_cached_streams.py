"""Kept answers in the form that a request wants: whole or as a stream, in every chat protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes import Reply
from tests.gateways import CHAT
from tests.pipeline.streams import DONE, EVENTS, WITHOUT_USAGE, events
from tests.pipeline.test_caching import caching_house

WANTED = {"stream": True, "stream_options": {"include_usage": True}}


async def test_a_stream_is_given_again_byte_for_byte() -> None:
    house = caching_house(events())

    first = await house.chat({"stream": True})
    second = await house.chat({"stream": True})

    assert second.headers["x-gateway-cache"] == "hit"
    assert second.content == first.content == WITHOUT_USAGE
    assert second.headers["content-type"] == "text/event-stream"
    assert second.headers["cache-control"] == "no-cache"
    assert house.ledger.closed[-1]["stream"] is True


async def test_usage_is_in_a_stream_whose_caller_wants_it_and_in_no_other() -> None:
    house = caching_house(events())

    without = await house.chat({"stream": True})
    wanted = await house.chat(WANTED)
    again = await house.chat({"stream": True})

    assert wanted.headers["x-gateway-cache"] == again.headers["x-gateway-cache"] == "hit"
    assert b'"usage"' not in without.content + again.content
    last = [json.loads(line[6:]) for line in wanted.text.splitlines() if line.startswith("data: {")][-1]
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (11, 5)


async def test_usage_is_taken_out_for_who_does_not_want_it() -> None:
    house = caching_house(events())

    await house.chat(WANTED)
    without = await house.chat({"stream": True})

    assert without.headers["x-gateway-cache"] == "hit"
    assert b"usage" not in without.content
    assert text_of(without.content) == "Hello"


async def test_a_whole_answer_serves_a_stream() -> None:
    house = caching_house(Reply.json(CHAT))

    await house.chat()
    stream = await house.chat(WANTED)

    assert stream.headers["x-gateway-cache"] == "hit"
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert text_of(stream.content) == "Hello"
    assert stream.content.endswith(DONE)
    assert b'"prompt_tokens":11' in stream.content


async def test_a_stream_serves_a_whole_answer() -> None:
    house = caching_house(events())

    await house.chat({"stream": True})
    whole = (await house.chat()).json()

    assert whole["choices"][0]["message"]["content"] == "Hello"
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["total_tokens"] == 16
    assert (whole["id"], whole["model"]) == ("chatcmpl-1", "gpt-upstream-2026")


async def test_what_a_stream_says_otherwise_is_not_made_one() -> None:
    sound = {"id": "a1", "data": "UklGRg==", "transcript": "Hello", "expires_at": 1}
    message = {"role": "assistant", "content": None, "audio": sound}
    spoken = CHAT | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    house = caching_house(Reply.json(spoken), events())

    await house.chat()
    whole = await house.chat()
    stream = await house.chat({"stream": True})

    assert (whole.headers["x-gateway-cache"], whole.json()) == ("hit", spoken)
    assert stream.headers["x-gateway-cache"] == "miss"


async def test_a_large_stream_is_given_in_pieces() -> None:
    text = "x" * 200_000
    house = caching_house(Reply.events(EVENTS[0].replace(b"Hel", text.encode()), *EVENTS[2:]))

    first = await house.chat({"stream": True})
    second = await house.chat({"stream": True})

    assert second.headers["x-gateway-cache"] == "hit"
    assert second.content == first.content


async def test_old_completions_are_kept_in_the_form_they_came() -> None:
    piece = {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "Hi", "finish_reason": None}]}
    end = piece | {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    lines = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in (piece, end)]
    whole = piece | {"choices": [{"index": 0, "text": "Hi", "finish_reason": "length"}], "usage": {"prompt_tokens": 1}}
    house = caching_house(Reply.events(*lines, DONE), Reply.json(whole))
    asked: dict[str, Any] = {"model": "gpt", "prompt": "Hi"}

    results = [
        (await house.post("/v1/completions", asked | {"stream": stream})).headers["x-gateway-cache"]
        for stream in (True, True, False, False)
    ]

    assert results == ["miss", "hit", "miss", "hit"]


async def test_an_old_completion_that_is_cut_is_not_kept() -> None:
    piece = b'data: {"choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]}\n\n'
    house = caching_house(Reply.events(piece), Reply.events(piece, DONE))
    asked = {"model": "gpt", "prompt": "Hi", "stream": True}

    await house.post("/v1/completions", asked)

    assert (await house.post("/v1/completions", asked)).headers["x-gateway-cache"] == "miss"


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("path", "asked", "text"),
    [
        (
            "/v1/messages",
            {"model": "gpt", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]},
            "content",
        ),
        ("/v1/responses", {"model": "gpt", "input": "Hi", "store": False}, "output"),
    ],
    ids=["messages", "responses"],
)
async def test_translated_answers_are_kept_in_the_callers_protocol(
    path: str, asked: dict[str, Any], text: str, first: bool
) -> None:
    house = caching_house(events() if first else Reply.json(CHAT))

    await house.post(path, asked | {"stream": first})
    whole = await house.post(path, asked)
    stream = await house.post(path, asked | {"stream": True})

    assert len(house.upstream.requests) == 1
    assert whole.headers["x-gateway-cache"] == stream.headers["x-gateway-cache"] == "hit"
    assert "Hello" in json.dumps(whole.json()[text])
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert b"Hello" in stream.content or (b"Hel" in stream.content and b"lo" in stream.content)


async def test_geminis_form_is_kept_whole_and_as_a_stream() -> None:
    house = caching_house(Reply.json(CHAT))
    asked = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}

    await house.post("/v1beta/models/gpt:generateContent", asked)
    whole = await house.post("/v1beta/models/gpt:generateContent", asked)
    stream = await house.post("/v1beta/models/gpt:streamGenerateContent?alt=sse", asked)
    listed = await house.post("/v1beta/models/gpt:streamGenerateContent", asked)

    assert [each.headers["x-gateway-cache"] for each in (whole, stream, listed)] == ["hit"] * 3
    assert whole.json()["candidates"][0]["content"]["parts"][0]["text"] == "Hello"
    assert b"Hello" in stream.content
    assert "Hello" in json.dumps(listed.json())


async def test_a_response_that_the_provider_keeps_is_not_kept_here() -> None:
    house = caching_house(Reply.json(CHAT), Reply.json(CHAT))
    asked = {"model": "gpt", "input": "Hi", "store": True}

    await house.post("/v1/responses", asked)

    assert "x-gateway-cache" not in (await house.post("/v1/responses", asked)).headers


async def test_one_protocols_answer_is_not_given_in_another() -> None:
    house = caching_house(Reply.json(CHAT), Reply.json(CHAT))

    await house.chat({"max_tokens": 50})
    other = await house.post(
        "/v1/messages", {"model": "gpt", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
    )

    assert other.headers["x-gateway-cache"] == "miss"


def text_of(stream: bytes) -> str:
    chunks = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)
