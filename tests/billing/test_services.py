"""Writes to budgets: what is refused and why, increases that end by themselves, and credit paid in advance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from billing.models import MAX_LIMIT, Budget
from billing.money import PICO_PER_USD
from billing.services import budget_create, budget_end_increase, budget_increase, budget_update, credit_add
from providers.models import Provider
from tests.cast import Cast

pytestmark = pytest.mark.django_db

TOMORROW = timedelta(days=1)


def _refusals(do: Any) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        do()
    return caught.value.message_dict


@pytest.mark.parametrize(
    ("columns", "field", "message"),
    [
        ({"window": "decade"}, "window", "not a valid choice"),
        ({"mode": "hopeful"}, "mode", "not a valid choice"),
        ({"each": "planet"}, "each", "not a valid choice"),
        ({"limit_pico_usd": -1}, "limit_pico_usd", "greater than or equal to 0"),
        ({"limit_pico_usd": MAX_LIMIT + 1}, "limit_pico_usd", "less than or equal to"),
        ({"limit_pico_usd": MAX_LIMIT, "increase_pico_usd": 1, "increase_until": datetime(2026, 1, 1, tzinfo=UTC)},
         "increase_pico_usd", "4,000,000 USD at most"),
        ({"increase_pico_usd": 1}, "increase_until", "say until when"),
        ({"window": "day", "starts_on": "monday"}, "starts_on", "Only a week or a month"),
        ({"window": "week", "starts_on": "15"}, "starts_on", "write one of monday"),
        ({"window": "month", "starts_on": "29"}, "starts_on", "from 1 to 28"),
        ({"alerts": [50, 50]}, "alerts", "stands there twice"),
        ({"alerts": [0]}, "alerts", "not a whole percent"),
        ({"alerts": "80"}, "alerts", "Write a list of percents"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_field(columns: dict[str, Any], field: str, message: str) -> None:
    refusals = _refusals(lambda: budget_create(**{"name": "b", "limit_pico_usd": 1, **columns}))

    assert message in refusals[field][0]


def test_a_budget_has_one_owner(cast: Cast) -> None:
    both = {"name": "b", "limit_pico_usd": 1, "key": cast.platform_key, "team": cast.platform}

    assert _refusals(lambda: budget_create(**both))["team"] == [
        "It already belongs to a key; leave one of the two empty."
    ]
    with pytest.raises(IntegrityError), transaction.atomic():
        Budget.objects.create(**both)


def test_places_have_no_budgets_for_each_address() -> None:
    provider = Provider.objects.create(name="openai", adapter="openai")

    refusals = _refusals(lambda: budget_create(name="b", limit_pico_usd=1, provider=provider, each="ip"))

    assert refusals["each"] == ["Only a key, a team or everyone together has rules for each address."]


@pytest.mark.parametrize("owner", ["key", "team", "provider", "everyone"])
def test_names_are_unique_for_each_owner(cast: Cast, owner: str) -> None:
    provider = Provider.objects.create(name="openai", adapter="openai")
    owners: dict[str, dict[str, Any]] = {
        "key": {"key": cast.platform_key}, "team": {"team": cast.platform}, "provider": {"provider": provider},
        "everyone": {},
    }  # fmt: skip
    for columns in owners.values():
        budget_create(name="month", limit_pico_usd=1, **columns)

    refusals = _refusals(lambda: budget_create(name="month", limit_pico_usd=2, **owners[owner]))

    assert "There is a budget of this name already" in refusals["__all__"][0]


def test_an_update_that_is_refused_changes_nothing() -> None:
    budget = budget_create(name="b", limit_pico_usd=5)

    _refusals(lambda: budget_update(budget, limit_pico_usd=-1))

    assert budget.limit_pico_usd == 5
    assert Budget.objects.get().limit_pico_usd == 5


def test_an_update_keeps_the_row() -> None:
    budget = budget_create(name="b", limit_pico_usd=5)

    budget_update(budget, limit_pico_usd=7, mode="strict")

    row = Budget.objects.get()
    assert (row.pk, row.limit_pico_usd, row.mode) == (budget.pk, 7, "strict")


def test_an_increase_ends_by_itself() -> None:
    budget = budget_create(name="b", limit_pico_usd=5)
    with time_machine.travel(datetime(2026, 3, 1, tzinfo=UTC), tick=False):
        budget_increase(budget, 3, until=timezone.now() + TOMORROW, reason="launch")
        assert budget.whole_limit_pico_usd() == 8
    with time_machine.travel(datetime(2026, 3, 2, tzinfo=UTC), tick=False):
        assert budget.whole_limit_pico_usd() == 5


def test_an_increase_is_taken_back_at_once() -> None:
    budget = budget_create(name="b", limit_pico_usd=5)
    budget_increase(budget, 3, until=timezone.now() + TOMORROW)

    budget_end_increase(budget)

    assert (budget.whole_limit_pico_usd(), budget.increase_until, budget.increase_reason) == (5, None, "")


def test_an_increase_must_be_for_a_time_to_come() -> None:
    budget = budget_create(name="b", limit_pico_usd=5)

    assert "increase_until" in _refusals(lambda: budget_increase(budget, 3, until=timezone.now()))


def test_credit_adds_to_the_limit_until_it_expires() -> None:
    budget = budget_create(name="prepaid", window="total", limit_pico_usd=0)
    with time_machine.travel(datetime(2026, 3, 1, tzinfo=UTC), tick=False):
        credit_add(budget, 10 * PICO_PER_USD, note="invoice 1", created_by="alice")
        credit_add(budget, 5 * PICO_PER_USD, expires_at=timezone.now() + TOMORROW)
        assert budget.whole_limit_pico_usd() == 15 * PICO_PER_USD
    with time_machine.travel(datetime(2026, 3, 2, tzinfo=UTC), tick=False):
        assert budget.whole_limit_pico_usd() == 10 * PICO_PER_USD


def test_only_a_budget_in_total_takes_credit() -> None:
    budget = budget_create(name="b", window="month", limit_pico_usd=0)

    assert "budget" in _refusals(lambda: credit_add(budget, 1))


def test_a_budget_with_credit_stays_one_in_total() -> None:
    budget = budget_create(name="b", window="total", limit_pico_usd=0)
    credit_add(budget, 1)

    assert "remove the credit first" in _refusals(lambda: budget_update(budget, window="month"))["window"][0]


def test_credit_and_limit_together_stay_countable() -> None:
    budget = budget_create(name="b", window="total", limit_pico_usd=MAX_LIMIT - 10)
    credit_add(budget, 6)

    assert "amount_pico_usd" in _refusals(lambda: credit_add(budget, 5))
    assert "limit_pico_usd" in _refusals(lambda: budget_update(budget, limit_pico_usd=MAX_LIMIT - 5))
    credit_add(budget, 4)


@pytest.mark.parametrize(("amount", "field"), [(0, "amount_pico_usd"), (-1, "amount_pico_usd")])
def test_credit_is_money_that_was_paid(amount: int, field: str) -> None:
    budget = budget_create(name="b", window="total", limit_pico_usd=0)

    assert field in _refusals(lambda: credit_add(budget, amount))


def test_credit_that_has_expired_already_is_refused() -> None:
    budget = budget_create(name="b", window="total", limit_pico_usd=0)

    assert "expires_at" in _refusals(lambda: credit_add(budget, 1, expires_at=timezone.now()))
