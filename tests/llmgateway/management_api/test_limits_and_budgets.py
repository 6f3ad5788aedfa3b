"""Limits and budgets of every owner, and what budgets stand at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from auditlog.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import Budget, UsageRecord, UsageRollup
from billing.money import PICO_PER_USD
from llmgateway.models import RateLimit
from tests.conftest import NOON
from tests.llmgateway.admin.world import World, create_record
from tests.llmgateway.management_api.conftest import Caller, Callers

pytestmark = pytest.mark.django_db

OWNERS = {"key": "platform-key", "team": "platform", "provider": "acme", "deployment": "acme-small", "alias": "small"}


@pytest.mark.parametrize("owner", [*OWNERS, None])
def test_every_owner_may_have_limits(operator: Caller, world: World, owner: str | None) -> None:
    named = {owner: OWNERS[owner]} if owner else {}

    response = operator.post("/limits", {**named, "metric": "concurrency", "per": "", "amount": 3})

    created = response.json()
    assert response.status_code == 201
    assert (created["scope"], created["summary"]) == (owner or "global", "3 concurrent requests")
    assert {name: created[name] for name in OWNERS} == {**dict.fromkeys(OWNERS), **named}
    assert operator.get(f"/limits/{created['id']}").json() == created
    listed = operator.get(f"/limits?scope={owner or 'global'}&metric=concurrency").json()["results"]
    assert listed == [created]


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({}, "amount", "required"),
        ({"amount": -1}, "amount", "greater than or equal to 0"),
        ({"amount": 1, "metric": "beans"}, "metric", "not a valid choice"),
        ({"amount": 1, "metric": "concurrency"}, "per", "have no period"),
        ({"amount": 1, "per": "day", "burst": 2}, "burst", "Only a limit per minute has a burst"),
        (
            {"amount": 1, "key": "platform-key", "model": "smal"},
            "model",
            "There is no model alias smal. There are small",
        ),
        ({"amount": 1, "key": "nobody"}, "key", "There is no nobody here."),
        ({"amount": 1, "key": "platform-key", "team": "platform"}, "team", "already belongs to a key"),
        ({"amount": 1, "key": "platform-key"}, "non_field_errors", "There is a limit of the same metric"),
    ],
)
def test_limits_are_checked_as_in_the_admin(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    response = operator.post("/limits", body)

    assert response.status_code == 400
    assert message in response.json()["error"]["fields"][field][0]
    assert RateLimit.objects.count() == 1


def test_a_limit_is_changed_and_deleted_and_keeps_its_owner(operator: Caller, world: World) -> None:
    limit = world.key.limits.get()

    changed = operator.patch(f"/limits/{limit.pk}", {"amount": 90})
    moved = operator.patch(f"/limits/{limit.pk}", {"team": "research"})
    deleted = operator.delete(f"/limits/{limit.pk}")

    assert changed.json()["amount"] == 90
    assert (moved.status_code, moved.json()["error"]["param"]) == (400, "team")
    assert deleted.status_code == 204
    assert not RateLimit.objects.exists()
    entries = LogEntry.objects.filter(object_id=limit.pk, content_type__model="ratelimit", action__gt=0)
    assert {entry.additional_data["source"] for entry in entries} == {"management API, token token-0"}


def test_a_limit_that_was_changed_meanwhile_is_not_deleted(operator: Caller, world: World) -> None:
    limit = world.key.limits.get()
    seen = operator.get(f"/limits/{limit.pk}").headers["ETag"]
    operator.patch(f"/limits/{limit.pk}", {"amount": 90})

    assert operator.delete(f"/limits/{limit.pk}", If_Match=seen).status_code == 412
    assert RateLimit.objects.exists()


@pytest.mark.parametrize("path", ["limits", "budgets"])
def test_a_team_sees_its_own_rules_and_changes_only_those_of_its_keys(caller: Callers, world: World, path: str) -> None:
    scopes = ("limits:write", "budgets:write")
    program = caller(*scopes, team=world.cast.platform)
    own = RateLimit.objects.create(team=world.cast.platform, amount=600) if path == "limits" else world.budget
    figure = {"amount": 5} if path == "limits" else {"name": "x", "limit_usd": "5"}

    answers = [
        program.patch(f"/{path}/{own.pk}", figure),
        program.delete(f"/{path}/{own.pk}"),
        program.post(f"/{path}", {**figure, "team": "platform"}),
        program.post(f"/{path}", figure),
        program.post(f"/{path}", {**figure, "provider": "acme"}),
    ]

    assert program.get(f"/{path}/{own.pk}").status_code == 200
    assert {answer.status_code for answer in answers} == {403}
    assert f"may set {path} of its team's keys alone" in answers[0].json()["error"]["message"]
    assert program.post(f"/{path}", {**figure, "key": "platform-key", **_apart(path)}).status_code == 201
    foreign = program.post(f"/{path}", {**figure, "key": "research-key"})
    assert (foreign.status_code, foreign.json()["error"]["param"]) == (400, "key")


def _apart(path: str) -> dict[str, str]:
    """The key has a limit per minute already."""
    return {"per": "hour"} if path == "limits" else {}


def test_everyones_rules_are_not_a_teams_to_see(caller: Callers, world: World) -> None:
    program = caller("limits:read", "budgets:read", team=world.cast.platform)
    limit = RateLimit.objects.create(amount=1)
    budget = Budget.objects.create(name="all", limit_pico_usd=1)

    assert program.get(f"/limits/{limit.pk}").status_code == 404
    assert program.get(f"/budgets/{budget.pk}").status_code == 404


def test_a_budget_says_what_it_stands_at(operator: Caller, world: World) -> None:
    create_record(world.key, record_id="req-2", cost_pico_usd=1_500_000_000_001)

    budget = operator.get(f"/budgets/{world.budget.pk}").json()

    assert budget["settled_pico_usd"] == 270_000_000 + 1_500_000_000_001
    assert budget["settled_usd"] == "1.500270000001"
    assert (budget["held_usd"], budget["held_pico_usd"]) == ("0", 0)
    assert budget["remaining_usd"] == "498.499729999999"
    assert budget["limit_now_usd"] == budget["limit_usd"] == "500"


def test_the_window_is_the_teams_calendar(operator: Caller, world: World) -> None:
    world.cast.platform.time_zone = "Europe/Berlin"
    world.cast.platform.save()

    with time_machine.travel(NOON):
        budget = operator.get(f"/budgets/{world.budget.pk}").json()

    assert (budget["window_start"], budget["window_end"]) == ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z")


@pytest.mark.parametrize("owner", [*OWNERS, None])
def test_every_owner_may_have_budgets_and_they_count_what_is_theirs(
    operator: Caller, world: World, owner: str | None
) -> None:
    named = {owner: OWNERS[owner]} if owner else {}
    create_record(world.cast.research_key, record_id="req-other", cost_pico_usd=PICO_PER_USD)
    elsewhere = {"provider": "other", "deployment": "other", "alias": "other"}
    UsageRollup.objects.update(provider="acme", deployment="acme-small")
    UsageRecord.objects.filter(id="req-other").update(**elsewhere)
    UsageRollup.objects.filter(team_id=world.cast.research.pk).update(**elsewhere)

    response = operator.post("/budgets", {**named, "name": "day", "window": "day", "limit_usd": "2.5"})

    created = response.json()
    assert response.status_code == 201
    assert (created["scope"], created["limit_pico_usd"]) == (owner or "global", 2_500_000_000_000)
    assert created["settled_pico_usd"] == 270_000_000 + (0 if owner else PICO_PER_USD)


def test_a_budget_of_each_address_stands_where_the_one_does_that_spent_most(operator: Caller, world: World) -> None:
    create_record(world.key, record_id="req-2", client_ip="192.0.2.1", cost_pico_usd=PICO_PER_USD // 4)
    create_record(world.key, record_id="req-3", client_ip="192.0.2.2", cost_pico_usd=PICO_PER_USD // 2)

    created = operator.post("/budgets", {"name": "each", "each": "ip", "window": "day", "limit_usd": "1"}).json()

    assert (created["subject"], created["settled_usd"], created["remaining_usd"]) == ("192.0.2.2", "0.5", "0.5")


def test_a_long_list_of_budgets_costs_as_many_queries_as_a_short_one(operator: Caller, world: World) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            operator.get("/budgets?page_size=200")
        return len(captured)

    operator.get("/limits")
    short = queries()
    Budget.objects.bulk_create(
        Budget(name=f"b{n}", team=world.cast.platform, window="month", limit_pico_usd=n) for n in range(100)
    )

    assert queries() == short


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"name": "x"}, "limit_usd", "required"),
        ({"name": "x", "limit_usd": 0.1}, "limit_usd", "Write the amount as text"),
        ({"name": "x", "limit_usd": "ten"}, "limit_usd", "is not an amount"),
        ({"name": "x", "limit_usd": "1e999999"}, "limit_usd", "is not an amount"),
        ({"name": "x", "limit_usd": "NaN"}, "limit_usd", "is not an amount"),
        ({"name": "x", "limit_usd": "0.0000000000001"}, "limit_usd", "more than 12 decimals"),
        ({"name": "x", "limit_usd": "4000001"}, "limit_usd", "The largest amount is 4,000,000 USD."),
        ({"name": "x", "limit_usd": "-1"}, "limit_usd", "is negative"),
        ({"name": "x", "limit_usd": "1", "settled_usd": "0"}, "settled_usd", "cannot be written"),
        ({"name": "x", "limit_usd": "1", "alerts": [0]}, "alerts", "not a whole percent"),
        (
            {"name": "x", "limit_usd": "1", "window": "day", "starts_on": "monday"},
            "starts_on",
            "Only a week or a month",
        ),
        ({"name": "month", "limit_usd": "1", "team": "platform"}, "non_field_errors", "a budget of this name already"),
    ],
)
def test_budgets_are_checked_as_in_the_admin(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    response = operator.post("/budgets", body)

    assert response.status_code == 400
    assert message in response.json()["error"]["fields"][field][0]
    assert Budget.objects.count() == 1


def test_an_entity_tag_changes_with_decisions_and_not_with_spending(operator: Caller, world: World) -> None:
    path = f"/budgets/{world.budget.pk}"
    seen = operator.get(path).headers["ETag"]
    create_record(world.key, record_id="req-2")

    assert operator.get(path).headers["ETag"] == seen
    assert operator.patch(path, {"limit_usd": "600"}, If_Match=seen).status_code == 200
    assert operator.patch(path, {"limit_usd": "700"}, If_Match=seen).status_code == 412


def test_a_temporary_increase_adds_to_the_limit_until_it_ends(operator: Caller, world: World) -> None:
    path = f"/budgets/{world.budget.pk}"
    until = datetime.now(UTC) + timedelta(hours=1)

    increased = operator.post(
        f"{path}/increase", {"increase_usd": "20.5", "increase_until": until.isoformat(), "increase_reason": "launch"}
    )
    late = operator.post(f"{path}/increase", {"increase_usd": "1", "increase_until": "2020-01-01T00:00:00Z"})

    assert (increased.json()["limit_usd"], increased.json()["limit_now_usd"]) == ("500", "520.5")
    assert increased.json()["increase_reason"] == "launch"
    endless = operator.post(f"{path}/increase", {"increase_usd": "1"})
    assert [answer.json()["error"]["param"] for answer in (late, endless)] == ["increase_until"] * 2
    with time_machine.travel(until + timedelta(seconds=1)):
        assert operator.get(path).json()["limit_now_usd"] == "500"
    ended = operator.post(f"{path}/increase", {"increase_usd": "0"})
    assert ended.json()["limit_now_usd"] == "500"


def test_credit_adds_to_a_budget_in_total(operator: Caller, world: World) -> None:
    path = f"/budgets/{operator.post('/budgets', {'name': 'paid', 'window': 'total', 'limit_usd': '0'}).json()['id']}"

    added = operator.post(f"{path}/credits", {"amount_usd": "75", "note": "invoice 7"})

    assert added.status_code == 201
    assert added.json()["created_by"] == "token token-0"
    assert operator.get(f"{path}/credits").json()["results"] == [added.json()]
    assert operator.get(path).json()["remaining_usd"] == "74.99973"
    assert operator.get(path).json()["window_start"] is None
    refused = operator.post(f"/budgets/{world.budget.pk}/credits", {"amount_usd": "1"})
    assert refused.json()["error"]["param"] == "budget"


def test_credit_and_increase_are_not_a_teams_to_give_itself(caller: Callers, world: World) -> None:
    program = caller("budgets:write", team=world.cast.platform)

    for step, body in (
        ("credits", {"amount_usd": "1"}),
        ("increase", {"increase_usd": "0"}),
    ):
        assert program.post(f"/budgets/{world.budget.pk}/{step}", body).status_code == 403


def test_a_long_list_of_limits_costs_as_many_queries_as_a_short_one(
    operator: Caller, world: World, django_assert_num_queries: Any
) -> None:
    RateLimit.objects.bulk_create(RateLimit(key=world.key, amount=n, model=f"m{n}") for n in range(300))
    operator.get("/limits")

    with django_assert_num_queries(3):  # token, count, page
        assert len(operator.get("/limits?page_size=1000").json()["results"]) == 301
