"""Writes to keys, teams and memberships, and the reads beside them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db.models import ProtectedError
from django.utils import timezone

from llmgateway import conf as conf_module
from llmgateway import selectors, services
from llmgateway.conf import Conf
from llmgateway.key_secrets import digest, pepper_fingerprint
from llmgateway.models import ApiKey, Membership, NetworkList, Team
from tests.cast import Cast

pytestmark = pytest.mark.django_db


@pytest.fixture
def team() -> Team:
    return services.team_create(name="platform")


def _stored(secret: str) -> str:
    return digest(secret.encode(), services.newest_pepper()).hex()


def test_a_new_key_keeps_the_digest_of_its_secret_and_not_the_secret(team: Team) -> None:
    key, secret = services.key_create(team=team, name="app")

    row = ApiKey.objects.filter(pk=key.pk).values().get()
    assert row["digest"] == _stored(secret)
    assert row["pepper_id"] == pepper_fingerprint(services.newest_pepper())
    assert secret.startswith(f"sk-gw-{key.public_id}-")
    assert not any(secret in str(value) for value in row.values())


def test_two_keys_have_different_secrets_and_public_ids(team: Team) -> None:
    (one, first), (two, second) = (services.key_create(team=team, name=name) for name in ("one", "two"))

    assert first != second
    assert one.public_id != two.public_id


def test_the_newest_of_several_peppers_is_used(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, older = "aa" * 32, "bb" * 32
    monkeypatch.setattr(conf_module, "conf", Conf({"GATEWAY_KEY_PEPPERS": f"{newest},{older}"}))

    key, secret = services.key_create(team=team, name="app")

    assert key.digest == digest(secret.encode(), bytes.fromhex(newest)).hex()


@pytest.mark.parametrize("peppers", ["", "not hexadecimal"])
def test_without_a_usable_pepper_no_key_is_made(team: Team, monkeypatch: pytest.MonkeyPatch, peppers: str) -> None:
    monkeypatch.setattr(conf_module, "conf", Conf({"GATEWAY_KEY_PEPPERS": peppers}))

    with pytest.raises(ImproperlyConfigured, match="GATEWAY_KEY_PEPPERS"):
        services.key_create(team=team, name="app")


def test_a_chosen_secret_is_taken(team: Team) -> None:
    key, secret = services.key_create(team=team, name="app", secret="chosen-by-me-0123456789")

    assert secret == "chosen-by-me-0123456789"
    assert key.digest == _stored(secret)


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("short", "at least 20"),
        ("with a space in it 0123456789", "without spaces"),
        ("ümlaut-0123456789-abcd", "header"),
    ],
)
def test_a_bad_secret_is_refused_by_its_field(team: Team, secret: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as raised:
        services.key_create(team=team, name="app", secret=secret)

    assert list(raised.value.message_dict) == ["secret"]
    assert not ApiKey.objects.exists()


def test_a_secret_that_another_key_has_or_had_is_refused(team: Team) -> None:
    other, _ = services.key_create(team=team, name="other", secret="chosen-by-me-0123456789")
    services.key_rotate(other)

    with pytest.raises(ValidationError, match="Another key"):
        services.key_create(team=team, name="app", secret="chosen-by-me-0123456789")


def test_a_secret_kept_under_an_older_pepper_is_still_taken(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    former = conf_module.conf.key_peppers[0]
    services.key_create(team=team, name="other", secret="chosen-by-me-0123456789")
    monkeypatch.setattr(conf_module, "conf", Conf({"GATEWAY_KEY_PEPPERS": f"{'aa' * 32},{former}"}))

    with pytest.raises(ValidationError, match="Another key"):
        services.key_create(team=team, name="app", secret="chosen-by-me-0123456789")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": "with space"}, "name"),
        ({"allowed_ips": ["300.1.1.1"]}, "allowed_ips"),
        ({"allowed_models": ["bad name"]}, "allowed_models"),
    ],
)
def test_bad_values_are_refused_by_field_and_nothing_is_saved(
    team: Team, values: dict[str, object], field: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        services.key_create(**{"team": team, "name": "app", **values})  # type: ignore[arg-type]

    assert field in raised.value.message_dict
    assert not ApiKey.objects.exists()


def test_a_rotated_key_keeps_its_old_secret_for_the_grace_period(team: Team) -> None:
    key, old = services.key_create(team=team, name="app")

    with time_machine.travel("2026-03-14T12:00:00Z", tick=False):
        new = services.key_rotate(key, timedelta(hours=2))
        until = timezone.now() + timedelta(hours=2)

    key.refresh_from_db()
    assert (key.digest, key.previous_digest) == (_stored(new), _stored(old))
    assert key.previous_valid_until == until


def test_without_grace_the_old_secret_is_forgotten(team: Team) -> None:
    key, _ = services.key_create(team=team, name="app")

    services.key_rotate(key, timedelta(0))

    key.refresh_from_db()
    assert key.previous_digest == ""
    assert key.previous_valid_until is None


@pytest.mark.parametrize("grace", [timedelta(seconds=-1), services.MAX_GRACE + timedelta(seconds=1)])
def test_a_grace_period_out_of_bounds_is_refused(team: Team, grace: timedelta) -> None:
    key, _ = services.key_create(team=team, name="app")
    before = key.digest

    with pytest.raises(ValidationError, match="grace period"):
        services.key_rotate(key, grace)

    key.refresh_from_db()
    assert key.digest == before


def test_a_revoked_key_loses_its_old_secret_and_cannot_come_back(team: Team) -> None:
    key, _ = services.key_create(team=team, name="app")
    services.key_rotate(key)

    services.key_revoke(key)

    assert key.previous_digest == ""
    revoked_at = ApiKey.objects.get(pk=key.pk).revoked_at
    services.key_revoke(key)
    assert ApiKey.objects.get(pk=key.pk).revoked_at == revoked_at
    with pytest.raises(ValidationError, match="create a new key"):
        services.key_rotate(key)
    with pytest.raises(ValidationError, match="create a new key"):
        services.key_enable(key)


def test_a_disabled_key_can_be_enabled_again(team: Team) -> None:
    key, _ = services.key_create(team=team, name="app")

    services.key_disable(key)
    assert not ApiKey.objects.get(pk=key.pk).enabled
    services.key_enable(key)
    assert ApiKey.objects.get(pk=key.pk).enabled


def test_a_key_is_tied_to_exactly_the_given_networks(team: Team) -> None:
    office, home = (NetworkList.objects.create(name=name) for name in ("office", "home"))
    key, _ = services.key_create(team=team, name="app", networks=[office])

    services.key_set_networks(key, [home])

    assert list(key.networks.all()) == [home]
    with pytest.raises(ProtectedError):
        home.delete()


def test_a_membership_is_set_changed_and_removed(cast: Cast) -> None:
    services.membership_set(cast.platform, cast.charlie)
    services.membership_set(cast.platform, cast.charlie, Membership.Role.AUDITOR)

    assert selectors.role_in(cast.platform, cast.charlie) == "auditor"
    with pytest.raises(ValidationError, match="role"):
        services.membership_set(cast.platform, cast.charlie, "emperor")
    services.membership_remove(cast.platform, cast.charlie)
    assert selectors.role_in(cast.platform, cast.charlie) is None


def test_a_team_needs_a_name_and_a_time_zone_that_exist() -> None:
    with pytest.raises(ValidationError) as raised:
        services.team_create(name="", time_zone="Mars/Olympus")

    assert set(raised.value.message_dict) == {"name", "time_zone"}


def test_people_see_the_keys_of_their_own_teams_alone(cast: Cast) -> None:
    assert list(selectors.keys_of(cast.bob)) == [cast.platform_key]
    assert list(selectors.keys_of(cast.charlie)) == [cast.research_key]
    assert set(selectors.keys_of(cast.alice)) == {cast.platform_key, cast.research_key}


def test_the_state_of_a_key_says_whether_it_would_be_let_in(team: Team) -> None:
    now, day = timezone.now(), timedelta(days=1)
    key, _ = services.key_create(team=team, name="app")
    states: dict[str, dict[str, Any]] = {
        "active": {},
        "not yet valid": {"starts_at": now + day},
        "expired": {"expires_at": now - day},
        "disabled": {"enabled": False},
        "revoked": {"revoked_at": now},
    }
    for state, values in states.items():
        ApiKey.objects.filter(pk=key.pk).update(
            **{"starts_at": None, "expires_at": None, "enabled": True, "revoked_at": None, **values}
        )

        assert selectors.key_state(ApiKey.objects.get(pk=key.pk)) == state
        assert selectors.usable_keys().filter(pk=key.pk).exists() == (state == "active")
