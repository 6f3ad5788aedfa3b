"""What an import does to rows: it creates, changes and leaves alone, and a second run writes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import Budget, Price
from billing.money import PICO_PER_USD
from llmgateway import services
from llmgateway.conf import PROJECT_ROOT
from llmgateway.config_file.export import export_text
from llmgateway.config_file.importing import import_file
from llmgateway.models import (
    ApiKey,
    ConfigChange,
    GatewaySettings,
    KeyNetwork,
    Membership,
    RateLimit,
    Team,
)
from llmgateway.rule_owners import is_of_everyone
from providers.models import AliasTarget, Credential, Deployment, ModelAlias, Provider
from tests.llmgateway.config_file.apply_scene import ROUTES, written
from tests.llmgateway.config_file.conftest import load, problems

pytestmark = pytest.mark.django_db

EXAMPLE = PROJECT_ROOT / "config.example.yaml"


def test_the_example_is_imported_whole() -> None:
    import_file(EXAMPLE)

    openai = Provider.objects.get(name="openai")
    assert [str(row) for row in openai.credentials.order_by("name")] == ["openai/backup", "openai/main"]
    assert openai.credentials.get(name="main").stored_secret() == "env:OPENAI_API_KEY"
    qwen = Deployment.objects.get(name="qwen-a")
    assert (qwen.provider.adapter, qwen.credential, qwen.inject_usage) == ("openai_compatible", None, False)
    coder = ModelAlias.objects.get(name="coder")
    assert [(target.leads_to, target.weight) for target in coder.targets.all()] == [
        ("qwen-a", 5),
        ("gpt-4o-mini-main", 1),
        ("gpt-4o-mini", 1),
    ]
    price = Price.objects.get(model="gpt-4o-mini")
    assert (price.input, price.output, price.cache_read, price.cache_write_5m) == (150_000, 600_000, 75_000, None)
    assert price.effective_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert Price.objects.get(provider__name="local").request == PICO_PER_USD // 10_000
    key = ApiKey.objects.get(name="dev-001")
    assert (key.team.name, key.user_id, key.allowed_models) == ("platform", "ana", ["gpt-4o-mini", "coder"])
    assert [row.name for row in key.networks.all()] == ["office"]
    assert (key.starts_at, key.expires_at) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC))
    limits = key.limits.order_by("id").values_list("metric", "per", "amount", "model", "reset_seconds", "shadow")
    assert list(limits) == [
        ("requests", "minute", 60, "", None, False),
        ("tokens", "minute", 100_000, "", None, False),
        ("concurrency", "", 3, "", None, False),
        ("tokens", "total", 1_000_000, "", 30 * 86_400, False),
        ("requests", "day", 5, "coder", None, True),
    ]
    assert Budget.objects.get(key=key).limit_pico_usd == 10 * PICO_PER_USD
    team = Team.objects.get(name="platform")
    assert team.time_zone == "Europe/Berlin"
    assert (RateLimit.objects.get(team=team).amount, RateLimit.objects.get(team=team).burst) == (1200, 200)
    month = Budget.objects.get(team=team)
    assert (month.mode, month.alerts, month.starts_on) == ("strict", [50, 80, 100], "1")
    assert {str(row) for row in Provider.objects.get(name="local").limits.all()} == {
        "600 requests per minute",
        "32 concurrent requests",
    }
    assert Budget.objects.get(alias=coder).window == "day"
    assert Deployment.objects.get(name="gpt-4o-mini-main").max_request_pico_usd == PICO_PER_USD // 2
    (credit,) = Budget.objects.get(name="prepaid").credits.all()
    assert (credit.amount_pico_usd, credit.note) == (25 * PICO_PER_USD, "invoice 1")
    assert {row.user.email: row.role for row in team.memberships.all()} == {
        "ana@example.org": "manager",
        "bo@example.org": "auditor",
    }
    assert not ApiKey.objects.get(name="batch").enabled
    everyone = RateLimit.objects.filter(is_of_everyone())
    assert {(row.each, row.amount) for row in everyone} == {("", 6000), ("ip", 600)}
    assert {row.name: row.window for row in Budget.objects.filter(is_of_everyone())} == {
        "hourly": "hour",
        "daily": "day",
    }
    settings = GatewaySettings.objects.get()
    assert (settings.retry_attempts, settings.retry_initial_ms, settings.retry_max_ms) == (2, 250, 8000)
    assert (settings.quota_status, settings.chars_per_token_by_provider) == (402, {"openai": 5, "anthropic": 3})


def test_a_second_import_writes_nothing() -> None:
    import_file(EXAMPLE)
    changes, entries = ConfigChange.objects.count(), LogEntry.objects.count()
    assert changes > 0
    assert entries > 0

    with CaptureQueriesContext(connection) as queries:
        report = import_file(EXAMPLE)

    assert report.changes == []
    assert report.secrets == {}
    assert report.unchanged == 45
    assert written(queries) == []
    assert (ConfigChange.objects.count(), LogEntry.objects.count()) == (changes, entries)


def test_a_trial_run_shows_the_diff_and_writes_nothing() -> None:
    report = import_file(EXAMPLE, dry_run=True)

    assert "+ key dev-001" in list(report.lines())
    assert report.secrets == {}
    assert not Provider.objects.exists()
    assert not User.objects.exists()
    assert not LogEntry.objects.exists()


def test_a_trial_run_finds_what_the_database_would_refuse() -> None:
    found = problems(ROUTES + "teams: {t: {time_zone: Nowhere}}\n", dry_run=True)

    assert "teams.t.time_zone" in found[0]


def test_the_diff_is_shown_before_anything_is_permanent() -> None:
    """What shows the diff can still stop the import."""

    def stop(_report: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(ROUTES, show=stop)

    assert not Provider.objects.exists()


def test_changes_are_recorded_with_their_source() -> None:
    load(ROUTES)

    entry = LogEntry.objects.get_for_object(Provider.objects.get()).get()
    assert entry.additional_data["source"] == "import"


def test_a_changed_field_changes_the_row_and_is_shown_with_old_and_new() -> None:
    load(ROUTES)
    pk = Deployment.objects.get(name="a").pk

    report = load(ROUTES.replace("model: gpt-4o-mini}", "model: gpt-4.1, timeouts: {idle_s: 30, drain_s: 20}}"))

    assert [line for change in report.changes for line in change.lines()] == [
        "~ deployment a",
        "    model: gpt-4o-mini → gpt-4.1",
        "    timeouts.idle_s: 120.0 → 30.0",
        "    timeouts.drain_s: 0.0 → 20.0",
    ]
    row = Deployment.objects.get(name="a")
    assert (row.pk, row.model, row.idle_timeout_s, row.drain_s) == (pk, "gpt-4.1", 30, 20)


def test_what_a_named_object_does_not_say_is_its_default() -> None:
    load(
        "teams: {t: {time_zone: Europe/Berlin, own_keys: allow}}\nkeys: {k: {team: t, expires_at: 2030-01-01, models: [m]}}\n"
    )

    load("teams: {t: {}}\nkeys: {k: {team: t}}\n")

    key = ApiKey.objects.get()
    assert (key.expires_at, key.allowed_models, key.team.time_zone) == (None, [], "UTC")
    assert key.team.own_keys == "inherit"


def test_what_was_switched_off_stays_off_unless_the_file_says_so() -> None:
    """An import at the next start must not undo what an admin did in an emergency."""
    text = ROUTES + "teams: {t: {}}\nkeys: {k: {team: t}}\n"
    load(text)
    for model in (Provider, Credential, Deployment, ModelAlias, ApiKey):
        model._default_manager.update(enabled=False)

    load(text)

    for model in (Provider, Credential, Deployment, ModelAlias, ApiKey):
        assert not model._default_manager.filter(enabled=True).exists(), model

    load(text.replace("{team: t}", "{team: t, enabled: true}"))

    assert ApiKey.objects.get().enabled


def test_a_revoked_key_stays_revoked() -> None:
    text = "teams: {t: {}}\nkeys: {k: {team: t}}\n"
    load(text)
    services.key_revoke(ApiKey.objects.get())

    report = load(text.replace("{team: t}", "{team: t, secret: a-secret-of-my-own-choice}"))

    assert ApiKey.objects.get().revoked_at is not None
    assert report.changes == []
    assert "revoked and stays so" in report.notes[0]


def test_the_targets_of_an_alias_are_exactly_those_listed() -> None:
    load(ROUTES)

    load(ROUTES.replace("[{deployment: a}]", "[{deployment: b, weight: 3}]"))

    assert [(row.leads_to, row.weight) for row in AliasTarget.objects.all()] == [("b", 3)]


def test_an_alias_retires_and_the_export_says_so() -> None:
    retiring = ROUTES.replace("[{deployment: a}]", "[{deployment: a}], retires_at: 2027-01-31, replacement: other")
    assert retiring != ROUTES

    load(retiring)

    row = ModelAlias.objects.get()
    assert (row.retires_at, row.replacement) == (datetime(2027, 1, 31, tzinfo=UTC), "other")
    assert load(retiring).changes == []
    assert "replacement: other" in export_text()
    load(ROUTES)
    row.refresh_from_db()
    assert (row.retires_at, row.replacement) == (None, "")


def test_a_replacement_needs_a_date() -> None:
    (told,) = problems(ROUTES.replace("[{deployment: a}]", "[{deployment: a}], replacement: other"))

    assert "Say when the model retires" in told


def test_the_order_of_targets_is_kept() -> None:
    both = "[{deployment: b}, {deployment: a}]"
    load(ROUTES.replace("[{deployment: a}]", both))
    assert [row.leads_to for row in AliasTarget.objects.all()] == ["b", "a"]

    load(ROUTES.replace("[{deployment: a}]", "[{deployment: a}, {deployment: b}]"))

    assert [row.leads_to for row in AliasTarget.objects.all()] == ["a", "b"]


def test_the_networks_of_a_key_are_exactly_those_listed() -> None:
    text = "networks: {x: [10.0.0.0/8], y: ['2001:db8::/32']}\nteams: {t: {}}\nkeys: {k: {team: t, networks: [x]}}\n"
    load(text)

    report = load(text.replace("networks: [x]", "networks: [y]"))

    assert [str(row) for row in KeyNetwork.objects.all()] == ["y"]
    assert "    networks: x → y" in list(report.lines())
    assert report.summary() == "0 created, 1 changed, 0 removed, 3 unchanged."


def test_a_file_may_refer_to_rows_it_does_not_name() -> None:
    load(ROUTES + "teams: {t: {}}\n")

    load("aliases: {other: {targets: [{deployment: b}]}}\nkeys: {k: {team: t}}\n")

    assert ModelAlias.objects.get(name="other").targets.get().leads_to == "b"
    assert ApiKey.objects.get().team.name == "t"


def test_a_model_without_an_alias_is_worth_a_note() -> None:
    report = load(ROUTES + "teams: {t: {}}\nkeys: {k: {team: t, models: [small, smal]}}\n")

    assert report.notes == ["The key k may call smal, but there is no alias of that name."]


# Members


def test_somebody_new_becomes_a_user_without_a_password_and_the_import_says_so() -> None:
    report = load("teams: {t: {members: [{email: ana@example.org, role: manager}]}}\n")

    user = User.objects.get()
    assert (user.username, user.email, user.has_usable_password()) == ("ana@example.org", "ana@example.org", False)
    assert not user.is_staff
    assert "ana@example.org is a new user without a password" in report.notes[0]
    assert Membership.objects.get().role == "manager"


def test_a_known_person_is_found_by_address_or_user_name() -> None:
    User.objects.create_user("ana", "Ana@example.org")
    User.objects.create_user("root")

    load("teams: {t: {members: [{email: ana@example.org}, {username: root, role: auditor}]}}\n")

    assert {row.user.username: row.role for row in Membership.objects.all()} == {"ana": "member", "root": "auditor"}


def test_an_address_of_two_people_is_an_error() -> None:
    User.objects.create_user("ana", "ana@example.org")
    User.objects.create_user("ana2", "ana@example.org")

    found = problems("teams: {t: {members: [{email: ana@example.org}]}}\n")

    assert "teams.t.members[0].email: Several users" in found[0]
