"""The life of an API key, by API."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.db import IntegrityError
from django.utils import timezone

from llmgateway import services
from llmgateway.key_secrets import digest
from llmgateway.management_api.keys import STATES
from llmgateway.management_api.models import KeyCreation
from llmgateway.models import ApiKey
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import ROOT, Caller, Callers

pytestmark = pytest.mark.django_db


def digest_of(secret: str) -> str:
    return digest(secret.encode(), services.newest_pepper()).hex()


def test_a_new_key_shows_its_secret_once(operator: Caller, world: World) -> None:
    response = operator.post(
        "/keys",
        {"name": "dev-001", "team": "platform", "allowed_models": ["small"], "network_lists": ["office"],
         "allowed_ips": ["192.0.2.7"], "user_id": "ana", "expires_at": "2036-01-01T00:00:00Z"},
    )  # fmt: skip

    created = response.json()
    key = ApiKey.objects.get(name="dev-001")
    assert response.status_code == 201
    assert digest_of(created["secret"]) == key.digest
    assert response.headers["Cache-Control"] == "no-store"
    assert [network.name for network in key.networks.all()] == ["office"]
    again = operator.get(f"/keys/{key.pk}")
    assert "secret" not in again.json()
    assert again.json() == {name: value for name, value in created.items() if name != "secret"}
    assert again.json()["expires_at"] == "2036-01-01T00:00:00Z"
    assert key.digest not in again.content.decode()


def test_a_secret_of_ones_own_is_taken(operator: Caller, world: World) -> None:
    response = operator.post("/keys", {"name": "moved", "team": "platform", "secret": "sk-from-elsewhere-0123"})

    assert response.json()["secret"] == "sk-from-elsewhere-0123"
    assert ApiKey.objects.get(name="moved").digest == digest_of("sk-from-elsewhere-0123")


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"team": "platform"}, "name", "required"),
        ({"name": "a b", "team": "platform"}, "name", "not a usable name"),
        ({"name": "platform-key", "team": "platform"}, "name", "already exists"),
        ({"name": "x", "team": "nobody"}, "team", "There is no nobody here."),
        ({"name": "x", "team": "platform", "allowed_ips": ["10.0.0.1/8"]}, "allowed_ips", "host bits set"),
        ({"name": "x", "team": "platform", "allowed_models": ["smal"]}, "allowed_models", "no model alias smal"),
        ({"name": "x", "team": "platform", "network_lists": ["offices"]}, "network_lists", "There is no offices here."),
        ({"name": "x", "team": "platform", "secret": "short"}, "secret", "at least 20 characters"),
        ({"name": "x", "team": "platform", "expires": "2036-01-01"}, "expires", "no such field"),
        ({"name": "x", "team": "platform", "revoked_at": None}, "revoked_at", "cannot be written"),
        (
            {
                "name": "x",
                "team": "platform",
                "starts_at": "2036-01-02T00:00:00Z",
                "expires_at": "2036-01-01T00:00:00Z",
            },
            "expires_at",
            "must expire after it starts",
        ),
    ],
)
def test_what_is_wrong_is_told_by_field_and_nothing_is_saved(
    operator: Caller, world: World, body: dict[str, Any], field: str, message: str
) -> None:
    before = ApiKey.objects.count()

    response = operator.post("/keys", body)

    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == field
    assert message in error["fields"][field][0]
    assert ApiKey.objects.count() == before


def test_a_body_that_is_no_json_is_refused(operator: Caller, world: World) -> None:
    response = operator.client.generic(
        "POST", "/manage/api/v1/keys", b"{", content_type="application/json",
        headers={"Authorization": f"Bearer {operator.secret}"},
    )  # fmt: skip

    assert response.status_code == 400
    assert "JSON parse error" in response.json()["error"]["message"]


def test_a_change_leaves_the_rest_alone(operator: Caller, world: World) -> None:
    before = operator.get(f"/keys/{world.key.pk}").json()

    response = operator.patch(f"/keys/{world.key.pk}", {"user_id": "bo", "network_lists": []})

    assert response.status_code == 200
    assert response.json() == {**before, "user_id": "bo", "network_lists": []}


def test_a_change_that_fails_saves_nothing(operator: Caller, world: World) -> None:
    response = operator.patch(
        f"/keys/{world.key.pk}", {"user_id": "bo", "network_lists": [], "starts_at": "2036-01-01T00:00:00Z",
                                  "expires_at": "2035-01-01T00:00:00Z"},
    )  # fmt: skip

    world.key.refresh_from_db()
    assert response.status_code == 400
    assert (world.key.user_id, world.key.networks.count()) == ("", 1)


def test_a_change_of_what_was_changed_meanwhile_is_refused(operator: Caller, world: World) -> None:
    seen = operator.get(f"/keys/{world.key.pk}").headers["ETag"]
    newer = operator.patch(f"/keys/{world.key.pk}", {"user_id": "bo"}, If_Match=seen)

    late = operator.patch(f"/keys/{world.key.pk}", {"user_id": "cy"}, If_Match=seen)

    assert (newer.status_code, late.status_code) == (200, 412)
    assert operator.get(f"/keys/{world.key.pk}").json()["user_id"] == "bo"
    assert operator.patch(f"/keys/{world.key.pk}", {"user_id": "cy"}, If_Match=newer.headers["ETag"]).status_code == 200


def test_a_rotation_that_nobody_knew_of_changes_the_entity_tag(operator: Caller, world: World) -> None:
    seen = operator.get(f"/keys/{world.key.pk}").headers["ETag"]
    operator.post(f"/keys/{world.key.pk}/rotate", {"grace_s": 0})

    assert operator.post(f"/keys/{world.key.pk}/rotate", {"grace_s": 0}, If_Match=seen).status_code == 412


def test_rotation_leaves_the_old_secret_for_a_while(operator: Caller, world: World) -> None:
    response = operator.post(f"/keys/{world.key.pk}/rotate", {"grace_s": 3600})

    world.key.refresh_from_db()
    assert digest_of(response.json()["secret"]) == world.key.digest
    assert world.key.previous_digest == digest_of(world.cast.platform_secret)
    left = world.key.previous_valid_until - timezone.now()  # type: ignore[operator]
    assert timedelta(seconds=3590) < left <= timedelta(seconds=3600)


def test_rotation_without_a_body_has_the_usual_overlap_and_too_much_is_refused(operator: Caller, world: World) -> None:
    assert operator.post(f"/keys/{world.key.pk}/rotate").json()["previous_valid_until"] is not None

    response = operator.post(f"/keys/{world.key.pk}/rotate", {"grace_s": 91 * 86_400})

    assert response.json()["error"]["param"] == "grace_s"


def test_a_key_is_disabled_enabled_and_revoked(operator: Caller, world: World) -> None:
    states = [operator.post(f"/keys/{world.key.pk}/{step}").json()["state"] for step in ("disable", "enable", "revoke")]

    assert states == ["disabled", "active", "revoked"]
    for step in ("enable", "rotate"):
        refused = operator.post(f"/keys/{world.key.pk}/{step}")
        assert refused.status_code == 400
        assert "create a new key" in refused.json()["error"]["message"]
    assert operator.patch(f"/keys/{world.key.pk}", {"user_id": "x"}).status_code == 400


def test_changes_are_on_record_by_the_tokens_name(operator: Caller, world: World) -> None:
    operator.patch(f"/keys/{world.key.pk}", {"user_id": "bo"})

    entry = LogEntry.objects.get_for_object(world.key).first()
    assert entry is not None
    assert entry.additional_data == {"source": "management API, token token-0"}
    assert (entry.actor, entry.remote_addr) == (None, "127.0.0.1")
    assert entry.changes["user_id"] == ["", "bo"]


def test_the_same_request_twice_creates_one_key(operator: Caller, world: World) -> None:
    body = {"name": "once", "team": "platform"}
    first = operator.post("/keys", body, Idempotency_Key="abc")

    again = operator.post("/keys", body, Idempotency_Key="abc")

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {**first.json(), "secret": None}
    assert again.headers["Idempotent-Replayed"] == "true"
    assert ApiKey.objects.filter(name="once").count() == 1


def test_an_idempotency_key_is_of_one_body_and_one_token(operator: Caller, caller: Callers, world: World) -> None:
    operator.post("/keys", {"name": "once", "team": "platform"}, Idempotency_Key="abc")

    other_body = operator.post("/keys", {"name": "twice", "team": "platform"}, Idempotency_Key="abc")
    other_token = caller("keys:write").post("/keys", {"name": "thrice", "team": "platform"}, Idempotency_Key="abc")

    assert (other_body.status_code, other_token.status_code) == (422, 201)
    assert other_body.json()["error"]["code"] == "idempotency_key_reused"


def test_an_idempotency_key_is_forgotten_after_a_day(operator: Caller, world: World) -> None:
    operator.post("/keys", {"name": "once", "team": "platform"}, Idempotency_Key="abc")
    KeyCreation.objects.update(created_at=timezone.now() - timedelta(hours=25))

    response = operator.post("/keys", {"name": "twice", "team": "platform"}, Idempotency_Key="abc")

    assert response.status_code == 201
    assert KeyCreation.objects.get().key.name == "twice"


def test_a_failed_creation_may_be_repeated(operator: Caller, world: World) -> None:
    assert operator.post("/keys", {"name": "bad name", "team": "platform"}, Idempotency_Key="abc").status_code == 400

    assert operator.post("/keys", {"name": "good-name", "team": "platform"}, Idempotency_Key="abc").status_code == 201


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("team=platform", ["platform-key"]),
        ("search=search", ["research-key"]),
        ("state=active", ["platform-key"]),
        ("state=disabled", ["research-key"]),
        ("state=revoked", []),
        ("ordering=-name", ["research-key", "platform-key"]),
        ("page_size=1&page=2", ["research-key"]),
        ("name=platform-key&team=research", []),
    ],
)
def test_lists_are_filtered_searched_ordered_and_paged(
    operator: Caller, world: World, query: str, names: list[str]
) -> None:
    services.key_disable(world.cast.research_key)

    assert [key["name"] for key in operator.get(f"/keys?{query}").json()["results"]] == names


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("taem=platform", "taem"),
        ("state=ill", "state"),
        ("ordering=digest", "ordering"),
        ("team_id=x", "team_id"),
        ("team_id=1.5", "team_id"),
        ("team_id=99999999999999999999", "team_id"),
    ],
)
def test_a_misspelt_parameter_is_no_reason_to_show_everything(
    operator: Caller, world: World, query: str, field: str
) -> None:
    response = operator.get(f"/keys?{query}")

    assert response.status_code == 400
    assert response.json()["error"]["param"] == field


def test_a_long_list_costs_as_many_queries_as_a_short_one(
    operator: Caller, world: World, django_assert_num_queries: Any
) -> None:
    keys = [
        ApiKey(
            team=world.cast.platform, name=f"k{number:04}", public_id=f"p{number}", digest=f"d{number}", pepper_id="p"
        )
        for number in range(300)
    ]
    ApiKey.objects.bulk_create(keys)
    operator.get("/keys")  # notes the use of the token

    with django_assert_num_queries(6):  # token, search, count, page, network lists, tenants
        page = operator.get("/keys?page_size=1000&search=k0").json()

    assert (page["count"], len(page["results"])) == (300, 300)


def test_every_key_is_in_one_state(operator: Caller, world: World) -> None:
    """The filter agrees with the field, whatever comes together."""
    past, future = timezone.now() - timedelta(days=1), timezone.now() + timedelta(days=1)
    ApiKey.objects.all().delete()
    number = 0
    for enabled in (True, False):
        for revoked_at in (None, past):
            for starts_at in (None, past, future):
                for expires_at in (None, past, future):
                    number += 1
                    ApiKey.objects.create(
                        team=world.cast.platform, name=f"k{number}", public_id=f"p{number}", digest=f"d{number}",
                        enabled=enabled, revoked_at=revoked_at, starts_at=starts_at, expires_at=expires_at,
                    )  # fmt: skip

    found = {state: operator.get(f"/keys?state={state}").json()["results"] for state in STATES}

    assert sum(map(len, found.values())) == number
    for state, keys in found.items():
        assert keys
        assert {key["state"] for key in keys} == {state}


def test_a_chosen_secret_leaves_no_plain_hash_behind(operator: Caller, world: World) -> None:
    body = {"name": "once", "team": "platform", "secret": "sk-chosen-and-guessable"}
    operator.post("/keys", body, Idempotency_Key="abc")

    packed = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    assert KeyCreation.objects.get().request_digest != hashlib.sha256(packed).hexdigest()
    assert KeyCreation.objects.get().request_digest == digest(packed, services.newest_pepper()).hex()


def test_who_comes_second_is_told_so(operator: Caller, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests may both find a name free; the database lets one of them have it."""
    monkeypatch.setattr(ApiKey, "full_clean", lambda self: None)
    monkeypatch.setattr("rest_framework.validators.UniqueValidator.__call__", lambda *_args: None)

    response = operator.post("/keys", {"name": "platform-key", "team": "platform"})

    assert response.status_code == 409
    assert "Somebody saved the same" in response.json()["error"]["message"]


def test_a_key_without_its_idempotency_key_is_not_half_saved(
    operator: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: KeyCreation, **_kwargs: Any) -> None:
        raise IntegrityError

    monkeypatch.setattr(KeyCreation, "save", fail)

    response = operator.post("/keys", {"name": "once", "team": "platform"}, Idempotency_Key="abc")

    assert response.status_code == 409
    assert not ApiKey.objects.filter(name="once").exists()


def test_a_body_that_is_nested_without_end_is_the_sender_s_mistake(operator: Caller, world: World) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000

    response = operator.client.post(
        f"{ROOT}/keys",
        deep,
        content_type="application/json",
        headers={"Authorization": f"Bearer {operator.secret}"},
    )

    assert (response.status_code, response.json()["error"]["message"]) == (400, "The body is nested too deeply.")
