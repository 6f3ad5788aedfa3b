"""Limits and budgets: what is refused, how it is said, and that everything is given back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from msgspec import structs

from billing.money import PICO_PER_USD
from llmgateway.http import httpx
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from tests.fakes import FakeLedger, Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, House, alias, deployment, key, snapshot

FIVE = Limit("limit:1", "5 requests per minute", "key", 5, 5)
DAILY = BudgetRule(1, "day", "key", "1", "day", PICO_PER_USD, "UTC")


def answers(count: int) -> ScriptedUpstream:
    return ScriptedUpstream(*[Reply.json(CHAT) for _ in range(count)])


async def test_five_a_minute_are_five_in_a_burst_then_one_every_twelve_seconds() -> None:
    house = House(answers(7), snapshot(who=key(limits=(FIVE,))))

    burst = [await house.chat() for _ in range(6)]

    assert [response.status_code for response in burst] == [200] * 5 + [429]
    refused = burst[-1]
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert "'alice'" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"] == "12"
    assert (refused.headers["x-ratelimit-scope"], refused.headers["x-ratelimit-name"]) == ("key", FIVE.name)
    house.clock.advance(11.999)
    assert (await house.chat()).status_code == 429
    house.clock.advance(0.001)
    assert (await house.chat()).status_code == 200


async def test_every_answer_tells_what_remains() -> None:
    house = House(answers(1), snapshot(who=key(limits=(FIVE,))))

    headers = (await house.chat()).headers

    assert headers["x-ratelimit-limit-requests"] == "5"
    assert headers["x-ratelimit-remaining-requests"] == "4"
    assert headers["x-ratelimit-reset-requests"] == "12.000s"


async def test_a_limit_of_nothing_cannot_be_waited_out() -> None:
    house = House(answers(0), snapshot(who=key(limits=(Limit("limit:1", "0 requests per minute", "key", 0, 0),))))

    response = await house.chat()

    assert (response.status_code, response.json()["error"]["code"]) == (429, "request_exceeds_limit")
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers


async def test_a_request_that_reached_no_provider_gives_its_turn_back() -> None:
    one = Limit("limit:1", "1 request per minute", "key", 1, 1)
    no_retries = snapshot().retries.__class__(attempts=0)
    house = House(
        ScriptedUpstream(httpx.ConnectError("refused"), Reply.json(CHAT)),
        snapshot(who=key(limits=(one,)), retries=no_retries),
    )

    assert (await house.chat()).status_code == 502
    assert (await house.chat()).status_code == 200


async def test_a_spent_budget_is_a_402_that_names_it() -> None:
    house = House(answers(1), snapshot(who=key(budgets=(DAILY,))))
    house.store.seed(DAILY, window_start=_today(house), settled_pico_usd=PICO_PER_USD)

    response = await house.chat()

    assert response.status_code == 402
    assert response.json()["error"]["code"] == "insufficient_quota"
    assert response.headers["x-budget-name"] == "day"
    assert response.headers["x-budget-limit-usd"] == "1"
    assert response.headers["x-budget-settled-usd"] == "1"
    assert int(response.headers["x-budget-resets-at"]) > house.clock.time()
    assert house.ledger.opened == []


async def test_the_hold_is_returned_and_the_cost_settled() -> None:
    house = House(answers(1), snapshot(who=key(budgets=(DAILY,))))

    await house.chat()

    state = await house.store.state(DAILY)
    assert (state.settled_pico_usd, state.held_pico_usd) == (72, 0)
    assert house.row["held_pico_usd"] >= 1024 * 10


async def test_held_money_counts_against_the_budget_while_a_request_runs() -> None:
    tight = BudgetRule(1, "day", "key", "1", "day", 15_000, "UTC")
    house = House(ScriptedUpstream(Reply(delay_s=60.0), Reply.json(CHAT)), snapshot(who=key(budgets=(tight,))))
    running = asyncio.create_task(house.chat())
    await asyncio.sleep(0.01)

    second = await house.chat()
    running.cancel()

    assert second.status_code == 402
    assert second.headers["x-budget-held-usd"] != "0"


async def test_a_model_without_a_price_is_refused_for_keys_with_a_budget() -> None:
    house = House(answers(0), snapshot(alias("gpt", deployment(prices=())), who=key(budgets=(DAILY,))))

    response = await house.chat()

    assert (response.status_code, response.json()["error"]["code"]) == (402, "model_not_priced")


async def test_without_a_budget_an_unpriced_model_answers_and_is_flagged() -> None:
    house = House(answers(1), snapshot(alias("gpt", deployment(prices=()))))

    assert (await house.chat()).status_code == 200
    assert (house.row["priced"], house.row["cost_pico_usd"], house.row["price_id"]) == (False, 0, None)


async def test_when_usage_cannot_be_recorded_the_request_does_not_run_and_holds_nothing() -> None:
    house = House(answers(0), snapshot(who=key(budgets=(DAILY,), limits=(FIVE,))))
    ledger = house.ledger
    assert isinstance(ledger, FakeLedger)
    ledger.failing = True

    response = await house.chat()

    assert (response.status_code, response.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert (await house.store.state(DAILY)).held_pico_usd == 0
    assert len(house.gateway.exchanges) == 0


def _today(house: House) -> float:
    return house.clock.time() // 86400 * 86400


async def test_an_expected_budget_is_overspent_by_no_more_than_what_runs_costs_beyond_its_hold() -> None:
    """The bound that `docs/limits.md` states."""
    answer = {**CHAT, "usage": {"prompt_tokens": 11, "completion_tokens": 4_000, "total_tokens": 4_011}}
    bill = 11 * 2 + 4_000 * 10
    limit = 200_000
    few = BudgetRule(1, "day", "key", "1", "day", limit, "UTC")
    house = House(
        ScriptedUpstream(*[replace(Reply.json(answer), delay_s=0.05)] * 60), snapshot(who=key(budgets=(few,)))
    )

    statuses = [response.status_code for response in await asyncio.gather(*[house.chat() for _ in range(60)])]

    holds = [row["held_pico_usd"] for row in house.ledger.opened]
    running = statuses.count(200)
    settled = (await house.store.state(few)).settled_pico_usd
    assert (running, settled) == (limit // holds[0], running * bill)
    assert limit < settled <= limit + running * (bill - holds[0])
    assert (await house.chat()).status_code == 402


async def test_the_hold_follows_what_the_model_has_said_before() -> None:
    house = House(answers(30), snapshot(who=key(budgets=(DAILY,))))

    for _ in range(30):
        await house.chat()

    holds = [row["held_pico_usd"] for row in house.ledger.opened]
    assert holds[0] - holds[-1] == (1024 - 5) * 10


async def test_a_target_without_room_is_passed_over() -> None:
    first = deployment("first", 1, limits=(Limit("limit:9", "1 request per minute", "deployment", 1, 1),))
    house = House(answers(3), snapshot(alias("gpt", first, deployment("second", 2))))

    asked = [(await house.chat()).headers["x-gateway-deployment"] for _ in range(3)]

    assert asked == ["first", "second", "second"]


async def test_when_no_target_has_room_the_first_one_s_limit_is_named() -> None:
    busy = deployment("first", 1, limits=(Limit("limit:9", "1 request per minute", "deployment", 1, 1),))
    house = House(answers(1), snapshot(alias("gpt", busy)))
    await house.chat()

    refused = await house.chat()

    assert (refused.status_code, refused.headers["x-ratelimit-scope"]) == (429, "deployment")


async def test_a_second_attempt_gives_the_first_target_s_turn_back() -> None:
    one = Limit("limit:9", "1 request per minute", "deployment", 1, 1)
    first, second = deployment("first", 1, limits=(one,)), deployment("second", 2)
    house = House(
        ScriptedUpstream(httpx.ConnectError("refused"), Reply.json(CHAT), Reply.json(CHAT)),
        snapshot(alias("gpt", first, second)),
    )

    asked = [(await house.chat()).headers["x-gateway-deployment"] for _ in range(2)]

    assert asked == ["second", "first"]


async def test_tokens_are_taken_by_estimate_and_corrected_by_use() -> None:
    tokens = Limit("limit:1", "2,000 tokens per minute", "key", 2_000, 2_000, metric="tokens")
    house = House(answers(2), snapshot(who=key(limits=(tokens,))))

    headers = (await house.chat()).headers

    assert headers["x-ratelimit-limit-tokens"] == "2000"
    assert await house.store.limit_used(tokens) == 16
    refused = await house.chat({"max_tokens": 9_000, "messages": [{"role": "user", "content": "a" * 9_000}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "request_exceeds_limit")
    assert "estimated at" in refused.json()["error"]["message"]


async def test_a_token_quota_that_is_used_up_is_a_402() -> None:
    quota = Limit("limit:1", "1,100 tokens in total", "key", 1_100, 0, metric="tokens", per="total")
    house = House(answers(9), snapshot(who=key(limits=(quota,))))

    asked = [await house.chat() for _ in range(6)]
    refused = asked[-1]

    assert asked[0].headers["x-ratelimit-remaining-tokens"] == "59"
    assert "x-ratelimit-reset-tokens" not in asked[0].headers, "a total never resets"
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_quota")
    assert refused.headers["x-ratelimit-name"] == quota.name


async def test_as_many_as_allowed_run_at_once_and_streams_to_their_end() -> None:
    one = Limit("limit:1", "1 concurrent request", "key", 1, 1, metric="concurrency", per="")
    house = House(
        ScriptedUpstream(replace(Reply.json(CHAT), delay_s=0.05), Reply.json(CHAT)), snapshot(who=key(limits=(one,)))
    )
    running = asyncio.create_task(house.chat())
    await asyncio.sleep(0.01)

    refused = await house.chat()

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrency_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await running).status_code == 200
    assert (await house.chat()).status_code == 200


async def test_a_limit_in_shadow_mode_refuses_nothing_and_is_counted() -> None:
    shadow = structs.replace(FIVE, shadow=True)
    house = House(answers(7), snapshot(who=key(limits=(shadow,))))

    statuses = [(await house.chat()).status_code for _ in range(7)]

    assert statuses == [200] * 7
    assert house.telemetry.figures.shadow_refusals == {("key", FIVE.name): 2}


async def test_a_budget_for_each_end_user_names_whose_it_is() -> None:
    rule = structs.replace(DAILY, scope="end_user", scope_id="", each="end_user", limit_pico_usd=0, owner="key:1")
    house = House(answers(0), snapshot(who=key(budgets=(rule,))))

    message = (await house.chat(x_end_user_id="ana")).json()["error"]["message"]

    assert message.startswith("API key 'alice' for each end user has a budget 'day'")


async def test_the_hold_is_at_the_price_in_force_when_the_body_has_come() -> None:
    dearer = replace(PRICE, id=8, effective_from=0.0, output=PRICE.output * 2)
    house = House(answers(2), snapshot(alias("gpt", deployment(prices=(PRICE, dearer))), who=key(budgets=(DAILY,))))
    dearer_at = house.clock.time() + 100
    prices = (PRICE, replace(dearer, effective_from=dearer_at))
    house.gateway.use(
        snapshot(alias("gpt", deployment(prices=prices)), who=key(budgets=(DAILY,))), house.gateway.budget_index
    )

    await house.chat()
    house.clock.advance(100)
    await house.chat()

    before, after = [row["held_pico_usd"] for row in house.ledger.opened]
    assert after - before == 1024 * PRICE.output
