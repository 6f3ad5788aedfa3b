"""Keys in the admin: a secret is shown once and found nowhere afterwards; actions do what they say."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing.models import Budget
from billing.money import PICO_PER_USD
from llmgateway.key_secrets import digest
from llmgateway.models import ApiKey, RateLimit
from llmgateway.services import newest_pepper
from providers.models import ModelAlias
from tests.llmgateway.admin.world import World, create_record

pytestmark = pytest.mark.django_db
ADD = "/admin/llmgateway/apikey/add/"


def _form(world: World, **values: Any) -> dict[str, Any]:
    """What the browser sends for a key, with nothing filled in but `values`."""
    empty = {f"{prefix}-{name}": "0" for prefix in ("limits", "budgets") for name in ("TOTAL_FORMS", "INITIAL_FORMS")}
    return {"name": "new-key", "team": world.cast.platform.pk, "enabled": "on", "priority": "0", **empty, **values}


def _page(key: ApiKey, name: str) -> str:
    return reverse(f"admin:llmgateway_apikey_{name}", args=[key.pk])


def _secret_on(page: str) -> str:
    found = re.search(r'<code id="secret"[^>]*>([^<]+)</code>', page)
    assert found, "no secret is shown"
    return unescape(found[1])


def _database_dump() -> str:
    """Everything that is stored, sessions included, as text."""
    out = StringIO()
    call_command("dumpdata", stdout=out)
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names():
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            out.write(repr(cursor.fetchall()))
    return out.getvalue()


def _errors(response: Any) -> dict[str, list[str]]:
    return {
        name: [str(error) for error in errors] for name, errors in response.context["adminform"].form.errors.items()
    }


def test_a_new_key_is_shown_once_with_snippets_that_use_it(owner: Client, world: World) -> None:
    page = owner.post(ADD, _form(world, allowed_models=["small"])).content.decode()

    key = ApiKey.objects.get(name="new-key")
    secret = _secret_on(page)
    assert digest(secret.encode(), newest_pepper()).hex() == key.digest
    text = unescape(page)
    assert "curl http://testserver/v1/chat/completions" in text
    assert f"Authorization: Bearer {secret}" in text
    assert f'base_url="http://testserver/v1",\n    api_key="{secret}"' in text
    assert 'model="small"' in text


def test_the_snippets_name_no_disabled_model(owner: Client, world: World) -> None:
    ModelAlias.objects.create(name="a-first-by-name", enabled=False)

    page = unescape(owner.post(ADD, _form(world)).content.decode())

    assert 'model="small"' in page


def test_the_secret_is_nowhere_afterwards(
    owner: Client, world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    response = owner.post(ADD, _form(world))
    secret = _secret_on(response.content.decode())

    assert "no-store" in response.headers["Cache-Control"]
    assert secret not in _database_dump()
    assert secret not in str(dict(owner.session.items()))
    assert secret not in "".join(f"{name}={cookie}" for name, cookie in owner.cookies.items())
    assert secret not in caplog.text
    assert secret not in "".join(capfd.readouterr())
    for page in ("change", "history"):
        assert secret not in owner.get(_page(ApiKey.objects.get(name="new-key"), page)).content.decode()


def test_sending_the_form_again_shows_no_secret(owner: Client, world: World) -> None:
    owner.post(ADD, _form(world))

    again = owner.post(ADD, _form(world))

    assert 'id="secret"' not in again.content.decode()
    assert _errors(again) == {"name": ["API key with this Name already exists."]}


def test_a_chosen_secret_is_kept_as_a_digest_and_never_sent_back_in_a_form(owner: Client, world: World) -> None:
    chosen = "chosen-by-an-admin-0123456789"

    failed = owner.post(ADD, _form(world, name="bad name", secret=chosen))
    assert chosen not in failed.content.decode()

    page = owner.post(ADD, _form(world, secret=chosen)).content.decode()
    assert _secret_on(page) == chosen
    assert chosen not in _database_dump()


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"name": "bad name"}, "name", "is not a usable name"),
        ({"team": ""}, "team", "required"),
        ({"secret": "short"}, "secret", "at least 20 characters"),
        ({"allowed_ips": "10.0.0.0/8\n10.0.0.1/8"}, "allowed_ips", "10.0.0.1/8 is not an address or network"),
        ({"allowed_models": ["no-such-alias"]}, "allowed_models", "no-such-alias"),
        (
            {"starts_at_0": "2026-02-01", "starts_at_1": "0:00", "expires_at_0": "2026-01-01", "expires_at_1": "0:00"},
            "expires_at",
            "must expire after it starts",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_its_field(
    owner: Client, world: World, values: dict[str, Any], field: str, message: str
) -> None:
    response = owner.post(ADD, _form(world, **values))

    assert message in " ".join(_errors(response)[field])
    assert not ApiKey.objects.filter(name__in=["new-key", "bad name"]).exists()


def test_lines_limits_budgets_and_networks_are_saved(owner: Client, world: World) -> None:
    owner.post(
        ADD,
        _form(
            world,
            allowed_ips=" 192.0.2.7 \n\n2001:db8::/32\n",
            network_lists=[world.office.pk],
            **{
                "limits-TOTAL_FORMS": "1", "limits-0-metric": "requests", "limits-0-per": "minute",
                "limits-0-amount": "60", "limits-0-enabled": "on",
                "budgets-TOTAL_FORMS": "1", "budgets-0-name": "day", "budgets-0-window": "day",
                "budgets-0-limit_pico_usd": "$1,234.50", "budgets-0-mode": "expected", "budgets-0-enabled": "on",
            },
        ),
    )  # fmt: skip

    key = ApiKey.objects.get(name="new-key")
    assert key.allowed_ips == ["192.0.2.7", "2001:db8::/32"]
    assert list(key.networks.all()) == [world.office]
    assert RateLimit.objects.get(key=key).amount == 60
    assert Budget.objects.get(key=key).limit_pico_usd == 1234 * PICO_PER_USD + PICO_PER_USD // 2


def test_two_limits_of_the_same_metric_are_refused_and_nothing_is_saved(owner: Client, world: World) -> None:
    row = {"metric": "requests", "per": "minute", "amount": "60"}
    rows = {f"limits-{number}-{name}": value for number in (0, 1) for name, value in row.items()}

    response = owner.post(ADD, _form(world, **{"limits-TOTAL_FORMS": "2", **rows}))

    assert "Another row has the same metric, per, each, model and shadow" in response.content.decode()
    assert not ApiKey.objects.filter(name="new-key").exists()


def test_a_model_whose_alias_is_gone_stays_until_it_is_taken_out(owner: Client, world: World) -> None:
    key = world.cast.research_key
    ModelAlias.objects.filter(name="small").update(name="renamed")

    page = owner.get(_page(key, "change")).content.decode()
    owner.post(_page(key, "change"), _form(world, name=key.name, team=key.team_id, allowed_models=["small", "renamed"]))

    assert "No alias is named small any more" in page
    key.refresh_from_db()
    assert key.allowed_models == ["small", "renamed"]


def test_rotating_asks_first_then_shows_the_new_secret(owner: Client, world: World) -> None:
    key, old = world.key, world.cast.platform_secret
    question = owner.get(_page(key, "rotate_key"))
    assert ApiKey.objects.get(pk=key.pk).digest == key.digest

    seen = question.context["form"].fields["seen"].initial
    page = owner.post(_page(key, "rotate_key"), {"grace_hours": "2", "seen": seen}).content.decode()

    key.refresh_from_db()
    secret = _secret_on(page)
    assert digest(secret.encode(), newest_pepper()).hex() == key.digest
    assert digest(old.encode(), newest_pepper()).hex() == key.previous_digest
    assert key.previous_valid_until is not None
    assert timedelta(hours=1) < key.previous_valid_until - timezone.now() <= timedelta(hours=2)
    assert secret not in _database_dump()


def test_sending_a_rotation_again_neither_rotates_nor_shows_a_secret(owner: Client, world: World) -> None:
    form = {
        "grace_hours": "2",
        "seen": owner.get(_page(world.key, "rotate_key")).context["form"].fields["seen"].initial,
    }
    owner.post(_page(world.key, "rotate_key"), form)
    before = ApiKey.objects.get(pk=world.key.pk).digest

    again = owner.post(_page(world.key, "rotate_key"), form, follow=True)

    assert ApiKey.objects.get(pk=world.key.pk).digest == before
    assert 'id="secret"' not in again.content.decode()
    assert "was rotated meanwhile" in again.content.decode()


@pytest.mark.parametrize("grace", ["", "-1", "soon", "99999"])
def test_a_grace_period_that_cannot_be_used_is_refused(owner: Client, world: World, grace: str) -> None:
    seen = owner.get(_page(world.key, "rotate_key")).context["form"].fields["seen"].initial

    response = owner.post(_page(world.key, "rotate_key"), {"grace_hours": grace, "seen": seen})

    assert response.context["form"].errors["grace_hours"]
    assert ApiKey.objects.get(pk=world.key.pk).digest == world.key.digest


def test_disable_enable_and_revoke_ask_first_and_then_do_it(owner: Client, world: World) -> None:
    def states() -> tuple[bool, bool]:
        key = ApiKey.objects.get(pk=world.key.pk)
        return key.enabled, key.revoked_at is not None

    for page, after in (("disable_key", (False, False)), ("enable_key", (True, False)), ("revoke_key", (True, True))):
        before = states()
        assert owner.get(_page(world.key, page)).status_code == 200
        assert states() == before, f"{page} did it without asking"
        owner.post(_page(world.key, page))
        assert states() == after


def test_a_revoked_key_says_that_it_cannot_come_back(owner: Client, world: World) -> None:
    owner.post(_page(world.key, "revoke_key"))

    page = owner.post(_page(world.key, "enable_key"), follow=True).content.decode()

    assert "is revoked and cannot be enabled; create a new key" in page
    assert "Rotate secret" not in page


def test_the_actions_of_the_list_work_on_the_chosen_keys(owner: Client, world: World) -> None:
    keys = [world.cast.platform_key, world.cast.research_key]
    chosen = {"_selected_action": [key.pk for key in keys]}
    url = reverse("admin:llmgateway_apikey_changelist")

    owner.post(url, {"action": "disable_selected", **chosen})
    assert not ApiKey.objects.filter(enabled=True).exists()
    owner.post(url, {"action": "enable_selected", **chosen})
    assert not ApiKey.objects.filter(enabled=False).exists()
    question = owner.post(url, {"action": "revoke_selected", **chosen}).content.decode()
    assert "Revoke 2 keys for good?" in question
    assert not ApiKey.objects.filter(revoked_at__isnull=False).exists()
    owner.post(url, {"action": "revoke_selected", "confirmed": "yes", **chosen})
    assert ApiKey.objects.filter(revoked_at__isnull=False).count() == 2


def test_a_key_that_may_still_be_used_cannot_be_deleted(owner: Client, world: World) -> None:
    delete = _page(world.key, "delete")

    assert owner.post(delete, {"post": "yes"}).status_code == 403
    owner.post(_page(world.key, "revoke_key"))
    assert owner.post(delete, {"post": "yes"}).status_code == 302
    assert not ApiKey.objects.filter(pk=world.key.pk).exists()


def test_the_page_shows_the_usage_of_the_last_days(owner: Client, world: World) -> None:
    create_record(
        world.key, record_id="yesterday", at=timezone.now() - timedelta(days=1), cost_pico_usd=3 * PICO_PER_USD
    )
    create_record(world.key, record_id="long-ago", at=timezone.now() - timedelta(days=20))
    create_record(world.cast.research_key, record_id="foreign")

    usage = owner.get(_page(world.key, "change")).context["usage"]

    assert [day.requests for day in usage.days] == [1, 1, *[0] * 12]
    assert [day.width for day in usage.days[:3]] == [100, 100, 0]
    assert (usage.total.requests, usage.total.tokens, usage.total.cost) == (2, 2400, "$3.00")


def test_a_change_is_recorded_with_who_did_it(owner: Client, world: World) -> None:
    owner.post(_page(world.key, "disable_key"))

    change = owner.get(_page(world.key, "change")).context["changes"][0]

    assert (change.actor, change.source, change.remote_address) == ("alice", "admin", "127.0.0.1")
    assert [(d.field, d.before, d.after) for d in change.differences] == [("enabled", "yes", "no")]


def test_rank_and_tenants_are_saved_and_on_record(owner: Client, world: World) -> None:
    research = world.cast.research
    values = {"name": world.key.name, "priority": "7", "may_bypass_health": "on", "tenant_teams": [research.pk]}

    owner.post(_page(world.key, "change"), _form(world, **values))

    world.key.refresh_from_db()
    assert (world.key.priority, world.key.may_bypass_health) == (7, True)
    assert list(world.key.tenants.all()) == [research]
    changes = owner.get(_page(world.key, "change")).context["changes"]
    assert {difference.field for entry in changes for difference in entry.differences} >= {"priority", "team"}


def test_a_key_is_no_tenant_of_its_own_team(owner: Client, world: World) -> None:
    owner.post(_page(world.key, "change"), _form(world, name=world.key.name, tenant_teams=[world.key.team_id]))

    assert not world.key.tenants.exists()


@pytest.mark.parametrize("tenants", [["abc"], [10**30], [987_654]])
def test_what_is_no_team_cannot_be_a_tenant(owner: Client, world: World, tenants: list[Any]) -> None:
    response = owner.post(_page(world.key, "change"), _form(world, name=world.key.name, tenant_teams=tenants))

    assert "tenant_teams" in _errors(response)
