"""The simple API: plain questions through the one pipeline, and words for vendors, versions and kinds of task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cel
import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.route_rules import Fallback, RoutingRule
from llmgateway.pipeline.snapshot import Alias, Retries, Target
from providers.adapters.registry import get_adapter, vendors
from tests.api.questions import ASKED, ONCE, house, keeping_house, made_by, several
from tests.fakes import Reply
from tests.gateways import CHAT, PRICE, alias, deployment, key, snapshot


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


async def test_a_version_behind_an_alias_that_a_key_may_not_call_does_not_exist_for_it() -> None:
    inner = alias("inner", deployment())
    outer = Alias(9, "outer", 0, "priority", (Target(None, alias=inner),))
    place = house(shot=snapshot(inner, outer, deployments=(deployment(),), who=key(models=frozenset({"outer"}))))

    version = {"query": "a", "model_version": "gpt-upstream"}
    answers = [await place.post("/api/query", asked) for asked in (version, {**version, "model": "outer"})]

    assert [each.status_code for each in answers] == [404, 404]
    assert all("model_version" in each.json()["error"] for each in answers)


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


async def test_a_kept_answer_says_so_costs_nothing_and_has_an_id_of_its_own() -> None:
    place = keeping_house(Reply.json(CHAT))

    first = (await place.post("/api/query", ASKED)).json()
    second = (await place.post("/api/query", ASKED)).json()

    assert [first["cached"], second["cached"]] == [False, True]
    assert (second["response"], second["cost_usd"], second["num_retries"]) == ("Hello", 0, 0)
    assert second["request_id"] != first["request_id"]
    assert len(place.upstream.requests) == 1
