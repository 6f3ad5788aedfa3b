"""Limits, budgets, credit and settings in the admin: everything can be typed, and what cannot be kept is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing.models import Budget, BudgetCredit, UsageRollup
from billing.money import PICO_PER_USD
from billing.services import budget_increase, credit_add
from llmgateway.models import GatewaySettings, RateLimit, Team
from tests.llmgateway.admin.world import World, create_record

pytestmark = pytest.mark.django_db
ADD_LIMIT = "/admin/llmgateway/ratelimit/add/"
LIMITS = "/admin/llmgateway/ratelimit/"
ADD_BUDGET = "/admin/billing/budget/add/"
BUDGETS = "/admin/billing/budget/"
NO_CREDIT = {"credits-TOTAL_FORMS": "0", "credits-INITIAL_FORMS": "0"}


def _limit(**values: Any) -> dict[str, Any]:
    return {"metric": "requests", "per": "minute", "amount": "60", "oversize": "refuse", "enabled": "on", **values}


def _budget(**values: Any) -> dict[str, Any]:
    return {
        "name": "b", "window": "day", "limit_pico_usd": "10", "mode": "expected", "enabled": "on", **NO_CREDIT, **values
    }  # fmt: skip


def _errors(response: Any) -> dict[str, str]:
    return {name: str(errors[0]) for name, errors in response.context["adminform"].form.errors.items()}


def _change(budget: Budget) -> str:
    return reverse("admin:billing_budget_change", args=[budget.pk])


def _latest_limit() -> RateLimit:
    return RateLimit.objects.latest("pk")


def test_every_term_of_a_limit_can_be_typed(owner: Client, world: World) -> None:
    terms = _limit(metric="tokens", per="month", amount="1000", starts_on="15", oversize="first_in_window", shadow="on")

    owner.post(ADD_LIMIT, {**terms, "team": world.cast.platform.pk, "each": "end_user"})

    limit = _latest_limit()
    assert (limit.team, limit.each, limit.starts_on, limit.shadow) == (world.cast.platform, "end_user", "15", True)
    assert (limit.metric, limit.per, limit.amount, limit.oversize) == ("tokens", "month", 1000, "first_in_window")


def test_a_reset_is_typed_as_a_time_span(owner: Client, world: World) -> None:
    owner.post(ADD_LIMIT, _limit(metric="tokens", per="total", reset_seconds="30d"))

    limit = _latest_limit()
    assert limit.reset_seconds == 30 * 86_400
    assert 'value="30d"' in owner.get(f"{LIMITS}{limit.pk}/change/").content.decode()


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"metric": "concurrency"}, "per", "Concurrent requests have no period"),
        ({"per": "total", "reset_seconds": "soon"}, "reset_seconds", "not a time span"),
        ({"per": "day", "burst": "5"}, "burst", "Only a limit per minute"),
        ({"per": "week", "starts_on": "15"}, "starts_on", "write one of monday"),
        ({"each": "model", "model": "small"}, "model", "already counts for each model"),
        ({"model": "smal"}, "model", "There is no model alias smal. There are small"),
    ],
)
def test_terms_that_make_no_sense_are_refused_by_their_field(
    owner: Client, world: World, values: dict[str, str], field: str, message: str
) -> None:
    response = owner.post(ADD_LIMIT, _limit(**values))

    assert message in _errors(response)[field]
    assert RateLimit.objects.count() == 1


def test_the_same_limit_twice_is_refused_with_what_to_do(owner: Client, world: World) -> None:
    response = owner.post(ADD_LIMIT, _limit(key=world.key.pk))

    assert "try this in shadow" in _errors(response)["__all__"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("scope=everyone", {"9 requests per day"}),
        ("scope=provider", {"3 concurrent requests"}),
        ("scope=key", {"60 requests per minute"}),
        ("shadow__exact=1", {"9 requests per day"}),
        ("metric__exact=concurrency", {"3 concurrent requests"}),
        ("q=acme", {"3 concurrent requests"}),
    ],
)
def test_limits_are_found_by_scope_metric_and_shadow(owner: Client, world: World, query: str, found: set[str]) -> None:
    RateLimit.objects.create(provider=world.provider, metric="concurrency", per="", amount=3)
    RateLimit.objects.create(per="day", amount=9, shadow=True)

    response = owner.get(f"{LIMITS}?{query}")

    assert {limit.terms for limit in response.context["cl"].result_list} == found


def test_a_limit_says_whose_it_is(owner: Client, world: World) -> None:
    RateLimit.objects.create(per="day", amount=9, each="ip")
    RateLimit.objects.create(team=world.cast.platform, per="day", amount=9, each="end_user")

    page = owner.get(LIMITS).content.decode()

    assert "each address" in page
    assert "each end user of team platform" in page
    assert f"key {world.key}" in page


@pytest.mark.parametrize("kind", ["provider", "deployment", "alias"])
def test_limits_and_budgets_are_typed_beside_their_place(owner: Client, world: World, kind: str) -> None:
    place = getattr(world, kind)
    url = reverse(f"admin:providers_{place._meta.model_name}_change", args=[place.pk])
    form = {name: value for name, value in _initial(owner, url).items() if value is not None}
    form |= {
        "limits-TOTAL_FORMS": "1", "limits-0-metric": "concurrency", "limits-0-per": "", "limits-0-amount": "3",
        "limits-0-enabled": "on",
        "budgets-TOTAL_FORMS": "1", "budgets-0-name": "day", "budgets-0-window": "day",
        "budgets-0-limit_pico_usd": "10", "budgets-0-mode": "strict", "budgets-0-enabled": "on",
    }  # fmt: skip

    response = owner.post(url, form)

    assert response.status_code == 302, response.content.decode()[-3000:]
    assert str(RateLimit.objects.get(**{kind: place})) == "3 concurrent requests"
    assert Budget.objects.get(**{kind: place}).mode == "strict"


def _initial(owner: Client, url: str) -> dict[str, Any]:
    """What a browser would send back."""
    context = owner.get(url).context
    form = context["adminform"].form
    values = {field.html_name: field.value() for field in form}
    for inline in context["inline_admin_formsets"]:
        values |= {field.html_name: field.value() for field in inline.formset.management_form}
        for each in inline.formset.initial_forms:
            values |= {field.html_name: field.value() for field in each}
    return {name: "on" if value is True else None if value is False else value for name, value in values.items()}


def test_a_team_is_added_with_a_limit_that_everyone_has_too(owner: Client, world: World) -> None:
    """Before it is saved its limit is nobody's, which is not everyone's."""
    RateLimit.objects.create(amount=500)
    form = {
        "name": "new", "time_zone": "UTC", "own_keys": "refuse", "memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0",
        "budgets-TOTAL_FORMS": "0", "budgets-INITIAL_FORMS": "0", "limits-TOTAL_FORMS": "1",
        "limits-INITIAL_FORMS": "0", "limits-0-metric": "requests", "limits-0-per": "minute", "limits-0-amount": "5",
        "limits-0-enabled": "on",
    }  # fmt: skip

    response = owner.post(reverse("admin:llmgateway_team_add"), form)

    assert response.status_code == 302
    assert RateLimit.objects.get(team__name="new").amount == 5
    assert Team.objects.get(name="new").own_keys == "refuse"


def test_every_term_of_a_budget_can_be_typed(owner: Client, world: World) -> None:
    owner.post(
        ADD_BUDGET,
        _budget(
            window="week", mode="strict", alerts="50, 80 100%", starts_on="sunday", alias=world.alias.pk,
            increase_pico_usd="2.5", increase_until_0="2099-01-01", increase_until_1="00:00", increase_reason="launch",
        ),
    )  # fmt: skip

    budget = Budget.objects.get(name="b")
    assert (budget.alias, budget.mode, budget.alerts, budget.starts_on) == (
        world.alias,
        "strict",
        [50, 80, 100],
        "sunday",
    )
    assert (budget.increase_pico_usd, budget.increase_reason) == (5 * PICO_PER_USD // 2, "launch")
    assert budget.increase_until == datetime(2099, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"alerts": "half"}, "alerts", "Write whole percents"),
        ({"alerts": "80, 80"}, "alerts", "stands there twice"),
        ({"increase_pico_usd": "5"}, "increase_until", "say until when"),
        ({"increase_pico_usd": "-5"}, "increase_pico_usd", "cannot be negative"),
        ({"limit_pico_usd": "4000001"}, "limit_pico_usd", "4,000,000"),
        ({"starts_on": "monday"}, "starts_on", "Only a week or a month"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_by_its_field(
    owner: Client, world: World, values: dict[str, str], field: str, message: str
) -> None:
    response = owner.post(ADD_BUDGET, _budget(**values))

    assert message in _errors(response)[field]
    assert not Budget.objects.filter(name="b").exists()


def test_a_place_cannot_have_a_budget_for_each_address(owner: Client, world: World) -> None:
    response = owner.post(ADD_BUDGET, _budget(provider=world.provider.pk, each="ip"))

    assert "Only a key, a team or everyone" in _errors(response)["each"]


def test_credit_is_added_with_who_added_it_and_never_edited(owner: Client, world: World) -> None:
    budget = Budget.objects.create(name="prepaid", key=world.key, window="total", limit_pico_usd=0)
    form = {name: value for name, value in _initial(owner, _change(budget)).items() if value is not None}
    form |= {"credits-TOTAL_FORMS": "1", "credits-0-amount_pico_usd": "25", "credits-0-note": "invoice 7"}

    owner.post(_change(budget), form)

    credit = BudgetCredit.objects.get()
    assert (credit.amount_pico_usd, credit.note, credit.created_by) == (25 * PICO_PER_USD, "invoice 7", "alice")
    again = {name: value for name, value in _initial(owner, _change(budget)).items() if value is not None}
    assert again["credits-0-amount_pico_usd"] == "25"
    owner.post(_change(budget), again | {"credits-0-amount_pico_usd": "99"})
    assert BudgetCredit.objects.get().amount_pico_usd == 25 * PICO_PER_USD


def test_a_budget_that_begins_anew_offers_no_credit(owner: Client, world: World) -> None:
    assert "credits-TOTAL_FORMS" not in owner.get(_change(world.budget)).content.decode()


def test_the_list_shows_what_may_be_spent_now_and_what_remains(owner: Client, world: World) -> None:
    budget = Budget.objects.create(name="prepaid", key=world.key, window="total", limit_pico_usd=PICO_PER_USD)
    credit_add(budget, 2 * PICO_PER_USD)
    budget_increase(budget, 4 * PICO_PER_USD, until=datetime(2099, 1, 1, tzinfo=UTC))
    create_record(world.key, record_id="req-2", cost_pico_usd=PICO_PER_USD)

    page = owner.get(f"{BUDGETS}?scope=key").content.decode()

    assert "$7.00" in page
    assert "$6.00" in page


@pytest.mark.parametrize("kind", ["provider", "deployment", "alias"])
def test_a_place_has_spent_what_its_requests_cost(owner: Client, world: World, kind: str) -> None:
    place = getattr(world, kind)
    Budget.objects.create(name="p", limit_pico_usd=10 * PICO_PER_USD, window="hour", mode="strict", **{kind: place})
    at = timezone.now()
    record = create_record(world.key, record_id="req-2", at=at, cost_pico_usd=3 * PICO_PER_USD)
    _move_rollups(record.provider, record.deployment)

    page = owner.get(f"{BUDGETS}?scope={kind}").content.decode()

    assert "$3.00" in page
    assert "$7.00" in page


def _move_rollups(provider: str, deployment: str) -> None:
    """The rollups of the world know neither; those of the drain do."""
    UsageRollup.objects.update(provider=provider, deployment=deployment)


def test_a_budget_for_each_end_user_shows_who_has_spent_most(owner: Client, world: World) -> None:
    Budget.objects.create(
        name="u", limit_pico_usd=10 * PICO_PER_USD, window="month", team=world.cast.platform, each="end_user"
    )
    create_record(world.key, record_id="req-2", end_user="ana", cost_pico_usd=5 * PICO_PER_USD)
    create_record(world.key, record_id="req-3", end_user="bo", cost_pico_usd=PICO_PER_USD)

    assert "50 % by ana" in owner.get(f"{BUDGETS}?q=u").content.decode()


def test_the_settings_of_admission_and_estimation_are_edited(owner: Client, world: World) -> None:
    url = reverse("admin:llmgateway_gatewaysettings_change", args=[1])
    form = {name: value for name, value in _initial(owner, url).items() if value is not None}

    owner.post(url, form | {"quota_status": "429", "chars_per_token_by_provider": '{"openai": 4.5}'})

    row = GatewaySettings.objects.get()
    assert (row.quota_status, row.chars_per_token_by_provider) == (429, {"openai": 4.5})
    response = owner.post(url, form | {"chars_per_token_by_provider": '{"openai": 0}'})
    assert "write a number from 0.1 to 1000" in _errors(response)["chars_per_token_by_provider"]


def test_the_settings_of_circuits_load_and_caches_are_edited(owner: Client, world: World) -> None:
    url = reverse("admin:llmgateway_gatewaysettings_change", args=[1])
    form = {name: value for name, value in _initial(owner, url).items() if value is not None}

    owner.post(
        url, form | {"circuit_mode": "log", "max_queued": "7", "cache_enabled": "on", "vendor_models": '{"x": "y"}'}
    )

    row = GatewaySettings.objects.get()
    assert (row.circuit_mode, row.max_queued, row.cache_enabled, row.vendor_models) == ("log", 7, True, {"x": "y"})
    assert "vendor_models" in _errors(owner.post(url, form | {"vendor_models": '{"x": 1}'}))
    owner.post(url, form | {"vendor_models": "", "chars_per_token_by_provider": ""})
    row.refresh_from_db()
    assert (row.vendor_models, row.chars_per_token_by_provider) == ({}, {})


def test_every_kept_answer_is_forgotten_by_one_button(owner: Client, auditor: Client, world: World) -> None:
    url = reverse("admin:llmgateway_gatewaysettings_forget_answers", args=[1])

    asked = owner.get(url).content.decode()
    assert GatewaySettings.objects.get().cache_generation == 0
    owner.post(url)

    assert "Forget every kept answer?" in asked
    assert GatewaySettings.objects.get().cache_generation == 1
    assert auditor.post(url).status_code == 403


def test_a_default_price_is_typed_in_dollars_and_is_whole(owner: Client, world: World) -> None:
    url = reverse("admin:llmgateway_gatewaysettings_change", args=[1])
    form = {name: value for name, value in _initial(owner, url).items() if value is not None}

    owner.post(url, form | {"default_input_price": "2.50", "default_output_price": "$10"})

    row = GatewaySettings.objects.get()
    assert (row.default_input_price, row.default_output_price, row.default_request_price) == (
        2_500_000, 10_000_000, None,
    )  # fmt: skip
    response = owner.post(url, form | {"default_input_price": "", "default_request_price": "1"})
    assert set(_errors(response)) == {"default_input_price", "default_output_price"}
    owner.post(url, form | {"default_input_price": "", "default_output_price": ""})
    row.refresh_from_db()
    assert (row.default_input_price, row.default_output_price) == (None, None)


def test_the_most_a_request_can_cost_is_typed_in_dollars(owner: Client, world: World) -> None:
    url = reverse("admin:providers_deployment_change", args=[world.deployment.pk])
    form = {name: value for name, value in _initial(owner, url).items() if value is not None}

    owner.post(url, form | {"max_request_pico_usd": "0.50"})

    world.deployment.refresh_from_db()
    assert world.deployment.max_request_pico_usd == PICO_PER_USD // 2
