"""Memberships over the management API."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError

from llmgateway.management_api.tokens import token_create
from llmgateway.models import Membership
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import ROOT, Caller, Callers
from tests.llmgateway.management_api.test_rights import browser

pytestmark = pytest.mark.django_db


def test_somebody_comes_into_a_team_changes_roles_and_leaves(operator: Caller, world: World) -> None:
    made = operator.post("/memberships", {"team": "platform", "user": "charlie"})
    path = f"/memberships/{made.json()['id']}"
    changed = operator.patch(path, {"role": "manager"})

    charlie = world.cast.charlie
    row = Membership.objects.get(user=charlie, team=world.cast.platform)
    assert (made.status_code, made.json()) == (
        201, {"id": row.pk, "team": "platform", "user": "charlie", "email": charlie.email, "role": "member"},
    )  # fmt: skip
    assert changed.json() == {**made.json(), "role": "manager"}
    assert browser(charlie).get(f"{ROOT}/keys").json()["count"] == 2
    sources = [entry.additional_data for entry in LogEntry.objects.get_for_object(row)]
    assert len([source for source in sources if "management API" in str(source)]) == 2
    assert operator.delete(path).status_code == 204
    assert not Membership.objects.filter(pk=row.pk).exists()


def test_an_address_names_who_has_it_alone(operator: Caller, world: World) -> None:
    User.objects.create_user("dora", "dora@example.org")
    User.objects.create_user("erik", "shared@example.org")
    User.objects.create_user("emma", "Shared@example.org")

    found = operator.post("/memberships", {"team": "platform", "user": "DORA@example.org"})
    several = operator.post("/memberships", {"team": "platform", "user": "shared@example.org"})

    assert (found.status_code, found.json()["user"]) == (201, "dora")
    assert several.status_code == 400
    assert "write the user name" in several.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"user": "bob"}, "user", "is in the team platform already"),
        ({"user": "nobody"}, "user", "There is no user nobody"),
        ({"user": ""}, "user", "may not be null"),
        ({"user": 7}, "user", "Write a user name"),
        ({"user": "a\0"}, "user", "Write a user name"),
        ({"team": "none"}, "team", "There is no none here"),
        ({"role": "king"}, "role", "not a valid choice"),
        ({"email": "x@example.org"}, "email", "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused_by_field(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    response = operator.post("/memberships", {"team": "platform", "user": "charlie", **body})

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field), response.json()
    assert message in error["message"]
    assert Membership.objects.count() == 2


@pytest.mark.parametrize("body", [{"team": "research"}, {"user": "alice"}])
def test_a_membership_stays_with_its_team_and_person(operator: Caller, world: World, body: dict[str, str]) -> None:
    row = Membership.objects.get(user=world.cast.bob)

    response = operator.patch(f"/memberships/{row.pk}", {**body, "role": "member"})

    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(body)))
    row.refresh_from_db()
    assert (row.team, row.user, row.role) == (world.cast.platform, world.cast.bob, "manager")


def test_of_another_team_nobody_is_seen(caller: Callers, world: World) -> None:
    of_team = caller("memberships:read", team=world.cast.research)
    foreign = Membership.objects.get(user=world.cast.bob)

    assert [row["user"] for row in of_team.get("/memberships").json()["results"]] == ["charlie"]
    assert of_team.get(f"/memberships/{foreign.pk}").status_code == 404
    manager, member = browser(world.cast.bob), browser(world.cast.charlie)
    assert [row["user"] for row in manager.get(f"{ROOT}/memberships").json()["results"]] == ["bob"]
    refused = manager.patch(f"{ROOT}/memberships/{foreign.pk}", {"role": "member"}, content_type="application/json")
    assert (refused.status_code, member.get(f"{ROOT}/memberships").status_code) == (403, 403)
    with pytest.raises(ValidationError, match="concerns every team"):
        token_create(name="of-a-team", scopes=["memberships:write"], team=world.cast.research)


def test_a_list_is_searched_and_filtered(operator: Caller, world: World) -> None:
    def users(query: str) -> list[str]:
        return [row["user"] for row in operator.get(f"/memberships?{query}").json()["results"]]

    assert users("ordering=user__username") == ["bob", "charlie"]
    assert (users("team=research"), users("role=manager"), users("search=char")) == (["charlie"], ["bob"], ["charlie"])


def test_a_stale_change_is_refused(operator: Caller, world: World) -> None:
    path = f"/memberships/{Membership.objects.get(user=world.cast.bob).pk}"
    seen = operator.get(path).headers["ETag"]
    operator.patch(path, {"role": "member"})

    assert operator.patch(path, {"role": "auditor"}, If_Match=seen).status_code == 412
