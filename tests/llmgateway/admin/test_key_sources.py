"""Key sources in the admin: the database stays the first of them, unless somebody takes it out, who is told."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from llmgateway.config_loader import load_snapshot
from llmgateway.models import AuthSource
from tests.cast import Cast

pytestmark = pytest.mark.django_db
ADD = "/admin/llmgateway/authsource/add/"
FILE = {"name": "file", "kind": "static_file", "path": "/etc/gateway/keys.yaml", "position": "1", "enabled": "on"}
DATABASE = {"name": "database", "kind": "database", "path": "", "position": "0", "enabled": "on"}


def _warnings(response: Any) -> list[str]:
    assert response.redirect_chain, response.context["adminform"].form.errors
    return [str(message) for message in response.context["messages"] if message.level_tag == "warning"]


def test_the_first_file_stands_behind_the_database(owner: Client, cast: Cast) -> None:
    AuthSource.objects.all().delete()

    response = owner.post(ADD, {**FILE, "position": "0"}, follow=True)

    assert _warnings(response) == []
    [told] = [str(message) for message in response.context["messages"] if message.level_tag == "info"]
    assert "The database stays the first place" in told
    snapshot = load_snapshot(revision=1)
    assert [(source.name, source.kind) for source in snapshot.sources] == [
        ("database", "database"),
        ("file", "static_file"),
    ]
    assert cast.platform_key.name in {entry.key.name for entry in snapshot.keys.values()}


def test_a_file_may_have_the_name_of_the_database(owner: Client) -> None:
    AuthSource.objects.all().delete()

    owner.post(ADD, {**FILE, "name": "database"}, follow=True)

    assert set(AuthSource.objects.values_list("name", "kind")) == {
        ("the-database", "database"),
        ("database", "static_file"),
    }


def test_a_database_that_was_removed_does_not_come_back(owner: Client) -> None:
    AuthSource.objects.all().delete()
    owner.post(ADD, FILE)
    AuthSource.objects.filter(kind=AuthSource.Kind.DATABASE).delete()

    [warning] = _warnings(owner.post(ADD, {**FILE, "name": "second"}, follow=True))

    assert "add a source of the kind Database" in warning
    assert [source.name for source in load_snapshot(revision=1).sources] == ["file", "second"]


def test_a_file_beside_the_database_takes_nobody_s_place(owner: Client) -> None:
    AuthSource.objects.all().delete()

    assert _warnings(owner.post(ADD, DATABASE, follow=True)) == []
    assert _warnings(owner.post(ADD, FILE, follow=True)) == []


@pytest.mark.parametrize("page", ["delete", "change", "changelist"])
def test_a_database_that_is_no_longer_asked_is_told_of(owner: Client, page: str) -> None:
    AuthSource.objects.all().delete()
    owner.post(ADD, DATABASE)
    owner.post(ADD, FILE)
    pk = AuthSource.objects.get(kind=AuthSource.Kind.DATABASE).pk
    of_one = [] if page == "changelist" else [pk]
    forms = {
        "delete": {"post": "yes"},
        "change": {name: value for name, value in DATABASE.items() if name != "enabled"},
        "changelist": {"action": "delete_selected", "_selected_action": [pk], "post": "yes"},
    }

    response = owner.post(reverse(f"admin:llmgateway_authsource_{page}", args=of_one), forms[page], follow=True)

    assert len(_warnings(response)) == 1
