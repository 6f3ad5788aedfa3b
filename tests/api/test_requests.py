"""Bad input, cross-origin rules, unknown paths, health and metrics."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, SECRET, Caller, House, snapshot


def house(*replies: Reply, settings: dict[str, str] | None = None) -> House:
    return House(ScriptedUpstream(*replies), settings=settings or {})


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"\xff", "invalid_json", None),
        (b'{"messages":[]}', "invalid_value", "model"),
        (b'{"model":7}', "invalid_value", "model"),
        (b'{"model":"gpt","stream":"yes"}', "invalid_value", "stream"),
        (b'{"model":"gpt","model":"dear"}', "invalid_value", "model"),
        (b'{"model":"gpt","max_tokens":1,"max_tokens":100000}', "invalid_value", "max_tokens"),
    ],
)
async def test_a_bad_body_is_a_400_that_names_the_field(body: bytes, code: str, param: str | None) -> None:
    response = await house().post("/v1/chat/completions", body)

    assert response.status_code == 400
    assert (response.json()["error"]["code"], response.json()["error"]["param"]) == (code, param)


async def test_another_content_type_is_a_415() -> None:
    response = await house().post(
        "/v1/chat/completions", b"model=gpt", content_type="application/x-www-form-urlencoded"
    )

    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")


async def test_a_body_over_the_limit_is_a_413_before_it_is_read() -> None:
    place = House(ScriptedUpstream(), snapshot(request_body_limit=2**20))

    told = await place.post("/v1/chat/completions", b"{}", content_length=str(2**20 + 1))
    found = await place.post("/v1/chat/completions", b" " * (2**20 + 1))

    assert [told.status_code, found.status_code] == [413, 413]
    assert told.json()["error"]["code"] == "request_too_large"


async def test_a_length_with_many_zeros_before_it_is_that_length() -> None:
    """Python makes no number of more than 4,300 digits."""
    response = await house().post("/v1/chat/completions", b"{}", content_length="0" * 5000 + "2")

    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")


async def test_a_key_is_checked_before_the_body_is_looked_at() -> None:
    response = await house().post("/v1/chat/completions", b"{", authorization="Bearer nobody")

    assert response.status_code == 401


async def test_unknown_paths_and_methods_say_so() -> None:
    place = house()

    unknown = await place.get("/v1/nothing")
    wrong = await place.get("/v1/chat/completions")

    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_endpoint")
    assert (wrong.status_code, wrong.json()["error"]["code"], wrong.headers["allow"]) == (
        405,
        "method_not_allowed",
        "POST",
    )


async def test_a_preflight_needs_no_key_and_errors_carry_the_origin_too() -> None:
    place = house()

    preflight = await place.request(
        "OPTIONS",
        "/v1/chat/completions",
        b"",
        {
            "origin": "https://app.test",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        },
    )
    refused = await place.request("POST", "/v1/chat/completions", b"", {"origin": "https://app.test"})

    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")


async def test_only_listed_origins_are_let_in() -> None:
    place = house(settings={"CORS_ORIGINS": "https://good.test"})

    good = await place.get("/health", origin="https://good.test")
    bad = await place.get("/health", origin="https://bad.test")

    assert good.headers["access-control-allow-origin"] == "https://good.test"
    assert "access-control-allow-origin" not in bad.headers
    assert good.headers["vary"] == bad.headers["vary"] == "Origin"


async def test_health_needs_no_key_and_lists_providers_without_reasons() -> None:
    place = house()

    overview = await place.request("GET", "/health", b"", {})

    assert overview.json()["status"] == "ok"
    assert overview.json()["providers"] == {"provider-main": "healthy"}
    assert (await place.request("GET", "/health/live", b"", {})).status_code == 200
    assert (await place.request("GET", "/health/ready", b"", {})).status_code == 200
    place.status.ready = False
    assert (await place.request("GET", "/health/ready", b"", {})).status_code == 503
    assert (await place.request("GET", "/health", b"", {})).json()["status"] == "degraded"


async def test_failures_show_as_degraded_then_down() -> None:
    place = house(*[Reply.json({}, status=500, retry_after="99") for _ in range(5)])

    states = []
    for _ in range(5):
        await place.chat()
        states.append((await place.get("/health")).json()["providers"]["provider-main"])

    assert states == ["degraded"] * 4 + ["down"]


async def test_metrics_count_answers_and_refusals() -> None:
    place = house(Reply.json(CHAT))
    await place.chat()
    await place.chat(authorization="Bearer nobody")

    page = await place.request("GET", "/metrics", b"", {})

    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }
    labels = (("backend", "main"), ("path", "/v1/chat/completions"), ("status", "200"), ("stream", "false"))
    assert samples["llmproxy_requests_total", *labels] == 1
    refused = (("backend", ""), ("path", "/v1/chat/completions"), ("status", "401"), ("stream", "false"))
    assert samples["llmproxy_requests_total", *refused] == 1
    assert samples["llmproxy_usage_tokens_total", ("type", "prompt")] == 11
    assert samples["llmproxy_usage_tokens_total", ("type", "completion")] == 5
    cost = samples["llmproxy_cost_usd_total", ("model", "gpt-upstream"), ("provider", "provider-main")]
    assert cost == pytest.approx(72e-12)
    assert samples["llmproxy_build_info", ("version", "1.2.3")] == 1
    assert samples["llmproxy_webhook_success_total",] == samples["llmproxy_webhook_failure_total",] == 0
    assert samples["llmgateway_overhead_seconds_count", ("phase", "admit")] == 1


@pytest.mark.parametrize(
    ("settings", "address", "secret", "status"),
    [
        ({}, "127.0.0.1", "", 200),
        ({}, "192.0.2.1", "", 403),
        ({"METRICS_ACCESS": "open"}, "192.0.2.1", "", 200),
        ({"METRICS_ACCESS": "192.0.2.0/24"}, "192.0.2.1", "", 200),
        ({"METRICS_ACCESS": "192.0.2.0/24"}, "127.0.0.1", "", 403),
        ({"METRICS_TOKEN": "scrape"}, "192.0.2.1", "scrape", 200),
        ({"METRICS_TOKEN": "scrape"}, "192.0.2.1", "wrong", 403),
    ],
)
async def test_who_may_read_the_metrics(settings: dict[str, str], address: str, secret: str, status: int) -> None:
    caller = Caller(address)
    headers = {"authorization": f"Bearer {secret}"} if secret else {}

    await caller.call(house(settings=settings).app, "GET", "/metrics", b"", headers)

    assert caller.response().status_code == status


async def test_the_log_line_has_every_field_and_no_secret_or_prompt() -> None:
    place = house(Reply.json(CHAT))

    await place.chat({"messages": [{"role": "user", "content": "my private prompt"}]}, x_request_id="mine")

    (line,) = place.log.lines
    wanted = {
        "request_id", "client_request_id", "key_id", "team", "end_user", "model", "provider", "deployment", "stream",
        "attempts", "status", "error_type", "input_tokens", "output_tokens", "cost_pico_usd", "duration_ms", "ttft_ms",
    }  # fmt: skip
    assert wanted <= line.keys()
    text = json.dumps(line)
    assert SECRET not in text
    assert "private" not in text
    assert "provider-secret" not in text


async def test_unknown_request_fields_reach_the_provider_and_unknown_answers_the_caller() -> None:
    place = house(Reply.json(CHAT))

    response = await place.chat(
        {"novel_request_field": {"deep": [1, 2]}, "messages": [{"role": "user", "content": [{"type": "new"}]}]}
    )

    assert place.upstream.bodies[0]["novel_request_field"] == {"deep": [1, 2]}
    assert response.json()["novel_field"] == {"kept": True}


@pytest.mark.parametrize(
    ("path", "upstream_path"),
    [
        ("/v1/completions", "/v1/completions"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/chat/completions", "/v1/chat/completions"),
    ],
)
async def test_each_operation_reaches_its_own_path(path: str, upstream_path: str) -> None:
    place = house(Reply.json({"usage": {"prompt_tokens": 3}}))

    response = await place.post(path, {"model": "gpt", "input": "x", "prompt": "x"})

    assert response.status_code == 200
    assert place.upstream.requests[0].url.path == upstream_path
    assert place.row["input"] == 3


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgateway.api.inbound.BODY_PIECE_S", 0.02)
    caller = Caller()
    caller._sent_body = True  # It says nothing, and it does not leave.

    headers = {"authorization": f"Bearer {SECRET}"}
    await asyncio.wait_for(caller.call(house().app, "POST", "/v1/chat/completions", b"", headers), 1)

    assert (caller.response().status_code, caller.response().json()["error"]["code"]) == (408, "request_timeout")


async def test_a_body_that_trickles_in_for_ever_is_not_waited_for() -> None:
    """Each piece comes in time; the whole does not."""
    place = house(settings={"REQUEST_BODY_TIMEOUT_S": "1"})
    caller = Caller()
    pieces = 0

    async def trickle() -> dict[str, object]:
        nonlocal pieces
        pieces += 1
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    caller._receive = trickle  # type: ignore[method-assign]
    headers = {"authorization": f"Bearer {SECRET}"}
    await asyncio.wait_for(caller.call(place.app, "POST", "/v1/chat/completions", b"", headers), 5)

    assert pieces > 1
    assert (caller.response().status_code, caller.response().json()["error"]["code"]) == (408, "request_timeout")
    assert "not complete" in caller.response().json()["error"]["message"]
    assert caller.response().headers["connection"] == "close"
