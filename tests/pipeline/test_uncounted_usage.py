"""What a row says of an answer whose provider reported no usage, where a tokenizer is installed and where none is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.snapshot import Estimation
from llmgateway.pipeline.token_counts import TokenCounter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import House, alias, deployment, snapshot

ASKED = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
INPUT = 3 + 4 + 3
"""Words, and what stands around a message and before an answer."""
SAID = "four words are here"


def house(*replies: Reply, counts: bool = True) -> House:
    counter = TokenCounter(lambda text: len(text.split())) if counts else None
    made = deployment(estimation=Estimation(counter=counter))
    return House(ScriptedUpstream(*replies), snapshot(alias("m", made)))


def answer(**usage: Any) -> Reply:
    message = {"role": "assistant", "content": SAID}
    return Reply.json(
        {"id": "c", "model": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **usage}
    )


def stream(*, end: bytes = b"data: [DONE]\n\n", **usage: Any) -> Reply:
    chunks: list[dict[str, Any]] = [
        {"id": "c", "model": "x", "choices": [{"index": 0, "delta": {"content": words}}]}
        for words in ("four words ", "are here")
    ]
    if usage:
        chunks.append({"id": "c", "model": "x", "choices": [], "usage": usage})
    return Reply.events(b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in chunks) + end)


def told(of: House) -> list[tuple[int, int, str]]:
    return [(row["input"], row["output"], row["usage_source"]) for row in of.ledger.closed]


async def test_an_answer_without_usage_is_counted_and_says_that_it_is_estimated() -> None:
    of = house(answer())

    response = await of.chat(ASKED)

    assert response.status_code == 200
    assert told(of) == [(INPUT, 4, "estimated")]
    assert of.row["cost_pico_usd"] > 0


async def test_without_a_tokenizer_it_is_estimated_by_its_length() -> None:
    of = house(answer(), counts=False)

    await of.chat(ASKED)

    [(given, said, source)] = told(of)
    assert source == "estimated"
    assert given > INPUT
    assert said > 4


async def test_what_the_provider_says_is_never_counted_again() -> None:
    def refuse(text: str) -> int:
        raise AssertionError(text)

    made = deployment(estimation=Estimation(counter=TokenCounter(refuse)))
    usage: dict[str, Any] = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    of = House(ScriptedUpstream(answer(usage=usage), stream(**usage)), snapshot(alias("m", made)))

    await of.chat(ASKED)
    await of.chat({**ASKED, "stream": True})

    assert told(of) == [(11, 5, "provider")] * 2


async def test_the_streams_of_a_deployment_that_reports_nothing_are_counted_from_the_second_on() -> None:
    usage: dict[str, Any] = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    of = house(stream(), stream(), stream(**usage), stream())

    answers = [await of.chat({**ASKED, "stream": True}) for _ in range(4)]

    assert len({answer.content for answer in answers}) == 1, "the usage that was not asked for is cut out"
    # One that has reported is trusted to do so again; it is estimated as a token for each event.
    assert told(of) == [
        (INPUT, 2, "estimated"),
        (INPUT, 4, "estimated"),
        (11, 5, "provider"),
        (INPUT, 2, "estimated"),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        stream(end=b'data: {"error":{"message":"gone","type":"server_error"}}\n\n'),
        replace(stream(), pieces=(*stream(end=b"").pieces, httpx.ReadError("gone"))),
    ],
    ids=["with an error", "with its connection"],
)
async def test_a_stream_that_breaks_off_says_nothing_of_those_to_come(broken: Reply) -> None:
    of = house(broken, stream(), stream())

    for _ in range(3):
        await of.chat({**ASKED, "stream": True})

    assert [row["status"] for row in of.ledger.closed] == ["failed", "completed", "completed"]
    assert [said for _, said, _ in told(of)] == [2, 2, 4]


async def test_vectors_without_usage_cost_their_input_as_it_was_counted() -> None:
    of = house(Reply.json({"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "model": "x"}))

    await of.post("/v1/embeddings", {"model": "m", "input": ["one two", "three"]})

    assert told(of) == [(3, 0, "estimated")]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_it_is_counted_in_whichever_protocol_it_was_asked(path: str) -> None:
    of = house(answer())
    asked = {"input": ASKED["messages"]} if path == "/v1/responses" else {**ASKED, "max_tokens": 99}

    response = await of.post(path, {"model": "m", **asked})

    assert response.status_code == 200
    assert told(of) == [(INPUT, 4, "estimated")]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/messages/count_tokens", ASKED, {"input_tokens": INPUT}),
        (
            "/v1beta/models/m:countTokens",
            {"contents": [{"parts": [{"text": "one two three"}]}]},
            {"totalTokens": INPUT},
        ),
    ],
)
async def test_who_asks_for_a_count_gets_one(path: str, body: dict[str, Any], said: dict[str, int]) -> None:
    counted = await house().post(path, body)
    by_length = await house(counts=False).post(path, body)

    assert counted.json() == said
    assert by_length.json() != said
    assert counted.headers["x-gateway-token-count"] == by_length.headers["x-gateway-token-count"] == "estimated"
