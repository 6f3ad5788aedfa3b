"""The fake provider behaves as the real ones do, and misbehaves exactly as told."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from llmgateway.http import httpx
from providers.adapters.sse import UsageScanner
from providers.fake_server.scripts import Script, in_model_name
from tests.providers.fake_server.conftest import Running

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


def events(response: httpx.Response) -> list[Any]:
    blocks = response.text.replace("\r\n", "\n").replace("\r", "\n").strip().split("\n\n")
    values = [block.removeprefix("data: ") for block in blocks]
    return [value if value == "[DONE]" else json.loads(value) for value in values]


def test_the_same_question_gets_the_same_answer(provider: Running) -> None:
    first, again, other = provider.chat(), provider.chat(), provider.chat(content="Bye")

    answers = [each.json()["choices"][0]["message"]["content"] for each in (first, again, other)]
    assert answers[0] == answers[1] != answers[2]
    assert first.json()["usage"]["completion_tokens"] == len(answers[0].split())


def test_a_repeated_long_prompt_comes_from_the_cache(provider: Running) -> None:
    usages = [provider.chat(content="word " * 300).json()["usage"] for _ in range(2)]

    assert [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages] == [0, 384]
    assert usages[0]["prompt_tokens"] == usages[1]["prompt_tokens"] > 384


def test_the_cap_on_output_is_honoured(provider: Running) -> None:
    answer = provider.chat(max_completion_tokens=5, n=2).json()

    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
    assert answer["usage"]["completion_tokens"] == 10


def test_a_demanded_tool_is_called(provider: Running) -> None:
    message = provider.chat(tools=[TOOL], tool_choice="required").json()["choices"][0]["message"]

    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris", "days": 1}
    assert message["content"] is None


def test_a_tool_that_nobody_demands_is_left_alone(provider: Running) -> None:
    assert "tool_calls" not in provider.chat(tools=[TOOL]).json()["choices"][0]["message"]


def test_a_streamed_tool_call_adds_up(provider: Running) -> None:
    stream = events(provider.chat(tools=[TOOL], tool_choice="required", stream=True))

    deltas = [event["choices"][0]["delta"] for event in stream[1:-2]]
    arguments = "".join(delta["tool_calls"][0]["function"]["arguments"] for delta in deltas)
    assert json.loads(arguments) == {"city": "Paris", "days": 1}


def test_usage_is_streamed_as_openai_does(provider: Running) -> None:
    *chunks, last, done = events(provider.chat(stream=True, stream_options={"include_usage": True}))

    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert (last["choices"], last["usage"], done) == ([], provider.last.billed, "[DONE]")


def test_usage_that_nobody_asked_for_is_not_streamed(provider: Running) -> None:
    assert not any("usage" in chunk for chunk in events(provider.chat(stream=True))[:-1])


@pytest.mark.parametrize("where", ["with_choices", "x_groq"])
def test_usage_in_other_places_is_found_by_the_scanner(provider: Running, where: str) -> None:
    scanner = UsageScanner(strip_usage=True)

    response = provider.chat(stream=True, x_fake={"usage": where, "line_end": "crlf"})

    assert scanner.feed(response.content) == response.content
    assert scanner.usage_raw == provider.last.billed


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_errors_have_the_real_shape(provider: Running, status: int) -> None:
    response = provider.chat(x_fake={"status": status, "retry_after": "3"})

    assert (response.status_code, response.headers["retry-after"]) == (status, "3")
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert provider.last.billed is None


def test_a_script_may_come_in_a_header_a_model_name_or_a_queue(provider: Running) -> None:
    chat = {"model": "fake-chat+status:503", "messages": []}
    assert provider.client.post("/v1/chat/completions", json=chat).status_code == 503

    by_header = provider.client.post("/v1/models", headers={"x-fake-script": '{"status": 401}'})
    assert by_header.status_code == 401

    provider.client.post("/_control/scripts", json={"script": {"status": 429}, "times": 2})
    assert [provider.chat().status_code for _ in range(3)] == [429, 429, 200]


def test_a_script_that_nobody_knows_is_an_error(provider: Running) -> None:
    response = provider.chat(x_fake={"statos": 429})

    assert response.status_code == 400
    assert "statos" in response.json()["error"]["message"]


def test_delays_are_kept(provider: Running) -> None:
    start = time.monotonic()
    provider.chat(stream=True, x_fake={"delay_ms": 50, "chunk_delay_ms": 10, "tokens": 5})

    assert 0.1 <= time.monotonic() - start < 1


def test_a_reset_before_the_headers(provider: Running) -> None:
    with pytest.raises(httpx.ReadError):
        provider.chat(x_fake={"reset": True})

    assert provider.last.reset_at
    assert provider.last.disconnected_at is None


def test_a_reset_in_the_middle_of_a_stream(provider: Running) -> None:
    with pytest.raises(httpx.ReadError):
        provider.chat(stream=True, x_fake={"reset_after": 4, "chunk_delay_ms": 5})

    assert (provider.last.pieces_sent, provider.last.finished_at) == (4, None)


def test_an_error_in_the_middle_of_a_stream(provider: Running) -> None:
    *_, last = events(provider.chat(stream=True, x_fake={"error_after": 3}))

    assert last["error"]["code"] == "overloaded"
    assert provider.last.billed is not None
    assert provider.last.billed["completion_tokens"] == 2


def test_a_client_that_leaves_is_noticed_at_once(provider: Running) -> None:
    body = {"model": "fake-chat", "messages": [], "stream": True, "x_fake": {"stall_after": 3}}
    with provider.client.stream("POST", "/v1/chat/completions", json=body) as response:
        pieces = response.iter_raw()
        next(pieces)
        left = time.time()

    _wait_for(lambda: provider.last.disconnected_at is not None)
    assert provider.last.disconnected_at is not None
    assert 0 <= provider.last.disconnected_at - left < 0.2


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)  # noqa: TID251  # a thread of its own waits for the server's


@pytest.mark.parametrize("line_end", ["lf", "crlf", "cr"])
def test_line_ends_and_odd_pieces_say_the_same(provider: Running, line_end: str) -> None:
    plain = events(provider.chat(stream=True))
    odd = events(provider.chat(stream=True, x_fake={"line_end": line_end, "split": 7}))

    assert [event["choices"] for event in odd[:-1]] == [event["choices"] for event in plain[:-1]]


def test_a_huge_answer(provider: Running) -> None:
    assert len(provider.chat(x_fake={"padding": 3_000_000}).content) > 3_000_000


def test_text_completions(provider: Running) -> None:
    body = {"model": "fake-chat", "prompt": "Once", "max_tokens": 4}

    whole = provider.client.post("/v1/completions", json=body).json()
    stream = events(provider.client.post("/v1/completions", json={**body, "stream": True}))

    assert whole["object"] == "text_completion"
    assert "".join(event["choices"][0]["text"] for event in stream[:-1]) == whole["choices"][0]["text"]


def test_embeddings(provider: Running) -> None:
    answer = provider.client.post("/v1/embeddings", json={"model": "e", "input": ["a", "b"], "dimensions": 4}).json()

    assert [len(item["embedding"]) for item in answer["data"]] == [4, 4]
    assert answer["usage"] == provider.last.billed


def test_models_are_listed(provider: Running) -> None:
    assert "fake-chat" in [model["id"] for model in provider.client.get("/v1/models").json()["data"]]


def test_what_was_sent_can_be_read_back(provider: Running) -> None:
    provider.client.post("/v1/chat/completions?a=1", json={"model": "m", "messages": []}, headers={"x-mine": "yes"})

    [record] = provider.client.get("/_control/requests").json()

    assert (record["path"], record["query"], record["body"]["model"]) == ("/v1/chat/completions", "a=1", "m")
    assert ["x-mine", "yes"] in record["headers"]
    assert record["received_at"] <= record["headers_sent_at"] <= record["finished_at"] <= time.time()


def test_a_script_in_a_models_name() -> None:
    assert in_model_name("fake-chat+delay_ms:20+tokens:5") == {"delay_ms": "20", "tokens": "5"}
    assert in_model_name("llama-3:8b") == {}


def test_every_field_of_a_script_has_a_harmless_default() -> None:
    assert Script() == Script(status=200, usage="normal", done=True)
