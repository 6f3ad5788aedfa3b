"""What limits and budgets start from, by whom and what they count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from billing.standing import BySubject, Tally, Used
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Key, KeyDigest, Limit, Snapshot
from llmgateway.seeding import budget_tally, limit_tally, limits_anew, new_time_zones, seeds, window_limits
from llmgateway.stores.memory import MemoryStore
from tests.billing.records import NOON
from tests.fakes import FakeClock
from tests.gateways import alias, deployment

MIDNIGHT = NOON - 12 * 3600


def limit(number: int, owner: str = "key:7", **changes: Any) -> Limit:
    return Limit(f"limit:{number}", "1000 per day", owner.partition(":")[0] or "global", 1000, 1000,
                 **{"per": "day", "owner": owner, **changes})  # fmt: skip


def snapshot_of(*limits: Limit, aliases: Sequence[Alias] = ()) -> Snapshot:
    key = Key("7", "pub", "k", 3, "red", limits=limits)
    return Snapshot(keys={b"x": KeyDigest(key)}, aliases={each.name: each for each in aliases})


def test_only_limits_over_a_window_are_counted() -> None:
    snapshot = snapshot_of(
        limit(1), limit(2, per="minute"), limit(3, metric="concurrency", per=""), limit(4, per="total")
    )

    assert set(window_limits(snapshot)) == {"limit:1", "limit:4"}


@pytest.mark.parametrize(
    ("owner", "column", "name"),
    [("key:7", "key_id", "7"), ("key:file:ci", "key_id", "file:ci"), ("team:3", "team_id", "3"), ("", "", "")],
)
def test_a_callers_limit_counts_its_owner(owner: str, column: str, name: str) -> None:
    found = window_limits(snapshot_of(limit(1, owner)))["limit:1"]

    assert limit_tally(found, NOON) == Tally(MIDNIGHT, column, name)


def test_a_places_limit_counts_by_the_name_that_rows_have() -> None:
    own = replace(deployment(), limits=(limit(1, "deployment:4"), limit(2, "provider:2")))
    place = replace(alias("gpt", own), limits=(limit(3, "alias:1", per="month"),))

    found = window_limits(snapshot_of(aliases=[place]))

    assert [(found[name].column, found[name].owner) for name in ("limit:1", "limit:2", "limit:3")] == [
        ("deployment", own.name),
        ("provider", own.provider),
        ("alias", "gpt"),
    ]


def test_a_limit_does_not_count_models_that_have_their_own() -> None:
    found = window_limits(snapshot_of(limit(1), limit(2, model="big"), limit(3, "team:3"), limit(4, per="month")))

    assert found["limit:1"].without == {"big"}
    assert found["limit:2"].without == found["limit:3"].without == found["limit:4"].without == frozenset()
    assert limit_tally(found["limit:2"], NOON).alias == "big"


def test_a_limit_counts_models_whose_own_is_only_on_trial() -> None:
    found = window_limits(snapshot_of(limit(1), limit(2, model="big", shadow=True)))

    assert found["limit:1"].without == frozenset()


def test_a_total_that_is_reset_starts_at_its_last_reset() -> None:
    found = window_limits(snapshot_of(limit(1, per="total", reset_s=7200, anchor=int(NOON) - 7300)))["limit:1"]

    assert limit_tally(found, NOON).start == NOON - 100


def test_a_strict_budget_counts_what_is_reserved_and_starts_where_its_week_does() -> None:
    budget = BudgetRule(1, "b", "team", "3", "week", 10, "Asia/Kolkata", strict=True, starts_on=6)

    # 12:00 UTC is Saturday, 17:30 in Kolkata, whose Saturday began at 18:30 UTC.
    assert budget_tally(budget, NOON) == Tally(NOON - 17.5 * 3600, "team_id", "3", reserved=True)


async def test_every_subject_starts_from_its_own() -> None:
    addresses = {"192.0.2.1": 4, "2001:db8::1": 1, "2001:db8::2": 2}

    def count(tallies: Sequence[Tally]) -> list[BySubject]:
        return [{name: Used(number, cost_pico_usd=number) for name, number in addresses.items()} for _ in tallies]

    each = window_limits(snapshot_of(limit(1, "", each="ip")))["limit:1"]
    budget = BudgetRule(5, "b", "ip", "", "day", 10, "UTC", each="ip", owner="team:3")
    found = seeds([budget], [each], NOON, count)
    store = MemoryStore(FakeClock(NOON))
    found.sow(store)

    network = "2001:db8::/64"
    assert {bound.counter: amount for bound, _, amount in found.limits} == {
        "limit:1:ip:192.0.2.1": 4,
        f"limit:1:ip:{network}": 3,
    }
    assert [await store.limit_used(bound) for bound, *_ in found.limits] == [4, 3]
    assert (await store.state(structs.replace(budget, scope_id=network))).settled_pico_usd == 3
    assert budget_tally(budget, NOON) == Tally(MIDNIGHT, "team_id", "3", each="client_ip")


def keys_of(**limits: tuple[Limit, ...]) -> Snapshot:
    """A key for each name; each call makes new keys, as reading everything does."""
    return Snapshot(keys={name.encode(): KeyDigest(Key(name, name, name, 3, "red", limits=of)) for name, of in limits.items()})  # fmt: skip


def anew(old: Snapshot, new: Snapshot) -> list[str]:
    return [each.limit.counter for each in limits_anew(old, new)]


def test_limits_that_are_what_they_were_are_not_counted_anew() -> None:
    old = keys_of(a=(limit(1), limit(2, "team:3")), b=(limit(2, "team:3"),))
    amount = structs.replace(limit(1), amount=5)

    assert anew(old, keys_of(a=(limit(1), limit(2, "team:3")), b=(limit(2, "team:3"),))) == []
    assert anew(old, keys_of(a=(amount, limit(2, "team:3")))) == []


def test_a_limit_that_is_new_or_sums_something_else_is_counted_anew() -> None:
    old = keys_of(a=(limit(1), limit(2, "team:3")))

    assert anew(old, keys_of(a=(limit(1), limit(9), limit(2, "team:3")))) == ["limit:9"]
    assert anew(old, keys_of(a=(limit(1), structs.replace(limit(2, "team:3"), metric="tokens")))) == ["limit:2"]
    assert anew(old, keys_of(a=(structs.replace(limit(1), time_zone="Asia/Kolkata"), limit(2, "team:3")))) == [
        "limit:1"
    ]


def test_a_limit_counts_anew_once_a_model_is_no_longer_left_out() -> None:
    with_own, without = keys_of(a=(limit(1), limit(2, model="big"))), keys_of(a=(limit(1),))

    assert anew(with_own, without) == ["limit:1"]
    assert sorted(anew(without, with_own)) == ["limit:1", "limit:2"]


def test_a_new_key_does_not_count_its_teams_limits_anew() -> None:
    team = limit(2, "team:3")

    assert anew(keys_of(a=(team,)), keys_of(a=(team,), b=(limit(7, "key:b"), team))) == ["limit:7"]


def test_a_places_limit_is_counted_anew_as_well() -> None:
    place = replace(alias("gpt", deployment()), limits=(limit(3, "alias:1", per="month"),))

    assert anew(snapshot_of(), snapshot_of(aliases=[place])) == ["limit:3"]
    assert anew(snapshot_of(aliases=[place]), snapshot_of(aliases=[place])) == []


def test_the_zones_of_keys_that_were_exchanged_are_told() -> None:
    old = keys_of(a=(limit(1),), b=(limit(2, time_zone="Asia/Tokyo"),))
    kept = old.keys[b"b"]
    changed = keys_of(a=(limit(1, time_zone="Asia/Kolkata"),))

    assert new_time_zones(old, replace(changed, keys={**changed.keys, b"b": kept})) == {"Asia/Kolkata"}


def test_counters_that_begin_at_nothing_are_not_kept() -> None:
    budget = BudgetRule(1, "b", "key", "7", "day", 10, "UTC")
    found = seeds([budget], list(window_limits(snapshot_of(limit(1))).values()), NOON, lambda tallies: [{"": Used()} for _ in tallies])  # fmt: skip
    store = MemoryStore(FakeClock(NOON))

    found.sow(store)

    assert (len(found.budgets), len(found.limits)) == (1, 1)
    assert not store._counters
    assert not store._windows
