"""Applications use Anthropic's unmodified SDK, whoever answers: a provider of its own dialect or of OpenAI's.

And OpenAI's SDK reaches a provider that speaks Anthropic's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from llmgateway.http import httpx
from tests.e2e.harness import (
    CACHE_WRITE_PRICE,
    INPUT_PRICE,
    KEY,
    LIMITED_KEY,
    OUTPUT_PRICE,
    PROVIDER_SECRET,
    Product,
    Provider,
    wait_for,
)

SDK_VERSION = anthropic.Anthropic(api_key="x").default_headers["anthropic-version"]
HELLO: Any = [{"role": "user", "content": "Say hello"}]
WEATHER: Any = {
    "name": "weather",
    "description": "Tells the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
WEATHER_OF_OPENAI: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": WEATHER["input_schema"]},
}
BOTH = pytest.mark.parametrize("model", ["claude", "chat"])


@pytest.fixture
def claude(product: Product, provider: Provider) -> Iterator[anthropic.Anthropic]:
    """Anthropic's SDK as an application has it: only base URL and key differ."""
    with anthropic.Anthropic(base_url=product.url, api_key=KEY, max_retries=0) as client:
        yield client


@BOTH
def test_a_message(claude: anthropic.Anthropic, provider: Provider, model: str) -> None:
    provider.script(text="Hello to you")

    answer = claude.messages.create(model=model, max_tokens=100, system="Be kind.", messages=HELLO)

    assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "end_turn")
    assert [block.text for block in answer.content if block.type == "text"] == ["Hello to you"]
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens == 3


def test_a_message_reaches_its_own_kind_as_it_was_sent(
    claude: anthropic.Anthropic, product: Product, provider: Provider
) -> None:
    unknown = {"brand_new": {"field": [1]}}
    system: Any = [{"type": "text", "text": "Be kind. " * 50, "cache_control": {"type": "ephemeral"}}]

    response = claude.beta.messages.with_raw_response.create(
        model="claude", max_tokens=50, system=system, messages=HELLO, betas=["a-beta-2026-01-01"], extra_body=unknown
    )

    sent = provider.last
    headers = dict(sent["headers"])
    expected = {"model": "claude-fake", "max_tokens": 50, "system": system, "messages": HELLO, **unknown}
    assert (sent["path"], sent["body"]) == ("/v1/messages", expected)
    assert (headers["x-api-key"], headers["anthropic-beta"]) == (PROVIDER_SECRET, "a-beta-2026-01-01")
    assert [value for name, value in sent["headers"] if name == "anthropic-version"] == [SDK_VERSION]
    assert KEY not in str(sent["headers"])
    request_id = response.headers["request-id"]
    row = product.ledger_row(request_id)
    usage = response.parse().usage
    assert usage.cache_creation_input_tokens
    assert row["cost_pico_usd"] == (
        usage.input_tokens * INPUT_PRICE
        + usage.cache_creation_input_tokens * CACHE_WRITE_PRICE
        + usage.output_tokens * OUTPUT_PRICE
    )
    assert row["usage_source"] == "provider"


def test_headers_of_anthropic_stay_with_those_who_understand_them(
    claude: anthropic.Anthropic, provider: Provider
) -> None:
    claude.beta.messages.create(model="chat", max_tokens=50, messages=HELLO, betas=["a-beta-2026-01-01"])

    assert not [name for name, _ in provider.last["headers"] if name.startswith("anthropic-")]


@BOTH
def test_a_stream(claude: anthropic.Anthropic, product: Product, provider: Provider, model: str) -> None:
    provider.script(text="Grüße aus Paris 🎉", split=7)

    with claude.messages.stream(model=model, max_tokens=100, messages=HELLO) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()

    assert "".join(pieces) == "Grüße aus Paris 🎉"
    assert len(pieces) == 4
    assert message.stop_reason == "end_turn"
    row = product.ledger_row(stream.response.headers["request-id"])
    assert (row["usage_source"], row["status"]) == ("provider", "completed")
    assert (row["input_tokens"], row["output_tokens"]) == (message.usage.input_tokens, message.usage.output_tokens)
    assert row["output_tokens"] == 4


def test_a_client_that_leaves_pays_for_the_input_that_the_provider_told(
    claude: anthropic.Anthropic, product: Product, provider: Provider
) -> None:
    """To the token, and at the prices of a cache: agents break off long prompts all the time."""
    system: Any = [{"type": "text", "text": "Be kind. " * 100, "cache_control": {"type": "ephemeral"}}]
    provider.script(stall_after=8)

    with claude.messages.stream(model="claude", max_tokens=50, system=system, messages=HELLO) as stream:
        next(stream.text_stream)

    request_id = stream.response.headers["request-id"]
    wait_for(lambda: [row for row in product.usage() if row["request_id"] == request_id], "the row")
    row, billed = product.ledger_row(request_id), provider.last["billed"]
    assert (row["status"], row["usage_source"]) == ("cancelled", "estimated")
    assert row["input_tokens"] == billed["input_tokens"] + billed["cache_creation_input_tokens"]
    assert row["cost_pico_usd"] == (
        billed["input_tokens"] * INPUT_PRICE
        + billed["cache_creation_input_tokens"] * CACHE_WRITE_PRICE
        + row["output_tokens"] * OUTPUT_PRICE
    )


@BOTH
def test_a_tool_is_called_and_its_result_comes_back(
    claude: anthropic.Anthropic, provider: Provider, model: str
) -> None:
    choice: Any = {"type": "any"}
    asked: Any = {"model": model, "max_tokens": 100, "tools": [WEATHER]}

    with claude.messages.stream(**asked, tool_choice=choice, messages=HELLO) as stream:
        streamed = stream.get_final_message()
    answer = claude.messages.create(**asked, tool_choice=choice, messages=HELLO)
    [call] = answer.content
    assert call.type == "tool_use"
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny", "is_error": False}
    history: Any = [*HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    last = claude.messages.create(**asked, messages=history)

    assert (answer.stop_reason, call.name, call.input) == ("tool_use", "weather", {"city": "Paris"})
    assert streamed.content[0].to_dict()["input"] == {"city": "Paris"}
    assert last.stop_reason == "end_turn"
    assert "Sunny" in json.dumps(provider.last["body"])


def test_thoughts_come_with_their_signature_and_go_back(claude: anthropic.Anthropic, provider: Provider) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    asked: Any = {"model": "claude", "max_tokens": 2000, "thinking": thinking}

    with claude.messages.stream(**asked, messages=HELLO) as stream:
        answer = stream.get_final_message()
    history: Any = [*HELLO, {"role": "assistant", "content": answer.content}, *HELLO]
    claude.messages.create(**asked, messages=history)

    thought = answer.content[0]
    assert thought.type == "thinking"
    assert thought.thinking
    assert thought.signature == provider.last["body"]["messages"][1]["content"][0]["signature"]


def test_thinking_becomes_an_effort_for_those_who_know_efforts(claude: anthropic.Anthropic, provider: Provider) -> None:
    claude.messages.create(
        model="chat", max_tokens=20_000, thinking={"type": "enabled", "budget_tokens": 8192}, messages=HELLO
    )

    assert provider.last["body"]["reasoning_effort"] == "medium"


@BOTH
@pytest.mark.parametrize(
    ("status", "error"),
    [(400, anthropic.BadRequestError), (404, anthropic.NotFoundError), (429, anthropic.RateLimitError)],
)
def test_the_providers_errors_come_through_by_type(
    claude: anthropic.Anthropic, provider: Provider, model: str, status: int, error: type[anthropic.APIStatusError]
) -> None:
    provider.script(status=status)

    with pytest.raises(error) as raised:
        claude.messages.create(model=model, max_tokens=10, messages=HELLO)

    body: Any = raised.value.body
    kind = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error"}[status]
    assert (raised.value.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)


def test_the_gateways_own_errors_are_in_the_same_shape(product: Product, claude: anthropic.Anthropic) -> None:
    stranger = claude.with_options(api_key="sk-gw-nobody")
    limited = claude.with_options(api_key=LIMITED_KEY)

    with pytest.raises(anthropic.AuthenticationError) as unknown:
        stranger.messages.create(model="claude", max_tokens=10, messages=HELLO)
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(model="nonesuch", max_tokens=10, messages=HELLO)
    with pytest.raises(anthropic.PermissionDeniedError) as forbidden:
        limited.messages.create(model="claude", max_tokens=10, messages=HELLO)

    kinds = [error.value.body["error"]["type"] for error in (unknown, missing, forbidden)]  # type: ignore[index]
    assert kinds == ["authentication_error", "not_found_error", "permission_error"]
    assert unknown.value.request_id is not None
    assert unknown.value.request_id.startswith("req_")


@BOTH
def test_a_stream_that_breaks_off_is_an_error(claude: anthropic.Anthropic, provider: Provider, model: str) -> None:
    provider.script(error_after=6)

    with (
        claude.messages.stream(model=model, max_tokens=100, messages=HELLO) as stream,
        pytest.raises(anthropic.APIStatusError) as raised,
    ):
        stream.get_final_message()

    body: Any = raised.value.body
    assert body["type"] == "error"
    assert body["error"]["message"]


@BOTH
def test_a_connection_that_breaks_is_an_error(claude: anthropic.Anthropic, provider: Provider, model: str) -> None:
    provider.script(reset_after=6)

    with (
        claude.messages.stream(model=model, max_tokens=100, messages=HELLO) as stream,
        pytest.raises(anthropic.APIStatusError) as raised,
    ):
        stream.get_final_message()

    body: Any = raised.value.body
    assert body["error"]["type"] == "api_error"


def test_a_tool_that_only_anthropic_runs_is_left_out_or_refused_by_name(
    claude: anthropic.Anthropic, provider: Provider
) -> None:
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    asked: Any = {"model": "chat", "max_tokens": 10, "messages": HELLO, "tools": [search, WEATHER]}

    with pytest.raises(anthropic.BadRequestError, match="tools"):
        claude.messages.create(**asked, extra_headers={"x-gateway-strict": "true"})
    refused = provider.sent
    answer = claude.messages.with_raw_response.create(**asked)

    assert refused == []
    assert answer.headers["x-gateway-dropped-params"] == "tools[0]"
    assert [tool["function"]["name"] for tool in provider.last["body"]["tools"]] == ["weather"]


def test_a_bearer_token_and_a_query_are_fine(product: Product, provider: Provider) -> None:
    """As coding agents send them."""
    body = {"model": "claude", "max_tokens": 10, "messages": HELLO}

    answer = httpx.post(f"{product.url}/v1/messages?beta=true", json=body, headers={"authorization": f"Bearer {KEY}"})

    assert answer.status_code == 200
    assert answer.json()["type"] == "message"
    assert dict(provider.last["headers"])["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize(("prefix", "model"), [("anthropic", "claude-fake"), ("claude", "claude")])
def test_the_providers_own_prefix(
    claude: anthropic.Anthropic, product: Product, provider: Provider, prefix: str, model: str
) -> None:
    """By the adapter's name or the row's; its models also by their own names."""
    client = claude.with_options(base_url=f"{product.url}/{prefix}")

    with client.messages.stream(model=model, max_tokens=10, messages=HELLO) as stream:
        message = stream.get_final_message()

    assert (provider.last["path"], provider.last["body"]["model"]) == ("/v1/messages", "claude-fake")
    assert product.ledger_row(stream.response.headers["request-id"])["output_tokens"] == message.usage.output_tokens


# ── OpenAI's SDK and a provider that speaks Anthropic's dialect ──


def test_openais_sdk_gets_a_chat(client: openai.OpenAI, product: Product, provider: Provider) -> None:
    messages: Any = [{"role": "system", "content": "Be kind."}, *HELLO, {"role": "system", "content": "Be brief."}]

    response = client.chat.completions.with_raw_response.create(model="claude", messages=messages, seed=1, n=1)

    sent, answer = provider.last, response.parse()
    assert sent["path"] == "/v1/messages"
    assert sent["body"]["system"] == "Be kind."
    assert [message["role"] for message in sent["body"]["messages"]] == ["user"]
    assert "Be brief." in str(sent["body"]["messages"])
    assert sent["body"]["max_tokens"] == 4096
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert response.headers["x-gateway-dropped-params"] == "seed"
    row = product.ledger_row(response.headers["x-request-id"])
    assert answer.usage is not None
    assert (row["input_tokens"], row["output_tokens"]) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)


def test_openais_sdk_gets_a_stream_of_thoughts_and_text(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(text="Hello to you")
    stream = client.chat.completions.create(
        model="claude",
        messages=HELLO,
        stream=True,
        reasoning_effort="low",
        stream_options={"include_usage": True},
    )

    chunks = list(stream)

    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert provider.last["body"]["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert provider.last["body"]["max_tokens"] == 2048 + 4096
    assert "".join(delta.content or "" for delta in deltas) == "Hello to you"
    assert any(getattr(delta, "reasoning_content", None) for delta in deltas)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (19, 16)


def test_openais_sdk_calls_a_tool(client: openai.OpenAI, provider: Provider) -> None:
    answer = client.chat.completions.create(
        model="claude", messages=HELLO, tools=[WEATHER_OF_OPENAI], tool_choice="required", parallel_tool_calls=False
    )
    message = answer.choices[0].message
    assert message.tool_calls is not None
    [call] = message.tool_calls
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}
    history: Any = [*HELLO, message.to_dict(), result, {"role": "user", "content": "And?"}]
    last = client.chat.completions.create(model="claude", messages=history, tools=[WEATHER_OF_OPENAI])

    assert call.type == "function"
    assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert last.choices[0].message.content
    assert [message["role"] for message in provider.last["body"]["messages"]] == ["user", "assistant", "user"]


def test_openais_sdk_gets_anthropics_errors_by_type(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(status=400)

    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="claude", messages=HELLO)

    assert raised.value.type == "invalid_request_error"


# ── counting ──


def test_tokens_are_counted_by_a_provider_that_can(
    claude: anthropic.Anthropic, product: Product, provider: Provider
) -> None:
    response = claude.messages.with_raw_response.count_tokens(model="claude", messages=HELLO, system="Be kind.")

    assert (provider.last["path"], provider.last["body"]["model"]) == ("/v1/messages/count_tokens", "claude-fake")
    assert response.parse().input_tokens > 5
    assert "x-gateway-token-count" not in response.headers
    row = product.ledger_row(response.headers["request-id"])
    assert (row["status"], row["cost_pico_usd"], row["input_tokens"]) == ("completed", 0, 0)


def test_tokens_are_estimated_for_the_others_and_it_is_said(claude: anthropic.Anthropic, provider: Provider) -> None:
    counts = []
    for text in ("short", "a long text " * 100):
        messages: Any = [{"role": "user", "content": text}]
        response = claude.messages.with_raw_response.count_tokens(model="chat", messages=messages)
        counts.append(response.parse().input_tokens)

    assert response.headers["x-gateway-token-count"] == "estimated"
    assert provider.sent == []
    assert counts[0] < 50
    assert 250 < counts[1] < 400


def test_tokens_of_an_unknown_model_are_not_counted(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.count_tokens(model="nonesuch", messages=HELLO)


# ── models ──


def test_models_are_listed_in_anthropics_words(claude: anthropic.Anthropic) -> None:
    page = claude.models.list(limit=2)

    assert (len(page.data), page.has_more, page.last_id) == (2, True, page.data[-1].id)
    assert {model.id for model in page} >= {"chat", "claude", "embed", "fake/chat", "impatient"}
    assert {model.id for model in claude.models.list(before_id=page.data[1].id)} == {page.data[0].id}
    model = claude.models.retrieve("fake/chat")
    assert (model.type, model.id) == ("model", "fake/chat")
    assert model.created_at.year > 2000


def test_models_of_others_are_not_there(claude: anthropic.Anthropic) -> None:
    limited = claude.with_options(api_key=LIMITED_KEY)

    assert [model.id for model in limited.models.list()] == ["chat"]
    with pytest.raises(anthropic.NotFoundError):
        limited.models.retrieve("claude")
    with pytest.raises(anthropic.BadRequestError):
        limited.models.list(after_id="claude")
    with pytest.raises(anthropic.BadRequestError):
        limited.models.list(limit=0)
