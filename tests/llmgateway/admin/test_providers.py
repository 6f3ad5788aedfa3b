"""Providers, credentials, deployments and aliases in the admin: secrets are write-only, errors name their field."""

from __future__ import annotations

import html
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from providers import connection_check
from providers.models import AliasTarget, Credential, ModelAlias, Provider
from tests.llmgateway.admin.world import STORED_SECRET, World

pytestmark = pytest.mark.django_db
NO_RULES = {f"{prefix}-{name}": "0" for prefix in ("limits", "budgets") for name in ("TOTAL_FORMS", "INITIAL_FORMS")}
PROBE = {
    "probe_path": "/models", "probe_interval_s": "10", "probe_timeout_s": "5", "probe_unhealthy_after": "3",
    "probe_healthy_after": "2",
}  # fmt: skip
ALIAS = {
    "name": "coder", "strategy": "weighted", "enabled": "on", "cache_mode": "exact", "cache_similarity": "0.95",
    "mirror_percent": "0",
}  # fmt: skip
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
            **PROBE,
        },
    )  # fmt: skip

    assert _errors(response) == {"credential": ["Choose a credential of other."]}


def _targets(*rows: tuple[int, str]) -> dict[str, str]:
    form = {"targets-TOTAL_FORMS": str(len(rows)), "targets-INITIAL_FORMS": "0", **NO_RULES, **_rows("rules")}
    form |= _rows("fallbacks")
    for number, (deployment, weight) in enumerate(rows):
        form |= {
            f"targets-{number}-deployment": str(deployment),
            f"targets-{number}-weight": weight,
            f"targets-{number}-canary_percent": "0",
            f"targets-{number}-position": "0",
        }
    return form


def _rows(prefix: str, *rows: dict[str, Any], initial: int = 0) -> dict[str, str]:
    """The rows of one table of a form."""
    form = {f"{prefix}-TOTAL_FORMS": str(len(rows)), f"{prefix}-INITIAL_FORMS": str(initial)}
    for number, row in enumerate(rows):
        form |= {f"{prefix}-{number}-{name}": str(value) for name, value in row.items()}
    return form


def test_an_alias_is_added_with_weighted_targets(owner: Client, world: World) -> None:
    form = {**ALIAS, **_targets((world.deployment.pk, "5"))}

    owner.post(reverse("admin:providers_modelalias_add"), form)

    assert AliasTarget.objects.get(alias__name="coder").weight == 5
    page = owner.get(reverse("admin:providers_modelalias_changelist")).content.decode()
    assert "acme-small 100 %" in page


def test_an_alias_retires_in_favour_of_another(owner: Client, world: World) -> None:
    form = {**ALIAS, "replacement": "coder", **_targets()}
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
    form = {**ALIAS, **_targets(*((world.deployment.pk, weight) for weight in weights))}

    response = owner.post(reverse("admin:providers_modelalias_add"), form)

    assert message in response.content.decode()
    assert not ModelAlias.objects.filter(name="coder").exists()


def _as_shown(page: Any) -> dict[str, str]:
    """What a browser would send back of a form that was opened."""
    forms = [page.context["adminform"].form]
    for formset in (each.formset for each in page.context["inline_admin_formsets"]):
        forms += [formset.management_form, *formset.forms]
    sent: dict[str, str] = {}
    for form in forms:
        for bound in form:
            value = bound.value()
            if value is True:
                sent[bound.html_name] = "on"
            elif value is not None and value is not False:
                sent[bound.html_name] = str(value)
    return sent


class TestWhatAnAliasDecides:
    def test_rules_fallbacks_canaries_and_parameters_are_saved(self, owner: Client, world: World) -> None:
        cheap = ModelAlias.objects.create(name="cheap")
        form = {
            **ALIAS, **_targets((world.deployment.pk, "1")), "strategy": "lowest_latency", "sticky": "session",
            "targets-0-canary_percent": "12.5", "parameter_defaults": '{"temperature": 0.2}', "parameter_overrides": "",
            "first_token_timeout_s": "2", "retry_attempts": "0", "cache_ttl_s": "60", "hedge_max_pico_usd": "0.01",
            "mirror_alias": str(cheap.pk), "mirror_percent": "5",
            **_rows("rules", {"name": "long", "when": "request.input_tokens > 100", "use": cheap.pk, "position": 0,
                              "enabled": "on"}),
            **_rows("fallbacks", {"cause": "context_too_long", "use": cheap.pk, "position": 0}),
        }  # fmt: skip

        owner.post(reverse("admin:providers_modelalias_add"), form)

        alias = ModelAlias.objects.get(name="coder")
        assert (alias.strategy, alias.sticky, alias.retry_attempts) == ("lowest_latency", "session", 0)
        assert (alias.parameter_defaults, alias.parameter_overrides) == ({"temperature": 0.2}, {})
        assert (alias.first_token_timeout_s, alias.idle_timeout_s, alias.cache_ttl_s) == (2, None, 60)
        assert (alias.hedge_max_pico_usd, alias.mirror_alias, alias.mirror_percent) == (10_000_000_000, cheap, 5)
        assert alias.targets.get().canary_percent == 12.5
        assert (alias.rules.get().when, alias.rules.get().use) == ("request.input_tokens > 100", cheap)
        assert (alias.fallbacks.get().cause, alias.fallbacks.get().use) == ("context_too_long", cheap)
        assert "acme-small 12.5 % first" in owner.get(reverse("admin:providers_modelalias_changelist")).content.decode()

    def test_a_page_that_is_saved_as_it_was_shown_changes_nothing(self, owner: Client, world: World) -> None:
        cheap = ModelAlias.objects.create(name="cheap")
        world.alias.rules.create(name="r", when="request.stream", use=cheap)
        ModelAlias.objects.filter(pk=world.alias.pk).update(
            parameter_overrides={"seed": None}, hedge_max_pico_usd=5, cache_generation=3
        )
        before = ModelAlias.objects.filter(pk=world.alias.pk).values().get()
        page = owner.get(_change(world.alias))

        response = owner.post(_change(world.alias), _as_shown(page))

        assert response.status_code == 302
        assert ModelAlias.objects.filter(pk=world.alias.pk).values().get() == before
        assert owner.get(_change(world.alias)).context["changes"] == page.context["changes"]

    @pytest.mark.parametrize(
        ("prefix", "row"),
        [
            ("fallbacks", {"cause": "error", "position": 0}),
            ("rules", {"name": "r", "when": "true", "position": 0}),
        ],
    )
    def test_a_circle_is_refused_at_the_row_that_closes_it(
        self, owner: Client, world: World, prefix: str, row: dict[str, Any]
    ) -> None:
        cheap = ModelAlias.objects.create(name="cheap")
        AliasTarget.objects.create(alias=cheap, target_alias=world.alias)
        form = _as_shown(owner.get(_change(world.alias))) | _rows(prefix, {**row, "use": cheap.pk})

        response = owner.post(_change(world.alias), form)

        assert "small → cheap → small is a circle: no alias may lead back to itself." in response.content.decode()

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"parameter_defaults": "{temperature: 1}"}, "This is not JSON"),
            ({"parameter_defaults": "[1]"}, "Write fields with their values"),
            ({"parameter_defaults": '{"temperature": NaN}'}, "a value that JSON does not know"),
            ({"parameter_defaults": r'{"stop": "\u0000"}'}, "no NUL among them"),
            ({"parameter_overrides": '{"stream": true}'}, "stream cannot be set here"),
            ({"cache_ttl_s": "60", "cache_mode": "semantic"}, "Choose the alias that turns questions into vectors"),
            ({"hedge_max_pico_usd": "much"}, "much is not an amount"),
            (_rows("rules", {"name": "r", "when": "request.nope", "position": 0}), "There is no `request.nope`"),
            (_rows("targets", {"weight": 2, "canary_percent": 0, "position": 0}), "Choose a deployment or an alias"),
        ],
    )
    def test_what_makes_no_sense_is_told(
        self, owner: Client, world: World, values: dict[str, str], message: str
    ) -> None:
        form = {**ALIAS, **_targets(), **values}

        response = owner.post(reverse("admin:providers_modelalias_add"), form)

        assert message in html.unescape(response.content.decode())
        assert not ModelAlias.objects.filter(name="coder").exists()

    def test_canaries_get_all_requests_at_most(self, owner: Client, world: World) -> None:
        other = ModelAlias.objects.create(name="other")
        targets = (
            {"deployment": world.deployment.pk, "target_alias": ""},
            {"deployment": "", "target_alias": other.pk},
        )
        rows = [{**target, "weight": 1, "canary_percent": 60, "position": 0} for target in targets]

        response = owner.post(
            reverse("admin:providers_modelalias_add"), {**ALIAS, **_targets(), **_rows("targets", *rows)}
        )

        assert "The canaries get 120 percent of the requests together" in response.content.decode()

    def test_an_alias_that_others_use_cannot_be_deleted(self, owner: Client, world: World) -> None:
        cheap = ModelAlias.objects.create(name="cheap")
        world.alias.fallbacks.create(use=cheap)

        response = owner.post(reverse("admin:providers_modelalias_delete", args=[cheap.pk]), {"post": "yes"})

        assert response.status_code == 200
        assert ModelAlias.objects.filter(pk=cheap.pk).exists()

    def test_kept_answers_are_forgotten_and_that_is_on_record(self, owner: Client, world: World) -> None:
        chosen = {"action": "forget_answers", "_selected_action": [world.alias.pk]}

        page = owner.post(reverse("admin:providers_modelalias_changelist"), chosen, follow=True)

        assert "Kept answers of small are forgotten." in page.content.decode()
        world.alias.refresh_from_db()
        assert world.alias.cache_generation == 1
        assert owner.get(_change(world.alias)).context["changes"][0].differences[0].field == "cache generation"


class TestDraining:
    def test_a_deployment_is_drained_and_put_back_from_the_list(self, owner: Client, world: World) -> None:
        url = reverse("admin:providers_deployment_changelist")
        chosen = {"_selected_action": [world.deployment.pk]}

        drained = owner.post(url, {"action": "drain_selected", **chosen}, follow=True).content.decode()
        again = owner.post(url, {"action": "drain_selected", **chosen}, follow=True).content.decode()
        back = owner.post(url, {"action": "put_back_selected", **chosen}, follow=True).content.decode()

        assert "Within a second acme-small gets no new requests; what runs goes on." in drained
        assert "Nothing to do: they are drained already." in again
        assert "Within a second acme-small gets requests again." in back
        changes = owner.get(_change(world.deployment)).context["changes"]
        assert [entry.differences[0].after for entry in changes[:2]] == ["no", "yes"]

    def test_who_only_reads_cannot_drain(self, auditor: Client, world: World) -> None:
        chosen = {"action": "drain_selected", "_selected_action": [world.deployment.pk]}

        auditor.post(reverse("admin:providers_deployment_changelist"), chosen)

        world.deployment.refresh_from_db()
        assert not world.deployment.draining


def test_a_deployment_in_use_cannot_be_deleted(owner: Client, world: World) -> None:
    response = owner.post(reverse("admin:providers_deployment_delete", args=[world.deployment.pk]), {"post": "yes"})

    page = reverse("admin:providers_modelalias_change", args=[world.alias.pk])
    assert response.status_code == 200
    assert f'href="{page}">the alias target of small</a>' in response.content.decode()
    world.deployment.refresh_from_db()


def test_an_alias_in_use_cannot_be_deleted_and_who_uses_it_is_named(owner: Client, world: World) -> None:
    other = ModelAlias.objects.create(name="<other>", mirror_alias=world.alias, mirror_percent=1)
    other.rules.create(name="long", when="true", use=world.alias)

    response = owner.post(reverse("admin:providers_modelalias_delete", args=[world.alias.pk]), {"post": "yes"})

    text = response.content.decode()
    for user in ("model alias &lt;other&gt;", "the rule long of &lt;other&gt;"):
        assert f">{user}</a>" in text
    world.alias.refresh_from_db()


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
