"""Questions with a price tag: estimates that are the bill, largest costs that hold, rehearsals, and other teams' names."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import usd
from billing.pricing import cost
from billing.windows import load_zone
from llmgateway.pipeline.route_rules import HedgeRule
from llmgateway.pipeline.snapshot import BudgetRule
from providers.adapters.types import Usage
from tests.api.questions import ASKED, ONCE, house, keeping_house
from tests.fakes import Reply
from tests.gateways import CHAT, PRICE, alias, deployment, key, snapshot


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


@pytest.mark.parametrize("most", ["1e999999", "1e30", "4611686.018427387904"])
async def test_a_largest_cost_may_be_as_large_as_numbers_are(most: str) -> None:
    place = house(Reply.json(CHAT))

    assert (await place.post("/v1/gateway/query", {**ASKED, "max_cost_usd": most})).status_code == 200


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


@pytest.mark.parametrize("path", ["/v1/gateway/query", "/v1/gateway/cost-estimate"])
async def test_while_all_are_out_it_is_of_whom_would_be_tried(path: str) -> None:
    place = house()
    for _ in range(5):
        place.gateway.health.record(deployment(), ok=False, kind="server_error")
    body = ASKED | ({"dry_run": True} if path.endswith("query") else {})
    refused = await place.post(path, body)
    place.clock.advance(29)

    response = await place.post(path, body)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_healthy_target")
    assert (response.status_code, response.json()["deployment"]) == (200, "main")
    assert place.upstream.requests == []


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


async def test_what_is_kept_for_one_tenant_is_not_another_s() -> None:
    blue = key(team_id=4, team_name="blue")
    place = keeping_house(Reply.json(CHAT), Reply.json(CHAT), who=key(tenants=(blue,)))

    answers = [
        (await place.post("/v1/gateway/query", {**ASKED, "tenant": name})).json() for name in ("red", "blue", "blue")
    ]

    assert [answer["cached"] for answer in answers] == [False, False, True]


async def test_what_was_cut_short_for_its_price_is_not_given_to_who_would_pay_more() -> None:
    cut = {**CHAT, "choices": [{**CHAT["choices"][0], "finish_reason": "length"}]}  # type: ignore[index]
    place = keeping_house(Reply.json(cut), Reply.json(CHAT))

    short = (await place.post("/v1/gateway/query", {**ASKED, "max_cost_usd": "0.00000001"})).json()
    whole = (await place.post("/v1/gateway/query", ASKED)).json()

    assert (short["finish_reason"], whole["finish_reason"], whole["cached"]) == ("length", "stop", False)
