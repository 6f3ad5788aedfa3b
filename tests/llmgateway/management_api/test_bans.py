"""Banned keys over the management API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from auditlog.models import LogEntry

from llmgateway import services
from llmgateway.models import BannedKey, ConfigChange
from tests.llmgateway.management_api.conftest import Caller

pytestmark = pytest.mark.django_db

DIGEST, LEAKED = "ab" * 32, "sk-own-key-that-leaked-0123456789"


def test_a_key_is_banned_by_its_digest_and_let_in_again(operator: Caller) -> None:
    made = operator.post("/bans", {"digest": DIGEST, "note": "leaked"})
    path = f"/bans/{made.json()['id']}"

    assert (made.status_code, made.json()["digest"], made.json()["note"]) == (201, DIGEST, "leaked")
    assert operator.patch(path, {"note": "asked for"}).json()["note"] == "asked for"
    assert operator.get(f"/bans?digest={DIGEST}").json()["count"] == 1
    assert "management API" in str(LogEntry.objects.get_for_object(BannedKey.objects.get()).first().additional_data)
    assert ConfigChange.objects.filter(table_name="llmgateway_bannedkey").exists()
    assert operator.delete(path).status_code == 204
    assert not BannedKey.objects.exists()


def test_a_key_is_banned_by_itself_and_not_kept(operator: Caller) -> None:
    made = operator.post("/bans", {"key": f" {LEAKED}\n"})

    assert (made.status_code, made.json()["digest"]) == (201, services.own_key_digest(LEAKED))
    assert "key" not in made.json()
    written = json.dumps(list(LogEntry.objects.values("changes", "serialized_data", "object_repr")), default=str)
    assert made.json()["digest"] in written
    assert LEAKED not in written + made.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "digest"),
        ({"digest": "abc"}, "digest"),
        ({"digest": DIGEST, "key": LEAKED}, "key"),
        ({"key": ""}, "key"),
        ({"secret": LEAKED}, "secret"),
    ],
)
def test_what_is_wrong_is_named_and_bans_nothing(operator: Caller, body: Any, field: str) -> None:
    response = operator.post("/bans", body)

    assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    assert LEAKED not in response.text
    assert not BannedKey.objects.exists()


def test_nothing_is_banned_twice(operator: Caller) -> None:
    operator.post("/bans", {"key": LEAKED})

    assert operator.post("/bans", {"key": LEAKED}).status_code in (400, 409)
    assert BannedKey.objects.count() == 1
