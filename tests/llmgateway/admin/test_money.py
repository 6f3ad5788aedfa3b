"""Prices, budgets and the ledger in the admin: dollars for people, integers inside, bounded pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from billing.admin import usage
from billing.models import Budget, BudgetCredit, Price, UsageRecord
from billing.money import PICO_PER_USD
from llmgateway.models import ApiKey, Team
from tests.llmgateway.admin.world import World, create_record

pytestmark = pytest.mark.django_db
ADD_PRICE = "/admin/billing/price/add/"
ADD_BUDGET = "/admin/billing/budget/add/"
LEDGER = "/admin/billing/usagerecord/"


def _errors(response: Any) -> dict[str, list[str]]:
    return {
        name: [str(error) for error in errors] for name, errors in response.context["adminform"].form.errors.items()
    }


def _price(world: World, **values: str) -> dict[str, Any]:
    return {
        "provider": world.provider.pk, "model": "small-1", "effective_from_0": "2026-01-01", "effective_from_1": "00:00",
        "input": "0.15", "output": "0.6", **values,
    }  # fmt: skip


def _ids(response: Any) -> list[str]:
    return [record.pk for record in response.context["cl"].result_list]


def test_a_price_is_typed_in_dollars_per_million(owner: Client, world: World) -> None:
    owner.post(ADD_PRICE, _price(world, cache_read="0.075", request="0.01"))

    price = Price.objects.exclude(pk=world.price.pk).get()
    assert (price.input, price.output, price.cache_read, price.audio_input) == (150_000, 600_000, 75_000, None)
    assert price.request == PICO_PER_USD // 100


def test_prices_by_unit_are_typed_one_a_line(owner: Client, world: World) -> None:
    owner.post(ADD_PRICE, _price(world, units="second 0.0001\nimage:high $0.08\n"))
    price = Price.objects.exclude(pk=world.price.pk).get()

    page = owner.get(reverse("admin:billing_price_change", args=[price.pk]))

    assert price.units == {"second": 100_000_000, "image:high": 80_000_000_000}
    assert "second 0.0001, image:high 0.08" in page.text


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("second", "write one such as second 0.0001"),
        ("second 1\nsecond 2", "second has two prices"),
        ("mile 1", "Mile is no unit"),
        ("second 1\nhour 2", "Sound has one price"),
    ],
)
def test_prices_by_unit_that_cannot_be_are_told(owner: Client, world: World, units: str, message: str) -> None:
    response = owner.post(ADD_PRICE, _price(world, units=units))

    assert message in _errors(response)["units"][0]


def test_a_row_shows_its_units_and_what_the_provider_says_it_cost(owner: Client, world: World) -> None:
    create_record(
        world.key,
        record_id="req_units",
        units={"millisecond": 61_500, "search": 2},
        reported_cost_pico_usd=12_300_000_000,
    )

    page = owner.get(reverse("admin:billing_usagerecord_change", args=["req_units"]))

    assert "61,500 millisecond, 2 search" in page.text
    assert "$0.0123" in page.text


def test_a_row_names_the_key_of_its_own_that_paid(owner: Client, world: World) -> None:
    create_record(world.cast.platform_key, record_id="req_own", own_key="ab" * 32, cost_pico_usd=0)

    page = owner.get(reverse("admin:billing_usagerecord_change", args=["req_own"])).content.decode()

    assert f'<span class="gw-breaking">{"ab" * 32}</span>' in page


def test_a_price_of_nothing_is_a_price(owner: Client, world: World) -> None:
    owner.post(ADD_PRICE, _price(world, input="0", output=""))

    price = Price.objects.exclude(pk=world.price.pk).get()
    assert (price.input, price.output, price.request) == (0, 0, 0)


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"input": "cheap"}, "input", "write one such as 0.15"),
        ({"input": "-1"}, "input", "negative"),
        ({"input": "0.1234567"}, "input", "more than 6 decimals"),
        ({"input": ""}, "input", "required"),
        ({"output": "1e30"}, "output", "more than can be recorded"),
        ({"request": "-0.01"}, "request", "negative"),
        ({"cache_read": "NaN"}, "cache_read", "not an amount"),
        ({"model": "bad name"}, "model", "not a usable name"),
    ],
)
def test_an_amount_that_cannot_be_used_is_refused_by_its_field(
    owner: Client, world: World, values: dict[str, str], field: str, message: str
) -> None:
    response = owner.post(ADD_PRICE, _price(world, **values))

    assert message in " ".join(_errors(response)[field])
    assert Price.objects.count() == 1


def test_a_price_is_shown_in_dollars_and_cannot_be_edited(owner: Client, world: World) -> None:
    url = reverse("admin:billing_price_change", args=[world.price.pk])

    page = owner.get(url).content.decode()

    assert "$0.15" in page
    assert "in force" in page
    assert 'name="_save"' not in page
    assert owner.post(url, _price(world, input="9")).status_code == 403


def test_a_new_version_starts_from_the_former_figures(owner: Client, world: World) -> None:
    action = reverse("admin:billing_price_new_version", args=[world.price.pk])

    form = owner.get(action, follow=True).context["adminform"].form

    assert form["input"].value() == "0.15"
    assert form["cache_read"].value() == "0.075"
    assert (form["model"].value(), form["provider"].value()) == ("small-1", world.provider.pk)


def test_a_price_that_was_in_force_cannot_be_deleted_and_a_planned_one_can(owner: Client, world: World) -> None:
    planned = Price.objects.create(
        provider=world.provider, model="small-1", effective_from=timezone.now() + timedelta(days=1), input=1
    )

    def delete(price: Price) -> int:
        url = reverse("admin:billing_price_delete", args=[price.pk])
        return owner.post(url, {"post": "yes"}).status_code

    assert (delete(world.price), delete(planned)) == (403, 302)
    assert list(Price.objects.all()) == [world.price]


def test_a_budget_is_typed_in_dollars_and_shows_what_it_has_cost(owner: Client, world: World) -> None:
    owner.post(
        ADD_BUDGET,
        {
            "name": "hour",
            "key": world.key.pk,
            "window": "total",
            "limit_pico_usd": "$10.00",
            "mode": "expected",
            "enabled": "on",
        },
    )
    create_record(world.key, record_id="dear", cost_pico_usd=9 * PICO_PER_USD)
    create_record(world.cast.research_key, record_id="foreign", cost_pico_usd=7 * PICO_PER_USD)

    page = owner.get(reverse("admin:billing_budget_changelist") + "?q=hour").content.decode()

    assert Budget.objects.get(name="hour").limit_pico_usd == 10 * PICO_PER_USD
    assert "$10.00" in page
    assert "$9.00" in page
    assert "90 %" in page


def test_credit_that_has_expired_shows_what_stays_of_it(owner: Client) -> None:
    budget = Budget.objects.create(name="pot", window="total", limit_pico_usd=PICO_PER_USD)
    day_ago = timezone.now() - timedelta(days=1)
    BudgetCredit.objects.create(
        budget=budget, amount_pico_usd=9 * PICO_PER_USD, expires_at=day_ago, used_pico_usd=PICO_PER_USD * 7 // 2
    )

    page = owner.get(reverse("admin:billing_budget_change", args=[budget.pk])).content.decode()

    assert "$3.50" in page
    assert budget.whole_limit_pico_usd() == PICO_PER_USD * 9 // 2


@pytest.mark.parametrize(
    ("limit", "message"),
    [("-1", "negative"), ("4000000.01", "largest limit"), ("lots", "not an amount"), ("", "required")],
)
def test_a_limit_that_cannot_be_used_is_refused_by_its_field(
    owner: Client, world: World, limit: str, message: str
) -> None:
    response = owner.post(ADD_BUDGET, {"name": "new", "window": "day", "limit_pico_usd": limit, "mode": "expected"})

    assert message in " ".join(_errors(response)["limit_pico_usd"])


def test_a_budget_of_a_key_and_a_team_is_refused(owner: Client, world: World) -> None:
    form = {"name": "new", "window": "day", "limit_pico_usd": "1", "mode": "expected"}

    response = owner.post(ADD_BUDGET, {**form, "key": world.key.pk, "team": world.cast.platform.pk})

    assert "leave one of the two empty" in _errors(response)["team"][0]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["failed", "foreign", "req-1", "old"]),
        ("?q=req-1", ["req-1"]),
        ("?q=platform-key", ["failed", "req-1", "old"]),
        ("?q=ana", ["failed"]),
        ("?q=client-77", ["failed"]),
        ("?q=nobody", []),
        ("?status=failed", ["failed"]),
        ("?period=week", ["failed", "foreign", "req-1"]),
        ("?key=research-key", ["foreign"]),
        ("?team=platform", ["failed", "req-1", "old"]),
        ("?team=nobody", []),
    ],
)
def test_requests_are_found(owner: Client, world: World, query: str, expected: list[str]) -> None:
    now = timezone.now()
    create_record(world.key, record_id="old", at=now - timedelta(days=10))
    create_record(world.cast.research_key, record_id="foreign", at=now + timedelta(seconds=1))
    create_record(
        world.key, record_id="failed", at=now + timedelta(seconds=2), status="failed", end_user="ana",
        client_request_id="client-77",
    )  # fmt: skip

    assert _ids(owner.get(LEDGER + query)) == expected


def test_what_no_index_finds_is_looked_for_among_the_newest_rows(
    owner: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "SCANNED_ROWS", 2)
    now = timezone.now()
    for number in range(4):
        create_record(world.key, record_id=f"failed-{number}", at=now + timedelta(seconds=number + 1), status="failed")

    assert _ids(owner.get(LEDGER + "?status=failed")) == ["failed-3", "failed-2", "failed-1"]


def test_a_list_of_budgets_or_teams_asks_once_for_all(
    owner: Client, world: World, django_assert_max_num_queries: Any
) -> None:
    teams = Team.objects.bulk_create([Team(name=f"team-{number}") for number in range(15)])
    Budget.objects.bulk_create([Budget(team=team, name="month", limit_pico_usd=PICO_PER_USD) for team in teams])
    ApiKey.objects.filter(pk=world.key.pk).update(team=teams[0])
    create_record(world.key, record_id="spent")

    with django_assert_max_num_queries(12):
        budgets = owner.get("/admin/billing/budget/")
    with django_assert_max_num_queries(8):
        listed = owner.get("/admin/llmgateway/team/")

    settled = {
        budget.team.name: budget.present_spending.settled_pico_usd for budget in budgets.context["cl"].result_list
    }
    assert settled["team-1"] == 0
    assert settled[world.cast.platform.name] > 0
    assert {team.name: team.key_count for team in listed.context["cl"].result_list}["team-0"] == 1
    assert ">1 key<" in listed.text
    assert "0 keys" in listed.text


@pytest.mark.parametrize("page", ["/admin/", "/admin/billing/budget/", "/"])
def test_no_page_adds_up_the_ledger(owner: Client, world: World, page: str) -> None:
    """What has been used is read from sums, however many rows there are."""
    Budget.objects.create(name="day", window="day", key=world.key, limit_pico_usd=1)

    with CaptureQueriesContext(connection) as asked:
        assert owner.get(page).status_code == 200

    statements = [query["sql"] for query in asked.captured_queries]
    assert any("billing_" in statement for statement in statements)
    assert [sql for sql in statements if "billing_usagerecord" in sql and ("SUM(" in sql or "COUNT(" in sql)] == []


def test_a_page_of_the_ledger_counts_no_further_than_it_shows(
    owner: Client, world: World, django_assert_max_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage.LedgerPaginator, "counted_rows", 3)
    for number in range(6):
        create_record(world.key, record_id=f"more-{number}")

    with django_assert_max_num_queries(15):
        response = owner.get(LEDGER)

    assert response.context["cl"].result_count == 3


def test_a_request_shows_its_money_tokens_and_raw_usage(owner: Client, world: World) -> None:
    UsageRecord.objects.filter(pk="req-1").update(
        usage_raw={"prompt_tokens": 1000}, attempts=[{"deployment": "acme-small", "status": 200}]
    )

    page = owner.get(reverse("admin:billing_usagerecord_change", args=["req-1"])).content.decode()

    for text in ("$0.00027", "1000", "812 ms", "&quot;prompt_tokens&quot;: 1000", "acme-small"):
        assert text in page
