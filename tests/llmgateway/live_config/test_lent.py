"""Where keys are many, a change of what they share holds from the next request on, and each key is renewed when asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from django.utils import timezone

from llmgateway.config_loader import LentKeys, _patch, exchanged, held_by, load_snapshot, patch_snapshot
from llmgateway.models import ApiKey, RateLimit, Team
from llmgateway.pipeline.snapshot import KeyDigest, Snapshot
from llmgateway.seeding import WindowLimit, limits_anew, new_time_zones, window_limits
from llmgateway.services import key_create
from tests.llmgateway.live_config.conftest import Database, Following, World, create_world, key_of
from tests.llmgateway.live_config.test_patch import (
    ACCESS_EDITS,
    TENANT_EDITS,
    _changes_since,
    _comparable,
    _strict_acts_for_platform,
)

Edit = Callable[[World], object]


@pytest.fixture(autouse=True)
def _any_number_is_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_patch, "LENT_FROM", 1)


def no_pause() -> None:
    """Nobody waits for the interpreter."""


def lent(snapshot: Snapshot) -> LentKeys:
    assert isinstance(snapshot.keys, LentKeys)
    return snapshot.keys


def settled(keys: Mapping[bytes, KeyDigest]) -> Mapping[bytes, KeyDigest]:
    """What a follower makes of them."""
    if not isinstance(keys, LentKeys):
        return keys
    done = keys.settle(no_pause, time.monotonic() + 60)
    assert done is not None
    return done


def after(snapshot: Snapshot) -> Snapshot:
    """`snapshot` with what was changed since."""
    position = load_snapshot().position
    return patch_snapshot(snapshot, _changes_since(snapshot), revision=2, position=position)


def new_limit_for_everyone(before: Snapshot) -> Snapshot:
    """A snapshot in which no key has been renewed yet."""
    RateLimit.objects.create(amount=400, metric="tokens", per="day")
    return after(before)


@pytest.mark.parametrize("edit", [*ACCESS_EDITS, *TENANT_EDITS])
def test_whatever_changes_meanwhile_is_what_a_full_load_finds(world: World, edit: Edit) -> None:
    RateLimit.objects.create(key=world.strict, metric="tokens", per="day", amount=9)
    if edit in TENANT_EDITS:
        _strict_acts_for_platform(world)
    waiting = new_limit_for_everyone(load_snapshot(revision=1))
    middle = load_snapshot(revision=1)
    assert len(key_of(waiting, world.plain).limits) == 3
    assert len(lent(waiting).renewed) == 1

    edit(world)
    patched, whole = after(waiting), load_snapshot(revision=2)

    assert window_limits(patched) == window_limits(whole)
    assert counters(limits_anew(waiting, patched)) == counters(limits_anew(middle, whole))
    assert dict(settled(patched.keys)) == whole.keys
    assert _comparable(patched) == _comparable(whole)
    assert _comparable(waiting) == _comparable(replace(middle, revision=2))


def counters(found: list[WindowLimit]) -> set[str]:
    return {each.limit.counter for each in found}


def test_no_key_is_renewed_before_it_is_asked_for(world: World) -> None:
    keys = [key_create(team=world.research, name=f"k{number}")[0] for number in range(20)]
    before = load_snapshot(revision=1)

    waiting = new_limit_for_everyone(before)
    anew, zones = limits_anew(before, waiting), new_time_zones(before, waiting)

    assert {each.limit.name for each in anew} == {"400 tokens per day"}
    assert zones == {"UTC"}
    assert len(lent(waiting).renewed) <= 2, "one of each team is enough to know what is new"
    assert [limit.amount for limit in key_of(waiting, keys[3]).limits] == [500, 400]


def test_all_requests_count_by_one_key(world: World) -> None:
    """The one that was made for the first of them is the one that stays."""
    waiting = new_limit_for_everyone(load_snapshot(revision=1))
    first = key_of(waiting, world.strict)

    whole = replace(waiting, keys=settled(waiting.keys))

    assert key_of(waiting, world.strict) is first
    assert key_of(whole, world.strict) is first
    assert not isinstance(whole.keys, LentKeys)
    assert list(exchanged(waiting.keys, whole.keys)) == []


def test_keys_are_renewed_in_slices(world: World) -> None:
    new = [
        ApiKey(name=f"k{n}", team=world.platform, public_id=f"p{n}", digest=f"{n:064x}", pepper_id="x")
        for n in range(600)
    ]
    ApiKey.objects.bulk_create(new)
    keys = lent(new_limit_for_everyone(load_snapshot(revision=1)))
    pauses: list[int] = []

    slices = [keys.settle(lambda: pauses.append(1), time.monotonic()) for _ in range(3)]

    assert [done is None for done in slices] == [True, True, False]
    assert (len(pauses), len(keys.renewed)) == (2, 602)


def test_a_revoked_key_is_gone_at_once(world: World) -> None:
    waiting = new_limit_for_everyone(load_snapshot(revision=1))
    key_of(waiting, world.strict)
    ApiKey.objects.filter(pk=world.strict.pk).update(revoked_at=timezone.now())

    patched = after(waiting)

    digest = bytes.fromhex(world.strict.digest)
    assert lent(patched).get(digest) is None
    assert digest not in patched.keys
    assert digest not in settled(patched.keys)
    assert digest in waiting.keys, "requests that run keep theirs"


def test_a_team_with_another_midnight_renews_its_keys_together(world: World) -> None:
    """The budgets of its keys are others then, which whoever shows or counts them must know."""
    waiting = new_limit_for_everyone(load_snapshot(revision=1))
    Team.objects.filter(pk=world.research.pk).update(time_zone="Asia/Tokyo")

    patched = after(waiting)

    assert not isinstance(patched.keys, LentKeys)
    assert {rule.time_zone for rule in patched.budgets.values() if rule.name == "own"} == {"Asia/Tokyo"}


def test_what_is_given_back_later_is_all_there_was(world: World) -> None:
    before = load_snapshot(revision=1)
    waiting = new_limit_for_everyone(before)
    renewed = waiting.keys[bytes.fromhex(world.plain.digest)]

    held = held_by(waiting.keys)

    assert renewed in held
    assert all(entry in held for entry in before.keys.values())


def test_a_follower_hands_over_at_once_and_then_goes_through_all(
    sqlite_database: Database, follow: Callable[[], Following]
) -> None:
    world = create_world()
    following = follow()

    RateLimit.objects.filter(key=None, team=None).update(amount=7)

    _, first = following.wait_for(lambda s: key_of(s, world.plain).limits[-1].amount == 7)
    _, last = following.wait_for(lambda s: s.revision == first.revision + 1)
    assert isinstance(first.keys, LentKeys)
    assert type(last.keys) is dict
    assert key_of(last, world.strict) is key_of(first, world.strict)
