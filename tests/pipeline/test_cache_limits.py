"""What a kept answer counts for: limits of requests, and neither tokens nor money."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from billing.windows import load_zone
from llmgateway.pipeline.route_rules import CacheRule
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from tests.fakes import Reply
from tests.gateways import CHAT, alias, deployment, key
from tests.pipeline.test_caching import caching_house, swap

load_zone("UTC")


def requests(amount: int) -> Limit:
    return Limit("limit:1", f"{amount} requests per minute", "key", amount, amount)


async def test_a_hit_counts_for_limits_of_requests() -> None:
    house = caching_house(Reply.json(CHAT), who=key(limits=(requests(2),)))

    await house.chat()
    hit = await house.chat()
    refused = await house.chat()

    assert (hit.headers["x-gateway-cache"], hit.headers["x-ratelimit-remaining-requests"]) == ("hit", "0")
    assert refused.status_code == 429
    assert await house.store.limit_used(requests(2)) == 2
    assert len(house.ledger.closed) == 2


async def test_a_hit_takes_no_tokens() -> None:
    tokens = Limit("limit:2", "2,000 tokens in total", "key", 2_000, 2_000, metric="tokens", per="total")
    house = caching_house(Reply.json(CHAT), who=key(limits=(tokens,)))

    await house.chat({"max_tokens": 5})
    before = await house.store.limit_used(tokens)
    for _ in range(200):
        assert (await house.chat({"max_tokens": 5})).status_code == 200

    assert await house.store.limit_used(tokens) == before == 16


async def test_a_spent_budget_does_not_refuse_a_free_answer() -> None:
    budget = BudgetRule(1, "monthly", "key", "1", "month", 100_000, "UTC")
    house = caching_house(Reply.json(CHAT), who=key(budgets=(budget,)))

    await house.chat({"max_tokens": 5})
    house.store.seed(budget, window_start=0, settled_pico_usd=0)
    spent = structs.replace(budget, limit_pico_usd=1)
    swap(house, keys=caching_house(who=key(budgets=(spent,))).snapshot.keys)
    hit = await house.chat({"max_tokens": 5})
    other = await house.chat({"max_tokens": 6})

    assert (hit.status_code, hit.headers["x-gateway-cache"]) == (200, "hit")
    assert other.status_code == 402


async def test_a_hit_books_nothing() -> None:
    budget = BudgetRule(1, "monthly", "key", "1", "month", 10**12, "UTC")
    house = caching_house(Reply.json(CHAT), who=key(budgets=(budget,)))

    await house.chat()
    before = await house.store.state(budget)
    await house.chat()

    assert await house.store.state(budget) == before
    assert before.held_pico_usd == 0


async def test_a_request_that_is_too_large_gets_no_hit() -> None:
    house = caching_house(Reply.json(CHAT))
    await house.chat()
    size = Limit("limit:3", "10 bytes", "key", 10, 10, metric="request_bytes", per="")

    swap(house, keys=caching_house(who=key(limits=(size,))).snapshot.keys)

    assert (await house.chat()).status_code == 413


async def test_a_hit_that_cannot_be_recorded_is_refused_and_gives_its_turn_back() -> None:
    house = caching_house(Reply.json(CHAT), who=key(limits=(requests(5),)))
    await house.chat()

    house.ledger.failing = True
    refused = await house.chat()

    assert refused.status_code == 503
    assert await house.store.limit_used(requests(5)) == 1


async def test_an_answer_that_was_cut_for_want_of_money_is_not_kept() -> None:
    cut = CHAT | {"choices": [CHAT["choices"][0] | {"finish_reason": "length"}]}  # type: ignore[index]
    strict = BudgetRule(1, "strict", "key", "1", "total", 30_000, "UTC", strict=True)
    house = caching_house(Reply.json(cut), Reply.json(CHAT), who=key(budgets=(strict,)))

    first = await house.chat()
    second = await house.chat()

    assert "x-gateway-output-cap" in first.headers
    assert second.headers["x-gateway-cache"] == "miss"


async def test_an_answer_that_the_caller_cut_is_kept() -> None:
    cut = CHAT | {"choices": [CHAT["choices"][0] | {"finish_reason": "length"}]}  # type: ignore[index]
    house = caching_house(Reply.json(cut))

    await house.chat({"max_tokens": 5})

    assert (await house.chat({"max_tokens": 5})).headers["x-gateway-cache"] == "hit"


async def test_balancing_takes_one_turn_for_each_request() -> None:
    targets = alias("gpt", deployment("one", 1), deployment("two", 2), strategy="weighted")
    house = caching_house(*[Reply.json(CHAT) for _ in range(4)], aliases=(replace(targets, cache=CacheRule(60)),))

    for seed in range(4):
        await house.chat({"seed": seed})

    assert sorted(str(request.url.host) for request in house.upstream.requests) == [
        "one.test",
        "one.test",
        "two.test",
        "two.test",
    ]
