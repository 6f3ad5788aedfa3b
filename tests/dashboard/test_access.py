"""A member sees own teams alone: for everyone else a team, its requests and its figures do not exist."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from llmgateway.models import Membership, Team
from tests.cast import Cast
from tests.conftest import NOON
from tests.dashboard.seeding import row, save

PATHS = ["/teams/platform/", "/live/platform/", "/requests/?team=platform", "/requests/req-1/"]

CSRF_TOKEN = r'(?<=name="csrfmiddlewaretoken" value=")\w+'

pytestmark = pytest.mark.usefixtures("frozen_time")


@pytest.fixture(autouse=True)
def _one_request(cast: Cast) -> None:
    save([row(NOON, id="req-1", team_id=cast.platform.id, key_name="secretive")])


@pytest.mark.parametrize("path", PATHS)
def test_a_member_sees_the_own_team(bob: Client, path: str) -> None:
    assert bob.get(path).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_user_finds_nothing(charlie: Client, path: str) -> None:
    answer = charlie.get(path)

    assert answer.status_code == 404
    assert b"secretive" not in answer.content


@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_team_and_a_missing_one_look_the_same(charlie: Client, path: str) -> None:
    foreign = charlie.get(path).content.decode()
    missing = charlie.get(path.replace("platform", "nowhere").replace("req-1", "req-0")).content.decode()

    assert re.sub(CSRF_TOKEN, "", foreign) == re.sub(CSRF_TOKEN, "", missing)


@pytest.mark.parametrize("path", PATHS)
def test_the_superuser_sees_every_team(alice: Client, path: str) -> None:
    assert alice.get(path).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_the_permission_to_view_all_teams_shows_every_team(cast: Cast, path: str) -> None:
    cast.charlie.user_permissions.add(Permission.objects.get(codename="view_all_teams"))
    client = Client()
    client.force_login(cast.charlie)

    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", *PATHS])
def test_who_is_not_logged_in_is_sent_to_the_login(client: Client, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code == 302
    assert answer["Location"].startswith("/login/?next=/")


@pytest.mark.parametrize("path", PATHS)
def test_who_left_the_team_sees_nothing_more(bob: Client, cast: Cast, path: str) -> None:
    Membership.objects.filter(user=cast.bob).delete()

    assert bob.get(path).status_code == 404


def test_pages_answer_reading_methods_alone(bob: Client) -> None:
    assert [bob.post(path).status_code for path in ["/", *PATHS]] == [405] * 5


def test_the_list_of_teams_shows_own_teams_alone(bob: Client, cast: Cast) -> None:
    own = Team.objects.create(name="third")
    Membership.objects.create(team=own, user=cast.bob)

    page = bob.get("/").content.decode()

    assert "/teams/platform/" in page
    assert "/teams/third/" in page
    assert "research" not in page


def test_the_menu_and_the_search_show_own_teams_alone(bob: Client, cast: Cast) -> None:
    assert "research" not in bob.get("/teams/platform/").content.decode()
    assert "No team's name contains" in bob.get("/", {"q": "research"}).content.decode()


def test_a_cursor_into_a_foreign_team_shows_own_requests_alone(charlie: Client) -> None:
    answer = charlie.get("/requests/", {"team": "research", "before": "2030-01-01T00:00:00+00:00,zzz"})

    assert answer.status_code == 200
    assert answer.context["records"] == []
