"""Who may do what: by scope, by team, by the rights of the person who is logged in."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import Group, User
from django.core.exceptions import ValidationError
from django.test import Client

from llmgateway.management_api.scopes import SCOPES
from llmgateway.management_api.tokens import token_create
from llmgateway.models import ApiKey, Membership
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import ROOT, Caller, Callers

pytestmark = pytest.mark.django_db

# The lists whose rows belong to teams, and what shows that the foreign rows would be there.
OF_TEAMS = ("/keys", "/teams", "/limits", "/budgets", "/usage")
EVERYBODYS = ("/prices", "/models")


def browser(user: User, **kwargs: Any) -> Client:
    client = Client(**kwargs)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.mark.parametrize("path", OF_TEAMS)
def test_a_list_shows_nothing_of_another_team(caller: Callers, operator: Caller, world: World, path: str) -> None:
    stranger = caller(*(name for name, scope in SCOPES.items() if scope.in_one_team), team=world.cast.research)
    world.cast.research_key.delete()

    found = stranger.get(path).json()["results"]

    assert [row for row in found if row.get("name") != "research"] == []
    assert operator.get(path).json()["results"]


def test_sums_show_nothing_of_another_team(foreigner: Caller, operator: Caller) -> None:
    assert foreigner.get("/usage/summary").json()["results"] == []
    assert operator.get("/usage/summary").json()["results"] != []


@pytest.mark.parametrize("path", EVERYBODYS)
def test_what_belongs_to_nobody_everybody_with_the_scope_sees(foreigner: Caller, path: str) -> None:
    assert len(foreigner.get(path).json()["results"]) == 1


def test_a_foreign_object_does_not_exist(foreigner: Caller, world: World) -> None:
    key, team = world.key.pk, world.cast.platform.pk

    answers = [
        *(foreigner.get(f"/{path}") for path in (f"keys/{key}", f"teams/{team}", "usage/req-1")),
        *(foreigner.get(f"/{path}") for path in (f"budgets/{world.budget.pk}", f"limits/{world.key.limits.get().pk}")),
        foreigner.patch(f"/keys/{key}", {"user_id": "x"}),
        foreigner.patch(f"/budgets/{world.budget.pk}", {"enabled": False}),
        foreigner.patch(f"/limits/{world.key.limits.get().pk}", {"amount": 1}),
        foreigner.delete(f"/budgets/{world.budget.pk}"),
        foreigner.delete(f"/limits/{world.key.limits.get().pk}"),
        *(foreigner.post(f"/keys/{key}/{step}") for step in ("rotate", "disable", "enable", "revoke")),
    ]

    assert {answer.status_code for answer in answers} == {404}
    world.key.refresh_from_db()
    assert (world.key.enabled, world.key.revoked_at, world.key.previous_digest) == (True, None, "")


def test_a_key_can_be_neither_made_in_nor_moved_to_another_team(foreigner: Caller, world: World) -> None:
    made = foreigner.post("/keys", {"name": "x", "team": "platform"})
    moved = foreigner.patch(f"/keys/{world.cast.research_key.pk}", {"team": "platform"})

    assert [answer.json()["error"]["param"] for answer in (made, moved)] == ["team", "team"]
    assert foreigner.post("/keys", {"name": "x", "team": "research"}).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/keys", "keys:read"),
        ("POST", "/keys", "keys:write"),
        ("POST", "/keys/1/rotate", "keys:write"),
        ("GET", "/teams", "teams:read"),
        ("POST", "/teams", "teams:write"),
        ("GET", "/limits", "limits:read"),
        ("DELETE", "/limits/1", "limits:write"),
        ("GET", "/budgets", "budgets:read"),
        ("PATCH", "/budgets/1", "budgets:write"),
        ("GET", "/prices", "prices:read"),
        ("POST", "/prices", "prices:write"),
        ("GET", "/usage", "usage:read"),
        ("GET", "/usage/summary", "usage:read"),
        ("GET", "/models", "models:read"),
        ("POST", "/models", "models:write"),
        ("DELETE", "/models/1", "models:write"),
        ("GET", "/deployments", "deployments:read"),
        ("POST", "/deployments", "deployments:write"),
        ("POST", "/deployments/1/test", "deployments:write"),
        ("GET", "/providers", "providers:read"),
        ("POST", "/providers", "providers:write"),
        ("GET", "/credentials", "credentials:read"),
        ("PATCH", "/credentials/1", "credentials:write"),
        ("GET", "/networks", "networks:read"),
        ("DELETE", "/networks/1", "networks:write"),
        ("GET", "/memberships", "memberships:read"),
        ("DELETE", "/memberships/1", "memberships:write"),
        ("GET", "/sources", "sources:read"),
        ("POST", "/sources", "sources:write"),
        ("GET", "/bans", "bans:read"),
        ("POST", "/bans", "bans:write"),
        ("GET", "/catalogue", "catalogue:read"),
        ("PATCH", "/catalogue/1", "catalogue:write"),
        ("GET", "/settings", "settings:read"),
        ("PATCH", "/settings", "settings:write"),
    ],
)
def test_the_missing_scope_is_named(caller: Callers, method: str, path: str, scope: str) -> None:
    others = [name for name in SCOPES if name.partition(":")[0] != scope.partition(":")[0]]

    response = caller(*others).send(method, path, {})

    assert response.status_code == 403
    assert response.json()["error"]["message"] == f"The token token-0 lacks the scope {scope}."


@pytest.mark.parametrize(
    "kind",
    ["providers", "credentials", "networks", "sources", "bans", "catalogue", "settings", "deployments", "reporters"],
)
def test_what_concerns_everybody_no_token_of_a_team_has(world: World, kind: str) -> None:
    for scope in (f"{kind}:read", f"{kind}:write"):
        with pytest.raises(ValidationError, match="concerns every team"):
            token_create(name="of-a-team", scopes=[scope], team=world.cast.platform)
        assert not SCOPES[scope].roles


def test_reading_does_not_include_writing_and_writing_includes_reading(caller: Callers, world: World) -> None:
    reader, writer = caller("keys:read"), caller("keys:write")

    assert reader.post("/keys", {"name": "x", "team": "platform"}).status_code == 403
    assert writer.get("/keys").status_code == 200


def test_a_method_that_a_resource_lacks_is_named_as_such(operator: Caller, world: World) -> None:
    assert operator.delete(f"/keys/{world.key.pk}").status_code == 405
    assert operator.patch(f"/prices/{world.price.pk}", {"input": "1"}).status_code == 405
    assert operator.delete(f"/prices/{world.price.pk}").status_code == 405
    assert operator.post("/usage", {}).status_code == 405
    assert operator.send("PUT", f"/keys/{world.key.pk}", {}).status_code == 405
    assert operator.send("OPTIONS", "/keys").status_code == 405


def test_an_unknown_path_is_answered_in_the_same_shape(operator: Caller, client: Client) -> None:
    response = operator.get("/kees")

    assert response.status_code == 404
    assert "/manage/api/v1/schema tells" in response.json()["error"]["message"]
    assert client.get(f"{ROOT}/kees").status_code == 401


def test_a_manager_manages_the_keys_of_the_own_team_alone(world: World) -> None:
    bob = browser(world.cast.bob)

    assert [key["name"] for key in bob.get(f"{ROOT}/keys").json()["results"]] == ["platform-key"]
    own = bob.post(f"{ROOT}/keys", {"name": "bobs", "team": "platform"}, content_type="application/json")
    foreign = bob.post(f"{ROOT}/keys", {"name": "x", "team": "research"}, content_type="application/json")
    assert (own.status_code, foreign.status_code) == (201, 400)
    assert bob.post(f"{ROOT}/keys/{world.cast.research_key.pk}/revoke").status_code == 404
    entry = LogEntry.objects.get_for_object(ApiKey.objects.get(name="bobs")).get()
    assert (entry.actor, entry.additional_data) == (world.cast.bob, {"source": "management API"})


@pytest.mark.parametrize("role", [Membership.Role.MEMBER, Membership.Role.AUDITOR])
def test_a_member_reads(world: World, role: str) -> None:
    Membership.objects.filter(user=world.cast.charlie).update(role=role)
    charlie = browser(world.cast.charlie)

    assert [key["name"] for key in charlie.get(f"{ROOT}/keys").json()["results"]] == ["research-key"]
    response = charlie.post(f"{ROOT}/keys/{world.cast.research_key.pk}/disable")
    assert response.status_code == 403
    assert response.json()["error"]["message"] == "The user charlie lacks the scope keys:write."


def test_staff_reach_as_far_as_their_permissions(world: World) -> None:
    dora = User.objects.create_user("dora", "dora@example.org", "pw", is_staff=True)
    erik = User.objects.create_user("erik", "erik@example.org", "pw", is_staff=True)
    dora.groups.set(Group.objects.filter(name="Auditors"))

    assert browser(dora).get(f"{ROOT}/keys").json()["count"] == 2
    assert browser(dora).post(f"{ROOT}/keys/{world.key.pk}/revoke").status_code == 403
    assert browser(erik).get(f"{ROOT}/keys").status_code == 403
    assert browser(world.cast.alice).post(f"{ROOT}/keys/{world.key.pk}/disable").status_code == 200


def test_a_page_elsewhere_cannot_use_somebodys_session(world: World) -> None:
    alice = browser(world.cast.alice, enforce_csrf_checks=True)

    response = alice.post(f"{ROOT}/keys/{world.key.pk}/revoke")

    assert response.status_code == 403
    assert "CSRF" in response.json()["error"]["message"]
    world.key.refresh_from_db()
    assert world.key.revoked_at is None


def test_a_token_needs_no_csrf_token(operator: Caller, world: World) -> None:
    strict = Caller(operator.secret, Client(enforce_csrf_checks=True))

    assert strict.post(f"/keys/{world.key.pk}/disable").status_code == 200


def test_who_may_not_open_the_admin_has_no_more_than_a_role_in_a_team(world: World) -> None:
    world.cast.charlie.groups.set(Group.objects.filter(name="Admins"))

    found = browser(world.cast.charlie).get(f"{ROOT}/keys").json()["results"]

    assert [key["name"] for key in found] == ["research-key"]
