"""What the export writes, the import reads back as it was; and no secret leaves in clear."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import yaml
from django.contrib.auth.models import User
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from llmgateway import services
from llmgateway.conf import PROJECT_ROOT
from llmgateway.config_file.export import export_text
from llmgateway.config_file.importing import import_file, import_text
from llmgateway.models import ApiKey, Membership, Team
from providers.models import Credential, Provider
from tests.llmgateway.config_file.conftest import Environment, load

SECRET = "sk-live-0123456789abcdef"


def wipe() -> None:
    """Remove everything that a file describes."""
    import_text("version: 1\n", prune=True)
    ApiKey.objects.all().delete()


@pytest.mark.django_db
def test_an_export_changes_nothing_when_imported() -> None:
    import_file(PROJECT_ROOT / "config.example.yaml")

    report = import_text(export_text(), prune=True)

    assert report.changes == []
    assert report.kept == []


@pytest.mark.django_db
def test_an_export_rebuilds_an_empty_gateway(environment: Environment) -> None:
    """The same keys work and a second export is the same, letter for letter."""
    import_file(PROJECT_ROOT / "config.example.yaml")
    text = export_text(secrets_as_variables=True)
    digests = dict(ApiKey.objects.values_list("name", "digest"))
    public_ids = dict(ApiKey.objects.values_list("name", "public_id"))

    wipe()
    environment(OPENAI_BACKUP_API_KEY="sk-replace-me")
    report = import_text(text)

    assert report.secrets == {}
    assert dict(ApiKey.objects.values_list("name", "digest")) == digests
    assert dict(ApiKey.objects.values_list("name", "public_id")) == public_ids
    assert Credential.objects.get(name="backup").stored_secret() == "sk-replace-me"
    assert export_text(secrets_as_variables=True) == text


@pytest.mark.django_db
def test_no_secret_leaves_in_clear() -> None:
    load(
        f"providers: {{openai: {{credentials: [{{api_key: {SECRET}}}, {{name: other, api_key: 'env:OTHER'}}]}}}}\n"
        f"teams: {{t: {{}}}}\nkeys: {{k: {{team: t, secret: {SECRET}}}}}\n"
    )

    plain, placeholders = export_text(), export_text(secrets_as_variables=True)

    assert SECRET not in plain + placeholders
    assert "fernet" not in plain + placeholders
    assert yaml.safe_load(plain)["providers"]["openai"]["credentials"] == [
        {"name": "main", "enabled": True},
        {"name": "other", "api_key": "env:OTHER", "enabled": True},
    ]
    assert yaml.safe_load(placeholders)["providers"]["openai"]["credentials"][0]["api_key"] == "${OPENAI_MAIN_API_KEY}"


@pytest.mark.django_db
def test_placeholders_of_like_names_differ() -> None:
    load(
        "providers:\n"
        "  a-b: {adapter: openai, credentials: [{name: c, api_key: one}]}\n"
        "  a.b: {adapter: openai, credentials: [{name: c, api_key: two}]}\n"
        "  1st: {adapter: openai, credentials: [{name: c, api_key: three}]}\n"
    )

    found = re.findall(r"\$\{(\w+)\}", export_text(secrets_as_variables=True))

    assert sorted(found) == ["A_B_C_API_KEY", "A_B_C_API_KEY_2", "_1ST_C_API_KEY"]


@pytest.mark.django_db
def test_a_credential_that_cannot_be_decrypted_is_exported_without_its_key() -> None:
    load("providers: {openai: {credentials: [{api_key: sk-test}]}}\n")
    Credential.objects.update(encrypted_secret="fernet:broken")

    assert "api_key" not in export_text()


@pytest.mark.django_db
def test_revoked_keys_are_not_exported() -> None:
    load("teams: {t: {}}\nkeys: {k: {team: t}}\n")
    services.key_revoke(ApiKey.objects.get())

    assert "keys" not in yaml.safe_load(export_text())


@pytest.mark.django_db
def test_people_without_an_address_are_named_by_user_name() -> None:
    team = Team.objects.create(name="t")
    Membership.objects.create(team=team, user=User.objects.create_user("root"))

    assert yaml.safe_load(export_text())["teams"]["t"]["members"] == [{"username": "root", "role": "member"}]


@pytest.mark.django_db
def test_a_key_of_an_older_pepper_says_so(environment: Environment) -> None:
    load("teams: {t: {}}\nkeys: {k: {team: t}}\n")
    old = services.newest_pepper()
    environment(GATEWAY_KEY_PEPPERS=f"{'ab' * 32},{old.hex()}")

    text = export_text()

    assert yaml.safe_load(text)["keys"]["k"]["pepper"] == ApiKey.objects.get().pepper_id
    assert import_text(text).changes == []


@pytest.mark.django_db
def test_an_empty_gateway_exports_a_file_that_can_be_imported() -> None:
    assert import_text(export_text(), prune=True).changes == []


@pytest.mark.django_db
def test_a_text_that_looks_like_a_variable_comes_back_as_it_was() -> None:
    load("teams: {t: {}}\nkeys: {k: {team: t, user_id: '$${HOME} $$${x'}}\n".replace("$$${x", "$${x"))
    assert ApiKey.objects.get().user_id == "${HOME} ${x"

    assert import_text(export_text()).changes == []


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # Hypothesis adds the zone.
NETWORKS = st.ip_addresses().map(str) | st.ip_addresses(v=4).map(lambda address: f"{address}/32")
FIGURES = st.decimals(0, 1000, places=6).map(str)


USD = st.decimals(0, 1_000_000, places=12).map(str)


PARAMETERS: dict[str, Any] = {
    "temperature": 0.25, "max_tokens": 10, "stop": ["2026-01-01", "yes", "1", "$${HOME}"], "user": None, "store": True,
    "response_format": {"type": "json_object"},
}  # fmt: skip
"""Values that YAML might take for others."""


@st.composite
def limits(draw: st.DrawFn, *, of_place: bool = False) -> dict[str, Any]:
    """A limit that a provider, deployment or alias may have, or anybody who asks."""
    metric = draw(st.sampled_from(["requests", "tokens", "input_tokens", "output_tokens", "concurrency"]))
    periods = ["minute", "hour", "day", "week", "month", "total"]
    per = None if metric == "concurrency" else draw(st.sampled_from(periods))
    of_period: dict[str | None, dict[str, Any]] = {
        "minute": {"burst": draw(st.none() | st.integers(0, 10**9))},
        "week": {"starts_on": draw(st.sampled_from(["monday", "sunday"]))},
        "month": {"starts_on": draw(st.none() | st.integers(1, 28))},
        "total": {"reset": "30d", "reset_anchor": draw(st.none() | MOMENTS.map(datetime.isoformat))},
    }
    whose = {} if of_place else draw(st.sampled_from([{}, {"scope": "ip"}, {"scope": "end_user"}, {"model": "m"}]))
    return {
        "metric": metric,
        "per": per,
        "amount": draw(st.integers(0, 10**12)),
        **of_period.get(per, {}),
        **whose,
        "oversize": "first_in_window" if "tokens" in metric and draw(st.booleans()) else None,
        "shadow": draw(st.booleans()),
        "enabled": draw(st.booleans()),
    }


def _told_apart(limit: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(limit.get(name) for name in ("scope", "model", "metric", "per", "shadow"))


LIMITS = st.lists(limits(), max_size=3, unique_by=_told_apart)
PLACE_LIMITS = st.lists(limits(of_place=True), max_size=2, unique_by=_told_apart)


@st.composite
def a_budget(draw: st.DrawFn) -> dict[str, Any]:
    window = draw(st.sampled_from(["hour", "day", "week", "month", "total"]))
    credit = st.fixed_dictionaries(
        {
            "amount_usd": st.decimals(1, 1000, places=2).map(str),
            "note": TEXTS.map(lambda text: text.replace("${", "").strip()),
            "expires_at": st.none() | MOMENTS.map(datetime.isoformat),
        }
    )
    increase = {"amount_usd": draw(USD), "until": draw(MOMENTS).isoformat(), "reason": "launch"}
    return {
        "name": draw(NAMES),
        "window": window,
        "limit_usd": draw(USD),
        "mode": draw(st.sampled_from(["expected", "strict"])),
        "alerts": draw(st.lists(st.integers(1, 100), max_size=3, unique=True)),
        "starts_on": draw(st.sampled_from([None, "friday"])) if window == "week" else None,
        "increase": draw(st.sampled_from([None, increase])),
        "credits": draw(st.lists(credit, max_size=3)) if window == "total" else None,
        "enabled": draw(st.booleans()),
    }


BUDGETS = st.lists(a_budget(), max_size=3, unique_by=lambda budget: budget["name"])


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration in which every name that is referred to exists."""
    names = st.lists(NAMES, min_size=1, max_size=3, unique=True)
    providers = [f"p-{name}" for name in draw(names)]
    credentials = draw(names)
    deployments, networks, teams = draw(names), draw(names), draw(names)
    credential = {"api_key": draw(st.sampled_from(["env:X", "file:/x", "sk-plain"])), "enabled": draw(st.booleans())}
    return {
        "version": 1,
        "providers": {
            name: {
                "adapter": "openai",
                "base_url": draw(st.sampled_from(["", "https://8.8.8.8/v1"])),
                "allow_private_network": draw(st.booleans()),
                "credentials": [{"name": item, **credential} for item in credentials],
                "limits": draw(PLACE_LIMITS),
                "budgets": draw(BUDGETS),
                "enabled": draw(st.booleans()),
            }
            for name in providers
        },
        "deployments": {
            name: {
                "provider": draw(st.sampled_from(providers)),
                "model": draw(NAMES),
                "credential": draw(st.sampled_from([*credentials, None])),
                "inject_usage": draw(st.booleans()),
                "timeouts": {
                    "connect_s": draw(st.integers(1, 86_400)),
                    "idle_s": draw(st.floats(0.001, 86_400)),
                    "drain_s": draw(st.integers(0, 3_600)),
                },
                "max_output_tokens": draw(st.none() | st.integers(1, 10**6)),
                "max_request_usd": draw(st.none() | USD),
                "limits": draw(PLACE_LIMITS),
                "health": draw(st.sampled_from([None, {"path": "/healthz"}, {"interval_s": 2.5, "healthy_after": 1}])),
                "draining": draw(st.sampled_from([None, True, False])),
                "enabled": draw(st.booleans()),
            }
            for name in deployments
        },
        "aliases": {
            name: {
                "strategy": draw(st.sampled_from(["weighted", "priority", "lowest_cost"])),
                "sticky": draw(st.sampled_from(["key", "session", None])),
                "targets": [
                    {"deployment": target, "weight": draw(st.integers(1, 10_000))}
                    for target in draw(st.permutations(deployments))
                ]
                + draw(st.sampled_from([[], [{"alias": "m", "canary_percent": 12.5}]])),
                "rules": draw(
                    st.lists(
                        st.fixed_dictionaries(
                            {"when": st.sampled_from(["true", 'request.model == "$${x}"']), "use": st.just("m")}
                        ),
                        max_size=2,
                    )
                ),
                "fallbacks": draw(st.sampled_from([[], ["m"], ["m", {"on": "content_policy", "use": "m"}]])),
                "parameters": draw(st.sampled_from([{}, {"defaults": PARAMETERS}, {"overrides": PARAMETERS}])),
                "timeouts": draw(st.sampled_from([{}, {"first_token_s": 0.5}, {"idle_s": 3, "total_s": 9}])),
                "retries": draw(st.sampled_from([{}, {"attempts": 0}])),
                "cache": draw(
                    st.sampled_from(
                        [None, {"ttl_s": 9}, {"ttl_s": 1.5, "mode": "semantic", "embeddings": "m", "similarity": 0.9}]
                    )
                ),
                "hedge": draw(st.sampled_from([None, {"max_usd": "0.01"}, {"max_usd": "1", "after_s": 0.5}])),
                "mirror": draw(st.sampled_from([None, {"alias": "m", "percent": 2.5}])),
                "limits": draw(PLACE_LIMITS),
                "budgets": draw(BUDGETS),
                "enabled": draw(st.booleans()),
            }
            for name in draw(names)
        }
        | {"m": {"targets": [{"deployment": deployments[0]}]}},
        "prices": [
            {
                "provider": provider,
                "model": draw(NAMES),
                "input": draw(FIGURES),
                "cache_read": draw(st.none() | FIGURES),
                "reasoning": draw(st.none() | FIGURES),
                "request": draw(st.decimals(0, 10, places=12).map(str)),
                "effective_from": draw(MOMENTS).isoformat(),
            }
            for provider in providers
        ],
        "networks": {name: draw(st.lists(NETWORKS, max_size=3)) for name in networks},
        "teams": {
            name: {
                "time_zone": draw(st.sampled_from(["UTC", "Europe/Berlin"])),
                "own_keys": draw(st.sampled_from(["inherit", "allow", "refuse"])),
                "limits": draw(LIMITS),
                "budgets": draw(BUDGETS),
                "members": [{"email": f"{number}@example.org"} for number in range(draw(st.integers(0, 2)))],
            }
            for name in teams
        },
        "keys": {
            name: {
                "team": draw(st.sampled_from(teams)),
                "user_id": draw(TEXTS).replace("${", ""),
                "models": draw(st.lists(NAMES, max_size=3)),
                "networks": draw(st.lists(st.sampled_from(networks), unique=True)),
                "allowed_ips": draw(st.lists(NETWORKS, max_size=2)),
                "priority": draw(st.integers(-100, 100)),
                "may_bypass_health": draw(st.booleans()),
                "tenants": draw(st.lists(st.sampled_from(teams), unique=True)),
                "expires_at": draw(st.none() | MOMENTS.map(datetime.isoformat)),
                "limits": draw(LIMITS),
                "budgets": draw(BUDGETS),
                "enabled": draw(st.booleans()),
            }
            for name in draw(names)
        },
        "limits": draw(LIMITS),
        "budgets": draw(BUDGETS),
        "settings": {
            "retries": {
                "attempts": draw(st.integers(0, 32_767)),
                "factor": draw(st.sampled_from([1, 1.5, 10])),
                "jitter": draw(st.sampled_from(["full", 0, 0.25])),
            },
            "circuits": draw(st.sampled_from([{}, {"mode": "log", "failures": 2, "open_s": 1.5}])),
            "load": {"max_queued": draw(st.integers(0, 10**6))},
            "cache": {"enabled": draw(st.booleans())},
            "vendor_models": draw(st.sampled_from([{}, {"openai": "m"}])),
            "admission": {"quota_status": draw(st.sampled_from([402, 403, 429]))},
            "estimation": {"chars_per_token_by_provider": draw(st.sampled_from([{}, {"openai": 4.5}]))},
        },
    }


class TestAnyConfiguration(TestCase):
    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(document=documents())
    def test_survives_import_export_and_import(self, document: dict[str, Any]) -> None:
        import_text(yaml.safe_dump(document, allow_unicode=True))
        text = export_text()

        assert import_text(text, prune=True).changes == []
        assert import_text(yaml.safe_dump(document, allow_unicode=True)).changes == []

        exported = yaml.safe_load(text)
        for price, written in zip(
            sorted(document["prices"], key=lambda item: item["provider"]),
            sorted(exported["prices"], key=lambda item: item["provider"]),
            strict=True,
        ):
            assert Decimal(written["input"]) == Decimal(price["input"])
        assert exported["keys"].keys() == document["keys"].keys()
        assert len(exported.get("limits", [])) == len(document["limits"])
        assert Provider.objects.count() == len(document["providers"])
