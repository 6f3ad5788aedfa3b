"""The simple API of a real server: questions, several at once, tenants, prices, and the client for Python."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from billing.money import usd
from llmgateway.client import AsyncGateway, BudgetExceededError, Gateway, GatewayError, PermissionDeniedError
from llmgateway.http import httpx
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

DELEGATE = "sk-gw-delegate00-0123456789abcdefghij"
SLOW = [f"slow-{number}" for number in range(1, 6)]
EXTRA = """
version: 1
teams:
  poor: {budgets: [{name: nothing, window: day, limit_usd: "0.000000001"}]}
  rich: {}
deployments:
  bare-main: {provider: fake, credential: main, model: fake-bare}
SLOW_DEPLOYMENTS
aliases:
  bare: {targets: [{deployment: bare-main}]}
SLOW_ALIASES
keys:
  delegate: {team: platform, secret: DELEGATE}
""".replace("DELEGATE", DELEGATE)
EXTRA = EXTRA.replace(
    "SLOW_DEPLOYMENTS",
    "\n".join(f'  {name}: {{provider: fake, credential: main, model: "fake-chat+delay_ms:700"}}' for name in SLOW),
).replace("SLOW_ALIASES", "\n".join(f"  {name}: {{targets: [{{deployment: {name}}}]}}" for name in SLOW))
TENANTS = """
from llmgateway import services
from llmgateway.models import ApiKey, Team
services.key_set_tenants(ApiKey.objects.get(name="delegate"), Team.objects.filter(name__in=["poor", "rich"]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Product, Provider]]:
    folder = tmp_path_factory.mktemp("simple")
    settings = {"UPSTREAM_TRANSPORT": os.environ.get("E2E_UPSTREAM_TRANSPORT", "")}
    with running_provider(folder) as provider, running_product(folder, provider, **settings) as product:
        extra = folder / "extra.yaml"
        extra.write_text(EXTRA)
        product.manage("import_config", str(extra))
        product.manage("shell", "-c", TENANTS)
        with Gateway(product.url, key=DELEGATE) as gateway:
            wait_for(lambda: _acts_for(gateway, "rich"), "the new key")
        yield product, provider


def _acts_for(gateway: Gateway, tenant: str) -> bool:
    try:
        return bool(gateway.dry_run("Hi", model="chat", tenant=tenant).route)
    except GatewayError:
        return False


@pytest.fixture
def product(place: tuple[Product, Provider]) -> Product:
    return place[0]


@pytest.fixture
def provider(place: tuple[Product, Provider]) -> Provider:
    place[1].reset()
    return place[1]


@pytest.fixture
def gateway(product: Product, provider: Provider) -> Iterator[Gateway]:
    with Gateway(f"{product.url}/v1", key=KEY, timeout_s=20) as gateway:
        yield gateway


@pytest.fixture
def http(product: Product, provider: Provider) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=product.url, headers={"authorization": f"Bearer {KEY}"}, timeout=20) as client:
        yield client


def row_of(product: Product, request_id: str) -> dict[str, Any]:
    """The row, as soon as it is in the database."""

    def found() -> dict[str, Any] | None:
        rows = [row for row in product.usage() if row["request_id"] == request_id]
        return rows[0] if rows else None

    row: dict[str, Any] = wait_for(found, f"the row of {request_id}")
    return row


def test_a_question_is_answered_and_stands_in_the_ledger(product: Product, http: httpx.Client) -> None:
    response = http.post("/api/query", json={"query": "Hi", "model": "chat", "request_id": "mine-1"})
    assert response.status_code == 200, response.text
    answer = response.json()

    row = row_of(product, answer["request_id"])
    assert answer["response"]
    assert (answer["model"], answer["model_version"], answer["num_retries"], answer["cached"]) == (
        "chat", "fake-chat", 0, False
    )  # fmt: skip
    assert answer["num_tokens"] == answer["total_tokens"] == answer["input_tokens"] + answer["output_tokens"] > 0
    line = product.log_line(answer["request_id"])
    assert line["client_request_id"] == answer["client_request_id"] == "mine-1"
    assert int(row["cost_pico_usd"]) == answer["input_tokens"] * INPUT_PRICE + answer["output_tokens"] * OUTPUT_PRICE


def test_words_for_vendors_lead_to_their_providers(http: httpx.Client, provider: Provider) -> None:
    told = {
        word: http.post("/api/query", json={"query": "Hi", "model": word}) for word in ("claude", "gemini", "mistral")
    }

    assert told["claude"].json()["model_version"] == "claude-fake"
    assert told["gemini"].json()["model_version"] == "gemini-3-fake"
    assert (told["mistral"].status_code, told["mistral"].json()["error_type"]) == (404, "model_not_found")
    assert [each["path"].partition("/models")[0] for each in provider.sent] == ["/v1/messages", "/v1beta"]


def test_a_provider_s_refusal_keeps_its_status(http: httpx.Client, provider: Provider) -> None:
    provider.script(status=429, retry_after="0")

    refused = http.post("/api/query", json={"query": "Hi", "model": "chat"})

    assert (refused.status_code, refused.json()["error_type"]) == (429, "rate_limit_exceeded")


def test_five_slow_models_take_as_long_as_the_slowest_and_are_five_rows(product: Product, http: httpx.Client) -> None:
    began = time.monotonic()
    answer = http.post("/api/parallel", json={"query": "Hi", "models": SLOW}).json()
    took_s = time.monotonic() - began

    assert 0.7 <= took_s < 2.0
    assert 700 <= answer["elapsed_time_ms"] < 2000
    assert list(answer["responses"]) == SLOW
    ids = [each["request_id"] for each in answer["responses"].values()]
    assert ids == [f"{answer['request_id']}.{number}" for number in range(1, 6)]
    assert {row_of(product, each)["alias"] for each in ids} == set(SLOW)


def test_what_fails_among_several_is_told_beside_the_others(http: httpx.Client, provider: Provider) -> None:
    answer = http.post("/api/parallel", json={"query": "Hi", "models": ["chat", "nothing"]})

    told = answer.json()["responses"]
    assert answer.status_code == 200
    assert (told["chat"]["response"] != "", told["nothing"]["error_type"]) == (True, "model_not_found")


def test_a_client_that_leaves_ends_all_of_them(product: Product, http: httpx.Client, provider: Provider) -> None:
    provider.script(stall_after=0, times=2)

    with pytest.raises(httpx.ReadTimeout):
        http.post("/api/parallel", json={"query": "Hi", "models": ["chat", "fake/chat"]}, timeout=0.8)

    rows = wait_for(lambda: _left(product), "both rows")
    assert {row["alias"] for row in rows} == {"chat", "fake/chat"}


def _left(product: Product) -> list[dict[str, Any]]:
    rows = [row for row in product.usage() if row["status"] == "cancelled"]
    return rows if len(rows) == 2 else []


def test_a_tenant_pays_is_limited_and_nobody_else(product: Product, http: httpx.Client, provider: Provider) -> None:
    with Gateway(product.url, key=DELEGATE) as delegate:
        rich = delegate.query("Hi", model="chat", tenant="rich")
        own = delegate.query("Hi", model="chat")
        with pytest.raises(BudgetExceededError) as spent:
            delegate.query("Hi", model="chat", tenant="poor")
        with pytest.raises(PermissionDeniedError) as foreign:
            delegate.query("Hi", model="chat", tenant="nobody")

    assert (spent.value.status, spent.value.code) == (402, "insufficient_quota")
    assert foreign.value.code == "tenant_not_allowed"
    assert [row_of(product, each.request_id)["team"] for each in (rich, own)] == ["rich", "platform"]
    assert len(provider.sent) == 2


def test_a_rehearsal_calls_nobody_and_leaves_no_row(product: Product, http: httpx.Client, provider: Provider) -> None:
    fields = {"query": "Hi", "model": "chat", "dry_run": True, "max_cost_usd": 1}
    answer = http.post("/v1/gateway/query", json=fields).json()

    assert (answer["dry_run"], answer["route"], answer["priced"]) == (True, ["fake-chat-main"], True)
    assert provider.sent == []
    asked = http.post("/v1/gateway/query", json={**fields, "dry_run": False}).json()
    row_of(product, asked["request_id"])
    assert answer["request_id"] not in {row["request_id"] for row in product.usage()}


def test_a_largest_cost_refuses_before_anything_is_sent_and_bounds_the_bill(
    http: httpx.Client, provider: Provider
) -> None:
    fields = {"query": "Tell me everything.", "model": "chat"}
    refused = http.post("/v1/gateway/query", json={**fields, "max_cost_usd": 0.000001})
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "max_cost_exceeded")
    assert provider.sent == []

    provider.script(tokens=5_000)
    most = Decimal("0.0002")
    answer = json.loads(
        http.post("/v1/gateway/query", json={**fields, "max_cost_usd": str(most)}).content, parse_float=Decimal
    )

    assert answer["finish_reason"] == "length"
    assert Decimal("0.0001") < answer["actual_cost_usd"] <= most


def test_the_estimate_of_known_usage_is_the_bill(product: Product, gateway: Gateway, http: httpx.Client) -> None:
    answer = gateway.query("Hi", model="chat")
    estimate = json.loads(http.post("/v1/gateway/cost-estimate", json={
        "model": "chat", "input_tokens": answer.input_tokens, "expected_response_tokens": answer.output_tokens,
    }).content, parse_float=Decimal)  # fmt: skip

    cost = int(row_of(product, answer.request_id)["cost_pico_usd"])
    assert estimate["estimated_cost_usd"] == answer.actual_cost_usd == usd(cost)
    assert (estimate["input_per_1m_usd"], estimate["output_per_1m_usd"]) == (Decimal("0.15"), Decimal("0.6"))


def test_an_estimate_without_a_price_says_so(gateway: Gateway) -> None:
    estimate = gateway.estimate("Hi", model="bare")

    assert (estimate.priced, estimate.estimated_cost_usd, estimate.output_tokens) == (False, None, 100)
    assert "has no price" in estimate.message


def test_status_tells_who_is_there(http: httpx.Client) -> None:
    status = http.get("/api/status").json()
    details = http.get("/api/status?details=true").json()

    assert status == {"claude": True, "gemini": True, "mistral": False, "openai": False}
    assert details["providers"]["fake"] == "healthy"


def test_the_client_speaks_to_the_gateway(gateway: Gateway, provider: Provider) -> None:
    chat = gateway.chat("Hi", model=["nothing", "chat"])
    stream = gateway.stream("Hi", model="chat")
    text = "".join(stream)

    assert (chat.model, chat.attempts, chat.cost_usd) == (
        "chat", 1, usd(chat.input_tokens * INPUT_PRICE + chat.output_tokens * OUTPUT_PRICE)
    )  # fmt: skip
    assert text
    assert stream.cost_usd == usd(stream.input_tokens * INPUT_PRICE + stream.output_tokens * OUTPUT_PRICE)
    assert (stream.finish_reason, stream.output_tokens > 0, stream.request_id.startswith("req_")) == (
        "stop",
        True,
        True,
    )
    assert {"chat", "claude", "slow-1"} <= set(gateway.models())
    assert gateway.status().available["claude"] is True
    assert gateway.parallel("Hi", models=["chat"]).responses["chat"].response


async def test_so_does_the_asynchronous_one(product: Product, provider: Provider) -> None:
    async with AsyncGateway(product.url, key=KEY) as gateway:
        answers = await asyncio.gather(*[gateway.query("Hi", model="chat") for _ in range(20)])
        async with await gateway.stream("Hi", model="chat") as stream:
            text = "".join([each async for each in stream])

    assert len({answer.request_id for answer in answers}) == 20
    assert text
