"""Providers, credentials, deployments and aliases in the admin: secrets are write-only, errors name their field."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from providers import connection_check
from providers.models import AliasTarget, Credential, ModelAlias, Provider
from tests.llmgateway.admin.world import STORED_SECRET, World

pytestmark = pytest.mark.django_db
NO_RULES = {f"{prefix}-{name}": "0" for prefix in ("limits", "budgets") for name in ("TOTAL_FORMS", "INITIAL_FORMS")}
NO_ROWS = {"credentials-TOTAL_FORMS": "0", "credentials-INITIAL_FORMS": "0", **NO_RULES}


def _errors(response: Any) -> dict[str, list[str]]:
    return {
        name: [str(error) for error in errors] for name, errors in response.context["adminform"].form.errors.items()
    }


def _change(instance: Any) -> str:
    return reverse(f"admin:providers_{instance._meta.model_name}_change", args=[instance.pk])


def test_a_stored_key_is_on_no_page(owner: Client, world: World) -> None:
    for url in (
        reverse("admin:providers_credential_changelist"), _change(world.credential), _change(world.provider),
        _change(world.deployment), reverse("admin:providers_credential_history", args=[world.credential.pk]),
    ):  # fmt: skip
        page = owner.get(url).content.decode()

        assert STORED_SECRET not in page, url
        assert world.credential.encrypted_secret not in page, url


def test_an_empty_secret_keeps_the_present_one(owner: Client, world: World) -> None:
    owner.post(_change(world.credential), {"provider": world.provider.pk, "name": "renamed", "secret": ""})

    credential = Credential.objects.get(pk=world.credential.pk)
    assert credential.name == "renamed"
    assert credential.stored_secret() == STORED_SECRET


def test_a_new_secret_replaces_the_present_one_and_is_recorded_as_changed(owner: Client, world: World) -> None:
    new = "sk-upstream-replacement-9876543210"
    owner.post(_change(world.credential), {"provider": world.provider.pk, "name": "main", "secret": new})

    assert Credential.objects.get(pk=world.credential.pk).stored_secret() == new
    page = owner.get(_change(world.credential))
    differences = {difference.field: difference for difference in page.context["changes"][0].differences}
    assert (differences["encrypted secret"].before, differences["encrypted secret"].after) == ("(hidden)", "(hidden)")
    assert new not in page.content.decode()


def test_a_reference_is_shown_with_whether_it_leads_anywhere(owner: Client, world: World, tmp_path: Any) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-the-file")
    for reference, text in (
        (f"file:{file}", f"file:{file}"),
        ("env:NOT_SET_ANYWHERE", "env:NOT_SET_ANYWHERE (not found)"),
    ):
        world.credential.set_secret(reference)
        world.credential.save()

        page = owner.get(_change(world.credential)).content.decode()

        assert text in page
        assert "sk-from-the-file" not in page


@pytest.mark.parametrize(
    ("secret", "message"), [("", "Enter the provider"), ("two words", "no spaces"), ("env:", "what `env:`")]
)
def test_a_bad_secret_is_refused_by_its_field(owner: Client, world: World, secret: str, message: str) -> None:
    response = owner.post(
        reverse("admin:providers_credential_add"), {"provider": world.provider.pk, "name": "second", "secret": secret}
    )

    assert message in " ".join(_errors(response)["secret"])
    assert Credential.objects.count() == 1


def test_a_provider_is_added_together_with_its_credential(owner: Client, world: World) -> None:
    owner.post(
        reverse("admin:providers_provider_add"),
        {
            "name": "other", "adapter": "openai_compatible", "base_url": "https://api.other.example/v1", "enabled": "on",
            "credentials-TOTAL_FORMS": "1", "credentials-INITIAL_FORMS": "0", "credentials-0-name": "main",
            "credentials-0-secret": "sk-other-0123456789", "credentials-0-enabled": "on", **NO_RULES,
        },
    )  # fmt: skip

    assert Provider.objects.get(name="other").credentials.get().stored_secret() == "sk-other-0123456789"


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"name": "admin"}, "name", "choose another name"),
        ({"adapter": "no-such"}, "adapter", "no-such"),
        ({"base_url": "ftp://x.example"}, "base_url", "not an http"),
        ({"base_url": "http://127.0.0.1:8001/v1"}, "base_url", "private network"),
        ({"base_url": ""}, "base_url", "no address of its own"),
    ],
)
def test_a_provider_that_cannot_be_called_is_refused_by_field(
    owner: Client, world: World, values: dict[str, str], field: str, message: str
) -> None:
    form = {"name": "other", "adapter": "openai_compatible", "base_url": "https://api.other.example/v1", **values}

    response = owner.post(reverse("admin:providers_provider_add"), {**form, **NO_ROWS})

    assert message in " ".join(_errors(response)[field])
    assert Provider.objects.count() == 1


def test_a_credential_of_another_provider_is_refused_by_its_field(owner: Client, world: World) -> None:
    other = Provider.objects.create(name="other", adapter="openai_compatible", base_url="https://api.other.example")

    response = owner.post(
        _change(world.deployment),
        {
            "name": "acme-small", "provider": other.pk, "credential": world.credential.pk, "model": "small-1",
            "connect_timeout_s": "5", "first_token_timeout_s": "60", "idle_timeout_s": "120", "total_timeout_s": "600", "drain_s": "0",
        },
    )  # fmt: skip

    assert _errors(response) == {"credential": ["Choose a credential of other."]}


def _targets(*rows: tuple[int, str]) -> dict[str, str]:
    form = {"targets-TOTAL_FORMS": str(len(rows)), "targets-INITIAL_FORMS": "0", **NO_RULES}
    for number, (deployment, weight) in enumerate(rows):
        form |= {
            f"targets-{number}-deployment": str(deployment),
            f"targets-{number}-weight": weight,
            f"targets-{number}-position": "0",
        }
    return form


def test_an_alias_is_added_with_weighted_targets(owner: Client, world: World) -> None:
    form = {"name": "coder", "strategy": "weighted", "enabled": "on", **_targets((world.deployment.pk, "5"))}

    owner.post(reverse("admin:providers_modelalias_add"), form)

    assert AliasTarget.objects.get(alias__name="coder").weight == 5
    page = owner.get(reverse("admin:providers_modelalias_changelist")).content.decode()
    assert "acme-small 100 %" in page


def test_an_alias_retires_in_favour_of_another(owner: Client, world: World) -> None:
    form = {"name": "coder", "strategy": "weighted", "enabled": "on", "replacement": "coder", **_targets()}
    url = reverse("admin:providers_modelalias_add")

    refused = owner.post(url, form | {"retires_at_0": "2027-01-31", "retires_at_1": "00:00:00"})
    owner.post(url, form | {"retires_at_0": "2027-01-31", "retires_at_1": "00:00:00", "replacement": "small"})

    assert _errors(refused) == {"replacement": ["A model cannot replace itself; name another one."]}
    alias = ModelAlias.objects.get(name="coder")
    assert alias.replacement == "small"
    assert alias.retires_at is not None


@pytest.mark.parametrize(("weights", "message"), [(("0",), "greater than or equal to 1"), (("1", "2"), "duplicate")])
def test_targets_that_make_no_sense_are_refused(
    owner: Client, world: World, weights: tuple[str, ...], message: str
) -> None:
    form = {"name": "coder", "strategy": "weighted", **_targets(*((world.deployment.pk, weight) for weight in weights))}

    response = owner.post(reverse("admin:providers_modelalias_add"), form)

    assert message in response.content.decode()
    assert not ModelAlias.objects.filter(name="coder").exists()


def test_a_deployment_in_use_cannot_be_deleted(owner: Client, world: World) -> None:
    response = owner.post(reverse("admin:providers_deployment_delete", args=[world.deployment.pk]), {"post": "yes"})

    assert response.status_code == 200
    assert "acme-small × 3" in response.content.decode()
    world.deployment.refresh_from_db()


def test_the_connection_is_tested_on_request_only(owner: Client, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def check(deployment: Any) -> connection_check.ConnectionResult:
        asked.append(deployment)
        return connection_check.ConnectionResult(ok=True, headline="HTTP 200 in 12 ms", detail="Connected.")

    monkeypatch.setattr("providers.admin.deployments.check_connection", check)
    url = reverse("admin:providers_deployment_test_connection", args=[world.deployment.pk])

    assert "HTTP 200" not in owner.get(url).content.decode()
    assert asked == []
    assert "HTTP 200 in 12 ms" in owner.post(url).content.decode()
    chosen = {"action": "test_selected", "_selected_action": [world.deployment.pk]}
    page = owner.post(reverse("admin:providers_deployment_changelist"), chosen, follow=True).content.decode()
    assert "acme-small: HTTP 200 in 12 ms. Connected." in page
    assert asked == [world.deployment, world.deployment]


def test_who_may_only_read_cannot_send_requests(auditor: Client, world: World) -> None:
    url = reverse("admin:providers_deployment_test_connection", args=[world.deployment.pk])

    assert auditor.get(url).status_code == 403
    assert auditor.post(url).status_code == 403
