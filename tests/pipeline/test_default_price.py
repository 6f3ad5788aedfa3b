"""A default price: what a model costs that has no price of its own, and how its rows say so."""

from __future__ import annotations

import pytest

from billing.money import PICO_PER_USD
from billing.pricing import cost, default_price
from llmgateway.pipeline.snapshot import BudgetRule
from providers.adapters.types import Usage
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, House, alias, deployment, key, snapshot

DEFAULT = default_price(input_price=1_000_000, output_price=2_000_000, request_price=7)


@pytest.mark.parametrize("strict", [False, True])
async def test_a_key_with_a_budget_may_call_a_model_without_a_price(strict: bool) -> None:
    budget = BudgetRule(1, "day", "key", "1", "day", PICO_PER_USD, "UTC", strict=strict)
    house = House(
        ScriptedUpstream(Reply.json(CHAT)),
        snapshot(alias("gpt", deployment(prices=(DEFAULT,))), who=key(budgets=(budget,))),
    )

    response = await house.chat()

    assert response.status_code == 200
    row = house.row
    used = Usage(input=row["input"], cache_read=row["cache_read"], output=row["output"], reasoning=row["reasoning"])
    assert row["cost_pico_usd"] == cost(DEFAULT, used) > 7
    assert row["held_pico_usd"] >= row["cost_pico_usd"]
    assert (row["price_id"], row["priced"], row["default_price"]) == (None, False, True)
    assert row["attempts"][0]["default_price"] == {"input": 1_000_000, "output": 2_000_000, "request": 7}


async def test_the_journal_knows_it_before_the_request_is_sent() -> None:
    house = House(ScriptedUpstream(Reply.json(CHAT)), snapshot(alias("gpt", deployment(prices=(DEFAULT,)))))

    await house.chat()

    opened = house.ledger.opened[0]
    assert (opened["input_price"], opened["price_id"], opened["default_price"]) == (1_000_000, None, True)


async def test_a_price_of_its_own_wins() -> None:
    house = House(ScriptedUpstream(Reply.json(CHAT)), snapshot(alias("gpt", deployment(prices=(DEFAULT, PRICE)))))

    await house.chat()

    assert (house.row["price_id"], house.row["priced"]) == (PRICE.id, True)
    assert "default_price" not in house.row
