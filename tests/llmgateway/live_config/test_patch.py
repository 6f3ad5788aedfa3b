"""A patched snapshot is what a full load gives, whatever changed, and the old one stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from django.utils import timezone

from billing.models import Budget, BudgetCredit, Price
from llmgateway.config_loader import FILE, MOST_CHANGES, Change, load_snapshot, patch_snapshot
from llmgateway.models import (
    ApiKey,
    AuthSource,
    ConfigChange,
    GatewaySettings,
    KeyNetwork,
    KeyTenant,
    NetworkList,
    RateLimit,
    Team,
)
from llmgateway.pipeline.snapshot import LogPosition, Snapshot
from llmgateway.services import key_create
from providers.models import AliasFallback, AliasRule, AliasTarget, Credential, Deployment, ModelAlias, Provider
from tests.llmgateway.live_config.conftest import NEW_YEAR, World, key_of, tie


def _changes_since(snapshot: Snapshot) -> set[Change]:
    rows = ConfigChange.objects.filter(id__gt=snapshot.position.watermark)
    return {Change(*row) for row in rows.values_list("table_name", "row_id", "owner")}


def _comparable(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, position=LogPosition(), problems=tuple(sorted(snapshot.problems, key=str)))


def _move_a_limit_to_another_key(world: World) -> None:
    RateLimit.objects.filter(key=world.strict).update(key=world.plain)


def _new_key(world: World) -> None:
    key, _ = key_create(team=world.research, name="new", networks=[world.office])
    RateLimit.objects.create(key=key, amount=1)


def _unusable_credential(world: World) -> None:
    world.credential.set_secret("env:NO_SUCH_VARIABLE")
    world.credential.save()


def _move_a_key_to_another_team(world: World) -> None:
    ApiKey.objects.filter(pk=world.strict.pk).update(team=world.platform)


def _add_credit(name: str, **owner: object) -> None:
    Budget.objects.filter(name=name).update(window="total", **owner)
    BudgetCredit.objects.create(budget=Budget.objects.get(name=name), amount_pico_usd=7)


def _strict_acts_for_platform(world: World) -> None:
    KeyTenant.objects.create(key=world.strict, team=world.platform)


def _second_alias(**columns: object) -> ModelAlias:
    return ModelAlias.objects.create(name="second", **columns)


def _rename_a_tenant(world: World) -> None:
    """With its rules: what the key has from it changes twice."""
    Team.objects.filter(pk=world.platform.pk).update(name="renamed", time_zone="Asia/Tokyo")
    RateLimit.objects.filter(team=world.platform).update(amount=51)


ACCESS_EDITS: list[Callable[[World], object]] = [
    _new_key,
    _move_a_limit_to_another_key,
    _move_a_key_to_another_team,
    _unusable_credential,
    lambda w: ApiKey.objects.filter(pk=w.plain.pk).update(enabled=False),
    lambda w: ApiKey.objects.filter(pk=w.strict.pk).update(revoked_at=timezone.now()),
    lambda w: ApiKey.objects.filter(pk=w.strict.pk).update(digest="ef" * 32),
    lambda w: ApiKey.objects.filter(pk=w.strict.pk).update(allowed_models="oops", pepper_id="0123456789abcdef"),
    lambda w: w.strict.delete(),
    lambda w: Team.objects.update(name="renamed") if w.research.keys.all().delete() and w.research.delete() else None,
    lambda w: Team.objects.filter(pk=w.research.pk).update(name="labs", time_zone="Asia/Tokyo"),
    lambda w: Team.objects.filter(pk=w.research.pk).update(time_zone="Mars/Olympus"),
    lambda w: NetworkList.objects.filter(pk=w.office.pk).update(networks=["172.16.0.0/12"]),
    lambda w: NetworkList.objects.filter(pk=w.office.pk).update(networks=["garbage"]),
    lambda w: tie(w.plain, w.office),
    lambda w: KeyNetwork.objects.all().delete(),
    lambda w: RateLimit.objects.filter(key=w.strict).delete(),
    lambda w: RateLimit.objects.filter(team=w.platform).update(amount=51),
    lambda w: RateLimit.objects.filter(team=w.platform).update(team=w.research),
    lambda w: RateLimit.objects.filter(key=None, team=None).delete(),
    lambda w: RateLimit.objects.filter(key=None, team=None).update(key=w.plain),
    lambda w: RateLimit.objects.filter(key=w.strict).update(metric="bananas"),
    lambda w: Budget.objects.filter(name="own").update(limit_pico_usd=9),
    lambda w: Budget.objects.filter(name="own").delete(),
    lambda w: Budget.objects.filter(name="month").update(window="week"),
    lambda w: Budget.objects.filter(name="all").update(enabled=False),
    lambda w: Budget.objects.create(name="second", key=w.plain, limit_pico_usd=4),
    lambda w: RateLimit.objects.create(provider=w.provider, metric="tokens", per="day", amount=1),
    lambda w: RateLimit.objects.create(deployment=w.deployment, metric="concurrency", per="", amount=1),
    lambda w: RateLimit.objects.create(alias=w.alias, amount=1),
    lambda w: RateLimit.objects.create(key=w.plain, amount=1, each="ip", per="day"),
    lambda w: RateLimit.objects.create(team=w.research, amount=1, model="small"),
    lambda w: RateLimit.objects.filter(key=w.strict).update(key=None, alias=w.alias),
    lambda w: Budget.objects.create(provider=w.provider, name="p", limit_pico_usd=1),
    lambda w: Budget.objects.filter(name="own").update(key=None, deployment=w.deployment),
    lambda w: Budget.objects.filter(name="own").update(each="end_user"),
    lambda w: Budget.objects.filter(name="own").update(
        mode="strict", increase_pico_usd=5, increase_until=timezone.now()
    ),
    lambda w: _add_credit("own"),
    lambda w: _add_credit("month"),
    lambda w: _add_credit("all"),
    lambda w: _add_credit("own", deployment=w.deployment, key=None),
    _strict_acts_for_platform,
    lambda w: ApiKey.objects.filter(pk=w.plain.pk).update(priority=5, may_bypass_health=True),
]
ROUTING_EDITS: list[Callable[[World], object]] = [
    lambda w: Deployment.objects.update(max_request_pico_usd=5),
    lambda w: Provider.objects.update(enabled=False),
    lambda w: Credential.objects.update(enabled=False),
    lambda w: Deployment.objects.update(model="other"),
    lambda w: ModelAlias.objects.update(name="tiny"),
    lambda w: AliasTarget.objects.update(weight=7),
    lambda w: AliasTarget.objects.all().delete(),
    lambda w: Price.objects.create(provider=w.provider, model="small-1", effective_from=timezone.now(), input=99),
    lambda w: GatewaySettings.objects.create(pk=1, retry_attempts=9, request_body_limit_mb=1),
    lambda w: GatewaySettings.objects.create(pk=1, default_input_price=5, default_output_price=6),
    lambda w: GatewaySettings.objects.create(pk=1, quota_status=429, chars_per_token_by_provider={"openai": 2}),
    lambda w: GatewaySettings.objects.create(pk=1, circuit_failures=2, max_queued=3, cache_generation=4),
    lambda w: GatewaySettings.objects.create(pk=1, vendor_models={"acme": "small"}),
    lambda w: Deployment.objects.update(draining=True, probe_enabled=True),
    lambda w: ModelAlias.objects.update(strategy="lowest_cost", sticky="key", cache_ttl_s=9, retry_attempts=0),
    lambda w: AliasFallback.objects.create(alias=w.alias, use=_second_alias()),
    lambda w: AliasRule.objects.create(alias=w.alias, name="r", when="true", use=_second_alias()),
    lambda w: AliasTarget.objects.create(alias=_second_alias(), target_alias=w.alias),
    lambda w: AuthSource.objects.create(name="db", kind="database"),
    lambda w: AuthSource.objects.create(name="file", kind="static_file", path="/no/such/file"),
]


@pytest.mark.parametrize("edit", [*ACCESS_EDITS, *ROUTING_EDITS])
def test_a_patch_equals_a_full_load(world: World, edit: Callable[[World], object]) -> None:
    before = load_snapshot(revision=1)
    untouched = load_snapshot(revision=1)

    edit(world)
    changes = _changes_since(before)
    patched = patch_snapshot(before, changes, revision=2)

    assert changes
    assert _comparable(patched) == _comparable(load_snapshot(revision=2))
    assert _comparable(patched) != _comparable(replace(before, revision=2))
    assert before == untouched


TENANT_EDITS: list[Callable[[World], object]] = [
    _rename_a_tenant,
    lambda w: KeyTenant.objects.all().delete(),
    lambda w: Budget.objects.create(team=w.platform, name="new", limit_pico_usd=1),
    lambda w: Budget.objects.filter(name="own").update(limit_pico_usd=9),
    lambda w: NetworkList.objects.filter(pk=w.office.pk).update(networks=["172.16.0.0/12"]),
    lambda w: Team.objects.filter(pk=w.research.pk).update(time_zone="Asia/Tokyo"),
    lambda w: RateLimit.objects.filter(key=None, team=None).update(amount=7),
    lambda w: (w.plain.delete(), w.platform.delete()),
]


@pytest.mark.parametrize("edit", TENANT_EDITS)
def test_a_patch_equals_a_full_load_where_keys_act_for_teams(world: World, edit: Callable[[World], object]) -> None:
    RateLimit.objects.create(key=world.strict, metric="tokens", per="day", amount=9)
    _strict_acts_for_platform(world)
    before = load_snapshot(revision=1)

    edit(world)
    patched = patch_snapshot(before, _changes_since(before), revision=2)

    assert _comparable(patched) == _comparable(load_snapshot(revision=2))
    assert key_of(patched, world.strict) != key_of(before, world.strict)


def test_problems_go_when_their_cause_goes(world: World) -> None:
    _unusable_credential(world)
    RateLimit.objects.filter(key=world.strict).update(metric="bananas")
    Team.objects.filter(pk=world.research.pk).update(time_zone="Mars/Olympus")
    ApiKey.objects.filter(pk=world.plain.pk).update(pepper_id="0123456789abcdef")
    before = load_snapshot()
    assert len(before.problems) == 4

    world.credential.set_secret("sk-better")
    world.credential.save()
    RateLimit.objects.filter(key=world.strict).update(metric="requests")
    Team.objects.filter(pk=world.research.pk).update(time_zone="UTC")
    ApiKey.objects.filter(pk=world.plain.pk).update(pepper_id=world.plain.pepper_id)

    assert patch_snapshot(before, _changes_since(before), revision=2).problems == ()


def test_a_key_that_did_not_change_is_not_read_again(world: World) -> None:
    before = load_snapshot()

    ApiKey.objects.filter(pk=world.strict.pk).update(user_id="ana")
    patched = patch_snapshot(before, _changes_since(before), revision=2)

    assert key_of(patched, world.plain) is key_of(before, world.plain)
    assert patched.aliases is before.aliases


def test_what_a_change_for_everyone_leaves_as_it_was_stays_the_same_object(world: World) -> None:
    """Two snapshots are in memory for a while, and a hundred thousand keys would have all of it twice."""
    RateLimit.objects.create(key=world.strict, amount=7, per="day")
    old = load_snapshot(revision=1)
    RateLimit.objects.create(amount=400, per="day")

    new = patch_snapshot(old, _changes_since(old), revision=2)

    before, after = key_of(old, world.strict), key_of(new, world.strict)
    assert len(after.limits) == len(before.limits) + 1
    assert after.budgets is before.budgets
    assert after.limits[0] is before.limits[0]


def test_the_rules_of_one_owner_share_its_name(world: World) -> None:
    RateLimit.objects.create(team=world.research, amount=7, per="day")
    RateLimit.objects.create(key=world.strict, amount=7, per="day")
    first = load_snapshot(revision=1)

    again = load_snapshot(revision=2, before=replace(first, budgets={}))

    for snapshot in (first, again):
        key = key_of(snapshot, world.strict)
        owners = [*[limit.owner for limit in key.limits], *[budget.owner for budget in key.budgets]]
        assert len({id(owner) for owner in owners if owner == f"key:{world.strict.pk}"}) == 1


def test_routing_leaves_the_keys_alone(world: World) -> None:
    before = load_snapshot()

    ModelAlias.objects.update(name="tiny")

    assert patch_snapshot(before, _changes_since(before), revision=2).keys is before.keys


@pytest.mark.parametrize(
    "change",
    [
        Change("llmgateway_apikey", ""),
        Change("llmgateway_apikey", "seven"),
        Change("llmgateway_ratelimit", "1", "robot:3"),
        Change("llmgateway_unheard_of", "1"),
    ],
)
def test_what_is_unclear_reads_everything(world: World, change: Change) -> None:
    before = load_snapshot()
    ModelAlias.objects.update(name="tiny")

    patched = patch_snapshot(before, {change}, revision=2)

    assert "tiny" in patched.aliases
    assert patched.position.watermark > before.position.watermark


def test_too_many_changes_read_everything(world: World) -> None:
    before = load_snapshot()
    ModelAlias.objects.update(name="tiny")

    changes = {Change("llmgateway_apikey", str(number)) for number in range(MOST_CHANGES + 1)}

    assert "tiny" in patch_snapshot(before, changes, revision=2).aliases


def test_the_position_is_the_readers(world: World) -> None:
    position = LogPosition(12, frozenset({3}))

    patched = patch_snapshot(load_snapshot(), {Change("providers_provider", "1")}, revision=5, position=position)

    assert (patched.position, patched.revision) == (position, 5)


def test_a_changed_file_is_read_again(world: World, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("keys: []")
    secret = tmp_path / "secret"
    secret.write_text("sk-old")
    AuthSource.objects.create(name="file", kind="static_file", path=str(file))
    world.credential.set_secret(f"file:{secret}")
    world.credential.save()
    before = load_snapshot()
    assert before.watched_files == (str(file), str(secret))

    file.write_text(f"keys: [{{name: a, sha256: {'ab' * 32}}}]")
    secret.write_text("sk-new")
    patched = patch_snapshot(before, {Change(FILE, str(file))}, revision=2)

    assert [entry.key.name for entry in patched.sources[0].keys.values()] == ["a"]
    assert patched.aliases["small"].deployments[0].headers == ((b"authorization", b"Bearer sk-new"),)
    assert patched.watched_files == before.watched_files


def test_keys_of_a_file_follow_their_team(world: World, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys: [{{name: a, team: platform, sha256: {'ab' * 32}}}]")
    AuthSource.objects.create(name="file", kind="static_file", path=str(file))
    before = load_snapshot()

    RateLimit.objects.filter(team=world.platform).update(amount=7)
    patched = patch_snapshot(before, _changes_since(before), revision=2)

    (entry,) = patched.sources[0].keys.values()
    assert [limit.amount for limit in entry.key.limits] == [7, 500]


def test_prices_of_the_past_stay(world: World) -> None:
    before = load_snapshot()

    Price.objects.create(provider=world.provider, model="small-1", effective_from=timezone.now(), input=99)
    prices = patch_snapshot(before, _changes_since(before), revision=2).aliases["small"].deployments[0].prices

    assert [price.input for price in prices] == [10, 99]
    assert prices[0].effective_from == NEW_YEAR.timestamp()


def test_removed_credit_is_noticed_by_its_budget_alone(world: World) -> None:
    _add_credit("own")
    before = load_snapshot()
    BudgetCredit.objects.all().delete()

    patched = patch_snapshot(before, _changes_since(before), revision=2)

    assert key_of(patched, world.strict).budgets[0].limit_pico_usd == 1
    assert patched.aliases is before.aliases


def test_a_teams_midnight_moves_the_limits_of_its_keys(world: World) -> None:
    RateLimit.objects.create(key=world.strict, metric="tokens", per="day", amount=9)
    before = load_snapshot()
    Team.objects.filter(pk=world.research.pk).update(time_zone="Asia/Tokyo")

    patched = patch_snapshot(before, _changes_since(before), revision=2)

    assert {limit.per: limit.time_zone for limit in key_of(patched, world.strict).limits} == {
        "minute": "UTC", "day": "Asia/Tokyo",
    }  # fmt: skip
    assert _comparable(patched) == _comparable(load_snapshot(revision=2))


def test_the_problem_of_a_budget_goes_with_the_credit_that_caused_it(world: World) -> None:
    _add_credit("own")
    BudgetCredit.objects.update(amount_pico_usd=2**62)
    before = load_snapshot()
    assert "add up to more than" in before.problems[0].message
    BudgetCredit.objects.all().delete()

    assert patch_snapshot(before, _changes_since(before), revision=2).problems == ()


@pytest.mark.parametrize("edit", [
    lambda w: ApiKey.objects.filter(pk=w.plain.pk).update(enabled=False),
    lambda w: RateLimit.objects.filter(key=None, team=None).update(amount=1),
    lambda w: Deployment.objects.update(model="other"),
])  # fmt: skip
def test_budgets_of_places_and_of_callers_outlive_each_others_changes(
    world: World, edit: Callable[[World], object]
) -> None:
    Budget.objects.create(name="p", provider=world.provider, limit_pico_usd=1)
    before = load_snapshot(revision=1)

    edit(world)
    patched = patch_snapshot(before, _changes_since(before), revision=2)

    assert patched.budgets == load_snapshot().budgets == before.budgets
