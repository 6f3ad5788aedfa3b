"""Applications use OpenAI's unmodified SDK: everything it can see is as if it spoke to the provider."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.e2e.harness import CACHE_PRICE, INPUT_PRICE, KEY, LIMITED_KEY, OUTPUT_PRICE, Product, Provider

HELLO: Any = [{"role": "user", "content": "Say hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_a_chat(client: openai.OpenAI, provider: Provider) -> None:
    answer = client.chat.completions.create(model="chat", messages=HELLO, temperature=0.5)

    sent = provider.last
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.model_dump(include={"prompt_tokens", "completion_tokens"}) == {
        name: sent["billed"][name] for name in ("prompt_tokens", "completion_tokens")
    }
    assert sent["body"] == {"model": "fake-chat", "messages": HELLO, "temperature": 0.5}


@pytest.mark.parametrize("model", ["chat", "claude"])
def test_a_chat_below_the_name_that_groqs_sdk_puts_before_every_path(
    product: Product, provider: Provider, model: str
) -> None:
    provider.script(text="Hello to you")

    with openai.OpenAI(base_url=product.url + "/openai/v1", api_key=KEY) as client:
        answer = client.chat.completions.create(model=model, messages=HELLO)
        models = [each.id for each in client.models.list()]

    assert answer.choices[0].message.content == "Hello to you"
    assert model in models


def test_a_chat_is_in_the_ledger_at_its_price(client: openai.OpenAI, product: Product, provider: Provider) -> None:
    prompt: Any = [{"role": "user", "content": "a long question " * 60}]
    client.chat.completions.create(model="chat", messages=prompt)
    response = client.chat.completions.with_raw_response.create(model="chat", messages=prompt)

    billed = provider.last["billed"]
    cached = billed["prompt_tokens_details"]["cached_tokens"]
    row = product.ledger_row(response.headers["x-request-id"])
    assert cached > 0
    assert (row["input_tokens"], row["output_tokens"]) == (billed["prompt_tokens"], billed["completion_tokens"])
    assert row["cache_read_input_tokens"] == cached
    assert row["cost_pico_usd"] == (
        (billed["prompt_tokens"] - cached) * INPUT_PRICE
        + cached * CACHE_PRICE
        + billed["completion_tokens"] * OUTPUT_PRICE
    )
    assert (row["status"], row["usage_source"], row["key"], row["team"]) == ("completed", "provider", "app", "platform")


def test_a_stream_without_usage_looks_as_if_nobody_had_asked(
    client: openai.OpenAI, product: Product, provider: Provider
) -> None:
    with client.chat.completions.with_streaming_response.create(model="chat", messages=HELLO, stream=True) as response:
        request_id = response.headers["x-request-id"]
        chunks = list(response.parse())

    assert all(chunk.choices for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert provider.last["body"]["stream_options"] == {"include_usage": True}
    row = product.ledger_row(request_id)
    assert row["usage_source"] == "provider"
    assert row["output_tokens"] == provider.last["billed"]["completion_tokens"]


def test_a_stream_with_usage_ends_with_it(client: openai.OpenAI, provider: Provider) -> None:
    stream = client.chat.completions.create(
        model="chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )

    *chunks, last = list(stream)

    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == provider.last["billed"]["total_tokens"]


def test_the_first_chunk_is_there_before_the_second_exists(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(stall_after=2)

    stream = iter(client.chat.completions.create(model="chat", messages=HELLO, stream=True))

    assert next(stream).choices[0].delta.role == "assistant"
    assert next(stream).choices[0].delta.content
    assert provider.last["finished_at"] is None


def test_tools(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=HELLO, tools=[WEATHER], tool_choice="required")

    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_tools_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="chat", messages=HELLO, tools=[WEATHER], tool_choice="required"
    ) as stream:
        message = stream.get_final_completion().choices[0].message

    [call] = message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_text_completions(client: openai.OpenAI, provider: Provider) -> None:
    whole = client.completions.create(model="chat", prompt="Once", max_tokens=5)
    chunks = list(client.completions.create(model="chat", prompt="Once", max_tokens=5, stream=True))

    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert provider.last["path"] == "/v1/completions"


def test_embeddings(client: openai.OpenAI, product: Product, provider: Provider) -> None:
    response = client.embeddings.with_raw_response.create(model="embed", input=["one", "two"], dimensions=8)

    answer = response.parse()
    assert [len(item.embedding) for item in answer.data] == [8, 8]
    assert isinstance(answer.data[0].embedding[0], float)
    row = product.ledger_row(response.headers["x-request-id"])
    assert (row["input_tokens"], row["output_tokens"]) == (answer.usage.prompt_tokens, 0)
    assert row["cost_pico_usd"] == answer.usage.prompt_tokens * INPUT_PRICE


def test_models_are_the_aliases(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {
        "chat",
        "claude",
        "embed",
        "fake/chat",
        "flash",
        "impatient",
        "keeper",
        "vectors",
        "voice",
    }
    assert client.models.retrieve("fake/chat").id == "fake/chat"


def test_a_key_sees_and_calls_its_own_models_only(product: Product) -> None:
    with openai.OpenAI(base_url=f"{product.url}/v1", api_key=LIMITED_KEY, max_retries=0) as limited:
        assert [model.id for model in limited.models.list()] == ["chat"]
        with pytest.raises(openai.PermissionDeniedError) as raised:
            limited.embeddings.create(model="embed", input="x")

    assert raised.value.code == "model_not_allowed"


def test_a_wrong_key_is_an_authentication_error(product: Product) -> None:
    with (
        openai.OpenAI(base_url=f"{product.url}/v1", api_key="sk-gw-nobody", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        stranger.models.list()

    assert raised.value.code == "invalid_api_key"
    assert "sk-gw-nobody" not in str(raised.value)


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nonesuch", messages=HELLO)

    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, openai.BadRequestError), (404, openai.NotFoundError), (422, openai.UnprocessableEntityError)],
)
def test_the_providers_errors_come_through_by_type(
    client: openai.OpenAI, provider: Provider, status: int, error: type[openai.APIStatusError]
) -> None:
    provider.script(status=status, code="the_reason")

    with pytest.raises(error) as raised:
        client.chat.completions.create(model="chat", messages=HELLO)

    assert (raised.value.status_code, raised.value.code) == (status, "the_reason")


def test_a_providers_rate_limit_keeps_its_retry_after(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(status=429, retry_after="17")

    with pytest.raises(openai.RateLimitError) as raised:
        client.chat.completions.create(model="chat", messages=HELLO, stream=True)

    assert raised.value.response.headers["retry-after"] == "17"
    assert raised.value.response.headers["content-type"] == "application/json"


def test_the_providers_refusal_of_our_key_does_not_look_like_the_callers(
    client: openai.OpenAI, provider: Provider
) -> None:
    provider.script(status=401)

    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="chat", messages=HELLO)

    assert (raised.value.status_code, raised.value.code) == (502, "upstream_authentication_failed")
    assert "sk-fake" not in raised.value.response.text


def test_an_error_in_the_middle_of_a_stream_reaches_the_caller(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(error_after=3)

    stream = iter(client.chat.completions.create(model="chat", messages=HELLO, stream=True))
    assert next(stream).choices

    with pytest.raises(openai.APIError, match="overloaded"):
        list(stream)


def test_a_provider_that_breaks_off_is_an_error_event_and_billed(
    client: openai.OpenAI, product: Product, provider: Provider
) -> None:
    provider.script(reset_after=5, chunk_delay_ms=10)
    with client.chat.completions.with_streaming_response.create(model="chat", messages=HELLO, stream=True) as response:
        request_id = response.headers["x-request-id"]
        with pytest.raises(openai.APIError):
            list(response.parse())

    row = product.ledger_row(request_id)
    assert (row["status"], row["usage_source"]) == ("failed", "estimated")
    assert row["output_tokens"] >= 3


def test_a_reset_before_the_headers_is_a_bad_gateway(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(reset=True, times=3)

    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="chat", messages=HELLO)

    assert (raised.value.status_code, raised.value.code) == (502, "upstream_connection_failed")


def test_a_provider_that_never_answers_times_out(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(stall_after=0, times=3)

    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="impatient", messages=HELLO)

    assert (raised.value.status_code, raised.value.code) == (504, "upstream_timeout")


def test_a_key_over_its_limit_is_told_when_to_come_back(product: Product, provider: Provider) -> None:
    with openai.OpenAI(base_url=f"{product.url}/v1", api_key=LIMITED_KEY, max_retries=0) as limited:
        for _ in range(3):
            limited.chat.completions.create(model="chat", messages=HELLO)
        with pytest.raises(openai.RateLimitError) as raised:
            limited.chat.completions.create(model="chat", messages=HELLO)

    assert raised.value.code == "rate_limit_exceeded"
    assert 0 < int(raised.value.response.headers["retry-after"]) <= 20
    assert len(provider.sent) == 3


async def test_the_asynchronous_client_works_too(product: Product, provider: Provider) -> None:
    async with openai.AsyncOpenAI(base_url=f"{product.url}/v1", api_key=KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(model="chat", messages=HELLO, stream=True)
        assert [chunk async for chunk in stream]
