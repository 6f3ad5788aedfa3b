"""What an import does to rows: it creates, changes, leaves alone and prunes, and a second run writes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.models import Budget, Price
from billing.money import PICO_PER_USD
from billing.services import budget_increase, credit_add
from llmgateway import services
from llmgateway.conf import PROJECT_ROOT
from llmgateway.config_file.export import export_text
from llmgateway.config_file.importing import import_file, import_text
from llmgateway.key_secrets import digest, pepper_fingerprint
from llmgateway.models import (
    ApiKey,
    ConfigChange,
    GatewaySettings,
    KeyNetwork,
    Membership,
    NetworkList,
    RateLimit,
    Team,
)
from llmgateway.rule_owners import is_of_everyone
from providers.models import AliasTarget, Credential, Deployment, ModelAlias, Provider
from tests.llmgateway.config_file.conftest import Environment, load, problems

pytestmark = pytest.mark.django_db

EXAMPLE = PROJECT_ROOT / "config.example.yaml"
ROUTES = """\
providers:
  openai: {credentials: [{name: main, api_key: sk-test}]}
deployments:
  a: {provider: openai, credential: main, model: gpt-4o-mini}
  b: {provider: openai, credential: main, model: gpt-4o}
aliases:
  small: {targets: [{deployment: a}]}
"""
SECRET = "a-secret-of-my-own-choice"


def summary(text: str, **options: bool) -> str:
    return load(text, **options).summary()


def written(context: CaptureQueriesContext) -> list[str]:
    return [
        query["sql"]
        for query in context.captured_queries
        if query["sql"].split()[0].upper() not in {"SELECT", "SAVEPOINT", "RELEASE", "BEGIN", "COMMIT", "ROLLBACK"}
    ]


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


def test_a_provider_key_is_stored_encrypted_and_masked_in_the_diff() -> None:
    report = load(ROUTES)

    stored = Credential.objects.get()
    assert stored.stored_secret() == "sk-test"
    assert "sk-test" not in stored.encrypted_secret
    assert "sk-test" not in "\n".join(report.lines())


def test_a_changed_provider_key_replaces_the_stored_one() -> None:
    load(ROUTES)

    report = load(ROUTES.replace("sk-test", "sk-next"))

    assert Credential.objects.get().stored_secret() == "sk-next"
    assert report.summary().startswith("0 created, 1 changed")
    assert "sk-" not in "\n".join(report.lines())


def test_a_credential_without_a_key_keeps_the_stored_one() -> None:
    load(ROUTES)

    report = load(ROUTES.replace(", api_key: sk-test", ""))

    assert Credential.objects.get().stored_secret() == "sk-test"
    assert report.changes == []


def test_a_variable_brings_in_a_secret(environment: Environment) -> None:
    environment(ACME_KEY="sk-from-outside")

    load(ROUTES.replace("sk-test", "'${ACME_KEY}'"))

    assert Credential.objects.get().stored_secret() == "sk-from-outside"


# Prices


def test_a_price_that_stands_is_unchanged_however_it_is_written() -> None:
    price = "prices: [{{provider: openai, model: m, input: {}, output: {}, effective_from: 2026-01-01}}]\n"
    load(ROUTES + price.format('"0.15"', '"0.60"'))

    report = load(ROUTES + price.format("0.150", "0.6"))

    assert report.changes == []
    assert Price.objects.count() == 1


def test_another_price_for_the_same_moment_is_an_error_that_says_what_to_do() -> None:
    price = "prices: [{{provider: openai, model: m, input: {}, effective_from: 2026-01-01}}]\n"
    load(ROUTES + price.format("0.15"))

    found = problems(ROUTES + price.format("0.20"))

    assert len(found) == 1
    assert found[0].startswith("config.yaml:9: prices[0]: Prices are never edited")
    assert "input 0.15" in found[0]
    assert "later effective_from" in found[0]
    assert Price.objects.get().input == 150_000


def test_a_later_price_stands_beside_the_earlier_one() -> None:
    line = "  - {{provider: openai, model: m, input: {}, effective_from: {}}}\n"
    first, second = line.format("0.15", "2026-01-01"), line.format("0.20", "2026-06-01T00:00:00+02:00")

    load(ROUTES + "prices:\n" + first)
    load(ROUTES + "prices:\n" + first + second)

    assert [(row.input, row.effective_from.isoformat()) for row in Price.objects.order_by("effective_from")] == [
        (150_000, "2026-01-01T00:00:00+00:00"),
        (200_000, "2026-05-31T22:00:00+00:00"),
    ]


@pytest.mark.parametrize("text", ["0.000001", "1e-6", "0.0000010"])
def test_six_decimals_of_a_price_are_exact(text: str) -> None:
    load(ROUTES + f"prices: [{{provider: openai, model: m, input: {text}}}]\n")

    assert Price.objects.get().input == 1


# Secrets of keys


def test_a_generated_secret_is_told_once_and_works() -> None:
    report = load("teams: {t: {}}\nkeys: {k: {team: t}}\n")

    secret = report.secrets["k"]
    key = ApiKey.objects.get()
    assert secret.startswith(f"sk-gw-{key.public_id}-")
    assert digest(secret.encode(), services.newest_pepper()).hex() == key.digest
    assert secret not in "\n".join(report.lines())
    assert load("teams: {t: {}}\nkeys: {k: {team: t}}\n").secrets == {}


def test_a_chosen_secret_works_and_is_not_shown() -> None:
    report = load(f"teams: {{t: {{}}}}\nkeys: {{k: {{team: t, secret: {SECRET}}}}}\n")

    assert digest(SECRET.encode(), services.newest_pepper()).hex() == ApiKey.objects.get().digest
    assert report.secrets == {}
    assert SECRET not in "\n".join(report.lines())


def test_a_changed_secret_replaces_the_old_one_at_once() -> None:
    """Also one that was still good from a rotation before."""
    text = "teams: {{t: {{}}}}\nkeys: {{k: {{team: t, secret: {}}}}}\n"
    load(text.format(SECRET))
    services.key_rotate(ApiKey.objects.get())

    load(text.format("another-secret-of-my-own"))

    key = ApiKey.objects.get()
    assert key.digest == digest(b"another-secret-of-my-own", services.newest_pepper()).hex()
    assert (key.previous_digest, key.previous_valid_until) == ("", None)


def test_an_empty_secret_keeps_the_one_of_an_existing_key(environment: Environment) -> None:
    text = "teams: {t: {}}\nkeys: {k: {team: t, secret: '${DEV_KEY:-}'}}\n"
    environment(DEV_KEY=SECRET)
    load(text)
    before = ApiKey.objects.get().digest
    environment(DEV_KEY="")

    report = load(text)

    assert ApiKey.objects.get().digest == before
    assert report.changes == []


def test_a_digest_stands_in_for_the_secret() -> None:
    pepper = services.newest_pepper()
    stored = digest(SECRET.encode(), pepper).hex()

    load(
        f"pepper: {pepper_fingerprint(pepper)}\nteams: {{t: {{}}}}\n"
        f"keys: {{k: {{team: t, digest: {stored}, public_id: abcdefghij}}}}\n"
    )

    key = ApiKey.objects.get()
    assert (key.digest, key.pepper_id, key.public_id) == (stored, pepper_fingerprint(pepper), "abcdefghij")


def test_a_digest_of_another_pepper_is_an_error_that_names_both() -> None:
    ours = pepper_fingerprint(services.newest_pepper())

    found = problems(f"pepper: 0123456789abcdef\nteams: {{t: {{}}}}\nkeys: {{k: {{team: t, digest: {'a' * 64}}}}}\n")

    assert len(found) == 1
    assert found[0].startswith("config.yaml:4: keys.k.digest: ")
    assert "0123456789abcdef" in found[0]
    assert ours in found[0]


def test_a_key_of_an_older_pepper_is_recognised_by_its_secret(environment: Environment) -> None:
    """After the peppers were rotated, an import must not count every key as changed."""
    text = f"teams: {{t: {{}}}}\nkeys: {{k: {{team: t, secret: {SECRET}}}}}\n"
    load(text)
    old = services.newest_pepper()
    environment(GATEWAY_KEY_PEPPERS=f"{'ab' * 32},{old.hex()}")

    report = load(text)

    assert report.changes == []
    assert ApiKey.objects.get().pepper_id == pepper_fingerprint(old)


def test_a_model_without_an_alias_is_worth_a_note() -> None:
    report = load(ROUTES + "teams: {t: {}}\nkeys: {k: {team: t, models: [small, smal]}}\n")

    assert report.notes == ["The key k may call smal, but there is no alias of that name."]


def test_a_limit_for_a_model_without_an_alias_is_refused() -> None:
    limit = "{metric: requests, per: day, amount: 5, model: smal}"

    (told,) = problems(ROUTES + f"teams: {{t: {{}}}}\nkeys: {{k: {{team: t, limits: [{limit}]}}}}\n")

    assert "keys.k.limits[0].model: There is no alias smal" in told
    assert not RateLimit.objects.exists()


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


# What the file does not name

WHOLE = (
    ROUTES
    + """\
networks: {office: [10.0.0.0/8]}
teams:
  t:
    limits: [{metric: requests, per: minute, amount: 5}]
    budgets: [{name: day, window: day, limit_usd: 1}]
    members: [{email: ana@example.org}]
keys:
  k:
    team: t
    networks: [office]
    limits: [{metric: requests, per: minute, amount: 5}]
    budgets: [{name: day, window: day, limit_usd: 1}]
prices: [{provider: openai, model: m, input: 1}]
limits: [{metric: requests, per: minute, amount: 5}]
budgets: [{name: day, window: day, limit_usd: 1}]
"""
)


def test_what_the_file_does_not_name_is_left_alone_and_mentioned() -> None:
    load(WHOLE)

    report = load("teams: {t: {}}\n")

    assert report.changes == []
    assert RateLimit.objects.count() == 3
    assert Budget.objects.count() == 3
    assert ApiKey.objects.count() == 1
    assert {"key k", "provider openai", "limit requests per minute (team t)", "budget day (everyone)"} <= set(
        report.kept
    )
    assert any("left alone" in line and "--prune" in line for line in report.lines())


def test_prune_removes_what_the_file_does_not_name_and_lists_it() -> None:
    load(WHOLE)

    report = load("teams: {t: {}}\n", prune=True)

    for model in (Provider, Credential, Deployment, ModelAlias, ApiKey, NetworkList, RateLimit, Budget, Membership):
        assert not model._default_manager.exists(), model
    assert Team.objects.get().name == "t"
    assert {"- key k", "- alias small", "- provider openai", "- budget day (everyone)"} <= set(report.lines())
    assert User.objects.exists()


def test_prune_removes_nothing_that_the_file_names() -> None:
    load(WHOLE)

    assert load(WHOLE, prune=True).changes == []


def test_prune_takes_an_unnamed_credential_once_its_deployments_are_gone() -> None:
    load(ROUTES)

    load("providers: {openai: {}}\n", prune=True)

    assert not Credential.objects.exists()
    assert Provider.objects.exists()


def test_prune_refuses_to_remove_what_is_in_use_and_names_the_user() -> None:
    load(WHOLE)

    found = problems("keys: {k: {team: t, networks: [office]}}\n", prune=True)

    assert [line.partition(" Add it")[0] for line in found] == [
        f"config.yaml:1: {path}: The file does not name the {what}, but it cannot be removed: API key k needs it."
        for path, what in (("networks.office", "network list office"), ("teams.t", "team t"))
    ]
    assert Provider.objects.exists(), "nothing may be removed when something cannot be"


def test_prune_leaves_revoked_keys_and_prices_alone() -> None:
    load(WHOLE)
    ApiKey.objects.update(revoked_at=timezone.now())

    load("providers: {openai: {}}\nteams: {t: {}}\nnetworks: {office: [10.0.0.0/8]}\n", prune=True)

    assert ApiKey.objects.get().name == "k"
    assert Price.objects.count() == 1


def test_prune_does_not_remove_what_the_file_names_badly() -> None:
    load(WHOLE)

    found = problems(WHOLE.replace("team: t\n", "team: t\n    surprise: 1\n"), prune=True)

    assert len(found) == 1
    assert "keys.k.surprise" in found[0]


def test_settings_that_are_not_named_stay(tmp_path: Path) -> None:
    load("settings: {retries: {attempts: 5}, request_body_limit_mb: 64}\n")

    load("settings: {retries: {max_ms: 1000}}\n")

    row = GatewaySettings.objects.get()
    assert (row.retry_attempts, row.retry_max_ms, row.request_body_limit_mb, row.retry_initial_ms) == (5, 1000, 64, 250)


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


def test_settings_that_the_file_does_not_name_stay() -> None:
    load("settings: {admission: {quota_status: 429}}")
    load("settings: {estimation: {chars_per_token_by_provider: {}}}")

    row = GatewaySettings.objects.get()
    assert (row.quota_status, row.hold_wait_ms, row.chars_per_token_by_provider) == (429, 200, {})


DEFAULT_PRICE = ("default_input_price", "default_output_price", "default_request_price")


def test_a_default_price_comes_stays_and_goes() -> None:
    figures = []
    for settings in ("{default_price: {input: 5, output: '15.5', request: 0.001}}", "{}", "{default_price: none}"):
        load(f"settings: {settings}")
        figures.append(tuple(GatewaySettings.objects.values_list(*DEFAULT_PRICE).get()))

    assert figures == [(5_000_000, 15_500_000, 10**9), (5_000_000, 15_500_000, 10**9), (None, None, None)]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{input: 5}", "default_price.output: `output` is missing"),
        ("{input: 5, output: -1}", "default_price.output: -1 is negative"),
        ("{input: 5, output: 1001}", "default_price.output: More than $1,000 per million tokens is surely a slip"),
        ("{input: 5, output: 6, cache_read: 1}", "There is no field `cache_read` here"),
        ("cheap", "Expected fields"),
    ],
)
def test_a_default_price_that_cannot_be_is_refused(written: str, said: str) -> None:
    (found,) = problems(f"settings: {{default_price: {written}}}")

    assert said in found


@pytest.mark.parametrize("request_price", [None, 0, 10**9])
def test_a_default_price_survives_an_export(request_price: int | None) -> None:
    GatewaySettings.objects.create(
        pk=1, default_input_price=1, default_output_price=0, default_request_price=request_price
    )

    written = export_text()

    assert import_text(written).changes == []
    GatewaySettings.objects.update(default_input_price=None, default_output_price=None, default_request_price=None)
    assert "none" in export_text()
