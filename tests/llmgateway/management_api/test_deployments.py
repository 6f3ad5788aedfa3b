"""Deployments over the management API: written with the checks of the admin, their credentials named and never shown."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry

from providers.connection_check import ConnectionResult
from providers.models import Credential, Deployment, Provider
from tests.llmgateway.admin.world import STORED_SECRET, World
from tests.llmgateway.management_api.conftest import Caller, Callers

pytestmark = pytest.mark.django_db


@pytest.fixture
def elsewhere(world: World) -> Credential:
    """Of another provider."""
    other = Provider.objects.create(name="other", adapter="openai_compatible", base_url="https://api.other.example/v1")
    credential = Credential(provider=other, name="spare")
    credential.set_secret("sk-other")
    credential.save()
    return credential


def test_what_is_created_is_what_is_read(operator: Caller, world: World) -> None:
    body = {
        "name": "acme-large", "provider": "acme", "credential": "main", "model": "large-1", "first_token_timeout_s": 9.5,
        "max_request_usd": "0.5", "probe_enabled": True, "probe_path": "/health", "draining": True,
    }  # fmt: skip

    response = operator.post("/deployments", body)

    shown = response.json()
    assert response.status_code == 201, shown
    assert {name: shown[name] for name in body} == body
    assert operator.get(f"/deployments/{shown['id']}").json() == shown
    assert STORED_SECRET not in response.content.decode()
    row = Deployment.objects.get(name="acme-large")
    assert (row.credential, row.max_request_pico_usd) == (world.credential, 500_000_000_000)
    assert "management API" in str(LogEntry.objects.get_for_object(row).get().additional_data)


def test_a_change_leaves_what_it_does_not_name(operator: Caller, world: World) -> None:
    path = f"/deployments/{world.deployment.pk}"
    before = operator.get(path).json()

    after = operator.patch(path, {"model": "small-2", "credential": None}).json()

    assert after == {**before, "model": "small-2", "credential": None}
    assert operator.patch(path, {"credential": "main"}).json()["credential"] == "main"


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"name": "acme-small"}, "name", "already exists"),
        ({"provider": "nope"}, "provider", "There is no nope here"),
        ({"credential": "nope"}, "credential", "acme has no credential nope"),
        ({"credential": "spare"}, "credential", "acme has no credential spare"),
        ({"idle_timeout_s": 0}, "idle_timeout_s", "greater than or equal to 0.001"),
        ({"max_request_usd": 0.5}, "max_request_usd", "Write the amount as text"),
        ({"probe_path": "http://elsewhere"}, "probe_path", "probe_path"),
        ({"health_generation": 3}, "health_generation", "There is no such field"),
        ({"model": ""}, "model", "may not be blank"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_what_makes_no_sense_is_refused_by_field(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    new = {"name": "fresh", "provider": "acme", "model": "m", **body}

    response = operator.post("/deployments", new)

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field), response.json()
    assert message in error["message"]
    assert Deployment.objects.count() == 1


def test_it_keeps_no_credential_of_another_provider(operator: Caller, world: World, elsewhere: Credential) -> None:
    path = f"/deployments/{world.deployment.pk}"

    refused = operator.patch(path, {"provider": "other"})
    moved = operator.patch(path, {"provider": "other", "credential": "spare"})

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "credential")
    assert (moved.status_code, moved.json()["credential"]) == (200, "spare")


def test_what_an_alias_leads_to_cannot_be_deleted(operator: Caller, world: World) -> None:
    path = f"/deployments/{world.deployment.pk}"

    refused = operator.delete(path)
    world.alias.targets.all().delete()

    assert (refused.status_code, "of small" in refused.json()["error"]["message"]) == (409, True)
    assert operator.delete(path).status_code == 204
    assert not Deployment.objects.exists()


def test_its_connection_is_tested(operator: Caller, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Deployment] = []

    def check(deployment: Deployment) -> ConnectionResult:
        asked.append(deployment)
        return ConnectionResult(
            False, "HTTP 401 in 8 ms", "acme refuses the credential; check the secret and its rights."
        )

    monkeypatch.setattr("llmgateway.management_api.deployments.check_connection", check)

    response = operator.post(f"/deployments/{world.deployment.pk}/test")

    assert (response.status_code, asked) == (200, [world.deployment])
    assert response.json() == {
        "ok": False,
        "headline": "HTTP 401 in 8 ms",
        "detail": "acme refuses the credential; check the secret and its rights.",
    }


def test_a_connection_that_cannot_be_made_is_a_result(operator: Caller, world: World) -> None:
    Provider.objects.update(base_url="http://127.0.0.1:9/v1")

    response = operator.post(f"/deployments/{world.deployment.pk}/test")

    assert (response.status_code, response.json()["ok"]) == (200, False)
    assert "on a private network" in response.json()["detail"]
    assert STORED_SECRET not in response.content.decode()
    assert operator.post("/deployments/999/test").status_code == 404


def test_rights(caller: Callers, world: World) -> None:
    reader, path = caller("deployments:read"), f"/deployments/{world.deployment.pk}"

    assert reader.get(path).status_code == 200
    answers = [reader.post("/deployments", {}), reader.patch(path, {"model": "x"}), reader.delete(path)]
    answers.append(reader.post(f"{path}/test"))
    assert {answer.status_code for answer in answers} == {403}
    assert caller("models:write", "health:write").get("/deployments").status_code == 403
    world.deployment.refresh_from_db()
    assert world.deployment.model == "small-1"
