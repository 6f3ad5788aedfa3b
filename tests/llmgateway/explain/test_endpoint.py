"""Explaining through the management API and in the admin: for those who may, and without a trace of the secret."""

from __future__ import annotations

import json
import logging
import secrets
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing.models import UsageRecord
from llmgateway import wiring
from llmgateway.management_api.scopes import SCOPES
from llmgateway.management_api.tokens import token_create
from tests.cast import Cast
from tests.gateways import SECRET, House

pytestmark = pytest.mark.django_db
PATH = "/manage/api/v1/explain"


def ask(client: Client, scope: str = "explain:read", **body: Any) -> Any:
    _, token = token_create(name=f"ci-{secrets.token_hex(4)}", scopes=[scope])
    headers = {"Authorization": f"Bearer {token}"}
    return client.post(PATH, json.dumps(body), content_type="application/json", headers=headers)


def test_a_program_asks_with_a_secret(client: Client, serving: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    answer = ask(
        client,
        key=SECRET,
        model="gpt",
        client_ip="192.0.2.1",
        body={"messages": [{"role": "user", "content": "private"}]},
    )

    found = answer.json()
    assert answer.status_code == 200, found
    assert found["decision"]["allowed"] is True
    assert found["request"]["client_ip"] == "192.0.2.1"
    assert answer.headers["Cache-Control"] == "no-store"
    assert SECRET not in answer.content.decode() + caplog.text
    assert "private" not in answer.content.decode() + caplog.text


def test_a_program_asks_with_the_id_of_a_key(client: Client, serving: House) -> None:
    found = ask(client, key_id="1", model="nothing").json()

    assert (found["decision"]["status"], found["decision"]["code"]) == (404, "model_not_found")
    assert found["key"]["name"] == "alice"


def test_a_request_of_the_ledger_is_asked_once_more(client: Client, serving: House) -> None:
    now = timezone.now()
    UsageRecord.objects.create(id="req_1", day=now.date(), started_at=now, status="completed", key_id="1", key_name="a",
                               operation="chat", alias="gpt", path="/v1/messages", client_ip="192.0.2.9",
                               end_user="carol", input_estimate=777)  # fmt: skip

    found = ask(client, request_id="req_1").json()
    changed = ask(client, request_id="req_1", client_ip="192.0.2.1", key=SECRET).json()
    unknown = ask(client, request_id="req_2")

    assert (
        found["request"] | {"path": "/v1/messages", "client_ip": "192.0.2.9", "end_user": "carol"} == found["request"]
    )
    assert found["request"]["input_tokens"] == 777
    assert changed["request"]["client_ip"] == "192.0.2.1"
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"key": "x"}, "model"),
        ({"model": "gpt"}, "key"),
        ({"model": "gpt", "key": "x", "key_id": "1"}, "key"),
        ({"model": "gpt", "key": "x", "client_ip": "here"}, "client_ip"),
        ({"model": "gpt", "key": "x", "path": "/v1/nothing"}, "path"),
    ],
)
def test_what_is_missing_or_wrong_is_named(client: Client, serving: House, body: dict[str, Any], field: str) -> None:
    answer = ask(client, **body)

    assert answer.status_code == 400
    assert field in answer.content.decode()


def test_who_lacks_the_scope_learns_nothing(client: Client, serving: House, cast: Cast) -> None:
    assert ask(client, scope="keys:read", key_id="1", model="gpt").status_code == 403
    assert not SCOPES["explain:read"].in_one_team


def test_a_process_without_a_gateway_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "current", lambda: None)

    answer = ask(client, key_id="1", model="gpt")

    assert (answer.status_code, "serves no requests" in answer.content.decode()) == (503, True)


# ── the page ──


def test_the_page_shows_what_would_happen(admin_client: Client, serving: House) -> None:
    page = admin_client.post(reverse("explain"), {"key": SECRET, "model": "gpt", "path": "/v1/chat/completions"})

    text = page.content.decode()
    assert page.status_code == 200
    assert "It would be sent to &#x27;main&#x27;" in text
    assert 'id="targets"' in text
    assert SECRET not in text
    assert "no-store" in page.headers["Cache-Control"]


def test_the_page_shows_a_refusal(admin_client: Client, serving: House) -> None:
    page = admin_client.post(reverse("explain"), {"key": "sk-gw-wrong", "model": "gpt"})

    assert "401 invalid_api_key" in page.content.decode()
    assert "sk-gw-wrong" not in page.content.decode()


def test_a_key_may_be_named(admin_client: Client, serving: House, cast: Cast) -> None:
    unknown = admin_client.post(reverse("explain"), {"key_name": "nobody", "model": "gpt"})
    known = admin_client.post(reverse("explain"), {"key_name": cast.platform_key.name, "model": "gpt"})

    assert "No key has this name" in unknown.content.decode()
    assert 'id="decision"' in known.content.decode()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Name a model"),
        ({"model": "gpt"}, "Paste a key"),
        ({"model": "gpt", "key": SECRET, "body": "{"}, "This is no JSON"),
        ({"request_id": "req_0"}, "The ledger has no request"),
        ({"model": "gpt", "key": SECRET, "client_ip": "here"}, "valid IPv4 or IPv6"),
    ],
)
def test_the_page_says_what_is_missing(admin_client: Client, serving: House, fields: dict[str, str], said: str) -> None:
    page = admin_client.post(reverse("explain"), fields)

    assert said in page.content.decode()
    assert 'id="decision"' not in page.content.decode()


def test_the_page_is_for_those_who_see_all_of_it(client: Client, cast: Cast, serving: House) -> None:
    bob = cast.bob
    bob.is_staff = True
    bob.save()
    client.force_login(bob)
    refused = client.get(reverse("explain"))
    names = [name.partition(".")[2] for name in SCOPES["explain:read"].permissions]
    bob.user_permissions.set(Permission.objects.filter(codename__in=names))

    allowed = client.get(reverse("explain"), {"request_id": "req_7"})

    assert (refused.status_code, allowed.status_code) == (403, 200)
    assert 'value="req_7"' in allowed.content.decode()
