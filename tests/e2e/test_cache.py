"""Kept answers on a real server, as OpenAI's SDK sees them."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from llmgateway.http import httpx
from llmgateway.secrets_file import fresh_secrets
from tests.e2e.harness import (
    INPUT_PRICE,
    KEY,
    OUTPUT_PRICE,
    Product,
    Provider,
    running_product,
    running_provider,
    wait_for,
)
from tests.e2e.test_live_configuration import Shell
from tests.stores.redis_server import RedisServer

ON = {"x-gateway-cache": "on"}
GUEST = "sk-gw-guestguest-0123456789abcdefghij"
MORE = f"  guest: {{team: platform, secret: {GUEST}}}\n"
READ = "from billing.models import UsageRecord"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Product, Provider]]:
    folder = tmp_path_factory.mktemp("cache")
    with (
        running_provider(folder) as provider,
        running_product(folder, provider, more=MORE, CACHE_ENABLED="true") as product,
    ):
        yield product, provider


@pytest.fixture
def product(both: tuple[Product, Provider]) -> Product:
    return both[0]


@pytest.fixture
def provider(both: tuple[Product, Provider]) -> Provider:
    both[1].reset()
    return both[1]


@pytest.fixture
def client(product: Product, provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{product.url}/v1", api_key=KEY, max_retries=0, default_headers=ON) as client:
        yield client


def asked(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture
def question() -> str:
    """One that nobody has asked before."""
    return f"What is {uuid.uuid4()}?"


def test_the_second_chat_is_a_hit_that_costs_nothing(
    product: Product, provider: Provider, client: openai.OpenAI, question: str
) -> None:
    create = client.chat.completions.with_raw_response.create
    first = create(model="chat", messages=asked(question))
    second = create(model="chat", messages=asked(question), user="somebody")

    assert (first.headers["x-gateway-cache"], second.headers["x-gateway-cache"]) == ("miss", "hit")
    assert first.parse().model_dump() == second.parse().model_dump()
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert int(second.headers["age"]) < 10
    assert second.headers["x-gateway-cost-usd"] == "0"
    assert len(provider.sent) == 1
    used = first.parse().usage
    assert used is not None
    cost = used.prompt_tokens * INPUT_PRICE + used.completion_tokens * OUTPUT_PRICE
    told = product.log_line(second.headers["x-request-id"])
    assert (told["cache"], told["status"], told["cost_pico_usd"]) == ("hit", "completed", 0)
    row = stored(product, second.headers["x-request-id"])
    assert (row["cache"], row["cost_pico_usd"], row["saved_pico_usd"]) == ("hit", 0, cost)
    assert stored(product, first.headers["x-request-id"])["cache"] == "miss"


def stored(product: Product, request_id: str) -> dict[str, Any]:
    code = f"import json; {READ}; print('ROW', json.dumps(UsageRecord.objects.filter(id={request_id!r}).values('cache', 'cost_pico_usd', 'saved_pico_usd').first()))"

    def look() -> dict[str, Any] | None:
        line = next(line for line in product.manage("shell", "-c", code).splitlines() if line.startswith("ROW "))
        row: dict[str, Any] | None = json.loads(line[4:])
        return row

    row: dict[str, Any] = wait_for(look, "the row")
    return row


def test_a_stream_is_given_again_as_a_stream(provider: Provider, client: openai.OpenAI, question: str) -> None:
    def chunks(**options: Any) -> list[Any]:
        with client.chat.completions.create(model="chat", messages=asked(question), stream=True, **options) as stream:
            return [chunk.model_dump() for chunk in stream]

    first, second = chunks(), chunks()
    with_usage = chunks(stream_options={"include_usage": True})

    assert first == second
    assert len(provider.sent) == 1
    assert with_usage[-1]["usage"]["completion_tokens"] > 0
    assert text(with_usage) == text(first) != ""


def text(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_a_client_that_does_not_read_holds_up_nobody_who_asks_the_same(
    product: Product, provider: Provider, question: str
) -> None:
    body = {"model": "chat", "messages": asked(question), "stream": True, "x_fake": {"tokens": 7_000}}
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\nx-gateway-cache: on\r\nauthorization: Bearer {KEY}\r\n"
    with socket.socket() as plug:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plug.connect(("127.0.0.1", product.port))
        plug.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        wait_for(lambda: provider.sent, "the leader's request")

        answer = httpx.post(
            f"{product.url}/v1/chat/completions",
            content=content,
            headers={"authorization": f"Bearer {KEY}", "content-type": "application/json", **ON},
            timeout=15,  # Before anybody would be let ask for being kept waiting.
        )

        left = plug.recv(4_000_000, socket.MSG_PEEK)

    assert (answer.status_code, answer.headers["x-gateway-cache"], len(provider.sent)) == (200, "hit", 1)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert len(left) < len(answer.content) / 2


def test_a_whole_answer_serves_a_stream_and_a_stream_a_whole_answer(
    provider: Provider, client: openai.OpenAI, question: str
) -> None:
    whole = client.chat.completions.create(model="chat", messages=asked(question))
    with client.chat.completions.create(model="chat", messages=asked(question), stream=True) as stream:
        assert text([chunk.model_dump() for chunk in stream]) == whole.choices[0].message.content

    with client.chat.completions.create(model="chat", messages=asked(f"{question} A stream."), stream=True) as stream:
        streamed = text([chunk.model_dump() for chunk in stream])
    again = client.chat.completions.create(model="chat", messages=asked(f"{question} A stream."))

    assert again.choices[0].message.content == streamed
    assert again.usage is not None
    assert again.usage.completion_tokens > 0
    assert len(provider.sent) == 2


def test_a_hundred_at_once_are_one_call(product: Product, provider: Provider, question: str) -> None:
    provider.script(delay_ms=300)
    statuses: list[tuple[int, str]] = []
    with httpx.Client(base_url=product.url, headers={"authorization": f"Bearer {KEY}", **ON}, timeout=20) as client:

        def call() -> None:
            answer = client.post("/v1/chat/completions", json={"model": "chat", "messages": asked(question)})
            statuses.append((answer.status_code, answer.headers["x-gateway-cache"]))

        threads = [threading.Thread(target=call) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(provider.sent) == 1
    assert statuses.count((200, "hit")) == 99
    assert statuses.count((200, "miss")) == 1


@pytest.fixture
def shell(product: Product) -> Iterator[Shell]:
    second_process = Shell(product)
    yield second_process
    second_process.close()


def test_a_purge_and_a_revoked_key(product: Product, provider: Provider, shell: Shell, question: str) -> None:
    body = {"model": "chat", "messages": asked(question)}
    with httpx.Client(base_url=product.url, headers={"authorization": f"Bearer {GUEST}", **ON}) as client:

        def call() -> httpx.Response:
            return client.post("/v1/chat/completions", json=body)

        assert [call().headers["x-gateway-cache"], call().headers["x-gateway-cache"]] == ["miss", "hit"]
        shell.run("from llmgateway.models import ApiKey; ApiKey.objects.filter(name='guest').update(enabled=True)")
        shell.run("from django.db.models import F; from llmgateway.models import ApiKey, GatewaySettings")
        shell.run("GatewaySettings.objects.get_or_create(id=1)")
        shell.run("GatewaySettings.objects.update(cache_generation=F('cache_generation') + 1)")
        wait_for(lambda: call().headers["x-gateway-cache"] == "miss", "the purge", within_s=5)
        assert call().headers["x-gateway-cache"] == "hit"
        shell.run("ApiKey.objects.filter(name='guest').update(enabled=False)")

        refused = wait_for(lambda: answer if (answer := call()).status_code == 403 else None, "the ban", within_s=5)

    assert refused.json()["error"]["code"] == "key_disabled"
    assert "x-gateway-cache" not in refused.headers


@pytest.mark.postgres
def test_when_the_leading_host_dies_another_takes_over(postgres_url: str, tmp_path: Path) -> None:
    redis = RedisServer(str(tmp_path))
    redis.start()
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    settings = {
        "CACHE_ENABLED": "true",
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis.url,
        "REDIS_TIMEOUT_MS": "5000",
    }
    settings |= fresh_secrets()
    body = {"model": "chat", "messages": asked("Who answers?")}
    headers = {"authorization": f"Bearer {KEY}", **ON}
    answers: list[httpx.Response] = []
    led: list[httpx.Response] = []
    with (
        running_provider(tmp_path) as provider,
        running_product(one, provider, **settings) as leader,
        running_product(two, provider, **settings) as follower,
    ):
        provider.script(delay_ms=60_000)

        def ask_leader() -> None:
            with contextlib.suppress(httpx.TransportError):
                led.append(httpx.post(f"{leader.url}/v1/chat/completions", json=body, headers=headers, timeout=60))

        def ask_follower() -> None:
            answers.append(httpx.post(f"{follower.url}/v1/chat/completions", json=body, headers=headers, timeout=60))

        leading = threading.Thread(target=ask_leader)
        leading.start()
        wait_for(lambda: provider.sent or led, "the leader's call")
        assert not led, led[0].text
        following = [threading.Thread(target=ask_follower) for _ in range(5)]
        for thread in following:
            thread.start()
        threading.Event().wait(1)
        assert len(provider.sent) == 1
        assert not answers

        killed = time.monotonic()
        leader.kill()
        for thread in (leading, *following):
            thread.join()

        assert not led
        assert time.monotonic() - killed < 15
        assert [answer.status_code for answer in answers] == [200] * 5
        assert sorted(answer.headers["x-gateway-cache"] for answer in answers) == ["hit"] * 4 + ["miss"]
        assert len(provider.sent) == 2
    redis.kill()


@pytest.mark.postgres
def test_a_similar_question_is_found_by_its_vector_in_postgresql(postgres_url: str, tmp_path: Path) -> None:
    # Spaces around a question make it another request with the same vector; any other word makes another vector.
    spaces = map(" ".__mul__, itertools.count(1))
    headers = {"authorization": f"Bearer {KEY}"}
    with (
        running_provider(tmp_path) as provider,
        running_product(tmp_path, provider, CACHE_ENABLED="true", DATABASE_URL=postgres_url) as product,
        httpx.Client(base_url=product.url, headers=headers, timeout=10) as caller,
    ):
        shell = Shell(product)
        shell.run("from providers.models import ModelAlias; embed = ModelAlias.objects.get(name='embed')")
        shell.run(
            "ModelAlias.objects.filter(name='chat')"
            ".update(cache_ttl_s=60, cache_mode='semantic', cache_similarity=0.95, cache_embeddings=embed)"
        )
        shell.close()

        def ask(text: str) -> httpx.Response:
            return caller.post("/v1/chat/completions", json={"model": "chat", "messages": asked(text)})

        wait_for(lambda: "x-gateway-cache" in ask("Are you there?").headers, "the change of the alias")
        first = ask("Where is it?")
        # What is remembered goes to the database behind the answer.
        second = wait_for(
            lambda: answer if is_similar(answer := ask(f"{next(spaces)}Where is it?")) else None, "the vector"
        )
        other = ask("Where was it?")

        assert first.headers["x-gateway-cache"] == other.headers["x-gateway-cache"] == "miss"
        assert float(second.headers["x-gateway-cache-similarity"]) == pytest.approx(1.0, abs=1e-4)
        assert second.json() == first.json()
        paid = product.log_line(f"{first.headers['x-request-id']}_vec")
        assert (paid["alias"], paid["status"]) == ("embed", "completed")
        assert paid["cost_pico_usd"] > 0


def is_similar(answer: httpx.Response) -> bool:
    return answer.headers["x-gateway-cache"] == "semantic"
