"""The first page: a person's team, the list of several, or what to do when there is none."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llmgateway.models import Membership, Team
from tests.cast import Cast
from tests.conftest import NOON
from tests.dashboard.seeding import row, save

pytestmark = pytest.mark.usefixtures("frozen_time")


def test_the_only_team_opens_at_once(bob: Client) -> None:
    answer = bob.get("/")

    assert answer.status_code == 302
    assert answer["Location"] == "/teams/platform/"


def test_several_teams_are_listed_with_their_last_24_hours(alice: Client, cast: Cast) -> None:
    save([row(NOON, team_id=cast.platform.id, cost_pico_usd=2_500_000_000_000)])

    rows = {team.name: usage for team, usage in alice.get("/").context["rows"]}

    assert list(rows) == ["platform", "research"]
    assert (rows["platform"].cost_pico_usd, rows["platform"].requests) == (2_500_000_000_000, 1)
    assert rows["research"].requests == 0


def test_a_long_list_is_cut_into_pages_and_can_be_searched(alice: Client) -> None:
    Team.objects.bulk_create(Team(name=f"team-{number:03}") for number in range(120))

    first = alice.get("/")
    found = alice.get("/", {"q": "team-11"})

    assert len(first.context["rows"]) == 50
    assert b"Page 1 of 3" in first.content
    assert [team.name for team, _ in found.context["rows"]] == [f"team-{number}" for number in range(110, 120)]
    assert b"More teams" in first.content


def test_a_person_without_a_team_is_told_whom_to_ask(client: Client, db: None) -> None:
    client.force_login(User.objects.create_user("dora"))

    page = client.get("/").content.decode()

    assert "Ask an admin of this gateway to add <strong>dora</strong> to your team" in page


def test_an_admin_without_a_team_is_told_how_to_make_one(client: Client, db: None) -> None:
    client.force_login(User.objects.create_superuser("root"))

    page = client.get("/").content.decode()

    assert "Add a team." in page
    assert "/admin/" in page


def test_a_team_whose_name_has_slashes_has_a_page(bob: Client, cast: Cast) -> None:
    team = Team.objects.create(name="eu/west:a+b@c")
    Membership.objects.create(team=team, user=cast.bob)

    links = bob.get("/").content.decode()

    assert 'href="/teams/eu/west:a+b@c/"' in links
    assert bob.get("/teams/eu/west:a+b@c/").context["team"].name == team.name
