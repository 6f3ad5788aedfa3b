"""A team's hours add up to its rollups, whatever batches they came in."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest
from django.db import connection, transaction

from billing import usage_selectors
from billing.histogram import merge
from billing.models import TeamHour, UsageRollup
from billing.rollups import add_rollups, sums
from billing.team_hours import merged_models
from billing.usage_rows import row_of
from tests.conftest import NOON
from tests.dashboard.seeding import Traffic, row, traffic

pytestmark = pytest.mark.django_db


def test_hours_equal_the_rollups_over_many_batches() -> None:
    who = Traffic(1, "platform", (("1", "web-app"), ("2", "batch")), busiest=8)
    rows = list(traffic(who, NOON - timedelta(days=2), NOON))
    Random(5).shuffle(rows)
    refused = {"hour": NOON.timestamp(), "team_id": 1, "key_id": "1", "alias": "small", "team_name": "platform",
               "key_name": "web-app", "count": 3}  # fmt: skip

    for start in range(0, len(rows), 7):
        add_rollups(connection, sums(map(row_of, rows[start : start + 7]), [refused]))

    for hour in TeamHour.objects.all():
        rollups = UsageRollup.objects.filter(team_id=hour.team_id, hour=hour.hour)
        for name in ("ttft_histogram", "duration_histogram", "overhead_histogram"):
            assert getattr(hour, name) == merge(rollups.values_list(name, flat=True))
    models, latency = usage_selectors.usage_by_hour(1, NOON - timedelta(days=3), NOON + timedelta(hours=1))
    total = sum((model.usage for model in models), usage_selectors.Usage())
    assert total == usage_selectors.team_usage(1, NOON - timedelta(days=3), NOON + timedelta(hours=1))
    assert (total.requests, total.refused) == (len(rows), 3 * len(range(0, len(rows), 7)))
    assert sum(count for hour in latency for count in hour.duration.values()) == len(rows)


def test_teams_are_kept_apart() -> None:
    both = [row(NOON, id="a", team_id=1), row(NOON, id="b", team_id=2, cost_pico_usd=9)]
    add_rollups(connection, sums(map(row_of, both)))

    hours = {hour.team_id: hour.by_model for hour in TeamHour.objects.all()}

    assert hours[1] == {"gpt-4o-mini": {"completed": [1, 100, 20, 0, 0, 0]}}
    assert hours[2] == {"gpt-4o-mini": {"completed": [1, 100, 20, 9, 0, 0]}}


def test_what_is_rolled_back_is_in_no_hour() -> None:
    with transaction.atomic():
        add_rollups(connection, sums([row_of(row(NOON))]))
        transaction.set_rollback(True)

    assert not TeamHour.objects.exists()


def test_adding_models_changes_neither_operand() -> None:
    one, other = {"m": {"completed": [1] * 6}}, {"m": {"completed": [2] * 6, "failed": [3] * 6}}

    total = merged_models(one, other)

    assert total == {"m": {"completed": [3] * 6, "failed": [3] * 6}}
    assert (one, other["m"]["completed"]) == ({"m": {"completed": [1] * 6}}, [2] * 6)
