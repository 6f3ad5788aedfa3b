"""Prices are added and never edited; the ledger is read by row and by sum; models are looked up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.utils import timezone

from billing.day_sums import sum_days
from billing.models import Price, UsageRecord, UsageRollup
from billing.money import PICO_PER_USD
from llmgateway.management_api import usage_sums
from llmgateway.models import Team
from providers.models import AliasTarget, CatalogueEntry, ModelAlias
from tests.llmgateway.admin.world import World, create_record
from tests.llmgateway.management_api.conftest import Caller, Callers

pytestmark = pytest.mark.django_db


def test_a_new_price_is_a_new_row(operator: Caller, world: World) -> None:
    response = operator.post(
        "/prices",
        {"provider": "acme", "model": "small-1", "input": "0.123456", "cache_read": "0.01", "request": "0.002"},
    )

    created = response.json()
    assert response.status_code == 201
    assert (created["state"], created["input"], created["output"], created["request"]) == (
        "in force", "0.123456", "0", "0.002",
    )  # fmt: skip
    assert created["pico_usd"]["input"] == 123_456
    assert (created["pico_usd"]["cache_read"], created["pico_usd"]["audio_input"]) == (10_000, None)
    assert created["pico_usd"]["request"] == 2_000_000_000
    assert operator.get(f"/prices/{world.price.pk}").json()["state"] == "superseded"
    world.price.refresh_from_db()
    assert world.price.input == 150_000


def test_a_price_by_unit_is_written_in_dollars(operator: Caller, world: World) -> None:
    asked = {"provider": "acme", "model": "whisper", "input": "0", "units": {"minute": "0.006", "image:hd": "0.08"}}

    created = operator.post("/prices", asked).json()
    refused = operator.post("/prices", {**asked, "model": "w2", "units": {"minute": "0.006", "hour": "0.36"}})

    assert created["units"] == {"minute": "0.006", "image:hd": "0.08"}
    assert Price.objects.get(pk=created["id"]).units == {"minute": 6_000_000_000, "image:hd": 80_000_000_000}
    assert refused.status_code == 400
    assert "Sound has one price" in refused.text


def test_prices_are_found_by_state(operator: Caller, world: World) -> None:
    operator.post("/prices", {"provider": "acme", "model": "small-1", "input": "1", "source": "in force now"})
    operator.post(
        "/prices",
        {
            "provider": "acme",
            "model": "small-1",
            "input": "2",
            "source": "to come",
            "effective_from": "2036-01-01T00:00:00Z",
        },
    )

    sources = {
        state: [price["source"] for price in operator.get(f"/prices?state={state}").json()["results"]]
        for state in ("in force", "planned", "superseded")
    }

    assert sources == {"in force": ["in force now"], "planned": ["to come"], "superseded": [""]}


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"provider": "acme", "model": "m"}, "input", "required"),
        ({"provider": "nobody", "model": "m", "input": "1"}, "provider", "There is no nobody here."),
        ({"provider": "acme", "model": "m", "input": "0.0000001"}, "input", "more than 6 decimals"),
        ({"provider": "acme", "model": "m", "input": 0.15}, "input", "Write the amount as text"),
        ({"provider": "acme", "model": "m", "input": "-1"}, "input", "negative"),
        ({"provider": "acme", "model": "m", "input": "1", "request": "-1"}, "request", "is negative"),
        ({"provider": "acme", "model": "m", "input": "1001"}, "input", "surely a slip"),
        ({"provider": "acme", "model": "m", "input": "1", "outptu": "1"}, "outptu", "no such field"),
    ],
)
def test_prices_are_checked_as_in_the_admin(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    response = operator.post("/prices", body)

    assert response.status_code == 400
    assert message in response.json()["error"]["fields"][field][0]
    assert Price.objects.count() == 1


def test_two_prices_cannot_begin_at_one_moment(operator: Caller, world: World) -> None:
    body = {"provider": "acme", "model": "small-1", "input": "1", "effective_from": "2036-01-01T00:00:00Z"}

    assert [operator.post("/prices", body).status_code for _ in range(2)] == [201, 400]


def test_a_row_of_the_ledger_has_the_money_twice_and_inclusive_tokens(operator: Caller, world: World) -> None:
    create_record(world.key, record_id="req-2", input=10, cache_read=5, output=3, reasoning=4, cost_pico_usd=2**60,
                  attempts=[{"deployment": "acme-small", "status": 200}])  # fmt: skip

    row = operator.get("/usage/req-2").json()

    assert (row["input_tokens"], row["output_tokens"], row["reasoning_output_tokens"]) == (15, 7, 4)
    assert (row["cost_pico_usd"], row["cost_usd"]) == (2**60, "1152921.504606846976")
    assert (row["tokens"]["input"], row["tokens"]["cache_read"]) == (10, 5)
    assert row["attempts"] == [{"deployment": "acme-small", "status": 200}]
    listed = operator.get("/usage?alias=small").json()["results"][0]
    assert listed == {name: value for name, value in row.items() if name not in {"tokens", "attempts"}}


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["req-3", "req-2", "req-1"]),
        ("key=platform-key", ["req-2", "req-1"]),
        ("team=research", ["req-3"]),
        ("team=nobody", []),
        ("key=nobody", []),
        ("status=failed", ["req-2"]),
        ("end_user=ana", ["req-3"]),
        ("since=2026-01-01T00:00:00Z", ["req-3", "req-2", "req-1", "req-old"]),
        ("since=2026-01-01T00:00:00Z&until=2026-02-01T00:00:00Z", ["req-old"]),
        ("until=2026-02-01T00:00:00Z", ["req-old"]),
        ("page_size=2", ["req-3", "req-2"]),
        ("cache=hit", ["req-2"]),
        ("mirrored=true", ["req-3"]),
        ("mirrored=false", ["req-2", "req-1"]),
    ],
)
def test_the_ledger_is_filtered_newest_first(operator: Caller, world: World, query: str, ids: list[str]) -> None:
    now = timezone.now()
    create_record(world.key, record_id="req-2", at=now + timedelta(seconds=1), status="failed", cache="hit")
    create_record(world.cast.research_key, record_id="req-3", at=now + timedelta(seconds=2), end_user="ana",
                  mirror_of="req-1")  # fmt: skip
    create_record(world.key, record_id="req-old", at=datetime(2026, 1, 15, tzinfo=UTC))

    assert [row["id"] for row in operator.get(f"/usage?{query}").json()["results"]] == ids


def test_pages_of_the_ledger_lead_to_its_end(operator: Caller, world: World) -> None:
    for number in range(2, 6):
        create_record(world.key, record_id=f"req-{number}", at=timezone.now() + timedelta(seconds=number))
    found, path = [], "/usage?page_size=2"

    while path:
        page = operator.get(path).json()
        found += [row["id"] for row in page["results"]]
        path = (page["next"] or "").partition("/manage/api/v1")[2]

    assert found == ["req-5", "req-4", "req-3", "req-2", "req-1"]


def test_the_ledger_is_listed_in_two_queries(operator: Caller, world: World, django_assert_num_queries: Any) -> None:
    for number in range(2, 30):
        create_record(world.key, record_id=f"req-{number}")
    operator.get("/models")

    with django_assert_num_queries(2) as queries:  # token, page
        operator.get("/usage")

    assert "usage_raw" not in queries[1]["sql"]


def test_usage_is_summed_by_group(operator: Caller, world: World) -> None:
    create_record(world.key, record_id="req-2", status="failed", cost_pico_usd=0)
    create_record(world.cast.research_key, record_id="req-3", cost_pico_usd=PICO_PER_USD)
    UsageRollup.objects.create(
        hour=timezone.now().replace(minute=0, second=0, microsecond=0), team_id=world.cast.platform.pk,
        key_id=str(world.key.pk), alias="small", status="refused", requests=5,
        team_name="platform", key_name="platform-key",
    )  # fmt: skip
    UsageRollup.objects.filter(team_id=world.cast.research.pk).update(team_name="research")

    by_team = operator.get("/usage/summary").json()
    by_status = operator.get("/usage/summary?group_by=team,status&team=platform").json()["results"]

    assert [row["group"]["team"] for row in by_team["results"]] == ["research", "platform"]
    platform = by_team["results"][1]
    assert (platform["requests"], platform["refused"], platform["errors"]) == (2, 5, 1)
    assert (platform["cost_usd"], platform["cost_pico_usd"]) == ("0.00027", 270_000_000)
    assert [(row["group"]["status"], row["requests"]) for row in by_status] == [
        ("completed", 1), ("failed", 1), ("refused", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(("query", "costs"), [("", 8), ("?mirrored=false", 5), ("?mirrored=true", 3)])
def test_mirrored_requests_can_be_summed_apart(operator: Caller, world: World, query: str, costs: int) -> None:
    UsageRecord.objects.all().delete()
    UsageRollup.objects.all().delete()
    create_record(world.key, record_id="req-2", cost_pico_usd=5)
    create_record(world.key, record_id="req-3", cost_pico_usd=3, mirror_of="req-2")

    assert [row["cost_pico_usd"] for row in operator.get(f"/usage/summary{query}").json()["results"]] == [costs]


def test_sums_are_exact_beyond_64_bits(operator: Caller, world: World) -> None:
    UsageRollup.objects.update(cost_pico_usd=2**63 - 1)
    create_record(world.cast.research_key, record_id="req-2", cost_pico_usd=1)
    UsageRollup.objects.filter(team_id=world.cast.research.pk).update(cost_pico_usd=2**63 - 1)

    [total] = operator.get("/usage/summary?group_by=alias").json()["results"]

    assert total["cost_pico_usd"] == 2 * (2**63 - 1)


@pytest.mark.parametrize("group_by", ["team", "key", "day,model", "status,alias", "provider,deployment"])
@pytest.mark.parametrize(
    "of", ["", "&team=platform", "&key=platform-key", "&deployment=openai%2Fgpt-4o-mini", "&team=x"]
)
def test_sums_are_the_same_of_days_and_of_hours(operator: Caller, world: World, group_by: str, of: str) -> None:
    for day in range(1, 5):
        for hour in (0, 1, 23):
            at = datetime(2026, 3, day, hour, 30, tzinfo=UTC)
            create_record(world.key, record_id=f"a-{day}-{hour}", at=at, cost_pico_usd=day * 10**6 - 1)
            create_record(world.cast.research_key, record_id=f"b-{day}-{hour}", at=at, status="failed")
    asked = f"/usage/summary?group_by={group_by}{of}&since=2026-03-01T01:00:00Z&until=2026-03-04T01:00:00Z"
    before = operator.get(asked).json()

    sum_days(timezone.now())
    UsageRollup.objects.filter(hour__day__in=(2, 3)).delete()  # So that days are what is read.

    assert operator.get(asked).json() == before


def test_sums_are_of_whole_hours_and_days(operator: Caller, world: World) -> None:
    UsageRollup.objects.all().delete()
    for day, hour in ((1, 22), (1, 23), (2, 0)):
        create_record(world.key, record_id=f"req-{day}-{hour}", at=datetime(2026, 3, day, hour, 30, tzinfo=UTC))
    span = "since=2026-03-01T22:45:00Z&until=2026-03-02T00:10:00Z"

    by_hour = operator.get(f"/usage/summary?group_by=hour&{span}").json()
    by_day = operator.get(f"/usage/summary?group_by=day&{span}").json()["results"]

    assert (by_hour["since"], by_hour["until"]) == ("2026-03-01T22:00:00Z", "2026-03-02T01:00:00Z")
    assert len(by_hour["results"]) == 3
    sum_days(timezone.now())
    assert operator.get(f"/usage/summary?group_by=day&{span}").json()["results"] == by_day
    assert [(row["group"]["day"], row["requests"]) for row in by_day] == [
        ("2026-03-01T00:00:00+00:00", 2), ("2026-03-02T00:00:00+00:00", 1),
    ]  # fmt: skip


def test_sums_of_too_many_groups_say_so(operator: Caller, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgateway.management_api.usage.MAX_GROUPS", 1)
    create_record(world.cast.research_key, record_id="req-2", cost_pico_usd=PICO_PER_USD)

    answer = operator.get("/usage/summary?group_by=key").json()

    assert usage_sums.MAX_GROUPS == 1000
    assert (answer["truncated"], len(answer["results"])) == (True, 1)
    assert answer["results"][0]["cost_usd"] == "1"


@pytest.mark.parametrize(
    ("query", "field"),
    [("group_by=beans", "group_by"), ("since=soon", "since"), ("group=team", "group"), ("status=odd", "status"),
     ("since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z", "since"),
     ("since=2020-01-01T00:00:00Z", "since"), ("page=2", "page")],
)  # fmt: skip
def test_sums_refuse_what_they_do_not_understand(operator: Caller, world: World, query: str, field: str) -> None:
    response = operator.get(f"/usage/summary?{query}")

    assert (response.status_code, response.json()["error"]["param"]) == (400, field)


def test_models_show_where_they_lead(operator: Caller, world: World, django_assert_num_queries: Any) -> None:
    for number in range(20):
        alias = ModelAlias.objects.create(name=f"alias-{number}")
        AliasTarget.objects.create(alias=alias, deployment=world.deployment)
    operator.get("/teams")

    with django_assert_num_queries(7):  # token, count, page, targets, catalogue, rules, fallbacks
        found = operator.get("/models?provider=acme").json()

    assert found["count"] == 21
    assert operator.get("/models?name=small").json()["results"][0]["targets"] == [
        {
            "deployment": "acme-small",
            "alias": None,
            "provider": "acme",
            "model": "small-1",
            "enabled": True,
            "weight": 3,
            "canary_percent": 0,
            "position": 0,
            "capabilities": None,
        }
    ]


def test_models_say_what_their_targets_can_do(operator: Caller, world: World) -> None:
    CatalogueEntry.objects.create(provider=world.provider, model="small-1", context_window=128_000, tools=True)
    CatalogueEntry.objects.create(provider=world.provider, model="other", context_window=1)

    (target,) = operator.get("/models?name=small").json()["results"][0]["targets"]

    assert target["capabilities"] == {
        "context_window": 128_000,
        "max_output_tokens": None,
        "input_modalities": [],
        "output_modalities": [],
        "tools": True,
        "reasoning": None,
        "deprecated_on": None,
        "source": "",
    }


def test_a_model_is_retired_and_kept(operator: Caller, world: World) -> None:
    path = f"/models/{world.alias.pk}"
    end = {"retires_at": "2027-01-31T00:00:00Z", "replacement": "large"}

    response = operator.patch(path, end)

    assert response.status_code == 200
    assert {name: response.json()[name] for name in end} == end
    assert ModelAlias.objects.get(pk=world.alias.pk).retires_at == datetime(2027, 1, 31, tzinfo=UTC)
    assert operator.patch(path, {"retires_at": None, "replacement": ""}).json()["retires_at"] is None


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"replacement": "small", "retires_at": "2027-01-31T00:00:00Z"}, "replacement"),
     ({"replacement": "large"}, "retires_at"), ({"name": ""}, "name"), ({"retires_at": "soon"}, "retires_at")],
)  # fmt: skip
def test_a_retirement_that_makes_no_sense_is_refused(
    operator: Caller, world: World, wrong: dict[str, str], field: str
) -> None:
    response = operator.patch(f"/models/{world.alias.pk}", wrong)

    assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    assert ModelAlias.objects.get(pk=world.alias.pk).replacement == ""


def test_who_only_reads_models_cannot_retire_them(caller: Callers, world: World) -> None:
    assert caller("models:read").patch(f"/models/{world.alias.pk}", {"enabled": False}).status_code == 403


def test_teams_are_created_by_who_may(operator: Caller, caller: Callers, world: World) -> None:
    created = operator.post("/teams", {"name": "growth", "time_zone": "Europe/Berlin"})
    wrong = operator.post("/teams", {"name": "x", "time_zone": "Mars"})

    assert (created.status_code, Team.objects.get(name="growth").time_zone) == (201, "Europe/Berlin")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "time_zone")


def test_a_team_is_allowed_keys_of_its_own_by_who_may_change_teams(
    operator: Caller, caller: Callers, world: World
) -> None:
    team = world.cast.platform
    path = f"/teams/{team.pk}"

    changed = operator.patch(path, {"own_keys": "allow"})
    wrong = operator.patch(path, {"own_keys": "maybe"})
    reader = caller("teams:read").patch(path, {"own_keys": "refuse"})

    assert (changed.status_code, changed.json()["own_keys"]) == (200, "allow")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "own_keys")
    assert reader.status_code == 403
    team.refresh_from_db()
    assert (team.own_keys, team.time_zone) == ("allow", "UTC")
    assert [row["name"] for row in operator.get("/teams?own_keys=allow").json()["results"]] == [team.name]
    entry = LogEntry.objects.get_for_object(team).first()
    assert entry is not None
    assert entry.changes["own_keys"] == ["inherit", "allow"]


@pytest.mark.parametrize("path", ["/usage", "/usage/summary"])
def test_the_first_day_of_all_has_none_before_it(operator: Caller, world: World, path: str) -> None:
    response = operator.get(f"{path}?until=0001-01-01T00:00:00Z")

    assert response.status_code == 400
    assert "until" in response.json()["error"]["fields"]
