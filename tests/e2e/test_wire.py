"""What SDKs hide: bytes, headers, keys and statuses as they are on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.token_counts import installed_counter
from tests.e2e.harness import KEY, PROVIDER_SECRET, Product, Provider

CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
PLACES = {
    "authorization": ({"authorization": f"Bearer {KEY}"}, ""),
    "x-api-key": ({"x-api-key": KEY}, ""),
    "api-key": ({"api-key": KEY}, ""),
    "x-goog-api-key": ({"x-goog-api-key": KEY}, ""),
    "query": ({}, f"?key={KEY}"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_key_works_in_each_of_five_places_and_never_goes_up(product: Product, provider: Provider, place: str) -> None:
    headers, query = PLACES[place]

    response = httpx.post(f"{product.url}/v1/chat/completions{query}", json=CHAT, headers=headers)

    sent = provider.last
    assert response.status_code == 200
    assert KEY not in json.dumps(sent)
    assert ["authorization", f"Bearer {PROVIDER_SECRET}"] in sent["headers"]
    assert sent["query"] == ""


def test_all_five_keys_at_once_are_all_stripped(product: Product, provider: Provider) -> None:
    headers = {name: value for each, _ in PLACES.values() for name, value in each.items()}

    httpx.post(f"{product.url}/v1/chat/completions?key={KEY}", json=CHAT, headers=headers)

    assert KEY not in json.dumps(provider.last)


def test_the_providers_key_never_comes_down(http: httpx.Client, provider: Provider) -> None:
    provider.script(status=401)

    answers = [http.post("/v1/chat/completions", json=CHAT) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [502, 200]
    assert all(PROVIDER_SECRET not in answer.text + str(answer.headers) for answer in answers)


def test_unknown_fields_survive_in_both_directions(http: httpx.Client, provider: Provider) -> None:
    novelty = {"x_novel": {"depth": [1, {"a": None}]}, "temperature": 0.10}

    answer = http.post("/v1/chat/completions", json={**CHAT, **novelty}).json()

    assert provider.last["body"] == {**CHAT, **novelty, "model": "fake-chat"}
    assert (answer["service_tier"], answer["system_fingerprint"]) == ("default", "fp_fake")


def test_a_stream_is_the_providers_bytes(http: httpx.Client, provider: Provider) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    with httpx.Client(base_url=f"http://127.0.0.1:{provider.port}") as direct:
        headers = {"authorization": f"Bearer {PROVIDER_SECRET}"}
        straight = direct.post("/v1/chat/completions", json={**body, "model": "fake-chat"}, headers=headers).content

    through = http.post("/v1/chat/completions", json=body).content

    first, second = provider.sent[0]["id"].encode(), provider.sent[1]["id"].encode()
    assert through == straight.replace(first, second)


@pytest.mark.parametrize("script", [{"line_end": "crlf"}, {"line_end": "cr"}, {"split": 3}, {"split": 1, "tokens": 4}])
def test_odd_streams_lose_the_usage_chunk_and_nothing_else(
    http: httpx.Client, provider: Provider, script: dict[str, Any]
) -> None:
    provider.script(**script)
    odd = http.post("/v1/chat/completions", json={**CHAT, "stream": True}).content

    end = {"crlf": b"\r\n\r\n", "cr": b"\r\r"}.get(str(script.get("line_end")), b"\n\n")
    events = odd.removesuffix(end).split(end)
    assert events[-1] == b"data: [DONE]"
    assert all(json.loads(event.removeprefix(b"data: "))["choices"] for event in events[:-1])
    assert len(events) == provider.last["pieces_sent"] - 1


def test_usage_in_the_last_choices_stays_and_counts(http: httpx.Client, product: Product, provider: Provider) -> None:
    provider.script(usage="with_choices")

    response = http.post("/v1/chat/completions", json={**CHAT, "stream": True})

    assert response.text.count('"usage":{') == 1
    row = product.ledger_row(response.headers["x-request-id"])
    assert (row["usage_source"], row["output_tokens"]) == ("provider", provider.last["billed"]["completion_tokens"])


def test_an_answer_without_usage_is_counted_and_says_that_this_is_an_estimate(
    http: httpx.Client, product: Product, provider: Provider
) -> None:
    provider.script(usage="none", times=2)
    counter = installed_counter()
    assert counter is not None

    whole = http.post("/v1/chat/completions", json=CHAT)
    stream = http.post("/v1/chat/completions", json={**CHAT, "stream": True})

    rows = [product.ledger_row(answer.headers["x-request-id"]) for answer in (whole, stream)]
    asked = counter.texts([message["content"] for message in CHAT["messages"]]) + 4 * len(CHAT["messages"]) + 3
    said = counter.texts([whole.json()["choices"][0]["message"]["content"]])
    assert [row["usage_source"] for row in rows] == ["estimated"] * 2
    assert [row["input_tokens"] for row in rows] == [asked] * 2
    assert rows[0]["output_tokens"] == said
    # The first stream of a deployment is not listened to.
    assert rows[1]["output_tokens"] > 0
    assert all(row["cost_pico_usd"] > 0 for row in rows)


def test_a_huge_answer_arrives_whole(http: httpx.Client, provider: Provider) -> None:
    provider.script(padding=5_000_000, times=2)

    whole = http.post("/v1/chat/completions", json=CHAT).json()
    stream = http.post("/v1/chat/completions", json={**CHAT, "stream": True}).text

    assert "x" * 5_000_000 in whole["choices"][0]["message"]["content"]
    assert "x" * 5_000_000 in stream


REFUSALS: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no key": ("POST", "/v1/chat/completions", {"headers": {"authorization": ""}, "json": CHAT}, 401, "invalid_api_key"),
    "broken json": ("POST", "/v1/chat/completions", {"content": b'{"model":'}, 400, "invalid_json"),
    "not an object": ("POST", "/v1/chat/completions", {"content": b"[]"}, 400, "invalid_json"),
    "no model": ("POST", "/v1/chat/completions", {"json": {"messages": []}}, 400, "invalid_value"),
    "wrong type": ("POST", "/v1/chat/completions", {"json": {**CHAT, "stream": "yes"}}, 400, "invalid_value"),
    "two models": ("POST", "/v1/chat/completions", {"content": b'{"model":"chat","model":"embed"}'}, 400, "invalid_value"),
    "two models, one in disguise": (
        "POST", "/v1/chat/completions", {"content": b'{"mod\\u0065l":"embed","model":"chat"}'}, 400, "invalid_value",
    ),
    "form": ("POST", "/v1/chat/completions", {"data": {"model": "chat"}}, 415, "unsupported_media_type"),
    "unknown model": ("POST", "/v1/chat/completions", {"json": {**CHAT, "model": "x"}}, 404, "model_not_found"),
    "unknown path": ("POST", "/v1/nonesuch", {"json": CHAT}, 404, "unknown_endpoint"),
    "wrong method": ("GET", "/v1/chat/completions", {}, 405, "method_not_allowed"),
    "too large": (
        "POST", "/v1/chat/completions", {"content": b'{"model":"chat","x":"' + b"x" * (33 * 2**20) + b'"}'}, 413,
        "request_too_large",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_have_openais_envelope_and_cost_nothing(http: httpx.Client, provider: Provider, name: str) -> None:
    method, path, request, status, code = REFUSALS[name]

    response = http.request(method, path, **request)

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert response.headers["x-request-id"]
    assert provider.sent == []


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/chat", "/v1/nonesuch", "/health", "/health/live"])
def test_every_answer_has_a_request_id_of_its_own(http: httpx.Client, path: str) -> None:
    ids = {http.get(path).headers["x-request-id"] for _ in range(2)}

    assert len(ids) == 2


def test_the_callers_request_id_is_noted_and_not_used(http: httpx.Client, product: Product, provider: Provider) -> None:
    response = http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine-1"})

    own_id = response.headers["x-request-id"]
    assert own_id != "mine-1"
    assert product.ledger_row(own_id)["status"] == "completed"
    assert product.log_line(own_id)["client_request_id"] == "mine-1"


def test_the_providers_own_headers_come_renamed(http: httpx.Client, provider: Provider) -> None:
    headers = http.post("/v1/chat/completions", json=CHAT).headers

    assert headers["x-upstream-request-id"].startswith("req_fake_")
    assert headers["x-upstream-ratelimit-limit-requests"] == "10000"
    assert headers["openai-processing-ms"] == "7"
    assert (headers["x-gateway-model"], headers["x-gateway-deployment"]) == ("chat", "fake-chat-main")
    assert (headers["x-gateway-provider"], headers["x-gateway-attempts"]) == ("fake", "1")


def test_a_preflight_needs_no_key(product: Product) -> None:
    headers = {"origin": "https://app.example", "access-control-request-headers": "authorization,x-stainless-os"}

    response = httpx.options(f"{product.url}/v1/chat/completions", headers=headers)

    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "*"
    assert "x-stainless-os" in response.headers["access-control-allow-headers"]


def test_a_browser_can_read_the_401(product: Product) -> None:
    response = httpx.post(f"{product.url}/v1/chat/completions", json=CHAT, headers={"origin": "https://app.example"})

    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "*"


def test_no_secret_and_no_prompt_in_the_log(http: httpx.Client, product: Product, provider: Provider) -> None:
    chat = {**CHAT, "messages": [{"role": "user", "content": "the eagle lands at midnight"}]}
    request_id = http.post(f"/v1/chat/completions?key={KEY}", json=chat).headers["x-request-id"]

    assert product.log_line(request_id)["http_status"] == 200
    assert "eagle" not in product.child.output
    assert KEY not in product.child.output
    assert PROVIDER_SECRET not in product.child.output


def test_health_tells_no_addresses(product: Product, provider: Provider) -> None:
    ready, overview = httpx.get(f"{product.url}/health/ready"), httpx.get(f"{product.url}/health")

    assert (ready.status_code, overview.status_code) == (200, 200)
    assert "127.0.0.1" not in overview.text


def test_metrics_count_what_passed(http: httpx.Client, product: Product, provider: Provider) -> None:
    http.post("/v1/chat/completions", json=CHAT)

    text = httpx.get(f"{product.url}/metrics").text

    assert "llmproxy_cost_usd_total{" in text
    assert "llmproxy_build_info{" in text
