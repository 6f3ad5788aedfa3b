"""Providers and their credentials over the management API: secrets go in, stay with their host, and never come out."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry

from billing.models import Price
from llmgateway import conf as conf_module
from llmgateway.models import ConfigChange
from providers.models import Credential, Provider
from tests.llmgateway.admin.world import STORED_SECRET, World
from tests.llmgateway.management_api.conftest import Caller, Callers
from tests.llmgateway.management_api.test_rights import browser

pytestmark = pytest.mark.django_db

NEW_SECRET = "sk-another-0123456789-never-shown"
ELSEWHERE = "https://api.elsewhere.example/v1"


def test_a_provider_that_is_created_is_what_is_read(operator: Caller, world: World) -> None:
    body = {"name": "fresh", "adapter": "openai_compatible", "base_url": ELSEWHERE, "enabled": False}

    response = operator.post("/providers", {**body, "secrets": {"main": NEW_SECRET, "spare": "sk-spare"}})

    shown = response.json()
    assert response.status_code == 201, shown
    assert {name: shown[name] for name in body} == body
    assert shown["credentials"] == ["main", "spare"]
    assert operator.get(f"/providers/{shown['id']}").json() == shown
    row = Provider.objects.get(name="fresh")
    assert row.credentials.get(name="main").stored_secret() == NEW_SECRET
    entries = [LogEntry.objects.get_for_object(each).get() for each in (row, *row.credentials.all())]
    assert all("management API" in str(entry.additional_data) for entry in entries)


def test_a_change_of_a_provider_leaves_what_it_does_not_name(operator: Caller, world: World) -> None:
    path = f"/providers/{world.provider.pk}"
    before = operator.get(path).json()

    after = operator.patch(path, {"enabled": False}).json()

    assert after == {**before, "enabled": False}
    world.credential.refresh_from_db()
    assert world.credential.stored_secret() == STORED_SECRET


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"name": "acme"}, "name", "already exists"),
        ({"name": "manage"}, "name", "choose another name"),
        ({"adapter": "nope"}, "adapter", "There is no adapter named nope"),
        ({"base_url": "ftp://somewhere"}, "base_url", "not an http:// or https:// address"),
        ({"base_url": "http://10.0.0.1/v1"}, "base_url", "on a private network"),
        ({"base_url": ""}, "base_url", "no address of its own"),
        ({"secrets": {"main": "with space"}}, "secrets", "no spaces"),
        ({"secrets": {"main": "env:GATEWAY_SECRET_KEY"}}, "secrets", "Write the key itself"),
        ({"secrets": {"ma in": "sk-1"}}, "secrets", "not a usable name"),
        ({"secrets": ["sk-1"]}, "secrets", "dictionary"),
        ({"credentials": ["main"]}, "credentials", "cannot be written"),
        ({"enable": True}, "enable", "There is no such field"),
    ],
)
def test_a_provider_that_makes_no_sense_is_refused_by_field(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    new = {"name": "fresh", "adapter": "openai_compatible", "base_url": ELSEWHERE, **body}

    response = operator.post("/providers", new)

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field), response.json()
    assert message in error["message"]
    assert "GATEWAY_SECRET_KEY" not in error["message"]
    assert (Provider.objects.count(), Credential.objects.count()) == (1, 1)


@pytest.mark.parametrize("place", [ELSEWHERE, "http://api.acme.example/v1", "https://api.acme.example:8443/v1"])
def test_secrets_do_not_follow_a_provider_to_another_host(operator: Caller, world: World, place: str) -> None:
    path = f"/providers/{world.provider.pk}"

    refused = operator.patch(path, {"base_url": place})
    moved = operator.patch(path, {"base_url": place, "secrets": {"main": NEW_SECRET}})

    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "secrets")
    assert "main was given for the present host" in error["message"]
    assert (moved.status_code, moved.json()["base_url"]) == (200, place)
    world.credential.refresh_from_db()
    assert world.credential.stored_secret() == NEW_SECRET


def test_another_adapter_with_a_host_of_its_own_is_another_host(operator: Caller, world: World) -> None:
    response = operator.patch(f"/providers/{world.provider.pk}", {"adapter": "openai", "base_url": ""})

    assert (response.status_code, response.json()["error"]["param"]) == (400, "secrets")
    world.provider.refresh_from_db()
    assert world.provider.adapter == "openai_compatible"


def test_another_path_of_the_same_host_keeps_the_secrets(operator: Caller, world: World) -> None:
    response = operator.patch(f"/providers/{world.provider.pk}", {"base_url": "https://API.acme.example/v2"})

    assert response.status_code == 200, response.json()


def test_who_may_not_write_credentials_writes_no_secrets(caller: Callers, world: World) -> None:
    path, program = f"/providers/{world.provider.pk}", caller("providers:write")

    refused = program.patch(path, {"secrets": {"main": NEW_SECRET}})

    assert refused.status_code == 403
    assert "lacks the scope credentials:write" in refused.json()["error"]["message"]
    assert program.patch(path, {"enabled": False}).status_code == 200
    world.credential.refresh_from_db()
    assert world.credential.stored_secret() == STORED_SECRET


def test_a_provider_is_deleted_with_what_is_its_own_unless_a_deployment_is_at_it(
    operator: Caller, world: World
) -> None:
    path = f"/providers/{world.provider.pk}"

    refused = operator.delete(path)
    world.alias.targets.all().delete()
    world.deployment.delete()

    assert (refused.status_code, "acme-small" in refused.json()["error"]["message"]) == (409, True)
    assert operator.delete(path).status_code == 204
    assert [model.objects.count() for model in (Provider, Credential, Price)] == [0, 0, 0]


def test_a_secret_goes_in_and_never_comes_out(operator: Caller, world: World) -> None:
    made = operator.post("/credentials", {"provider": "acme", "name": "spare", "secret": NEW_SECRET})
    number = made.json()["id"]
    answers = [
        made,
        operator.get(f"/credentials/{number}"),
        operator.get("/credentials"),
        operator.get("/providers"),
        operator.patch(f"/credentials/{number}", {"secret": NEW_SECRET}),
    ]

    assert made.status_code == 201
    assert made.json() == {
        "id": number, "provider": "acme", "name": "spare", "enabled": True, "secret_state": "stored",
    }  # fmt: skip
    row = Credential.objects.get(pk=number)
    for answer in answers:
        text = answer.content.decode() + str(answer.headers)
        assert not [each for each in (NEW_SECRET, STORED_SECRET, row.encrypted_secret) if each in text]
    logged = " ".join(f"{entry.changes} {entry.additional_data}" for entry in LogEntry.objects.get_for_object(row))
    assert "management API" in logged
    assert not [each for each in (NEW_SECRET, row.encrypted_secret, "fernet:") if each in logged]


@pytest.mark.parametrize(
    ("stored", "state"),
    [("sk-1", "stored"), ("env:SET_HERE", "reference"), ("env:NOT_SET", "not_found"), (None, "unreadable")],
)
def test_what_may_be_said_of_a_secret(
    operator: Caller, world: World, monkeypatch: pytest.MonkeyPatch, stored: str | None, state: str
) -> None:
    known = {**conf_module.conf.values, "SET_HERE": "sk-there"}
    monkeypatch.setattr(conf_module, "conf", conf_module.Conf(known))
    if stored is None:
        Credential.objects.update(encrypted_secret="fernet:of-another-key")
    else:
        world.credential.set_secret(stored)
        world.credential.save()

    assert operator.get(f"/credentials/{world.credential.pk}").json()["secret_state"] == state


def test_a_new_secret_makes_another_entity_tag(operator: Caller, world: World) -> None:
    path = f"/credentials/{world.credential.pk}"
    before = operator.get(path).headers["ETag"]
    of_provider = operator.get(f"/providers/{world.provider.pk}").headers["ETag"]

    changed = operator.patch(path, {"secret": NEW_SECRET}, If_Match=before)
    again = operator.patch(path, {"secret": "sk-third"}, If_Match=before)

    assert (changed.status_code, again.status_code) == (200, 412)
    assert changed.headers["ETag"] != before
    assert operator.get(f"/providers/{world.provider.pk}").headers["ETag"] != of_provider
    world.credential.refresh_from_db()
    assert world.credential.stored_secret() == NEW_SECRET


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"provider": "nope"}, "provider", "There is no nope here"),
        ({"name": "main"}, "name", "acme has a credential main already"),
        ({"name": "ma in"}, "name", "not a usable name"),
        ({"secret": "with space"}, "secret", "no spaces"),
        ({"secret": ""}, "secret", "may not be blank"),
        ({"secret": None}, "secret", "may not be null"),
        ({"secret": "file:/etc/passwd"}, "secret", "Write the key itself"),
        ({"encrypted_secret": "x"}, "encrypted_secret", "There is no such field"),
    ],
)
def test_a_credential_that_makes_no_sense_is_refused_by_field(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    response = operator.post("/credentials", {"provider": "acme", "name": "spare", "secret": NEW_SECRET, **body})

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field), response.json()
    assert message in error["message"]
    assert Credential.objects.count() == 1


def test_a_credential_needs_a_secret_and_stays_with_its_provider(operator: Caller, world: World) -> None:
    Provider.objects.create(name="other", adapter="openai_compatible", base_url=ELSEWHERE)

    bare = operator.post("/credentials", {"provider": "acme", "name": "spare"})
    moved = operator.patch(f"/credentials/{world.credential.pk}", {"provider": "other"})

    assert [answer.json()["error"]["param"] for answer in (bare, moved)] == ["secret", "provider"]
    assert operator.patch(f"/credentials/{world.credential.pk}", {"provider": "acme"}).status_code == 200


def test_a_credential_in_use_cannot_be_deleted(operator: Caller, world: World) -> None:
    path = f"/credentials/{world.credential.pk}"

    refused = operator.delete(path)
    world.deployment.credential = None
    world.deployment.save()

    assert (refused.status_code, "acme-small" in refused.json()["error"]["message"]) == (409, True)
    assert operator.delete(path).status_code == 204
    assert not Credential.objects.exists()


def test_lists_come_in_pages_with_filters(operator: Caller, world: World) -> None:
    for number in range(3):
        Provider.objects.create(name=f"p{number}", adapter="openai_compatible", base_url=ELSEWHERE)

    page = operator.get("/providers?page_size=2&ordering=-name").json()

    assert (page["count"], [row["name"] for row in page["results"]]) == (4, ["p2", "p1"])
    assert page["next"] is not None
    assert [row["name"] for row in operator.get("/credentials?provider=acme").json()["results"]] == ["main"]
    assert operator.get("/credentials?provider=p1").json()["count"] == 0
    assert operator.get("/providers?adaptor=x").status_code == 400


def test_workers_hear_of_every_write(operator: Caller, world: World) -> None:
    operator.patch(f"/providers/{world.provider.pk}", {"enabled": False})
    operator.patch(f"/credentials/{world.credential.pk}", {"secret": NEW_SECRET})

    told = set(ConfigChange.objects.values_list("table_name", "row_id"))

    assert ("providers_provider", str(world.provider.pk)) in told
    assert ("providers_credential", str(world.credential.pk)) in told


@pytest.mark.parametrize("kind", ["providers", "credentials"])
def test_rights(caller: Callers, world: World, kind: str) -> None:
    path = f"/{kind}/{(world.provider if kind == 'providers' else world.credential).pk}"
    reader, stranger = caller(f"{kind}:read"), caller("deployments:write", "models:write")

    assert (reader.get(path).status_code, reader.get(f"/{kind}").status_code) == (200, 200)
    answers = [reader.post(f"/{kind}", {}), reader.patch(path, {"enabled": False}), reader.delete(path)]
    assert {answer.status_code for answer in [*answers, stranger.get(path)]} == {403}
    assert browser(world.cast.bob).get(f"/manage/api/v1{path}").status_code == 403
    assert browser(world.cast.alice).get(f"/manage/api/v1{path}").status_code == 200
