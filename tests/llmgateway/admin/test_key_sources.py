"""Key sources in the admin: who adds a file is told when the keys of the database stop working."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from llmgateway.models import AuthSource

pytestmark = pytest.mark.django_db
ADD = "/admin/llmgateway/authsource/add/"
FILE = {"name": "file", "kind": "static_file", "path": "/etc/gateway/keys.yaml", "position": "1", "enabled": "on"}
DATABASE = {"name": "database", "kind": "database", "path": "", "position": "0", "enabled": "on"}


def _warnings(response: Any) -> list[str]:
    assert response.redirect_chain, response.context["adminform"].form.errors
    return [str(message) for message in response.context["messages"] if message.level_tag == "warning"]


def test_a_file_alone_takes_the_place_of_the_database(owner: Client) -> None:
    AuthSource.objects.all().delete()

    [warning] = _warnings(owner.post(ADD, FILE, follow=True))

    assert "add a source of the kind Database" in warning


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
