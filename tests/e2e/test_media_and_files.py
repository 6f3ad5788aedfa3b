"""OpenAI's unmodified SDK makes images, speaks, listens, moderates and runs batches through the gateway."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, Provider, running_product, running_provider, wait_for

MATE = "sk-gw-teammate000-0123456789abcdefghij"
STRANGER = "sk-gw-stranger000-0123456789abcdefghij"
EXTRA = """
version: 1
teams: {outside: {}}
deployments:
  painter-main: {provider: fake, credential: main, model: fake-dall-e}
  voice-tts-main: {provider: fake, credential: main, model: fake-tts}
  voice-tokens-main: {provider: fake, credential: main, model: fake-tts-tokens}
  ear-main: {provider: fake, credential: main, model: fake-whisper}
  judge-main: {provider: fake, credential: main, model: fake-moderation}
  ranker-main: {provider: fake, credential: main, model: fake-rerank}
aliases:
  painter: {targets: [{deployment: painter-main}]}
  speaker: {targets: [{deployment: voice-tts-main}]}
  token-speaker: {targets: [{deployment: voice-tokens-main}]}
  ear: {targets: [{deployment: ear-main}]}
  judge: {targets: [{deployment: judge-main}]}
  ranker: {targets: [{deployment: ranker-main}]}
prices:
  - {provider: fake, model: fake-dall-e, input: 0, units: {image: "0.04", "image:hd": "0.08"}, effective_from: 2026-01-01}
  - {provider: fake, model: fake-tts, input: 0, units: {character: "0.000015"}, effective_from: 2026-01-01}
  - {provider: fake, model: fake-tts-tokens, input: "0.6", output: 0, audio_output: 12, effective_from: 2026-01-01}
  - {provider: fake, model: fake-whisper, input: 0, units: {minute: "0.006"}, effective_from: 2026-01-01}
  - {provider: fake, model: fake-rerank, input: 0, units: {search: "0.002"}, effective_from: 2026-01-01}
  - {provider: fake, model: "fake-chat:batch", input: "0.075", output: "0.30", effective_from: 2026-01-01}
keys:
  mate: {team: platform, secret: MATE}
  stranger: {team: outside, secret: STRANGER}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Product, Provider]]:
    """A product of its own: the lists of models of the common one are tested elsewhere."""
    folder = tmp_path_factory.mktemp("media")
    with running_provider(folder) as provider, running_product(folder, provider) as product:
        extra = folder / "extra.yaml"
        extra.write_text(EXTRA.replace("MATE", MATE).replace("STRANGER", STRANGER))
        product.manage("import_config", str(extra))
        with _client(product, STRANGER) as client:
            wait_for(lambda: _may_list(client), "the new keys")
        yield product, provider


@pytest.fixture
def product(place: tuple[Product, Provider]) -> Product:
    return place[0]


@pytest.fixture
def provider(place: tuple[Product, Provider]) -> Provider:
    place[1].reset()
    return place[1]


@pytest.fixture
def client(product: Product, provider: Provider) -> Iterator[openai.OpenAI]:
    with _client(product, KEY) as client:
        yield client


def _client(product: Product, secret: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{product.url}/v1", api_key=secret, max_retries=0)


def _may_list(client: openai.OpenAI) -> bool:
    try:
        return "ranker" in {model.id for model in client.models.list()}
    except openai.AuthenticationError:
        return False


def wav(seconds: int) -> bytes:
    data = b"\0" * (32_000 * seconds)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16,
                       b"data", len(data))  # fmt: skip
    return head + data


def test_images(client: openai.OpenAI, product: Product, provider: Provider) -> None:
    response = client.images.with_raw_response.generate(model="painter", prompt="a cat", n=2, quality="hd")

    images = response.parse().data
    assert images is not None
    assert [image.b64_json for image in images] == ["YSBjYXQ=", "YSBjYXQ="]
    row = product.ledger_row(response.headers["x-request-id"])
    assert (row["units"], row["cost_pico_usd"]) == ({"image:hd": 2}, 16 * 10**10)
    assert provider.last["body"] == {"model": "fake-dall-e", "prompt": "a cat", "n": 2, "quality": "hd"}


def test_an_edited_image(client: openai.OpenAI, product: Product, provider: Provider) -> None:
    response = client.images.with_raw_response.edit(
        model="painter", image=("cat.png", b"\x89PNG\r\n\x1a\n--\r\n", "image/png"), prompt="with a hat"
    )

    assert response.parse().data
    sent = provider.last["body"]
    assert (sent["model"], sent["prompt"]) == ("fake-dall-e", "with a hat")
    assert sent["image"]["bytes"] == 12
    assert product.ledger_row(response.headers["x-request-id"])["units"] == {"image": 1}


def test_speech(client: openai.OpenAI, product: Product) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="speaker", voice="alloy", input="hello there"
    ) as response:
        sound = response.read()

    assert sound.startswith(b"ID3")
    assert len(sound) == 4 + 2 * 256
    row = product.ledger_row(response.headers["x-request-id"])
    assert (row["units"], row["usage_source"], row["cost_pico_usd"]) == ({"character": 11}, "counted", 165 * 10**6)


@pytest.mark.parametrize(
    ("model", "pico_usd"),
    [("token-speaker", 5 * 600_000 + 100 * 12_000_000), ("speaker", 11 * 15 * 10**6)],
    ids=["by the token", "by the character"],
)
def test_speech_as_events(
    client: openai.OpenAI, product: Product, provider: Provider, model: str, pico_usd: int
) -> None:
    with client.audio.speech.with_streaming_response.create(
        model=model, voice="alloy", input="hello there", stream_format="sse"
    ) as response:
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]

    assert provider.last["body"]["stream_format"] == "sse"
    assert [event["type"] for event in events] == ["speech.audio.delta"] * 3 + ["speech.audio.done"]
    assert base64.b64decode(events[0]["audio"]).startswith(b"ID3")
    row = product.ledger_row(response.headers["x-request-id"])
    assert (row["usage_source"], row["cost_pico_usd"]) == ("provider", pico_usd)


def test_speech_that_breaks_off_is_no_whole_answer(client: openai.OpenAI, provider: Provider) -> None:
    provider.script(reset_after=2)

    with (
        pytest.raises(Exception, match="incomplete chunked read"),
        client.audio.speech.with_streaming_response.create(
            model="speaker", voice="alloy", input="one two three four"
        ) as response,
    ):
        response.read()


def test_a_client_that_leaves_while_it_listens(product: Product, provider: Provider) -> None:
    provider.script(chunk_delay_ms=50)
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "speaker", "voice": "alloy", "input": "word " * 500}
    with (
        httpx.Client(base_url=product.url, headers=headers) as http,
        http.stream("POST", "/v1/audio/speech", json=body) as response,
    ):
        assert next(response.iter_raw())
        request_id = response.headers["x-request-id"]

    wait_for(lambda: provider.last["disconnected_at"], "the end of the upstream call", within_s=5)
    row = product.ledger_row(request_id)
    assert (row["status"], row["units"]) == ("cancelled", {"character": 2500})


def test_transcriptions_and_translations(client: openai.OpenAI, product: Product, provider: Provider) -> None:
    sound = wav(90)

    heard = client.audio.transcriptions.with_raw_response.create(model="ear", file=("a.wav", io.BytesIO(sound)))
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.audio.translations.create(model="ear", file=("a.wav", io.BytesIO(sound)))

    assert json.loads(heard.content)["text"] == "91 seconds of sound"
    assert provider.last["body"]["file"]["bytes"] == len(sound)
    assert provider.last["body"]["model"] == "fake-whisper"
    row = product.ledger_row(heard.headers["x-request-id"])
    assert (row["units"], row["cost_pico_usd"]) == ({"millisecond": 91_000}, 91 * 10**8)


def test_moderations(client: openai.OpenAI) -> None:
    answer = client.moderations.create(model="judge", input="I hate this")

    assert answer.results[0].flagged


def test_reranking(product: Product) -> None:
    body = {"model": "ranker", "query": "red car", "documents": ["a blue boat", "a red car", "red"]}

    answer = httpx.post(f"{product.url}/v2/rerank", json=body, headers={"authorization": f"Bearer {KEY}"})

    assert [result["index"] for result in answer.json()["results"]] == [1, 2, 0]
    assert product.ledger_row(answer.headers["x-request-id"])["cost_pico_usd"] == 2 * 10**9


def test_an_unknown_model_is_not_found_on_each(client: openai.OpenAI) -> None:
    calls: list[Any] = [
        lambda: client.images.generate(model="nonesuch", prompt="x"),
        lambda: client.audio.speech.create(model="nonesuch", voice="alloy", input="x"),
        lambda: client.audio.transcriptions.create(model="nonesuch", file=("a.wav", wav(1))),
        lambda: client.moderations.create(model="nonesuch", input="x"),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as raised:
            call()
        assert raised.value.code == "model_not_found"


# ── files and batches ──


def _batch(client: openai.OpenAI) -> Any:
    def line(number: int) -> dict[str, Any]:
        body = {"model": "fake-chat", "messages": [{"role": "user", "content": f"Question {number}"}]}
        return {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}

    content = b"".join(json.dumps(line(number)).encode() + b"\n" for number in range(3))
    uploaded = client.files.create(file=("in.jsonl", content), purpose="batch")
    made = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
    return client.batches.retrieve(made.id)


def test_a_batch_is_charged_once_at_its_own_price(client: openai.OpenAI, product: Product) -> None:
    batch = _batch(client)

    assert batch.status == "completed"
    first = client.files.with_raw_response.content(batch.output_file_id)
    with ThreadPoolExecutor(8) as pool:
        others = list(pool.map(lambda _: client.files.with_raw_response.content(batch.output_file_id), range(16)))

    results = [json.loads(each)["response"]["body"]["usage"] for each in first.content.splitlines()]
    rows = {row["request_id"]: row for row in product.usage()}
    charged = rows[first.headers["x-request-id"]]
    tokens = [sum(usage[name] for usage in results) for name in ("prompt_tokens", "completion_tokens")]
    assert len(results) == 3
    assert (charged["input_tokens"], charged["output_tokens"]) == tuple(tokens)
    assert charged["cost_pico_usd"] == tokens[0] * 75_000 + tokens[1] * 300_000
    assert {rows[other.headers["x-request-id"]]["cost_pico_usd"] for other in others} == {0}
    assert all(other.content == first.content for other in others)


def test_of_many_that_fetch_first_one_is_charged(client: openai.OpenAI, product: Product) -> None:
    batch = _batch(client)

    with ThreadPoolExecutor(8) as pool:
        fetched = list(pool.map(lambda _: client.files.with_raw_response.content(batch.output_file_id), range(24)))

    rows = {row["request_id"]: row for row in product.usage()}
    costs = [rows[each.headers["x-request-id"]]["cost_pico_usd"] for each in fetched]
    assert sum(cost > 0 for cost in costs) == 1


def test_a_team_shares_its_files_and_others_find_nothing(client: openai.OpenAI, product: Product) -> None:
    batch = _batch(client)

    with _client(product, MATE) as mate, _client(product, STRANGER) as stranger:
        assert mate.files.retrieve(batch.input_file_id).id == batch.input_file_id
        assert batch.id in {each.id for each in mate.batches.list()}
        assert not list(stranger.batches.list())
        assert not list(stranger.files.list())
        for call in (
            lambda: stranger.files.retrieve(batch.input_file_id),
            lambda: stranger.files.content(batch.output_file_id),
            lambda: stranger.batches.cancel(batch.id),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
    assert client.files.delete(batch.input_file_id).deleted
