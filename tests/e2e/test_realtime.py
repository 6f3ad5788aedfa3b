"""Realtime sessions with OpenAI's unmodified SDK: what it hears is the provider's, what is billed is the provider's count."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, Provider, running_product, running_provider, wait_for

INPUT, OUTPUT, CACHED, AUDIO_IN, AUDIO_OUT, SCRIBE = 4_000_000, 16_000_000, 400_000, 32_000_000, 64_000_000, 6_000_000
BROKE_KEY = "sk-gw-broke00000-0123456789abcdefghij"
STRICT_KEY = "sk-gw-strict0000-0123456789abcdefghij"
BUSY_KEY = "sk-gw-busy00000a-0123456789abcdefghij"
NARROW_KEY = "sk-gw-narrow0000-0123456789abcdefghij"
DOOMED_KEY = "sk-gw-doomed0000-0123456789abcdefghij"
MORE = f"""
  broke: {{team: platform, secret: {BROKE_KEY}, budgets: [{{name: pennies, window: total, limit_usd: "0.07"}}]}}
  strict: {{team: platform, secret: {STRICT_KEY}, budgets: [{{name: exact, window: total, limit_usd: "5", mode: strict}}]}}
  busy: {{team: platform, secret: {BUSY_KEY}, limits: [{{metric: concurrency, amount: 1}}, {{metric: requests, per: hour, amount: 2}}]}}
  narrow: {{team: platform, secret: {NARROW_KEY}, models: [chat]}}
  doomed: {{team: platform, secret: {DOOMED_KEY}}}
"""
SOUND = base64.b64encode(b"\1" * 48_000).decode()
SILENCE = base64.b64encode(b"\0" * 4_800).decode()
TEXT: Any = {"output_modalities": ["text"]}
HELLO: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hello to everybody"}]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Product, Provider]]:
    folder = tmp_path_factory.mktemp("realtime")
    with running_provider(folder) as provider, running_product(folder, provider, more=MORE) as product:
        yield product, provider


@pytest.fixture
def product(place: tuple[Product, Provider]) -> Product:
    return place[0]


@pytest.fixture
def provider(place: tuple[Product, Provider]) -> Provider:
    place[1].reset()
    return place[1]


def sdk(product: Product, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{product.url}/v1", api_key=key, max_retries=0)


def dial(
    product: Product, query: str = "?model=voice", *, key: str = KEY, path: str = "/v1/realtime", **options: Any
) -> connect:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = product.url.replace("http", "ws", 1) + path + query
    return connect(url, additional_headers=headers, proxy=None, max_size=None, **options)


async def tell(socket: ClientConnection, kind: str, **more: Any) -> None:
    await socket.send(json.dumps({"type": kind, **more}))


async def until(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of a kind."""
    async with asyncio.timeout(10):
        while True:
            event: dict[str, Any] = json.loads(await socket.recv())
            if event["type"] == kind:
                return event
            assert event["type"] != "error", event


async def goodbye(socket: ClientConnection) -> tuple[dict[str, Any] | None, int | None, str | None]:
    """The last error event, and how the connection was closed."""
    error = None
    try:
        async with asyncio.timeout(10):
            while True:
                event = json.loads(await socket.recv())
                error = event["error"] if event["type"] == "error" else error
    except websockets.ConnectionClosed:
        return error, socket.close_code, socket.close_reason


def rows_of(product: Product, session_id: str, count: int) -> list[dict[str, Any]]:
    """The rows of a session in their order."""

    def found() -> list[dict[str, Any]]:
        rows = [row for row in product.usage() if row["request_id"].startswith(f"{session_id}.")]
        return rows if len(rows) >= count else []

    rows: list[dict[str, Any]] = wait_for(found, f"{count} rows of the session")
    assert len(rows) == count
    return sorted(rows, key=lambda row: int(row["request_id"].rpartition(".")[2], 16))


def price_of(usage: dict[str, Any]) -> int:
    """What a response costs, by the prices in the harness' configuration and the provider's own figures."""
    heard, said = usage["input_token_details"], usage["output_token_details"]
    cached = heard["cached_tokens_details"]
    cost: int = (
        (heard["text_tokens"] - cached["text_tokens"]) * INPUT
        + (heard["audio_tokens"] - cached["audio_tokens"]) * AUDIO_IN
        + heard["cached_tokens"] * CACHED
        + said["text_tokens"] * OUTPUT
        + said["audio_tokens"] * AUDIO_OUT
    )
    return cost


async def test_a_conversation_with_the_sdk_is_in_the_ledger_as_the_provider_counts_it(
    product: Product, provider: Provider
) -> None:
    async with sdk(product).realtime.connect(model="voice") as connection:
        session_id = connection._connection.response.headers["x-request-id"]  # type: ignore[union-attr]
        heard: list[str] = []
        for _ in range(3):
            await connection.conversation.item.create(item=HELLO)
            await connection.response.create()
            async for event in connection:
                heard.append(event.type)
                if event.type == "response.done":
                    break

    sent = provider.last
    billed = sent["billed"]["responses"]
    rows = rows_of(product, session_id, 3)
    assert heard[0] == "session.created"
    assert heard.count("response.output_audio.delta") == 3 * 8
    assert sum(usage["input_token_details"]["cached_tokens"] for usage in billed) > 0
    assert [row["input_tokens"] for row in rows] == [usage["input_tokens"] for usage in billed]
    assert [row["output_tokens"] for row in rows] == [usage["output_tokens"] for usage in billed]
    assert [row["cost_pico_usd"] for row in rows] == [price_of(usage) for usage in billed]
    assert {(row["status"], row["usage_source"], row["key"], row["model"]) for row in rows} == {
        ("completed", "provider", "app", "fake-realtime")
    }
    assert sent["query"] == "model=fake-realtime"


async def test_credentials_stay_where_they_belong(product: Product, provider: Provider) -> None:
    async with dial(product, f"?model=voice&key={KEY}&intent=talk", key="") as socket:
        await until(socket, "session.created")

    sent = provider.last
    assert sent["query"] == "model=fake-realtime&intent=talk"
    assert KEY not in json.dumps(sent["headers"])
    assert KEY not in product.child.output


async def test_a_browser_sends_its_key_as_a_subprotocol(product: Product, provider: Provider) -> None:
    offered: Any = ["realtime", f"openai-insecure-api-key.{KEY}"]
    async with dial(product, key="", subprotocols=offered) as socket:
        await until(socket, "session.created")
        chosen = socket.subprotocol

    assert chosen == "realtime"
    assert KEY not in json.dumps(provider.last["headers"])


async def test_a_session_under_the_provider_s_name(product: Product, provider: Provider) -> None:
    async with dial(product, "?model=fake-realtime", path="/fake/v1/realtime") as socket:
        assert (await until(socket, "session.created"))["session"]["model"] == "fake-realtime"


@pytest.mark.parametrize(
    ("query", "key", "path", "answer"),
    [
        ("?model=voice", "", "/v1/realtime", (401, "invalid_api_key")),
        ("?model=voice", "sk-gw-unknown000-0123456789abcdefghij", "/v1/realtime", (401, "invalid_api_key")),
        ("", KEY, "/v1/realtime", (400, "invalid_value")),
        ("?model=nothing", KEY, "/v1/realtime", (404, "model_not_found")),
        ("?model=voice", NARROW_KEY, "/v1/realtime", (403, "model_not_allowed")),
        ("?model=claude", KEY, "/v1/realtime", (400, "invalid_value")),
        ("?model=voice", STRICT_KEY, "/v1/realtime", (402, "cost_not_boundable")),
        ("?model=voice", KEY, "/v1/elsewhere", (404, "unknown_endpoint")),
    ],
)
async def test_a_handshake_is_refused_with_a_true_status(
    place: tuple[Product, Provider], query: str, key: str, path: str, answer: tuple[int, str]
) -> None:
    product, provider = place
    provider.reset()

    with pytest.raises(websockets.InvalidStatus) as refused:
        await dial(product, query, key=key, path=path)

    response = refused.value.response
    assert (response.status_code, json.loads(response.body or b"")["error"]["code"]) == answer
    assert product.log_line(response.headers["x-request-id"])["http_status"] == answer[0]
    assert provider.sent == []


async def test_a_provider_s_refusal_is_told(product: Product, provider: Provider) -> None:
    provider.script(status=429)

    with pytest.raises(websockets.InvalidStatus) as refused:
        await dial(product)

    assert refused.value.response.status_code == 429


async def test_a_used_up_budget_ends_the_session_before_the_next_response(product: Product, provider: Provider) -> None:
    responses, error = 0, None
    async with dial(product, key=BROKE_KEY) as socket:
        session_id = socket.response.headers["x-request-id"]  # type: ignore[union-attr]
        while error is None:
            await tell(socket, "response.create", event_id="mine")
            while (event := json.loads(await socket.recv()))["type"] not in {"response.done", "error"}:
                pass
            error = event.get("error")
            responses += error is None
        _, code, reason = await goodbye(socket)

    rows = rows_of(product, session_id, responses)
    created = [event for event in provider.last["body"] if event["type"] == "response.create"]
    assert (error["type"], error["code"], error["event_id"]) == ("insufficient_quota", "insufficient_quota", "mine")
    assert (code, reason) == (1008, "insufficient_quota")
    assert len(created) == responses > 1
    assert sum(row["cost_pico_usd"] for row in rows) == sum(map(price_of, provider.last["billed"]["responses"]))
    with pytest.raises(websockets.InvalidStatus) as refused_now:
        await dial(product, key=BROKE_KEY)
    assert refused_now.value.response.status_code == 402


async def test_limits_hold_for_sessions_and_for_responses(product: Product, provider: Provider) -> None:
    async with dial(product, key=BUSY_KEY) as socket:
        with pytest.raises(websockets.InvalidStatus) as second:
            await dial(product, key=BUSY_KEY)
        for _ in range(2):
            await tell(socket, "response.create")
            await until(socket, "response.done")
        await tell(socket, "response.create")
        error, code, reason = await goodbye(socket)

    refused = second.value.response
    assert (refused.status_code, json.loads(refused.body or b"")["error"]["code"]) == (
        429,
        "concurrency_limit_exceeded",
    )
    assert error is not None
    assert error["code"] == "rate_limit_exceeded"
    assert (code, reason) == (1008, "rate_limit_exceeded")


async def test_what_the_provider_begins_by_itself_is_metered_and_so_is_what_it_writes_down(
    product: Product, provider: Provider
) -> None:
    transcription = {"model": "scribe-fake"}
    async with dial(product) as socket:
        session_id = socket.response.headers["x-request-id"]  # type: ignore[union-attr]
        await tell(socket, "session.update", session={"audio": {"input": {"transcription": transcription}}})
        await until(socket, "session.updated")
        await tell(socket, "input_audio_buffer.append", audio=SOUND)
        await tell(socket, "input_audio_buffer.append", audio=SILENCE)
        await until(socket, "response.done")

    billed = provider.last["billed"]
    written, answered = rows_of(product, session_id, 2)
    usage = billed["transcriptions"][0]
    assert (written["model"], written["input_tokens"], written["output_tokens"]) == (
        "scribe-fake",
        usage["input_tokens"],
        3,
    )
    assert written["cost_pico_usd"] == usage["total_tokens"] * SCRIBE
    assert answered["cost_pico_usd"] == price_of(billed["responses"][0])
    assert billed["responses"][0]["input_token_details"]["audio_tokens"] > 0


async def test_frames_are_the_provider_s_and_the_caller_s(product: Product, provider: Provider) -> None:
    strange = '{"type":"session.update",  "session":{"unknown_field":{"kept":true}}, "event_id":"x"}'
    async with dial(product) as socket:
        await until(socket, "session.created")
        await socket.send(b"\0\1\2")
        echo = await socket.recv()
        await socket.send(strange)
        updated = await until(socket, "session.updated")

    assert echo == b"\0\1\2"
    assert updated["session"]["unknown_field"] == {"kept": True}
    assert provider.last["body"] == [json.loads(strange)]


async def test_a_session_keeps_its_model(product: Product, provider: Provider) -> None:
    async with dial(product) as socket:
        await until(socket, "session.created")
        await tell(socket, "session.update", session={"model": "fake-realtime-dear"}, event_id="change")
        refused = json.loads(await socket.recv())
        await tell(socket, "session.update", session={"model": "voice", "instructions": "Be kind"})
        updated = await until(socket, "session.updated")

    assert (refused["type"], refused["error"]["param"]) == ("error", "session.model")
    assert refused["error"]["event_id"] == "change"
    assert updated["session"]["model"] == "fake-realtime"
    assert updated["session"]["instructions"] == "Be kind"
    assert len(provider.last["body"]) == 1


async def test_a_client_that_leaves_ends_the_provider_s_session_at_once(product: Product, provider: Provider) -> None:
    provider.script(chunk_delay_ms=50, tokens=1000)
    socket = await dial(product)
    session_id = socket.response.headers["x-request-id"]  # type: ignore[union-attr]
    await tell(socket, "response.create", response=TEXT)
    for _ in range(4):
        await until(socket, "response.output_text.delta")

    left = time.time()
    socket.transport.abort()

    ended = await asyncio.to_thread(_when, lambda: provider.last["disconnected_at"])
    [row] = rows_of(product, session_id, 1)
    assert ended - left < 0.2
    assert (row["status"], row["usage_source"]) == ("cancelled", "estimated")
    assert row["output_tokens"] > 0
    line = product.log_line(session_id)
    assert (line["http_status"], line["path"]) == (101, "/v1/realtime")


def _when(moment: Callable[[], Any]) -> float:
    return float(wait_for(moment, "the end of the provider's session"))


async def test_how_the_client_says_goodbye_reaches_the_provider(product: Product, provider: Provider) -> None:
    socket = await dial(product)
    await socket.close(4001, "enough")

    await asyncio.to_thread(_when, lambda: provider.last["disconnected_at"])
    assert provider.last["close_code"] == 4001


async def test_how_the_provider_says_goodbye_reaches_the_client(product: Product, provider: Provider) -> None:
    provider.script(reset_after=2)
    async with dial(product) as socket:
        session_id = socket.response.headers["x-request-id"]  # type: ignore[union-attr]
        await tell(socket, "response.create")
        _, code, reason = await goodbye(socket)

    [row] = rows_of(product, session_id, 1)
    assert (code, reason) == (1011, "fake failure")
    assert (row["status"], row["usage_source"]) == ("failed", "estimated")


async def test_a_response_that_the_caller_stops_is_billed_as_the_provider_says(
    product: Product, provider: Provider
) -> None:
    provider.script(chunk_delay_ms=20, tokens=1000)
    async with dial(product) as socket:
        session_id = socket.response.headers["x-request-id"]  # type: ignore[union-attr]
        await tell(socket, "response.create")
        await until(socket, "response.output_audio.delta")
        await tell(socket, "response.cancel")
        done = await until(socket, "response.done")

    [row] = rows_of(product, session_id, 1)
    assert done["response"]["status"] == "cancelled"
    assert row["usage_source"] == "provider"
    assert row["cost_pico_usd"] == price_of(done["response"]["usage"])


async def test_a_second_response_that_the_provider_refuses_costs_nothing(product: Product, provider: Provider) -> None:
    provider.script(chunk_delay_ms=20)
    async with dial(product) as socket:
        session_id = socket.response.headers["x-request-id"]  # type: ignore[union-attr]
        await tell(socket, "response.create", event_id="one")
        await until(socket, "response.created")
        await tell(socket, "response.create", event_id="two")
        while (event := json.loads(await socket.recv()))["type"] != "response.done":
            if event["type"] == "error":
                assert event["error"]["event_id"] == "two"

    first, second = rows_of(product, session_id, 2)
    assert first["status"] == "completed"
    assert (second["status"], second["cost_pico_usd"]) == ("failed", 0)


async def test_a_revoked_key_ends_its_session(product: Product, provider: Provider) -> None:
    async with dial(product, key=DOOMED_KEY) as socket:
        await until(socket, "session.created")
        await asyncio.to_thread(product.manage, "shell", "-c", _DISABLE)
        revoked = time.monotonic()
        error, code, _ = await goodbye(socket)

    assert error is not None
    assert (error["code"], code) == ("key_disabled", 1008)
    assert time.monotonic() - revoked < 3


_DISABLE = "from llmgateway.models import ApiKey; ApiKey.objects.filter(name='doomed').update(enabled=False)"


async def test_a_kill_loses_no_response(tmp_path: Path, provider: Provider) -> None:
    with running_provider(tmp_path) as slow, running_product(tmp_path, slow, more=MORE) as product:
        async with dial(product) as socket:
            session_id = socket.response.headers["x-request-id"]  # type: ignore[union-attr]
            await tell(socket, "response.create")
            await until(socket, "response.done")
            await tell(socket, "conversation.item.create", item=HELLO)
        slow.script(chunk_delay_ms=50, tokens=1000)
        async with dial(product) as socket:
            killed_id = socket.response.headers["x-request-id"]  # type: ignore[union-attr]
            await tell(socket, "response.create", response=TEXT)
            for _ in range(12):
                await until(socket, "response.output_text.delta")
            await asyncio.to_thread(product.kill)
        await asyncio.to_thread(product.restart)

        [whole] = rows_of(product, session_id, 1)
        [cut] = rows_of(product, killed_id, 1)
        assert (whole["status"], whole["cost_pico_usd"]) == (
            "completed",
            price_of(slow.sent[0]["billed"]["responses"][0]),
        )
        assert (cut["status"], cut["usage_source"]) == ("interrupted", "estimated")
        assert cut["output_tokens"] > 0


def test_sessions_are_counted_in_the_metrics(product: Product, provider: Provider) -> None:
    page = httpx.get(f"{product.url}/metrics").text

    assert 'path="/v1/realtime"' in page
