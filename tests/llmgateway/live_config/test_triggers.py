"""Whoever changes configuration, and however: the log has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing.models import Budget, BudgetCredit, Price
from llmgateway.config_loader import Change, load_snapshot
from llmgateway.models import (
    ApiKey,
    AuthSource,
    BannedKey,
    ConfigChange,
    GatewaySettings,
    KeyNetwork,
    KeyTenant,
    NetworkList,
    RateLimit,
    Team,
)
from llmgateway.triggers import TABLES, drop_triggers, ensure_triggers, missing_triggers
from providers.models import (
    AliasFallback,
    AliasRule,
    AliasTarget,
    CatalogueEntry,
    Credential,
    Deployment,
    ModelAlias,
    Provider,
)
from tests.cast import Cast
from tests.llmgateway.live_config.conftest import Database, World, create_world

CONFIGURATION = (
    Team, ApiKey, KeyNetwork, KeyTenant, NetworkList, RateLimit, AuthSource, BannedKey, GatewaySettings, Provider, Credential,
    Deployment, ModelAlias, AliasTarget, AliasFallback, AliasRule, CatalogueEntry, Price, Budget, BudgetCredit,
)  # fmt: skip


def _noted(do: Callable[[], object]) -> list[Change]:
    last = ConfigChange.objects.order_by("id").values_list("id", flat=True).last() or 0
    do()
    rows = ConfigChange.objects.filter(id__gt=last).order_by("id").values_list("table_name", "row_id", "owner")
    return [Change(*row) for row in rows]


@pytest.fixture
def real_world(database: Database) -> World:
    """One of everything, in each kind of database."""
    return create_world()


def test_every_configuration_table_is_watched() -> None:
    assert {table.name for table in TABLES} == {model._meta.db_table for model in CONFIGURATION}


def test_saving_updating_and_deleting_are_noted(real_world: World) -> None:
    world = real_world
    name, row_id = "llmgateway_team", str(world.platform.pk)

    assert _noted(world.platform.save) == [Change(name, row_id)]
    assert _noted(lambda: Team.objects.filter(pk=world.platform.pk).update(name="x")) == [Change(name, row_id)]
    assert len(_noted(lambda: Team.objects.bulk_create([Team(name="a"), Team(name="b")]))) == 2
    assert len(_noted(lambda: Team.objects.filter(name__in="ab").delete())) == 2


def test_raw_sql_is_noted(real_world: World, database: Database) -> None:
    statement = "UPDATE providers_modelalias SET name = 'tiny'"

    assert _noted(lambda: database.run(statement)) == [Change("providers_modelalias", str(real_world.alias.pk))]


@pytest.mark.parametrize("model", CONFIGURATION)
def test_each_table_notes_its_rows(real_world: World, model: type[Team]) -> None:
    GatewaySettings.objects.create(pk=1)
    AuthSource.objects.create(name="db", kind="database")
    KeyNetwork.objects.get_or_create(key=real_world.plain, network_list=real_world.office)
    BudgetCredit.objects.create(budget=Budget.objects.get(name="all"), amount_pico_usd=1)
    CatalogueEntry.objects.create(provider=real_world.provider, model="small-1")
    BannedKey.objects.create(digest="ab" * 32)
    KeyTenant.objects.create(key=real_world.plain, team=real_world.research)
    cheap = ModelAlias.objects.create(name="cheap")
    AliasFallback.objects.create(alias=real_world.alias, use=cheap)
    AliasRule.objects.create(alias=real_world.alias, name="r", when="true", use=cheap)
    table = model._meta.db_table
    ids = {str(row.pk) for row in model._default_manager.all()}
    field = next(field for field in model._meta.concrete_fields if not field.primary_key)

    with connection.cursor() as cursor:
        noted = _noted(lambda: cursor.execute(f'UPDATE {table} SET "{field.column}" = "{field.column}"'))

    assert ids
    assert {(change.table, change.row_id) for change in noted} == {(table, row_id) for row_id in ids}


def test_rules_say_whose_they_are(real_world: World) -> None:
    key, team = f"key:{real_world.strict.pk}", f"team:{real_world.platform.pk}"

    assert [change.owner for change in _noted(lambda: RateLimit.objects.filter(key__isnull=False).delete())] == [key]
    assert [change.owner for change in _noted(lambda: RateLimit.objects.filter(team__isnull=False).delete())] == [team]
    assert [change.owner for change in _noted(lambda: RateLimit.objects.all().delete())] == [""]
    assert [change.owner for change in _noted(lambda: KeyNetwork.objects.all().delete())] == [key]
    KeyTenant.objects.create(key=real_world.strict, team=real_world.platform)
    assert [change.owner for change in _noted(lambda: KeyTenant.objects.all().delete())] == [key]


@pytest.mark.parametrize("owner", ["provider", "deployment", "alias"])
def test_rules_of_places_say_whose_they_are(real_world: World, owner: str) -> None:
    place = getattr(real_world, owner)

    limit = _noted(lambda: RateLimit.objects.create(amount=1, **{owner: place}))
    budget = _noted(lambda: Budget.objects.create(name="b", limit_pico_usd=1, **{owner: place}))

    assert [change.owner for change in limit + budget] == [f"{owner}:{place.pk}"] * 2


def test_credit_says_of_which_budget_it_is(real_world: World) -> None:
    budget = Budget.objects.get(name="all")

    noted = _noted(lambda: BudgetCredit.objects.create(budget=budget, amount_pico_usd=1))

    assert [(change.table, change.owner) for change in noted] == [("billing_budgetcredit", f"budget:{budget.pk}")]


def test_a_rule_that_moves_names_both_owners(real_world: World) -> None:
    noted = _noted(lambda: RateLimit.objects.filter(key__isnull=False).update(key=real_world.plain))

    assert {change.owner for change in noted} == {f"key:{real_world.strict.pk}", f"key:{real_world.plain.pk}"}


def test_what_is_rolled_back_was_never_noted(real_world: World) -> None:
    def roll_back() -> None:
        with transaction.atomic():
            Team.objects.update(time_zone="Asia/Tokyo")
            transaction.set_rollback(True)

    assert _noted(roll_back) == []


@pytest.mark.postgres
def test_truncate_means_everything(postgresql_database: Database) -> None:
    create_world()

    noted = _noted(lambda: postgresql_database.run("TRUNCATE providers_aliastarget"))

    assert noted == [Change("providers_aliastarget", "")]


@pytest.mark.postgres
def test_a_writer_with_another_search_path_is_noted(postgresql_database: Database) -> None:
    create_world()

    def write() -> None:
        with transaction.atomic():
            postgresql_database.run("SET LOCAL search_path TO pg_catalog")
            postgresql_database.run("UPDATE public.llmgateway_team SET time_zone = 'Asia/Tokyo'")

    assert len(_noted(write)) == 2


def test_the_admin_is_noted(cast: Cast, client: Client) -> None:
    client.force_login(cast.alice, backend="django.contrib.auth.backends.ModelBackend")
    url = reverse("admin:llmgateway_networklist_add")

    noted = _noted(lambda: client.post(url, {"name": "office", "networks": "10.0.0.0/8"}))

    assert noted == [Change("llmgateway_networklist", str(NetworkList.objects.get().pk))]


def test_migrate_puts_triggers_back_and_says_that_something_was_missed(database: Database) -> None:
    name = next(iter(missing_after_dropping_one()))

    noted = _noted(lambda: call_command("migrate", verbosity=0))

    assert missing_triggers(connection) == []
    assert noted == [Change("", "")], name


def missing_after_dropping_one() -> list[str]:
    if connection.vendor == "postgresql":
        statement = "DROP TRIGGER note_config_change_llmgateway_team_row ON llmgateway_team"
    else:
        statement = "DROP TRIGGER note_config_change_llmgateway_team_update"
    with connection.cursor() as cursor:
        cursor.execute(statement)
    return missing_triggers(connection)


def test_nothing_is_done_twice(database: Database) -> None:
    assert ensure_triggers() == []
    assert _noted(lambda: call_command("migrate", verbosity=0)) == []


def test_a_trigger_that_was_changed_is_put_right(sqlite_database: Database) -> None:
    name = "note_config_change_llmgateway_team_update"
    sqlite_database.run(f"DROP TRIGGER {name}")
    sqlite_database.run(f"CREATE TRIGGER {name} AFTER UPDATE ON llmgateway_team BEGIN SELECT 1; END")

    assert ensure_triggers() == [name]
    assert len(_noted(lambda: Team.objects.create(name="a").save())) == 2


@pytest.mark.postgres
def test_a_disabled_trigger_is_missing(postgresql_database: Database) -> None:
    postgresql_database.run("ALTER TABLE llmgateway_team DISABLE TRIGGER note_config_change_llmgateway_team_row")

    assert missing_triggers(connection) == ["note_config_change_llmgateway_team_row"]


def test_going_back_before_the_log_had_owners_leaves_tables_writable(database: Database) -> None:
    call_command("migrate", "llmgateway", "0001", verbosity=0)
    NetworkList.objects.create(name="a")
    call_command("migrate", verbosity=0)

    assert missing_triggers(connection) == []
    assert _noted(lambda: NetworkList.objects.update(networks=["10.0.0.0/8"]))


def test_a_check_tells_of_missing_triggers(database: Database) -> None:
    assert [message.id for message in run_checks(databases=["default"]) if message.id == "llmgateway.W010"] == []

    drop_triggers()

    (message,) = (message for message in run_checks(databases=["default"]) if message.id == "llmgateway.W010")
    assert "triggers that note changes of configuration are missing" in message.msg
    assert message.hint == "Run `manage.py migrate`; it puts them back."


def test_a_snapshot_knows_what_it_has_seen(real_world: World) -> None:
    position = load_snapshot().position

    assert position.watermark > 0
    assert timezone.now() > ConfigChange.objects.latest("id").created_at
