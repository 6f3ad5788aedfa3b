"""Strict budgets: the worst case is held, the output cap is what the hold pays, and nothing is overspent."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from llmgateway.http import httpx
from llmgateway.pipeline.snapshot import AdmissionRules, BudgetRule
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, House, alias, deployment, key, snapshot

IMAGE = [{"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}]


def budget(limit: int, **changes: Any) -> BudgetRule:
    return structs.replace(BudgetRule(1, "day", "key", "1", "day", limit, "UTC", strict=True), **changes)


def house(limit: int, *replies: Reply | Exception, rules: AdmissionRules | None = None, **changes: Any) -> House:
    made = snapshot(
        alias("gpt", deployment(**changes)),
        who=key(budgets=(budget(limit),)),
        admission=rules or AdmissionRules(hold_wait_ms=0),
    )
    return House(ScriptedUpstream(*(replies or (Reply.json(CHAT),))), made)


def sent(of: House) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(of.upstream.requests[-1].content)
    return body


def input_cost(body: dict[str, Any]) -> int:
    """The most that the input of a chat with `body` can cost: a token a byte."""
    asked = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], **body}
    return len(json.dumps(asked).encode()) * PRICE.input


async def test_a_cap_that_the_budget_pays_stays_as_it_is() -> None:
    asked = {"max_tokens": 300}
    of = house(input_cost(asked) + 300 * PRICE.output)

    response = await of.chat(asked)

    assert (response.status_code, sent(of)["max_tokens"]) == (200, 300)
    assert "x-gateway-output-cap" not in response.headers
    assert of.row["held_pico_usd"] == input_cost(asked) + 300 * PRICE.output


async def test_a_cap_that_the_budget_cannot_pay_is_lowered_and_said() -> None:
    asked = {"max_tokens": 5_000, "novel": [1.50]}
    of = house(input_cost(asked) + 300 * PRICE.output + 9)

    response = await of.chat(asked)

    assert response.headers["x-gateway-output-cap"] == "300"
    assert sent(of)["max_tokens"] == 300
    assert sent(of)["novel"] == [1.50]


async def test_below_the_least_worthwhile_output_it_is_refused() -> None:
    asked = {"max_tokens": 5_000}
    enough = input_cost(asked) + 256 * PRICE.output

    assert (await house(enough).chat(asked)).status_code == 200
    refused = await house(enough - 1).chat(asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_quota")


async def test_a_small_cap_of_the_request_s_own_needs_no_more_than_that() -> None:
    asked = {"max_tokens": 3}
    assert (await house(input_cost(asked) + 3 * PRICE.output).chat(asked)).status_code == 200


async def test_an_absent_cap_is_added_and_takes_a_sixteenth_of_what_remains() -> None:
    limit = 16 * (input_cost({}) + 1_000 * PRICE.output)
    of = house(limit)

    response = await of.chat()

    assert sent(of)["max_tokens"] == 1_000
    assert response.headers["x-gateway-output-cap"] == "1000"
    assert of.row["held_pico_usd"] == limit // 16


async def test_no_more_is_added_than_models_can_say() -> None:
    of = house(10**12)
    await of.chat()
    assert sent(of)["max_tokens"] == 8_192

    of = house(10**12, max_output_tokens=100_000)
    await of.chat()
    assert sent(of)["max_tokens"] == 100_000


async def test_every_choice_is_held() -> None:
    asked = {"max_tokens": 300, "n": 4}

    assert (await house(input_cost(asked) + 4 * 256 * PRICE.output).chat(asked)).headers[
        "x-gateway-output-cap"
    ] == "256"
    assert (await house(input_cost(asked) + 4 * 256 * PRICE.output - 1).chat(asked)).status_code == 402


async def test_thinking_is_output_too() -> None:
    asked = {"max_tokens": 9_000, "thinking": {"type": "enabled", "budget_tokens": 2_000}}
    least = input_cost(asked) + (2_000 + 256) * PRICE.output

    assert (await house(least).chat(asked)).headers["x-gateway-output-cap"] == "2256"
    assert (await house(least - 1).chat(asked)).status_code == 402


async def test_a_cost_without_a_bound_needs_one_from_the_deployment() -> None:
    asked = {"messages": [{"role": "user", "content": IMAGE}]}

    refused = await house(10**12).chat(asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "cost_not_boundable")
    of = house(10**12, max_request_pico_usd=5_000_000)
    assert (await of.chat(asked)).status_code == 200
    assert of.row["held_pico_usd"] == 5_000_000
    assert (await house(4_999_999, max_request_pico_usd=5_000_000).chat(asked)).status_code == 402


async def test_a_provider_that_ignores_the_cap_is_flagged() -> None:
    asked = {"max_tokens": 3}
    answer = {**CHAT, "usage": {"prompt_tokens": 11, "completion_tokens": 500, "total_tokens": 511}}
    of = house(10**6, Reply.json(answer))

    await of.chat(asked)

    assert of.row["over_hold"]


async def test_embeddings_have_no_output_to_cap() -> None:
    of = house(10**6, Reply.json({"object": "list", "data": [], "usage": {"prompt_tokens": 2, "total_tokens": 2}}))

    response = await of.post("/v1/embeddings", {"model": "gpt", "input": "Hi"})

    assert response.status_code == 200
    assert "max_tokens" not in sent(of)


async def test_a_request_waits_for_a_hold_to_return() -> None:
    asked = {"max_tokens": 300}
    limit = input_cost(asked) + 300 * PRICE.output
    of = house(
        limit, replace(Reply.json(CHAT), delay_s=0.05), Reply.json(CHAT), rules=AdmissionRules(hold_wait_ms=5_000)
    )

    first = asyncio.create_task(of.chat(asked))
    await asyncio.sleep(0.01)
    second = await of.chat({"max_tokens": 280})

    assert ((await first).status_code, second.status_code) == (200, 200)


async def test_a_dearer_second_target_must_be_paid_for_and_a_cheaper_one_holds_less() -> None:
    cheap = deployment("cheap", 1)
    dear = deployment("dear", 2, prices=(replace(PRICE, input=20, output=100),))
    asked = {"max_tokens": 300}
    limit = input_cost(asked) + 300 * PRICE.output
    no_retries = snapshot().retries.__class__(attempts=0)
    made = snapshot(alias("gpt", cheap, dear), who=key(budgets=(budget(limit),)), retries=no_retries)

    of = House(ScriptedUpstream(httpx.ConnectError("refused"), Reply.json(CHAT)), made)

    assert (await of.chat(asked)).status_code == 502, (
        "the second cannot be paid, so the first one's failure is the answer"
    )
    state = await of.store.state(budget(limit))
    assert (state.settled_pico_usd, state.held_pico_usd) == (0, 0)


@pytest.mark.parametrize("status", [402, 403, 429])
async def test_the_status_of_an_empty_budget_is_a_setting(status: int) -> None:
    refused = await house(0, rules=AdmissionRules(hold_wait_ms=0, quota_status=status)).chat()

    assert (refused.status_code, refused.json()["error"]["code"]) == (status, "insufficient_quota")
    assert (refused.headers.get("x-should-retry") == "false") == (status == 429)


async def test_a_thousand_at_once_overspend_nothing_and_all_that_is_affordable_runs() -> None:
    asked = {"max_tokens": 300}
    bill = 11 * PRICE.input + 5 * PRICE.output
    worst = input_cost(asked) + 300 * PRICE.output
    limit = worst * 4 + bill * 500
    of = house(
        limit,
        *[Reply.json(CHAT) for _ in range(1_000)],
        rules=AdmissionRules(hold_wait_ms=1_500, strict_min_output_tokens=300),
    )

    answers = await asyncio.gather(*[of.chat(asked) for _ in range(1_000)])

    passed = sum(answer.status_code == 200 for answer in answers)
    state = await of.store.state(budget(limit))
    assert state.held_pico_usd == 0
    assert state.settled_pico_usd == passed * bill <= limit
    assert passed == min(1_000, (limit - worst) // bill + 1), "each was affordable when it was decided"


@pytest.mark.parametrize("cap", [-1, 0])
async def test_a_cap_that_is_none_stays_none_in_no_translation(cap: int) -> None:
    place = house(5_000)
    asked = {"model": "gpt", "max_tokens": cap, "messages": [{"role": "user", "content": "Hi"}]}

    response = await place.post("/v1/messages", asked)

    assert response.status_code == 200
    assert 0 < sent(place)["max_tokens"] < 500
