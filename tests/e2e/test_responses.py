"""Applications use OpenAI's Responses through its unmodified SDK, with a provider that knows chat completions alone."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.e2e.harness import Product, Provider

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


def test_a_response(client: openai.OpenAI, product: Product, provider: Provider) -> None:
    answer = client.responses.with_raw_response.create(
        model="chat", instructions="Be brief.", input="Say hello", temperature=0.5, max_output_tokens=300
    )
    response = answer.parse()

    sent = provider.last
    assert response.output_text
    assert response.status == "completed"
    assert sent["body"]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hello"},
    ]
    assert sent["body"]["model"] == "fake-chat"
    assert response.usage is not None
    assert response.usage.input_tokens == sent["billed"]["prompt_tokens"]
    row = product.ledger_row(answer.headers["x-request-id"])
    assert (row["status"], row["usage_source"]) == ("completed", "provider")
    assert row["output_tokens"] == sent["billed"]["completion_tokens"]


def test_a_stream(client: openai.OpenAI, product: Product, provider: Provider) -> None:
    with client.responses.stream(model="chat", input="Say hello") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert len(texts) > 1
    assert final.output_text == "".join(texts)
    assert final.usage is not None
    assert final.usage.output_tokens == provider.last["billed"]["completion_tokens"]


def test_tools_and_their_results(client: openai.OpenAI, provider: Provider) -> None:
    first = client.responses.create(
        model="chat", input="What is the weather in Paris?", tools=[WEATHER], tool_choice="required"
    )
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert isinstance(json.loads(call.arguments), dict)
    history: Any = [
        {"role": "user", "content": "What is the weather in Paris?"},
        *[item.to_dict() for item in first.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"},
    ]

    second = client.responses.create(model="chat", input=history, tools=[WEATHER])

    assert second.output
    *_, asked, result = provider.last["body"]["messages"]
    assert asked["tool_calls"][0]["id"] == call.call_id
    assert result == {"role": "tool", "tool_call_id": call.call_id, "content": "Sunny"}


def test_a_tool_that_this_provider_does_not_run_is_left_out_and_reported(
    client: openai.OpenAI, provider: Provider
) -> None:
    answer = client.responses.with_raw_response.create(model="chat", input="x", tools=[{"type": "web_search"}, WEATHER])

    assert answer.headers["x-gateway-dropped-params"] == "tools[0]"
    assert [tool["function"]["name"] for tool in provider.last["body"]["tools"]] == ["weather"]


def test_a_tool_that_must_be_called_and_cannot_be_is_refused_with_its_place(client: openai.OpenAI) -> None:
    choice: Any = {"type": "web_search"}

    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model="chat", input="x", tools=[{"type": "web_search"}], tool_choice=choice)

    assert raised.value.param == "tools[0]"


def test_a_wrong_field_is_named(client: openai.OpenAI) -> None:
    wrong: Any = [{"role": "user", "content": [{"type": "input_text"}]}]

    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model="chat", input=wrong)

    assert raised.value.param == "input[0].content[0].text"


PATCH: Any = {"type": "custom", "name": "patch", "description": "Edits files."}


def test_a_custom_tool_works_with_a_provider_that_knows_functions_alone(
    client: openai.OpenAI, provider: Provider
) -> None:
    choice: Any = {"type": "custom", "name": "patch"}

    with client.responses.stream(model="chat", input="Edit it", tools=[PATCH], tool_choice=choice) as stream:
        final = stream.get_final_response()

    (tool,) = provider.last["body"]["tools"]
    assert tool["type"] == "function"
    assert tool["function"]["parameters"]["required"] == ["input"]
    (call,) = [item for item in final.output if item.type == "custom_tool_call"]
    assert call.name == "patch"
    assert not call.input.startswith("{")
