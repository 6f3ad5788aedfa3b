"""A caller's dialect that is not the provider's: requests, answers, streams and errors cross, metered by the provider."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, House, alias, deployment, snapshot

CLAUDE = deployment(adapter=get_adapter("anthropic"), model="claude-x", headers=((b"x-api-key", b"provider-secret"),))
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x-2026",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 11, "output_tokens": 5},
}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


BEGINNING = (
    event("message_start", message={**MESSAGE, "content": [], "stop_reason": None}),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"}),
)
STREAM = (
    *BEGINNING,
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo"}),
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 5}),
    event("message_stop"),
)


def house(*replies: Reply | Exception, deployments: Any = (CLAUDE,)) -> House:
    return House(ScriptedUpstream(*replies), snapshot(alias("gpt", *deployments)))


def chunks(content: bytes) -> list[Any]:
    data = [line.removeprefix(b"data: ") for line in content.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(each) if each != b"[DONE]" else "[DONE]" for each in data]


async def test_an_openai_caller_reaches_an_anthropic_provider() -> None:
    place = house(Reply.json(MESSAGE))

    answer = await place.chat(
        {"max_tokens": 50, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}
    )

    (sent,) = place.upstream.requests
    assert str(sent.url) == "http://main.test/v1/messages"
    assert (sent.headers["x-api-key"], sent.headers["anthropic-version"]) == ("provider-secret", "2023-06-01")
    assert place.upstream.bodies == [
        {"model": "claude-x", "max_tokens": 50, "system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}]}
    ]
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    assert answer.json()["usage"]["total_tokens"] == 16
    assert (place.row["input"], place.row["output"], place.row["usage_source"]) == (11, 5, "provider")


async def test_an_anthropic_caller_reaches_an_openai_provider() -> None:
    place = house(Reply.json(CHAT), deployments=(deployment(),))

    answer = await place.post(
        "/v1/messages", {"model": "gpt", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    )

    assert str(place.upstream.requests[0].url) == "http://main.test/v1/chat/completions"
    assert answer.json()["content"][0]["text"] == "Hello"
    assert answer.json()["usage"]["input_tokens"] == 11
    assert place.row["cost_pico_usd"] == 11 * 2 + 5 * 10


async def test_a_stream_is_translated_as_it_comes_and_settled_before_its_last_bytes() -> None:
    place = house(Reply.events(*STREAM))

    answer = await place.chat({"stream": True})

    said = chunks(answer.content)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in said[:-1]) == "Hello"
    assert said[-1] == "[DONE]"
    assert (place.row["status"], place.row["input"], place.row["output"]) == ("completed", 11, 5)


@pytest.mark.parametrize("size", [1, 3, 50])
async def test_a_stream_may_be_cut_anywhere(size: int) -> None:
    whole = b"".join(STREAM)
    place = house(Reply.events(*[whole[at : at + size] for at in range(0, len(whole), size)]))

    answer = await place.chat({"stream": True})

    assert chunks(answer.content)[-1] == "[DONE]"
    assert (place.row["input"], place.row["output"]) == (11, 5)


async def test_a_stream_that_ends_early_says_so_in_the_caller_s_dialect() -> None:
    place = house(Reply.events(*BEGINNING))

    answer = await place.chat({"stream": True})

    assert chunks(answer.content)[-1]["error"]["code"] == "upstream_error"
    assert (place.row["status"], place.row["usage_source"]) == ("failed", "estimated")


@pytest.mark.parametrize("nonsense", [b"data: {\n\n", b"data: []\n\n", b'data: {"type": 7}\n\n'])
async def test_a_stream_that_cannot_be_read_says_so_and_is_settled(nonsense: bytes) -> None:
    place = house(Reply.events(*BEGINNING, nonsense, *STREAM[3:]))

    answer = await place.chat({"stream": True})

    assert chunks(answer.content)[-1]["error"]["code"] == "upstream_error"
    assert place.row["status"] == "failed"


async def test_an_answer_that_cannot_be_read_leaves_the_next_target_a_chance() -> None:
    place = house(Reply.json({"what": "is this"}), Reply.json(CHAT), deployments=(CLAUDE, deployment("other", 2)))

    answer = await place.chat()

    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    assert [attempt["cause"] for attempt in place.row["attempts"]] == ["unreadable_answer", "completed"]


async def test_an_answer_that_cannot_be_read_and_was_billed_is_charged_and_no_other_target_is_asked() -> None:
    billed = {**MESSAGE, "content": "not a list"}
    place = house(Reply.json(billed), Reply.json(CHAT), deployments=(CLAUDE, deployment("other", 2)))

    answer = await place.chat()

    cost = 11 * 2 + 5 * 10
    assert (answer.status_code, len(place.upstream.requests)) == (502, 1)
    assert (place.row["deployment"], place.row["cost_pico_usd"], place.row["counted"]) == ("main", cost, True)
    assert [attempt["cost_pico_usd"] for attempt in place.row["attempts"]] == [cost]


async def test_a_provider_s_error_is_told_in_the_caller_s_dialect_with_its_status() -> None:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}
    place = house(Reply.json(error, status=400, retry_after="7"))

    answer = await place.chat()

    assert (answer.status_code, answer.headers["retry-after"]) == (400, "7")
    assert answer.json()["error"] == {
        "message": "prompt is too long: 9 > 8",
        "type": "invalid_request_error",
        "param": None,
        "code": "context_length_exceeded",
    }


async def test_what_the_provider_cannot_say_and_may_be_left_out_is_reported() -> None:
    place = house(Reply.json(MESSAGE))

    answer = await place.chat({"seed": 1, "logit_bias": {"5": 1}})

    assert answer.headers["x-gateway-dropped-params"] == "seed, logit_bias"


async def test_a_strict_caller_is_refused_instead_and_nothing_is_sent() -> None:
    place = house()

    answer = await place.chat({"seed": 1}, x_gateway_strict="true")

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seed")
    assert "provider-main" in answer.json()["error"]["message"]
    assert not place.upstream.requests
    assert (place.row["cost_pico_usd"], place.row["counted"]) == (0, False)


async def test_what_must_not_be_left_out_goes_to_the_target_that_can_say_it() -> None:
    place = house(Reply.json(CHAT), deployments=(CLAUDE, deployment("other", 2)))

    answer = await place.chat({"n": 2})

    assert answer.status_code == 200
    assert place.upstream.bodies[0]["n"] == 2
    assert place.row["deployment"] == "other"


async def test_what_no_target_can_say_is_a_400_that_names_field_and_provider() -> None:
    place = house()

    answer = await place.chat({"n": 2})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    assert "provider-main" in answer.json()["error"]["message"]
    assert not place.upstream.requests


async def test_a_body_that_cannot_be_understood_is_a_400_that_names_the_field() -> None:
    place = house()

    answer = await place.chat({"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0].content[0].text")


async def test_headers_of_one_dialect_do_not_reach_providers_of_another() -> None:
    place = house(Reply.json(CHAT), deployments=(deployment(),))
    asked = {"model": "gpt", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}

    await place.post("/v1/messages", asked, anthropic_beta="x", anthropic_version="2023-06-01", x_mine="kept")

    sent = place.upstream.requests[0].headers
    assert "anthropic-beta" not in sent
    assert sent["x-mine"] == "kept"


async def test_what_is_nested_too_deeply_to_be_translated_is_the_caller_s_fault() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(450):
        schema = {"type": "object", "properties": {"a": schema}}
    house = House(ScriptedUpstream(), snapshot(alias("gpt", CLAUDE)))

    response = await house.chat(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}
    )

    assert response.status_code == 400
    assert "nested too deeply" in response.json()["error"]["message"]


async def test_an_answer_that_the_caller_s_dialect_cannot_say_is_charged_all_the_same() -> None:
    spoken = {
        "index": 0,
        "message": {"role": "assistant", "content": None, "audio": {"id": "a"}},
        "finish_reason": "stop",
    }
    place = House(ScriptedUpstream(Reply.json({**CHAT, "choices": [spoken]})), snapshot(alias("gpt", deployment())))

    response = await place.post("/v1beta/models/gpt:generateContent", {"contents": [{"parts": [{"text": "x"}]}]})

    assert response.status_code == 502
    assert (place.row["status"], place.row["input"], place.row["cost_pico_usd"]) == ("failed", 11, 11 * 2 + 5 * 10)
