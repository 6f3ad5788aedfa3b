"""Tokens: how they are made, kept, found, and how they end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.utils import timezone

from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from llmgateway.management.commands.rotate_secrets import peppers_in_use
from llmgateway.management_api.models import ManagementToken, TokenUse
from llmgateway.management_api.scopes import SCOPES
from llmgateway.management_api.tokens import token_create, token_of, token_revoke
from llmgateway.models import ConfigChange
from tests.cast import Cast
from tests.llmgateway.management_api.conftest import Caller, Callers

pytestmark = pytest.mark.django_db


def test_only_the_digest_of_a_token_is_stored() -> None:
    token, secret = token_create(name="ci", scopes=["keys:read"])

    stored = ManagementToken.objects.filter(pk=token.pk).values().get()
    random_part = secret.removeprefix(f"gw-mgmt-{token.public_id}-")
    assert secret == f"gw-mgmt-{token.public_id}-{random_part}"
    assert len(random_part) == 43  # 256 bits
    assert random_part not in str(stored)


def test_a_token_is_found_by_its_secret_alone() -> None:
    token, secret = token_create(name="ci", scopes=["keys:read"])

    assert token_of(secret) == token
    assert token_of(secret[:-1]) is None
    assert token_of(token.digest) is None


def test_a_token_works_after_the_pepper_was_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    token, secret = token_create(name="ci", scopes=["keys:read"])
    old = conf_module.conf.key_peppers

    monkeypatch.setattr(conf_module, "conf", Conf({"GATEWAY_KEY_PEPPERS": ",".join(["ab" * 32, *old])}))

    assert token_of(secret) == token
    assert peppers_in_use(["ab" * 32, *old])[1:] == old
    token_revoke(token)
    assert peppers_in_use(["ab" * 32, *old])[1:] == []


@pytest.mark.parametrize(
    ("scopes", "message"),
    [([], "cannot be blank"), (["keys:read", "keys:eat"], "keys:eat is no scope")],
)
def test_scopes_are_checked(scopes: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        token_create(name="ci", scopes=scopes)


def test_a_token_of_one_team_may_not_have_what_concerns_all(cast: Cast) -> None:
    with pytest.raises(ValidationError, match="prices:write concerns every team"):
        token_create(name="ci", scopes=["keys:read", "prices:write"], team=cast.platform)


def test_a_token_ends_with_its_team(cast: Cast) -> None:
    """Were its team only emptied, it would reach every team."""
    cast.platform_key.delete()
    _, secret = token_create(name="ci", scopes=["keys:read"], team=cast.platform)

    cast.platform.delete()

    assert token_of(secret) is None


def test_a_token_is_on_record_without_its_digest(cast: Cast) -> None:
    token, _ = token_create(name="ci", scopes=["keys:read"], created_by=cast.alice)
    token_revoke(token)

    entries = LogEntry.objects.get_for_object(token)
    assert [entry.get_action_display() for entry in entries] == ["update", "create"]
    assert token.digest not in str([entry.changes for entry in entries])


def test_the_last_use_is_noted_at_most_once_a_minute(operator: Caller, django_assert_num_queries: Any) -> None:
    operator.get("/models")
    first = TokenUse.objects.get()

    with django_assert_num_queries(2):  # token, count; no page of nothing
        operator.get("/models")

    assert TokenUse.objects.get().at == first.at
    assert first.remote_address == "127.0.0.1"
    TokenUse.objects.update(at=timezone.now() - timedelta(minutes=2))
    operator.get("/models")
    assert TokenUse.objects.get().at > first.at


def test_using_a_token_makes_no_worker_read_its_configuration(operator: Caller) -> None:
    before = ConfigChange.objects.count()

    operator.get("/models")

    assert ConfigChange.objects.count() == before


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Bearer gw-mgmt-nobody-nothing", "There is no such token"),
        ("Bearer sk-gw-abc-def", "This is an API key"),
        ("Bearer ", "There is no such token"),
        ("Basic abc", "Authentication credentials were not provided"),
        ("", "Authentication credentials were not provided"),
    ],
)
def test_without_a_valid_token_nothing_is_told(client: Any, header: str, message: str) -> None:
    response = client.get("/manage/api/v1/keys", headers={"Authorization": header})

    assert response.status_code == 401
    assert message in response.json()["error"]["message"]
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_revoked_and_expired_tokens_are_refused(caller: Callers) -> None:
    revoked, expired = caller("keys:read"), caller("keys:read")
    ManagementToken.objects.filter(name="token-0").update(revoked_at=timezone.now())
    ManagementToken.objects.filter(name="token-1").update(expires_at=timezone.now() - timedelta(seconds=1))

    assert revoked.get("/keys").status_code == 401
    response = expired.get("/keys")
    assert response.status_code == 401
    assert "token-1 has expired" in response.json()["error"]["message"]


def test_who_guesses_is_slowed_down_and_who_knows_is_not(client: Any, operator: Caller) -> None:
    wrong = {"Authorization": "Bearer gw-mgmt-wrong"}
    statuses = [client.get("/manage/api/v1/keys", headers=wrong).status_code for _ in range(22)]

    last = client.get("/manage/api/v1/keys", headers=wrong)
    assert statuses == [401] * 20 + [429] * 2
    assert 0 < int(last.headers["Retry-After"]) <= 60
    assert client.get("/manage/api/v1/keys", headers=wrong, REMOTE_ADDR="192.0.2.9").status_code == 401
    assert operator.get("/keys").status_code == 200


def test_a_program_that_went_wild_is_slowed_down(operator: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgateway.management_api.throttles.PrincipalThrottle.per_minute", 2)

    statuses = [operator.get("/models").status_code for _ in range(3)]

    assert statuses == [200, 200, 429]


def test_the_command_prints_the_secret_alone_to_standard_output(cast: Cast, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_token", "ci", scopes=["keys:write"], team="platform", expires_at="2036-01-31")

    token = token_of(capsys.readouterr().out.strip())
    assert token is not None
    assert (token.name, token.team, token.scopes) == ("ci", cast.platform, ["keys:write"])
    assert token.expires_at is not None
    assert token.expires_at.year == 2036


def test_the_command_gives_all_scopes_that_a_team_may_have(cast: Cast, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_token", "ci", scopes=["all"], team="platform")
    call_command("create_token", "root", scopes=["all"])

    assert "prices:write" not in ManagementToken.objects.get(name="ci").scopes
    assert ManagementToken.objects.get(name="root").scopes == list(SCOPES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scopes": ["keys:eat"]}, "scopes: keys:eat is no scope"),
        ({"scopes": ["all"], "team": "nobody"}, "There is no team nobody; there are platform, research."),
        ({"scopes": ["all"], "expires_at": "soon"}, "'soon' is not a date"),
    ],
)
def test_the_command_says_what_is_wrong(cast: Cast, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("create_token", "ci", **options)
