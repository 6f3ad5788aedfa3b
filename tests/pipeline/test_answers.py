"""What a caller gets, what the provider is sent, and what the ledger keeps of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from llmgateway.http import httpx
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.protocols import Record
from llmgateway.pipeline.snapshot import BudgetRule
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, SECRET, House, alias, deployment, key, snapshot


async def test_the_answer_comes_back_byte_for_byte() -> None:
    house = House(ScriptedUpstream(Reply.json(CHAT)))

    response = await house.chat()

    assert response.status_code == 200
    assert response.content == json.dumps(CHAT).encode()


async def test_the_row_says_who_what_and_how_much() -> None:
    house = House(ScriptedUpstream(Reply.json(CHAT)))

    response = await house.chat(x_request_id="mine-1", x_end_user_id="ana")

    row = house.row
    assert row["id"] == response.headers["x-request-id"] != "mine-1"
    assert (row["client_request_id"], row["end_user"], row["key_name"], row["team_name"]) == (
        "mine-1",
        "ana",
        "alice",
        "red",
    )
    assert (row["status"], row["http_status"], row["usage_source"]) == ("completed", 200, "provider")
    assert (row["input"], row["output"], row["cost_pico_usd"], row["price_id"]) == (11, 5, 11 * 2 + 5 * 10, 7)
    assert row["response_model"] == "gpt-upstream-2026"
    assert [attempt["status"] for attempt in row["attempts"]] == [200]


async def test_only_the_model_name_changes_on_the_way_up() -> None:
    upstream = ScriptedUpstream(Reply.json(CHAT))
    body = b'{ "seed":7, "model" : "gpt", "messages":[{"role":"user","content":"the \\"model\\" speaks"}], "x":1.0}'

    await House(upstream).post("/v1/chat/completions", body)

    assert upstream.requests[0].content == body.replace(b'"gpt"', b'"gpt-upstream"')


async def test_credentials_are_exchanged_and_never_mixed() -> None:
    upstream = ScriptedUpstream(Reply.json(CHAT))
    house = House(upstream)

    response = await house.chat(x_api_key="sk-other", cookie="session=1", x_custom="kept")

    sent = upstream.requests[0].headers
    assert sent["authorization"] == "Bearer provider-secret"
    assert sent["x-custom"] == "kept"
    assert SECRET not in str(sent.raw)
    assert "x-api-key" not in sent
    assert "cookie" not in sent
    assert "provider-secret" not in str(response.headers.raw) + response.text


async def test_the_providers_own_ids_and_limits_come_under_names_of_their_own() -> None:
    house = House(
        ScriptedUpstream(Reply.json(CHAT, x_request_id="up-1", x_ratelimit_limit_requests="9", openai_version="v"))
    )

    response = await house.chat()

    assert response.headers["x-upstream-request-id"] == "up-1"
    assert response.headers["x-upstream-ratelimit-limit-requests"] == "9"
    assert response.headers["openai-version"] == "v"
    assert response.headers["x-request-id"].startswith("req_")


async def test_the_answer_tells_its_tokens_cost_and_timing() -> None:
    house = House(ScriptedUpstream(Reply.json(CHAT)))

    headers = (await house.chat()).headers

    assert headers["x-gateway-cost-usd"] == "0.000000000072"
    assert (headers["x-llm-input-tokens"], headers["x-llm-output-tokens"], headers["x-llm-total-tokens"]) == (
        "11",
        "5",
        "16",
    )
    assert (headers["x-gateway-model"], headers["x-gateway-provider"]) == ("gpt", "provider-main")
    assert (headers["x-gateway-deployment"], headers["x-gateway-attempts"]) == ("main", "1")
    assert [part.split(";")[0] for part in headers["server-timing"].split(", ")] == [
        "auth",
        "route",
        "admit",
        "ledger",
        "upstream",
    ]


async def test_an_answer_without_usage_is_estimated_and_says_so() -> None:
    house = House(ScriptedUpstream(Reply.json({**CHAT, "usage": None})))

    await house.chat()

    assert house.row["usage_source"] == "estimated"
    assert house.row["input"] > 0
    assert house.row["output"] > 0
    assert house.row["cost_pico_usd"] == house.row["input"] * 2 + house.row["output"] * 10


async def test_a_providers_error_keeps_status_body_and_retry_after() -> None:
    error = {
        "error": {
            "message": "too long",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }
    house = House(ScriptedUpstream(Reply.json(error, status=400, retry_after="7")))

    response = await house.chat({"stream": True})

    assert response.status_code == 400
    assert response.json() == error
    assert response.headers["retry-after"] == "7"
    assert response.headers["content-type"] == "application/json"
    assert (house.row["status"], house.row["error_type"], house.row["cost_pico_usd"]) == (
        "failed",
        "context_too_long",
        0,
    )


async def test_a_refused_credential_is_never_blamed_on_the_caller() -> None:
    house = House(
        ScriptedUpstream(Reply.json({"error": {"message": "Incorrect API key provided: provider-secret"}}, status=401))
    )

    response = await house.chat()

    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_authentication_failed"
    assert "provider-secret" not in response.text


async def test_what_a_credential_may_not_is_told_without_the_provider_s_words() -> None:
    told = {"error": {"message": "Project proj_secret does not have access to model", "code": "model_not_found"}}
    house = House(ScriptedUpstream(Reply.json(told, status=403)))

    response = await house.chat()

    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_authentication_failed")
    assert "does not permit" in response.json()["error"]["message"]
    assert "proj_secret" not in response.text
    assert house.row["error_type"] == "upstream_authentication_failed"


async def test_an_unreachable_target_gives_way_to_the_next() -> None:
    upstream = ScriptedUpstream(httpx.ConnectError("refused"), Reply.json(CHAT))
    house = House(upstream, snapshot(alias("gpt", deployment("first"), deployment("second", 2))))

    response = await house.chat()

    assert response.status_code == 200
    assert response.headers["x-gateway-deployment"] == "second"
    assert response.headers["x-gateway-attempts"] == "2"
    assert [(attempt["deployment"], attempt["cause"]) for attempt in house.row["attempts"]] == [
        ("first", "not_connected"),
        ("second", "completed"),
    ]
    assert house.ledger.attempts[0][1]["deployment"] == "second"


async def test_when_nobody_can_be_reached_the_caller_is_told_and_nothing_is_charged() -> None:
    who = key()
    house = House(
        ScriptedUpstream(httpx.ConnectError("refused")),
        snapshot(who=who, retries=snapshot().retries.__class__(attempts=0)),
    )

    response = await house.chat()

    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_connection_failed")
    assert (house.row["status"], house.row["http_status"], house.row["cost_pico_usd"]) == ("failed", 502, 0)


async def test_a_short_failure_is_tried_again() -> None:
    house = House(ScriptedUpstream(Reply.json({}, status=503), Reply.json(CHAT)))

    response = await house.chat()

    assert response.status_code == 200
    assert [attempt["status"] for attempt in house.row["attempts"]] == [503, 200]


async def test_a_long_retry_after_is_passed_on_at_once() -> None:
    upstream = ScriptedUpstream(Reply.json({"error": {"message": "slow down"}}, status=429, retry_after="30"))

    response = await House(upstream).chat()

    assert (response.status_code, response.headers["retry-after"]) == (429, "30")
    assert len(upstream.requests) == 1


async def test_when_a_later_attempt_cannot_be_recorded_the_request_ends_there_with_one_row() -> None:
    upstream = ScriptedUpstream(httpx.ConnectError("refused"), Reply.json(CHAT))
    house = House(upstream, snapshot(alias("gpt", deployment("first"), deployment("second", 2))))

    def refuse(request_id: str, record: Record) -> None:
        raise LedgerUnavailableError("The usage journal cannot be written. Free disk space.")

    house.ledger.attempt = refuse  # type: ignore[method-assign]
    response = await house.chat()

    assert (response.status_code, response.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert (house.row["status"], house.row["error_type"]) == ("failed", "ledger_unavailable")
    assert len(upstream.requests) == 1


async def test_an_error_inside_the_gateway_is_a_500_that_is_settled() -> None:
    upstream = ScriptedUpstream(RuntimeError("a bug"))
    house = House(upstream)

    response = await house.chat()

    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "a bug" not in response.text
    assert (house.row["status"], house.row["error_type"]) == ("failed", "internal_error")


async def test_an_answer_that_is_no_stream_may_take_the_whole_time() -> None:
    house = House(ScriptedUpstream(Reply(delay_s=60.0)))
    running = asyncio.create_task(house.chat())
    await asyncio.sleep(0.01)

    house.clock.advance(599)
    house.gateway.exchanges.tick()
    await asyncio.sleep(0.01)
    assert not running.done()
    house.clock.advance(2)
    house.gateway.exchanges.tick()

    assert (await asyncio.wait_for(running, 1)).status_code == 504


async def test_a_redirect_is_not_passed_on_and_not_charged() -> None:
    house = House(ScriptedUpstream(Reply(302, {"location": "https://elsewhere.test/"}, (b"moved",))))

    response = await house.chat()

    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_connection_failed")
    assert "location" not in response.headers
    assert (house.row["status"], house.row["cost_pico_usd"]) == ("failed", 0)
    assert house.row["attempts"][0]["cause"] == "redirect"


async def test_the_hold_goes_even_if_the_row_cannot_be_written() -> None:
    daily = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC")
    house = House(ScriptedUpstream(Reply.json(CHAT)), snapshot(who=key(budgets=(daily,))))

    def fail(record: Record) -> None:
        raise RuntimeError("a bug")

    house.ledger.close = fail  # type: ignore[method-assign]
    response = await house.chat()

    assert response.status_code == 500
    assert (await house.store.state(daily)).held_pico_usd == 0
    assert (await house.store.state(daily)).settled_pico_usd == 72


async def test_an_absurd_number_of_choices_holds_a_number_that_can_be_kept() -> None:
    daily = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC")
    dear = replace(PRICE, output=10**12)
    house = House(ScriptedUpstream(), snapshot(alias("gpt", deployment(prices=(dear,))), who=key(budgets=(daily,))))

    assert (await house.chat({"n": 10_000})).status_code == 402
