"""Applications use Google's unmodified SDK, whoever answers: a provider of its own dialect or of OpenAI's.

And OpenAI's SDK reaches a provider that speaks Gemini's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from google import genai
from google.genai import errors, types

from llmgateway.http import httpx
from providers.fake_server.contents import SIGNATURE, THOUGHT
from tests.e2e.harness import CACHE_PRICE, INPUT_PRICE, KEY, LIMITED_KEY, OUTPUT_PRICE, Product, Provider

BOTH = pytest.mark.parametrize("model", ["flash", "chat"])
WEATHER = types.FunctionDeclaration(
    name="weather",
    description="Tells the weather",
    parameters=types.Schema(
        type=types.Type.OBJECT, properties={"city": types.Schema(type=types.Type.STRING)}, required=["city"]
    ),
)
TOOLS: Any = [types.Tool(function_declarations=[WEATHER])]
WEATHER_OF_OPENAI: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def client_of(product: Product, path: str = "", key: str = KEY, version: str | None = None) -> genai.Client:
    """Google's SDK as an application has it: only base URL and key differ."""
    options = types.HttpOptions(base_url=product.url + path, api_version=version)
    return genai.Client(api_key=key, http_options=options)


@pytest.fixture
def google(product: Product, provider: Provider) -> Iterator[genai.Client]:
    with client_of(product) as client:
        yield client


@BOTH
def test_an_answer(google: genai.Client, provider: Provider, model: str) -> None:
    provider.script(text="Hello to you")

    answer = google.models.generate_content(
        model=model, contents="Say hello", config=types.GenerateContentConfig(system_instruction="Be kind.")
    )

    assert answer.text == "Hello to you"
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason is types.FinishReason.STOP
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.prompt_token_count
    assert answer.usage_metadata.candidates_token_count == 3
    assert "Be kind." in str(provider.last["body"])


@pytest.mark.parametrize(("path", "version"), [("", None), ("", "v1"), ("/gemini", None), ("/google", "v1")])
def test_every_base_url_that_clients_know(product: Product, provider: Provider, path: str, version: str | None) -> None:
    provider.script(text="Here")

    with client_of(product, path, version=version) as client:
        answer = client.models.generate_content(model="flash", contents="Where?")

    assert answer.text == "Here"
    assert provider.last["path"] == "/v1beta/models/gemini-3-fake:generateContent"


def test_a_request_reaches_its_own_kind_as_it_was_sent_and_is_billed(
    google: genai.Client, product: Product, provider: Provider
) -> None:
    config = types.GenerateContentConfig(
        temperature=0.5,
        max_output_tokens=50,
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HARASSMENT, threshold=types.HarmBlockThreshold.BLOCK_NONE
            )
        ],
    )
    google.models.generate_content(model="flash", contents="The same again", config=config)
    answer = google.models.generate_content(model="flash", contents="The same again", config=config)

    sent, headers = provider.last["body"], dict(provider.last["headers"])
    assert sent["generationConfig"] == {"temperature": 0.5, "maxOutputTokens": 50}
    assert sent["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    assert headers["x-goog-api-client"]
    assert KEY not in str(provider.last["headers"])
    assert answer.sdk_http_response is not None
    assert answer.sdk_http_response.headers is not None
    row = product.ledger_row(answer.sdk_http_response.headers["x-request-id"])
    usage = answer.usage_metadata
    assert usage is not None
    cached, prompt, said = usage.cached_content_token_count, usage.prompt_token_count, usage.candidates_token_count
    assert cached
    assert prompt
    assert said
    assert row["cost_pico_usd"] == (prompt - cached) * INPUT_PRICE + cached * CACHE_PRICE + said * OUTPUT_PRICE
    assert row["usage_source"] == "provider"


@BOTH
def test_a_stream(google: genai.Client, product: Product, provider: Provider, model: str) -> None:
    provider.script(text="Grüße aus Paris 🎉", split=7)

    chunks = list(google.models.generate_content_stream(model=model, contents="Say hello"))

    assert "".join(chunk.text or "" for chunk in chunks) == "Grüße aus Paris 🎉"
    assert len(chunks) >= 4
    assert chunks[-1].candidates is not None
    assert chunks[-1].candidates[0].finish_reason is types.FinishReason.STOP
    assert chunks[-1].usage_metadata is not None
    assert chunks[-1].usage_metadata.candidates_token_count == 4
    assert chunks[0].sdk_http_response is not None
    assert chunks[0].sdk_http_response.headers is not None
    row = product.ledger_row(chunks[0].sdk_http_response.headers["x-request-id"])
    assert (row["usage_source"], row["status"], row["output_tokens"]) == ("provider", "completed", 4)


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_an_asynchronous_stream(product: Product, provider: Provider) -> None:
    provider.script(text="One two three")

    async with client_of(product).aio as client:
        stream = await client.models.generate_content_stream(model="flash", contents="Count")
        pieces = [chunk.text async for chunk in stream]

    assert "".join(piece or "" for piece in pieces) == "One two three"


@BOTH
def test_a_stream_as_a_list(http: httpx.Client, provider: Provider, model: str) -> None:
    provider.script(text="One two three")

    answer = http.post(
        f"/v1beta/models/{model}:streamGenerateContent", json={"contents": [{"parts": [{"text": "Count"}]}]}
    )

    assert answer.headers["content-type"] == "application/json"
    parts = [part for chunk in answer.json() for part in chunk["candidates"][0]["content"]["parts"]]
    assert "".join(part["text"] for part in parts) == "One two three"


@BOTH
def test_a_tool_is_called_and_its_result_sent_back(google: genai.Client, provider: Provider, model: str) -> None:
    calling = types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
    config = types.GenerateContentConfig(tools=TOOLS, tool_config=types.ToolConfig(function_calling_config=calling))
    asked = types.Content(role="user", parts=[types.Part(text="How is the weather?")])

    first = google.models.generate_content(model=model, contents=[asked], config=config)

    assert first.function_calls is not None
    (call,) = first.function_calls
    assert (call.name, call.args) == ("weather", {"city": "Paris"})
    assert first.candidates is not None
    said = first.candidates[0].content
    assert said is not None
    response = types.FunctionResponse(id=call.id, name="weather", response={"output": "Sunny"})
    told = types.Content(role="user", parts=[types.Part(function_response=response)])
    provider.script(text="It is sunny")
    second = google.models.generate_content(
        model=model, contents=[asked, said, told], config=types.GenerateContentConfig(tools=TOOLS)
    )

    assert second.text == "It is sunny"
    assert "Sunny" in str(provider.last["body"])


@BOTH
def test_a_tool_is_called_in_a_stream(google: genai.Client, provider: Provider, model: str) -> None:
    calling = types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
    config = types.GenerateContentConfig(tools=TOOLS, tool_config=types.ToolConfig(function_calling_config=calling))

    chunks = list(google.models.generate_content_stream(model=model, contents="Weather?", config=config))

    calls = [call for chunk in chunks for call in chunk.function_calls or []]
    assert [(call.name, call.args) for call in calls] == [("weather", {"city": "Paris"})]


def test_a_conversation_of_the_sdk_keeps_its_signatures(google: genai.Client, provider: Provider) -> None:
    """Automatic function calling: the SDK runs the tool and sends everything back; the fake insists on signatures."""

    def weather(city: str) -> str:
        """Tells the weather."""
        return f"Sunny in {city}"

    provider.script(tool="weather")
    provider.script(text="Fine")
    chat = google.chats.create(model="flash", config=types.GenerateContentConfig(tools=[weather]))

    assert chat.send_message("Weather?").text == "Fine"
    _, called, told = provider.last["body"]["contents"]
    assert called["parts"][0]["thoughtSignature"] == SIGNATURE
    assert told["parts"][0]["functionResponse"]["response"] == {"result": "Sunny in Paris"}


def test_thoughts_come_to_those_who_ask(google: genai.Client, provider: Provider) -> None:
    thinking = types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW, include_thoughts=True)

    answer = google.models.generate_content(
        model="flash", contents="Think", config=types.GenerateContentConfig(thinking_config=thinking)
    )

    assert answer.parts is not None
    assert (answer.parts[0].text, answer.parts[0].thought) == (THOUGHT, True)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.thoughts_token_count == 16


@pytest.mark.parametrize("model", ["vectors", "embed"])
def test_embeddings(google: genai.Client, provider: Provider, model: str) -> None:
    answer = google.models.embed_content(
        model=model, contents=["a", "b"], config=types.EmbedContentConfig(output_dimensionality=8)
    )

    assert answer.embeddings is not None
    assert [len(each.values or []) for each in answer.embeddings] == [8, 8]
    assert answer.embeddings[0].values != answer.embeddings[1].values


@BOTH
def test_tokens_are_counted(google: genai.Client, provider: Provider, model: str) -> None:
    assert google.models.count_tokens(model=model, contents="How many?").total_tokens


def test_models_are_the_aliases(google: genai.Client) -> None:
    names = {model.name for model in google.models.list(config={"page_size": 2})}

    assert {"models/flash", "models/chat", "models/fake/chat"} <= names
    assert google.models.get(model="flash").name == "models/flash"


@pytest.mark.parametrize(
    ("status", "error"), [(400, errors.ClientError), (429, errors.ClientError), (503, errors.ServerError)]
)
def test_errors_of_the_provider_keep_their_type(
    google: genai.Client, provider: Provider, status: int, error: type[errors.APIError]
) -> None:
    provider.script(status=status)

    with pytest.raises(error) as told:
        google.models.generate_content(model="flash", contents="Hi")

    assert told.value.code == status


def test_errors_of_the_gateway_are_googles(product: Product, provider: Provider) -> None:
    cases = [
        ("sk-gw-nobody", "flash", 401, "UNAUTHENTICATED"),
        (KEY, "gone", 404, "NOT_FOUND"),
        (LIMITED_KEY, "flash", 403, "PERMISSION_DENIED"),
    ]
    for key, model, status, name in cases:
        with client_of(product, key=key) as client, pytest.raises(errors.ClientError) as told:
            client.models.generate_content(model=model, contents="Hi")

        assert (told.value.code, told.value.status) == (status, name)


@BOTH
def test_an_error_inside_a_stream_is_raised(google: genai.Client, provider: Provider, model: str) -> None:
    provider.script(error_after=2)

    with pytest.raises(errors.APIError) as told:
        list(google.models.generate_content_stream(model=model, contents="Hi"))

    assert told.value.code == 503


# ── OpenAI's SDK ──


def test_openais_sdk_reaches_gemini(client: openai.OpenAI, product: Product, provider: Provider) -> None:
    provider.script(text="Hello to you")

    response = client.chat.completions.with_raw_response.create(
        model="flash",
        messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say hello"}],
        reasoning_effort="low",
    )

    answer = response.parse()
    assert answer.choices[0].message.content == "Hello to you"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3 + 16
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 16
    assert provider.last["body"]["systemInstruction"] == {"parts": [{"text": "Be kind."}]}
    assert product.ledger_row(response.headers["x-request-id"])["usage_source"] == "provider"


def test_openais_sdk_streams_from_gemini(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(text="Grüße aus Paris 🎉", split=5)

    chunks = list(
        client.chat.completions.create(
            model="flash",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Grüße aus Paris 🎉"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


@pytest.mark.parametrize("keeps_signature", [True, False])
def test_signatures_of_gemini_go_through_openais_clients(
    client: openai.OpenAI, provider: Provider, keeps_signature: bool
) -> None:
    """A client that sends its calls back with all their fields returns them; without, the model is told to do without."""
    asked: Any = {"role": "user", "content": "How is the weather?"}
    first = client.chat.completions.create(
        model="flash", messages=[asked], tools=[WEATHER_OF_OPENAI], tool_choice="required"
    )
    said = first.choices[0].message.model_dump(exclude_none=True)
    (call,) = said["tool_calls"]
    assert call["extra_content"] == {"google": {"thought_signature": SIGNATURE}}
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert first.choices[0].finish_reason == "tool_calls"
    if not keeps_signature:
        del call["extra_content"]
    provider.script(text="Fine")
    messages: Any = [asked, said, {"role": "tool", "tool_call_id": call["id"], "content": "Sunny"}]

    second = client.chat.completions.create(model="flash", messages=messages, tools=[WEATHER_OF_OPENAI])

    assert second.choices[0].message.content == "Fine"
    sent = provider.last["body"]["contents"][1]["parts"][0]["thoughtSignature"]
    assert (sent == SIGNATURE) is keeps_signature


def test_openais_embeddings_come_from_gemini(client: openai.OpenAI, provider: Provider) -> None:
    answer = client.embeddings.create(model="vectors", input=["a", "b"], dimensions=8)

    assert [len(each.embedding) for each in answer.data] == [8, 8]
    assert provider.last["path"].endswith("/gemini-embedding-fake:batchEmbedContents")
