"""Management tokens in the admin."""

from __future__ import annotations

import html
import re

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from llmgateway.management_api.models import ManagementToken
from llmgateway.management_api.scopes import SCOPES
from llmgateway.management_api.tokens import token_create, token_of
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.test_rights import browser

pytestmark = pytest.mark.django_db

ADD = "/admin/management_api/managementtoken/add/"
LIST = "/admin/management_api/managementtoken/"


def test_a_token_is_made_and_shown_once(world: World) -> None:
    alice = browser(world.cast.alice)
    body = {"name": "ci", "scopes": ["keys:write", "usage:read"], "team": world.cast.platform.pk}

    response = alice.post(ADD, body)

    found = re.search(r'id="secret"[^>]*>([^<]+)<', response.content.decode())
    assert found is not None
    token = token_of(html.unescape(found[1]))
    assert token is not None
    assert (token.name, token.scopes, token.team) == ("ci", ["keys:write", "usage:read"], world.cast.platform)
    assert token.created_by == world.cast.alice
    assert "no-store" in response.headers["Cache-Control"]
    for path in (LIST, reverse("admin:management_api_managementtoken_change", args=[token.pk])):
        page = alice.get(path).content.decode()
        assert token.masked in page
        assert token.digest not in page


def test_nobody_gives_what_they_may_not_do_themselves(world: World) -> None:
    dora = User.objects.create_user("dora", "dora@example.org", "pw", is_staff=True)
    dora.groups.set(Group.objects.filter(name="Auditors"))
    dora.user_permissions.add(Permission.objects.get(codename="add_managementtoken"))

    refused = browser(dora).post(ADD, {"name": "ci", "scopes": ["keys:read", "keys:write"]})
    given = browser(dora).post(ADD, {"name": "ci", "scopes": ["keys:read"]})

    assert "You cannot give what you may not do yourself: keys:write." in refused.content.decode()
    assert b'id="secret"' in given.content
    assert ManagementToken.objects.get().scopes == ["keys:read"]


def test_admins_may_make_tokens_of_every_scope(world: World) -> None:
    erik = User.objects.create_user("erik", "erik@example.org", "pw", is_staff=True)
    erik.groups.set(Group.objects.filter(name="Admins"))

    response = browser(erik).post(ADD, {"name": "all", "scopes": list(SCOPES)})

    assert b'id="secret"' in response.content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a b"}, "is not a usable name"),
        ({"scopes": []}, "This field is required."),
        ({"scopes": ["prices:write"]}, "prices:write concerns every team"),
    ],
)
def test_what_is_wrong_is_said(world: World, change: dict[str, object], message: str) -> None:
    body = {"name": "ci", "scopes": ["keys:read"], "team": world.cast.platform.pk, **change}

    assert message in browser(world.cast.alice).post(ADD, body).content.decode()
    assert not ManagementToken.objects.exists()


def test_a_token_is_revoked_after_a_question_and_deleted_only_then(world: World) -> None:
    alice = browser(world.cast.alice)
    token, secret = token_create(name="ci", scopes=["keys:read"])
    url = reverse("admin:management_api_managementtoken_revoke_token", args=[token.pk])
    delete = reverse("admin:management_api_managementtoken_delete", args=[token.pk])

    assert b"Revoke ci for good?" in alice.get(url).content
    assert alice.post(delete, {"post": "yes"}).status_code == 403
    alice.post(url)

    assert Client().get("/manage/api/v1/keys", headers={"Authorization": f"Bearer {secret}"}).status_code == 401
    assert alice.post(delete, {"post": "yes"}).status_code == 302


def test_who_may_only_look_cannot_revoke(world: World) -> None:
    dora = User.objects.create_user("dora", "dora@example.org", "pw", is_staff=True)
    dora.groups.set(Group.objects.filter(name="Auditors"))
    token, _ = token_create(name="ci", scopes=["keys:read"])

    url = reverse("admin:management_api_managementtoken_revoke_token", args=[token.pk])

    assert browser(dora).get(LIST).status_code == 200
    assert browser(dora).post(url).status_code == 403
    token.refresh_from_db()
    assert token.revoked_at is None
