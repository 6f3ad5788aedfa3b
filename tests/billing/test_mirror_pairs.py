"""Mirrored requests beside their copies, as the page of them reads them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import mirror_pairs as module
from billing.mirror_pairs import comparisons, mirror_pairs
from billing.models import UsageRecord

pytestmark = pytest.mark.django_db


def add(record_id: str, *, minutes_ago: float = 5, **values: Any) -> None:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    UsageRecord.objects.create(
        id=record_id, day=at.date(), started_at=at,
        **{"status": "completed", "key_id": "1", "key_name": "app", "operation": "chat", "alias": "small", "input": 100,
           "output": 10, "cost_pico_usd": 1000, "duration_us": 1_000_000, "ttft_us": 100_000, **values},
    )  # fmt: skip


def add_pair(number: int, *, copy: dict[str, Any] | None = None, minutes_ago: float = 5, **values: Any) -> None:
    add(f"r{number}", minutes_ago=minutes_ago, **values)
    mirrored = {"key_id": "mirror", "key_name": "mirror", "alias": "large", "mirror_of": f"r{number}", **(copy or {})}
    add(f"r{number}_mir", minutes_ago=minutes_ago - 0.01, **mirrored)


def test_each_copy_stands_beside_its_request_the_newest_first() -> None:
    add_pair(1, minutes_ago=9)
    add_pair(2, minutes_ago=3)
    add("alone")

    pairs, has_older = mirror_pairs(timezone.now() - timedelta(hours=1))

    assert [(pair.original and pair.original.id, pair.copy.id) for pair in pairs] == [
        ("r2", "r2_mir"),
        ("r1", "r1_mir"),
    ]
    assert pairs[0].names == ("small", "large")
    assert not has_older


def test_a_period_bounds_them_and_a_request_that_is_gone_leaves_its_copy() -> None:
    add_pair(1, minutes_ago=90)
    add_pair(2)
    UsageRecord.objects.filter(pk="r2").delete()

    pairs, _ = mirror_pairs(timezone.now() - timedelta(hours=1))

    assert [(pair.original, pair.copy.id) for pair in pairs] == [(None, "r2_mir")]
    assert comparisons(pairs) == []


def test_more_than_a_page_sums_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 2)
    for number in range(3):
        add_pair(number, minutes_ago=number + 1)

    pairs, has_older = mirror_pairs(timezone.now() - timedelta(hours=1))

    assert [pair.copy.id for pair in pairs] == ["r0_mir", "r1_mir"]
    assert has_older


def test_a_request_that_took_past_midnight_is_found() -> None:
    add("r1", minutes_ago=60 * 24 - 1)
    add("r1_mir", minutes_ago=1, key_id="mirror", mirror_of="r1", alias="large")

    [pair], _ = mirror_pairs(timezone.now() - timedelta(hours=1))

    assert pair.original is not None


def test_sums_are_of_the_same_requests_on_both_sides() -> None:
    for number in range(20):
        add_pair(
            number, duration_us=1_000 * (number + 1), cost_pico_usd=10,
            copy={"duration_us": 2_000 * (number + 1), "cost_pico_usd": 30, "output": 15, "reasoning": 5, "ttft_us": None},
        )  # fmt: skip
    add_pair(
        20, copy={"status": "failed", "duration_us": 1, "cost_pico_usd": 0, "priced": False, "input": 0, "output": 0}
    )
    add_pair(21, copy={"alias": "other"})

    found = comparisons(mirror_pairs(timezone.now() - timedelta(hours=1))[0])

    assert [(each.alias, each.mirror, each.copy.requests) for each in found] == [
        ("small", "large", 21),
        ("small", "other", 1),
    ]
    one, copy = found[0].original, found[0].copy
    assert (one.failed, copy.failed, copy.unpriced) == (0, 1, 1)
    # The failed copy was quick; its time is not among those of answers.
    assert (copy.duration_us, copy.ttft_us) == ((20_000, 38_000), (None, None))
    assert one.duration_us == (11_000, 20_000)
    assert (one.cost_pico_usd, copy.cost_pico_usd, copy.cost_of_one) == (1_200, 600, 28)
    assert (one.output_tokens, round(copy.output_tokens, 2)) == (10, round(400 / 21, 2))


def test_few_queries_however_many_pairs(django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    for number in range(6):
        add_pair(number)

    with django_assert_num_queries(3):
        pairs, _ = mirror_pairs(timezone.now() - timedelta(hours=1))

    assert all(pair.original for pair in pairs)
