"""Callers' own keys in the snapshot: off unless switched on, with everyone's limits, and bans that hold at once."""

from __future__ import annotations

import json

import pytest
from auditlog.models import LogEntry
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from llmgateway import conf as conf_module
from llmgateway.config_loader import load_snapshot
from llmgateway.config_loader._patch import Change, patch_snapshot
from llmgateway.key_secrets import digest
from llmgateway.models import BannedKey, GatewaySettings, RateLimit, Team
from llmgateway.pipeline.snapshot import Snapshot
from tests.llmgateway.live_config.conftest import World

DIGEST = "ab" * 32


def patched(snapshot: Snapshot, table: str, row_id: int) -> Snapshot:
    return patch_snapshot(snapshot, [Change(table, str(row_id))], revision=2)


def test_it_is_off_by_default(world: World) -> None:
    BannedKey.objects.create(digest=DIGEST)

    assert load_snapshot().foreign is None


def test_the_switch_holds_without_a_restart_and_brings_everyone_s_limits_alone(world: World) -> None:
    before = load_snapshot()
    everyone = RateLimit.objects.create(metric="requests", per="minute", amount=7, each="ip")
    GatewaySettings.objects.update_or_create(pk=1, defaults={"foreign_keys": True})

    after = patched(before, "llmgateway_gatewaysettings", 1)

    assert after.foreign is not None
    assert after.foreign == load_snapshot().foreign
    assert f"limit:{everyone.pk}" in [limit.counter for limit in after.foreign.limits]
    assert not [limit for limit in after.foreign.limits if limit.owner]


def test_a_ban_holds_at_once_and_ends_at_once(world: World) -> None:
    GatewaySettings.objects.update_or_create(pk=1, defaults={"foreign_keys": True})
    row = BannedKey.objects.create(digest=DIGEST)

    banned = patched(load_snapshot(), "llmgateway_bannedkey", row.pk)
    number = row.pk
    row.delete()
    free = patched(banned, "llmgateway_bannedkey", number)

    assert banned.foreign is not None
    assert free.foreign is not None
    assert banned.foreign.banned == frozenset({bytes.fromhex(DIGEST)})
    assert free.foreign.banned == frozenset()


def test_a_team_s_word_holds_without_a_restart_over_the_setting(world: World) -> None:
    before, team = load_snapshot(), world.platform
    said = []
    for own_keys in ("allow", "refuse", "inherit"):
        team.own_keys = own_keys
        team.save()
        said.append(patched(before, "llmgateway_team", team.pk).foreign)
    allowed, refused, inherited = said

    assert allowed is not None
    assert (allowed.allow(team.pk), allowed.allow(world.research.pk), allowed.allowed) == (True, False, False)
    assert (refused, inherited) == (None, None), "nobody may bring one then"


def test_a_team_that_is_refused_is_so_though_the_setting_allows_it(world: World) -> None:
    GatewaySettings.objects.update_or_create(pk=1, defaults={"foreign_keys": True})
    world.platform.own_keys = "refuse"
    world.platform.save()

    found = load_snapshot().foreign

    assert found is not None
    assert (found.allow(world.platform.pk), found.allow(world.research.pk), found.allowed) == (False, True, True)


def test_bans_hold_where_but_a_team_may(world: World) -> None:
    BannedKey.objects.create(digest=DIGEST)
    Team.objects.filter(pk=world.platform.pk).update(own_keys="allow")

    found = load_snapshot().foreign

    assert found is not None
    assert found.banned == frozenset({bytes.fromhex(DIGEST)})


def test_a_new_limit_of_everyone_holds_for_them_too(world: World) -> None:
    GatewaySettings.objects.update_or_create(pk=1, defaults={"foreign_keys": True})
    before = load_snapshot()
    row = RateLimit.objects.create(metric="requests", per="hour", amount=9)

    after = patched(before, "llmgateway_ratelimit", row.pk)

    assert after.foreign is not None
    assert [limit.amount for limit in after.foreign.limits if limit.per == "hour"] == [9]


@pytest.mark.django_db
@pytest.mark.parametrize("wrong", ["abc", "AB" * 32, "zz" * 32])
def test_only_a_whole_digest_can_be_banned(wrong: str) -> None:
    with pytest.raises(ValidationError):
        BannedKey(digest=wrong).full_clean()


@pytest.mark.django_db
def test_a_digest_is_banned_in_the_admin(admin_client: Client) -> None:
    admin_client.post(reverse("admin:llmgateway_bannedkey_add"), {"digest": DIGEST, "note": "leaked"})

    assert BannedKey.objects.get().note == "leaked"
    assert DIGEST in admin_client.get(reverse("admin:llmgateway_bannedkey_changelist")).content.decode()


@pytest.mark.django_db
def test_a_key_that_leaked_is_banned_by_itself_and_not_kept(admin_client: Client) -> None:
    url, leaked = reverse("admin:llmgateway_bannedkey_add"), "sk-own-key-that-leaked-0123456789"

    admin_client.post(url, {"digest": "", "key": f" {leaked} ", "note": "on a paste site"})
    both = admin_client.post(url, {"digest": DIGEST, "key": leaked})
    neither = admin_client.post(url, {"digest": "", "key": ""})
    again = admin_client.post(url, {"digest": "", "key": leaked})

    row = BannedKey.objects.get()
    assert row.digest == digest(leaked.encode(), bytes.fromhex(conf_module.conf.key_peppers[0])).hex()
    assert [answer.status_code for answer in (both, neither, again)] == [200, 200, 200]
    assert leaked not in both.content.decode() + neither.content.decode() + again.content.decode()
    written = json.dumps(list(LogEntry.objects.values("changes", "serialized_data", "object_repr")), default=str)
    assert row.digest in written
    assert leaked not in written
