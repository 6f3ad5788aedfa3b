"""What an import does to limits, budgets and their credit."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import yaml

from billing.models import Budget
from billing.money import PICO_PER_USD
from billing.services import budget_increase, credit_add
from llmgateway.config_file.importing import import_text
from llmgateway.models import (
    RateLimit,
)
from tests.llmgateway.config_file.apply_scene import ROUTES
from tests.llmgateway.config_file.conftest import load, problems

pytestmark = pytest.mark.django_db


def test_a_limit_for_a_model_without_an_alias_is_refused() -> None:
    limit = "{metric: requests, per: day, amount: 5, model: smal}"

    (told,) = problems(ROUTES + f"teams: {{t: {{}}}}\nkeys: {{k: {{team: t, limits: [{limit}]}}}}\n")

    assert "keys.k.limits[0].model: There is no alias smal" in told
    assert not RateLimit.objects.exists()


def test_zero_is_not_absent() -> None:
    load("limits: [{metric: requests, per: minute, amount: 0}]\nbudgets: [{window: day, limit_usd: 0}]\n")

    assert RateLimit.objects.get().amount == 0
    assert Budget.objects.get().limit_pico_usd == 0
    assert Budget.objects.get().name == "day"


def test_a_limit_that_leaves_its_trial_keeps_its_row() -> None:
    """What was counted in shadow counts on when it is enforced."""
    load("limits: [{metric: requests, per: day, amount: 5, shadow: true}]")
    row = RateLimit.objects.get()

    report = load("limits: [{metric: requests, per: day, amount: 5}]")

    assert (RateLimit.objects.get().pk, RateLimit.objects.get().shadow) == (row.pk, False)
    assert report.kept == []


def test_a_trial_stands_beside_the_limit_it_may_replace() -> None:
    both = "limits: [{metric: requests, per: day, amount: 9}, {metric: requests, per: day, amount: 5, shadow: true}]"
    load(both)

    assert {(row.amount, row.shadow) for row in RateLimit.objects.all()} == {(9, False), (5, True)}
    assert load(both).changes == []


def test_an_amount_changes_in_place() -> None:
    load("limits: [{metric: tokens, per: month, amount: 5, starts_on: 15}]")
    row = RateLimit.objects.get()

    report = load("limits: [{metric: tokens, per: month, amount: 7, starts_on: 15}]")

    assert (RateLimit.objects.get().pk, RateLimit.objects.get().amount) == (row.pk, 7)
    assert list(report.lines())[:2] == ["~ limit tokens per month (everyone)", "    amount: 5 → 7"]


PREPAID = (
    "budgets: [{name: p, window: total, limit_usd: 0, credits: [{amount_usd: 5, note: a}, {amount_usd: 5, note: a}]}]"
)


def test_credit_is_not_paid_twice() -> None:
    load(PREPAID)

    assert load(PREPAID).changes == []
    assert Budget.objects.get().credit_pico_usd() == 10 * PICO_PER_USD


def test_credit_that_an_admin_added_stays_unless_the_file_prunes() -> None:
    load(PREPAID)
    credit_add(Budget.objects.get(), PICO_PER_USD)

    assert load(PREPAID).kept == ["credit 1 of p (everyone)"]
    assert Budget.objects.get().credits.count() == 3
    load(PREPAID, prune=True)
    assert Budget.objects.get().credits.count() == 2


def test_an_increase_that_an_admin_gave_outlives_a_file_without_one() -> None:
    text = "budgets: [{name: b, window: day, limit_usd: 1}]"
    load(text)
    budget_increase(Budget.objects.get(), 5, until=datetime(2099, 1, 1, tzinfo=UTC))

    assert load(text).changes == []
    assert Budget.objects.get().increase_pico_usd == 5


@pytest.mark.parametrize("owner", ["providers.openai", "deployments.a", "aliases.small"])
def test_places_have_limits_and_budgets_of_their_own(owner: str) -> None:
    section, name = owner.split(".")
    document = yaml.safe_load("version: 1\n" + ROUTES)
    document[section][name] |= {
        "limits": [{"metric": "concurrency", "amount": 3}],
        "budgets": [{"name": "day", "window": "day", "limit_usd": 1, "mode": "strict"}],
    }
    column = {"providers": "provider", "deployments": "deployment", "aliases": "alias"}[section]

    import_text(yaml.safe_dump(document))

    assert getattr(RateLimit.objects.get(), column).name == name
    assert getattr(Budget.objects.get(), column).name == name
    assert import_text(yaml.safe_dump(document)).changes == []
    document[section][name] |= {"limits": [], "budgets": []}
    import_text(yaml.safe_dump(document), prune=True)
    assert not RateLimit.objects.exists()
    assert not Budget.objects.exists()
