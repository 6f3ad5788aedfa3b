"""The simple API: plain questions through the one pipeline, words for vendors, tenants, prices, and several at once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import cel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import usd
from billing.pricing import cost
from billing.windows import load_zone
from llmgateway.http import httpx
from llmgateway.pipeline.route_rules import Fallback, HedgeRule, RoutingRule
from llmgateway.pipeline.snapshot import BudgetRule, Deployment, Retries, Snapshot
from providers.adapters.registry import get_adapter, vendors
from providers.adapters.types import Usage
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, Caller, House, alias, deployment, key, snapshot

ASKED = {"query": "What is it?", "model": "gpt"}
ONCE = Retries(attempts=0)


def house(*replies: Reply | Exception, shot: Snapshot | None = None) -> House:
    return House(ScriptedUpstream(*replies), shot or snapshot(retries=ONCE))


def made_by(word: str, number: int, **changes: Any) -> Deployment:
    """A deployment at an adapter of a vendor that speaks OpenAI's dialect, so that one answer serves all."""
    return deployment(f"{word}-main", number, adapter=get_adapter(word), model=f"{word}-model", **changes)


def several(*aliases_of: Deployment, **changes: Any) -> Snapshot:
    made = [alias(f"alias-{each.name}", each) for each in aliases_of]
    return snapshot(*made, deployments=tuple(aliases_of), retries=ONCE, **changes)


async def test_a_question_is_answered_in_plain_fields() -> None:
    place = house(Reply.json(CHAT))

    response = await place.post("/api/query", {**ASKED, "request_id": "mine-7"})

    answer = response.json()
    assert response.status_code == 200
    assert place.upstream.bodies[0]["messages"] == [{"role": "user", "content": "What is it?"}]
    assert answer | {"timestamp": "", "response_time_ms": 0} == {
        "response": "Hello", "model": "gpt", "model_version": "gpt-upstream", "provider": "provider-main",
        "response_time_ms": 0, "timestamp": "", "cached": False, "input_tokens": 11, "output_tokens": 5,
        "total_tokens": 16, "num_tokens": 16, "num_retries": 0, "finish_reason": "stop", "cost_usd": 0.000000000072,
        "request_id": response.headers["x-request-id"], "client_request_id": "mine-7",
    }  # fmt: skip
    assert answer["timestamp"].endswith("Z")
    assert (place.row["id"], place.row["client_request_id"]) == (answer["request_id"], "mine-7")
    assert (place.row["path"], place.row["cost_pico_usd"]) == ("/api/query", 72)


async def test_every_answer_carries_the_security_headers_errors_too() -> None:
    place = house(Reply.json(CHAT))

    answers = [
        await place.post("/api/query", ASKED),
        await place.post("/api/query", {}),
        await place.get("/api/query"),
        await place.post("/v1/gateway/query", {}, authorization="Bearer nobody"),
    ]

    assert [each.status_code for each in answers] == [200, 400, 405, 401]
    for each in answers:
        assert each.headers["x-content-type-options"] == "nosniff"
        assert each.headers["x-frame-options"] == "DENY"
        assert each.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in each.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/api/query", "/v1/gateway/query"])
@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_value", "query"),
        ({"query": " \n\t"}, "invalid_value", "query"),
        ({"query": None}, "invalid_value", "query"),
        ({"query": "é" * 50_001}, "invalid_value", "query"),
        ({"query": 7}, "invalid_value", "query"),
        ({"query": "a", "task_type": "other"}, "invalid_value", "task_type"),
        ({"query": "a", "request_id": "a b"}, "invalid_value", "request_id"),
        ({"query": "a", "max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"query": "a", "max_cost": 1}, "invalid_value", "max_cost"),
        ({"query": "a", "model": "nothing"}, "model_not_found", "model"),
        (b"[]", "invalid_json", None),
        (b"{", "invalid_json", None),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_field(path: str, body: Any, code: str, param: str | None) -> None:
    response = await house().post(path, body)

    told = response.json()
    error = told["error"] if path.startswith("/v1") else {"code": told["error_type"], "param": told.get("param")}
    assert response.status_code == (404 if code == "model_not_found" else 400)
    assert (error["code"], error["param"]) == (code, param)


async def test_the_longest_question_is_longer_for_the_gateway() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT))
    longest = {**ASKED, "query": "a" * 32_000}

    assert (await place.post("/api/query", longest)).status_code == 200
    refused = await place.post("/api/query", {**ASKED, "query": "a" * 32_001})
    assert (refused.status_code, "32,001" in refused.json()["error"]) == (400, True)
    assert (await place.post("/v1/gateway/query", {**ASKED, "query": "a" * 100_000})).status_code == 200


async def test_errors_are_one_text_below_api_and_openais_below_v1() -> None:
    flat = (await house().post("/api/query", {})).json()
    nested = (await house().post("/v1/gateway/query", {})).json()

    assert flat == {
        "error": "`query` is empty; send the text of the question.", "error_type": "invalid_value", "param": "query"
    }  # fmt: skip
    assert nested["error"]["message"] == flat["error"]


async def test_a_provider_s_error_keeps_its_status_and_message() -> None:
    said = {"error": {"message": "No such thing.", "type": "invalid_request_error", "code": "bad"}}

    flat = await house(Reply.json(said, 400)).post("/api/query", ASKED)
    nested = await house(Reply.json(said, 400)).post("/v1/gateway/query", ASKED)

    assert (flat.status_code, flat.json()) == (400, {"error": "No such thing.", "error_type": "bad"})
    assert (nested.status_code, nested.json()) == (400, said)


async def test_an_answer_that_cannot_be_read_is_a_502_and_charged() -> None:
    place = house(Reply.json({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}}))

    response = await place.post("/api/query", ASKED)

    assert (response.status_code, response.json()["error_type"]) == (502, "upstream_error")
    assert place.row["cost_pico_usd"] == 6


async def test_retries_are_counted_truly() -> None:
    place = house(
        Reply.json({"error": {"message": "busy"}}, 503), Reply.json(CHAT), shot=snapshot(retries=Retries(initial_ms=0))
    )

    assert (await place.post("/api/query", ASKED)).json()["num_retries"] == 1


async def test_a_word_means_the_first_alias_of_that_vendor_that_can_chat() -> None:
    reader = deployment(
        "reader", 5, adapter=get_adapter("mistral"), prices=(replace(PRICE, output=0, reasoning=0, audio_output=0),)
    )
    place = house(Reply.json(CHAT), shot=several(reader, made_by("mistral", 2), made_by("openai", 3)))

    answer = (await place.post("/api/query", {"query": "a", "model": "mistral"})).json()

    assert (answer["model"], answer["model_version"], place.row["alias"]) == (
        "mistral", "mistral-model", "alias-mistral-main"
    )  # fmt: skip


async def test_a_word_means_what_the_operator_says() -> None:
    place = house(
        Reply.json(CHAT),
        shot=several(made_by("mistral", 2), made_by("openai", 3), vendor_models={"mistral": "alias-openai-main"}),
    )

    answer = (await place.post("/api/query", {"query": "a", "model": "mistral"})).json()

    assert (answer["model"], answer["model_version"]) == ("mistral", "openai-model")


async def test_a_word_without_an_alias_means_the_vendor_s_first_model() -> None:
    place = house(Reply.json(CHAT), shot=replace(several(made_by("openai", 3)), aliases={}))

    answer = (await place.post("/api/query", {"query": "a", "model": "openai"})).json()

    assert (answer["model"], answer["model_version"]) == ("openai", "openai-model")


async def test_a_word_of_which_nothing_is_set_up_is_not_found() -> None:
    response = await house(shot=several(made_by("openai", 3))).post("/api/query", {"query": "a", "model": "claude"})

    assert (response.status_code, response.json()["error_type"]) == (404, "model_not_found")
    assert "'claude'" in response.json()["error"]


async def test_what_a_key_may_not_use_is_not_chosen() -> None:
    who = key(models=frozenset({"alias-mistral-main"}))
    shot = several(made_by("openai", 3), made_by("mistral", 2), who=who)

    nothing = await house(Reply.json(CHAT), shot=shot).post("/api/query", {"query": "a"})
    openai = await house(shot=shot).post("/api/query", {"query": "a", "model": "openai"})
    version = await house(shot=shot).post("/api/query", {"query": "a", "model_version": "openai-model"})

    assert nothing.json()["model"] == "alias-mistral-main"
    assert [openai.status_code, version.status_code] == [404, 404]


async def test_without_a_model_the_alias_auto_decides_and_is_told_the_task() -> None:
    shot = snapshot(alias("other", deployment()), alias("auto", deployment()), retries=ONCE)

    answer = (await house(Reply.json(CHAT), shot=shot).post("/api/query", {"query": "a"})).json()

    assert answer["model"] == "auto"


@pytest.mark.parametrize("said", ["field", "header"])
async def test_the_kind_of_task_decides_by_the_rules_of_auto(said: str) -> None:
    when = 'request.task_type == "summarization"'
    rules = (RoutingRule("summaries", when, "short", cel.compile(when)),)
    shot = snapshot(
        alias("short", deployment("short", 2)), replace(alias("auto", deployment()), rules=rules), retries=ONCE
    )
    place = house(Reply.json(CHAT), Reply.json(CHAT), shot=shot)
    fields = {"query": "a", "task_type": "summarization"} if said == "field" else {"query": "a"}
    headers = {} if said == "field" else {"x_gateway_task_type": "summarization"}

    summary = (await place.post("/api/query", fields, **headers)).json()
    other = (await place.post("/api/query", {"query": "a", "task_type": "text_generation"})).json()

    assert [summary["provider"], other["provider"]] == ["provider-short", "provider-main"]
    assert "original_model" not in summary


async def test_the_usual_model_of_a_vendor_comes_before_its_first() -> None:
    old = made_by("openai", 2)
    usual = deployment("usual", 3, adapter=get_adapter("openai"), model=get_adapter("openai").trial_model)
    place = house(Reply.json(CHAT), Reply.json(CHAT), shot=several(old, usual))

    named = (await place.post("/api/query", {"query": "a", "model": "openai"})).json()
    unnamed = (await place.post("/api/query", {"query": "a"})).json()

    assert {named["model_version"], unnamed["model_version"]} == {usual.model}


async def test_an_exact_version_is_asked_for_and_never_replaced() -> None:
    one, two = made_by("openai", 3), deployment("newer", 4, adapter=get_adapter("openai"), model="gpt-newer")
    shot = several(one, two)
    place = house(Reply.json(CHAT), shot=shot)

    newer = (await place.post("/api/query", {"query": "a", "model": "openai", "model_version": "gpt-newer"})).json()
    unknown = await house(shot=shot).post("/api/query", {"query": "a", "model": "openai", "model_version": "gpt-9"})

    assert (newer["model"], newer["model_version"], place.upstream.bodies[0]["model"]) == (
        "openai", "gpt-newer", "gpt-newer"
    )  # fmt: skip
    assert (unknown.status_code, unknown.json()["param"]) == (404, "model_version")
    assert "gpt-newer, openai-model" in unknown.json()["error"]


async def test_a_version_of_an_alias_with_several_models_goes_there_alone() -> None:
    one, two = made_by("openai", 3), made_by("mistral", 4)
    shot = replace(several(one, two), aliases={"mixed": alias("mixed", one, two)})
    place = house(Reply.json(CHAT), shot=shot)

    answer = (await place.post("/api/query", {"query": "a", "model": "mixed", "model_version": "mistral-model"})).json()

    assert (answer["model"], answer["provider"], answer["model_version"]) == (
        "mixed", "provider-mistral-main", "mistral-model"
    )  # fmt: skip


async def test_a_fallback_is_told() -> None:
    leading = replace(alias("gpt", deployment()), fallbacks=(Fallback("other"),))
    shot = snapshot(leading, alias("other", deployment("second", 2, model="other-model")), retries=ONCE)
    place = house(httpx.ConnectError("refused"), Reply.json(CHAT), shot=shot)

    answer = (await place.post("/api/query", ASKED)).json()

    assert {name: answer[name] for name in ("model", "original_model", "fallback_model", "model_version", "num_retries")} == {
        "model": "other", "original_model": "gpt", "fallback_model": "other", "model_version": "other-model", "num_retries": 1
    }  # fmt: skip


async def test_a_tenant_pays_and_is_limited() -> None:
    spent = BudgetRule(9, "blue's", "team", "4", "day", 1, "UTC")
    load_zone(spent.time_zone)
    blue = key(team_id=4, team_name="blue", budgets=(spent,))
    place = house(Reply.json(CHAT), shot=snapshot(who=key(tenants=(blue,)), retries=ONCE, budgets={9: spent}))

    refused = await place.post("/v1/gateway/query", {**ASKED, "tenant": "blue"})
    own = await place.post("/v1/gateway/query", {**ASKED, "tenant": "red"})
    foreign = await place.post("/v1/gateway/query", {**ASKED, "tenant": "green"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_quota")
    assert (own.status_code, own.json()["tenant"], place.row["team_name"]) == (200, "red", "red")
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "tenant_not_allowed")


async def test_a_tenant_s_requests_stand_in_its_ledger() -> None:
    blue = key(team_id=4, team_name="blue")
    place = house(Reply.json(CHAT), shot=snapshot(who=key(tenants=(blue,)), retries=ONCE))

    answer = await place.post("/v1/gateway/query", {**ASKED, "tenant": "blue"})

    assert answer.json()["tenant"] == "blue"
    assert (place.row["team_id"], place.row["team_name"], place.row["key_id"]) == (4, "blue", "1")


async def test_what_would_cost_too_much_is_not_asked() -> None:
    place = house()

    response = await place.post("/v1/gateway/query", {**ASKED, "max_cost_usd": 0.0000000001})

    assert (response.status_code, response.json()["error"]["code"]) == (402, "max_cost_exceeded")
    assert (place.upstream.requests, place.ledger.opened) == ([], [])


async def test_a_largest_cost_caps_the_output() -> None:
    place = house(Reply.json(CHAT))
    most = 10_000

    response = await place.post("/v1/gateway/query", {**ASKED, "max_cost_usd": f"{usd(most):f}"})

    cap = place.upstream.bodies[0]["max_tokens"]
    assert cap == (most - place.row["input_bytes"] * PRICE.input) // PRICE.output > 100
    assert response.headers["x-gateway-output-cap"] == str(cap)


async def test_what_has_a_largest_cost_is_asked_of_one_target_at_a_time() -> None:
    raced = replace(
        alias("gpt", deployment(), deployment("second", 2)), hedge=HedgeRule(max_pico_usd=10**9, after_s=0.01)
    )
    place = house(
        Reply(pieces=Reply.json(CHAT).pieces, delay_s=0.1), Reply.json(CHAT), shot=snapshot(raced, retries=ONCE)
    )

    answer = (await place.post("/v1/gateway/query", {**ASKED, "max_cost_usd": 1})).json()

    assert (answer["response"], len(place.upstream.requests)) == ("Hello", 1)


async def test_estimated_and_actual_cost_stand_in_the_answer_exactly() -> None:
    place = house(Reply.json(CHAT))

    response = await place.post("/v1/gateway/query", {**ASKED, "expected_response_tokens": 7})

    answer = json.loads(response.content, parse_float=Decimal)
    assert answer["actual_cost_usd"] == usd(72) == usd(place.row["cost_pico_usd"])
    assert answer["estimated_cost_usd"] == usd(place.row["input_estimate"] * 2 + 70)


async def test_a_rehearsal_asks_nobody_and_leaves_no_row() -> None:
    place = house()

    response = await place.post("/v1/gateway/query", {**ASKED, "dry_run": True, "request_id": "r"})

    answer = response.json()
    assert (response.status_code, answer["dry_run"], answer["route"], answer["client_request_id"]) == (
        200, True, ["main"], "r"
    )  # fmt: skip
    assert answer["output_tokens"] == 100
    assert (place.upstream.requests, place.ledger.opened, place.ledger.closed) == ([], [], [])


async def test_a_rehearsal_is_refused_as_the_request_would_be() -> None:
    response = await house().post("/v1/gateway/query", {**ASKED, "dry_run": True, "max_cost_usd": 0})

    assert (response.status_code, response.json()["error"]["code"]) == (402, "max_cost_exceeded")


async def test_an_estimate_names_its_price() -> None:
    response = await house().post("/v1/gateway/cost-estimate", {**ASKED, "input_tokens": 1000})

    assert json.loads(response.content, parse_float=Decimal) | {"request_id": ""} == {
        "model": "gpt", "model_version": "gpt-upstream", "provider": "provider-main", "deployment": "main",
        "input_tokens": 1000, "output_tokens": 100, "priced": True, "estimated_cost_usd": usd(3000),
        "input_per_1m_usd": Decimal("0.000002"), "output_per_1m_usd": Decimal("0.00001"),
        "price_per_input_token": usd(2), "price_per_output_token": usd(10), "request_id": "",
    }  # fmt: skip


async def test_an_estimate_of_a_model_without_a_price_says_so() -> None:
    shot = snapshot(alias("gpt", deployment(prices=())))

    answer = (await house(shot=shot).post("/v1/gateway/cost-estimate", ASKED)).json()

    assert (answer["priced"], answer["estimated_cost_usd"]) == (False, None)
    assert "has no price" in answer["message"]


@given(
    input_price=st.integers(0, 10**9),
    output_price=st.integers(0, 10**9),
    fee=st.integers(0, 10**12),
    tokens=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)
def test_the_estimate_is_the_bill(*, input_price: int, output_price: int, fee: int, tokens: tuple[int, int]) -> None:
    """For known usage, at whatever price: what is asked for by the estimate and what is settled are the same number."""
    price = replace(PRICE, input=input_price, output=output_price, request=fee)
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    place = house(Reply.json({**CHAT, "usage": usage}), shot=snapshot(alias("gpt", deployment(prices=(price,)))))

    async def both() -> tuple[bytes, bytes]:
        fields = {"model": "gpt", "input_tokens": tokens[0], "expected_response_tokens": tokens[1]}
        estimate = await place.post("/v1/gateway/cost-estimate", fields)
        return estimate.content, (await place.post("/v1/gateway/query", ASKED)).content

    estimate, answer = (json.loads(each, parse_float=Decimal, parse_int=Decimal) for each in asyncio.run(both()))

    assert estimate["estimated_cost_usd"] == answer["actual_cost_usd"] == usd(place.row["cost_pico_usd"])
    assert place.row["cost_pico_usd"] == cost(price, Usage(input=tokens[0], output=tokens[1]))


async def test_several_are_asked_at_once_and_each_is_a_row() -> None:
    place = house(
        *[Reply(pieces=Reply.json(CHAT).pieces, delay_s=0.2) for _ in range(5)],
        shot=snapshot(*[alias(f"m{n}", deployment(f"d{n}", n)) for n in range(1, 6)], retries=ONCE),
    )
    loop = asyncio.get_running_loop()
    began = loop.time()

    response = await place.post("/api/parallel", {"query": "a", "models": [f"m{n}" for n in range(1, 6)]})

    assert loop.time() - began < 0.6, "they were asked one after the other"
    answer = response.json()
    assert list(answer["responses"]) == ["m1", "m2", "m3", "m4", "m5"]
    assert {each["response"] for each in answer["responses"].values()} == {"Hello"}
    assert [each["request_id"] for each in answer["responses"].values()] == [
        f"{answer['request_id']}.{number}" for number in range(1, 6)
    ]
    assert {row["id"] for row in place.ledger.closed} == {each["request_id"] for each in answer["responses"].values()}


async def test_one_that_fails_is_told_among_the_answers() -> None:
    shot = snapshot(alias("good", deployment()), alias("bad", deployment("bad", 2)), retries=ONCE)
    place = house(Reply.json(CHAT), Reply.json({"error": {"message": "Boom.", "code": "boom"}}, 400), shot=shot)

    answer = (await place.post("/api/parallel", {"query": "a", "models": ["good", "bad", "missing"]})).json()

    told = answer["responses"]
    assert told["good"]["response"] == "Hello"
    assert "error" not in told["good"]
    assert (told["bad"]["error"], told["bad"]["error_type"], told["bad"]["response"]) == ("Boom.", "boom", "")
    assert told["missing"]["error_type"] == "model_not_found"
    assert [line["error_type"] for line in place.log.lines if line["status"] == "refused"] == ["model_not_found"]


async def test_by_default_one_of_each_vendor_is_asked() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT), shot=several(made_by("mistral", 2), made_by("openai", 3)))

    answer = (await place.post("/api/parallel", {"query": "a"})).json()

    assert set(answer["responses"]) == {"mistral", "openai"}


async def test_one_that_takes_too_long_is_told_while_the_others_answer() -> None:
    shot = snapshot(alias("quick", deployment()), alias("slow", deployment("slow", 2)), retries=ONCE)
    place = house(Reply.json(CHAT), Reply(delay_s=60.0), shot=shot)
    asked = {"query": "a", "models": ["quick", "slow"], "timeout": 0.5}
    running = asyncio.create_task(place.post("/api/parallel", asked))
    await asyncio.sleep(0.05)

    place.clock.advance(0.6)
    place.gateway.exchanges.tick()
    answer = (await running).json()

    assert answer["responses"]["quick"]["response"] == "Hello"
    assert answer["responses"]["slow"]["error_type"] == "upstream_timeout"
    assert {row["error_type"] for row in place.ledger.closed} == {"", "upstream_timeout"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"models": ["a", "a"]}, "models"),
        ({"models": [""]}, "models"),
        ({"models": [str(number) for number in range(17)]}, "models"),
        ({"models": "gpt"}, "models"),
        ({"models": ["a"], "model_versions": {"b": "c"}}, "model_versions"),
        ({"timeout": 0}, "timeout"),
    ],
)
async def test_lists_of_models_are_checked(fields: dict[str, Any], param: str) -> None:
    response = await house().post("/api/parallel", {"query": "a", **fields})

    assert (response.status_code, response.json()["param"]) == (400, param)


async def test_a_client_that_leaves_ends_all_of_them() -> None:
    shot = snapshot(*[alias(f"m{n}", deployment(f"d{n}", n)) for n in (1, 2)], retries=ONCE)
    place = house(Reply(delay_s=60.0), Reply(delay_s=60.0), shot=shot)
    caller = Caller()
    body = json.dumps({"query": "a", "models": ["m1", "m2"]}).encode()
    headers = {"authorization": "Bearer sk-gw-alicealice-0123456789abcdef", "content-type": "application/json"}
    running = asyncio.create_task(caller.call(place.app, "POST", "/api/parallel", body, headers))
    await asyncio.sleep(0.05)
    assert len(place.upstream.requests) == 2

    caller.left.set()
    place.gateway.exchanges.tick()
    await running

    assert [(row["status"], row["error_type"]) for row in place.ledger.closed] == [("cancelled", "client_left")] * 2
    assert place.ledger.running == set()


EVENTS = (
    b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n',
    b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}\n\n',
    b"data: [DONE]\n\n",
)


async def test_a_stream_tells_what_it_cost_behind_its_end_if_asked() -> None:
    place = house(Reply.events(*EVENTS), Reply.events(*EVENTS))
    asked = {"stream": True, "stream_options": {"include_usage": True}}

    told = await place.chat(asked, x_gateway_usage_comment="true")
    silent = await place.chat(asked)

    assert silent.content == b"".join(EVENTS)
    comments = told.content.removeprefix(silent.content).decode().splitlines()
    assert ": x-gateway-cost-usd: 0.000000000072" in comments
    assert ": x-llm-total-tokens: 16" in comments
    assert all(not line or line.startswith(":") for line in comments)


async def test_an_answer_that_is_no_stream_has_its_cost_in_headers_alone() -> None:
    response = await house(Reply.json(CHAT)).chat({}, x_gateway_usage_comment="true")

    assert (response.json()["novel_field"], response.headers["x-gateway-cost-usd"]) == (
        {"kept": True}, "0.000000000072"
    )  # fmt: skip


async def test_status_tells_each_word_for_this_key() -> None:
    shot = several(made_by("openai", 3), deployment("broken", 4, adapter=get_adapter("mistral"), problem="no key"))

    status = (await house(shot=shot).get("/api/status")).json()
    nobody = await house(shot=shot).get("/api/status", authorization="Bearer nobody")
    foreign = await house(shot=replace(shot, keys=snapshot(who=key(models=frozenset())).keys)).get("/api/status")

    assert status == {word: word == "openai" for word in vendors()}
    assert nobody.status_code == 401
    assert set(foreign.json().values()) == {False}


async def test_status_tells_who_is_down_and_says_more_if_asked() -> None:
    place = house(*[httpx.ConnectError("refused")] * 5, shot=several(made_by("openai", 3)))
    for _ in range(5):
        await place.post("/api/query", {"query": "a", "model": "openai"})

    status = (await place.get("/api/status?details=true")).json()

    assert status["openai"] is False
    assert status["providers"] == {"provider-openai-main": "down"}


async def test_an_answer_may_be_had_as_a_file() -> None:
    place = house()

    file = await place.post("/api/download", {"response": "Grüße", "format": "txt"})
    other = await place.post("/api/download", {"response": "Grüße", "format": "pdf"})

    assert (file.text, file.headers["content-disposition"]) == ("Grüße", 'attachment; filename="llm_response.txt"')
    assert (other.status_code, other.json()["param"]) == (400, "format")
