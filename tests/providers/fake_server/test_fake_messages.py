"""The fake provider speaks Anthropic's dialect as Anthropic does, and refuses what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgateway.http import httpx
from providers.adapters.dialects.registry import get_dialect
from tests.providers.dialects.strategies import folded, read_stream
from tests.providers.fake_server.conftest import Running

MESSAGES = get_dialect("anthropic.messages")
HELLO = {"role": "user", "content": "Hi"}
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
UNSIGNED = {"type": "thinking", "thinking": "Hm", "signature": "forged"}
VERSION = {"anthropic-version": "2023-06-01"}


def ask(provider: Running, **fields: Any) -> httpx.Response:
    body = {"model": "fake-chat", "max_tokens": 2000, "messages": [HELLO], **fields}
    return provider.client.post("/v1/messages", json=body, headers=VERSION)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 5},
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    ],
)
def test_a_stream_says_what_a_whole_answer_says(provider: Running, fields: dict[str, Any]) -> None:
    whole = MESSAGES.read_reply(ask(provider, **fields).content)
    stream = ask(provider, **fields, stream=True).content
    # Each answer has ids of its own.
    stream = stream.replace(provider.last.id[-6:].encode(), whole.id[-6:].encode())
    streamed = folded(read_stream(MESSAGES, stream))

    assert (streamed.choices, streamed.usage) == (whole.choices, whole.usage)
    assert whole.usage == MESSAGES.usage(provider.last.billed or {})


def test_a_marked_prompt_is_written_to_the_cache_and_read_from_it(provider: Running) -> None:
    system = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    usages = [ask(provider, system=system).json()["usage"] for _ in range(2)]

    assert [usage["cache_creation_input_tokens"] > 0 for usage in usages] == [True, False]
    assert [usage["cache_read_input_tokens"] > 0 for usage in usages] == [False, True]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": None},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "system", "content": "x"}, HELLO]},
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        {"thinking": {"type": "enabled", "budget_tokens": 100}},
        {"messages": [HELLO, {"role": "assistant", "content": [UNSIGNED]}, HELLO]},
        {"messages": [HELLO, {"role": "assistant", "content": [CALL]}, HELLO]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
    ],
)
def test_what_the_real_one_refuses_is_refused(provider: Running, fields: dict[str, Any]) -> None:
    answer = ask(provider, **fields)

    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("script", [{"tool": "weather"}, {"tool": "weather", "text": '{"city":"Rome"}'}])
def test_a_script_can_call_a_tool(provider: Running, script: dict[str, Any]) -> None:
    said = ask(provider, tools=[TOOL], x_fake=script).json()
    tools = [{"type": "function", "function": {"name": "weather", "parameters": TOOL["input_schema"]}}]
    chat = provider.chat(tools=tools, x_fake=script).json()["choices"][0]

    city = {"city": "Rome" if "text" in script else "Paris"}
    assert (said["stop_reason"], said["content"][0]["input"]) == ("tool_use", city)
    assert json.loads(chat["message"]["tool_calls"][0]["function"]["arguments"]) == city


def test_a_request_without_a_version_is_refused(provider: Running) -> None:
    answer = provider.client.post("/v1/messages", json={"model": "m", "max_tokens": 5, "messages": [HELLO]})

    assert answer.status_code == 400
    assert "anthropic-version" in answer.json()["error"]["message"]


def test_tokens_are_counted(provider: Running) -> None:
    answer = provider.client.post("/v1/messages/count_tokens", json={"model": "m", "messages": [HELLO]})

    assert answer.json() == {"input_tokens": pytest.approx(20, abs=10)}
