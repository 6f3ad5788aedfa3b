"""That PostgreSQL finds what is asked of a large ledger by indexes, and in the partitions that can have it alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.db.models import Q, QuerySet

from billing.mirror_pairs import copies_since
from billing.models import UsageRecord, UsageRollup
from billing.partitions import ensure_partitions
from billing.standing import Tally, used
from tests.billing.records import NOON

pytestmark = pytest.mark.postgres

TODAY = date(2026, 3, 14)
NOW = datetime.fromtimestamp(NOON, UTC)
Rows = QuerySet[Any]


@pytest.fixture
def ledger(postgres: str) -> str:
    """Ten days without rows. What would be cheap to read from end to end, for it is small, counts as dear."""
    ensure_partitions(postgres, [TODAY - timedelta(days=back) for back in range(10)])
    with connections[postgres].cursor() as cursor:
        for way in ("enable_seqscan", "enable_bitmapscan"):
            cursor.execute(f"SET {way} = off")
    return postgres


def _plan(using: str, sql: str, parameters: Any = ()) -> str:
    with connections[using].cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}", parameters)
        return "\n".join(line for (line,) in cursor.fetchall())


@pytest.mark.parametrize(
    ("rows", "index"),
    [
        (lambda rows: rows.order_by("-started_at", "-id"), "started_at"),
        (lambda rows: rows.filter(key_id="7").order_by("-started_at", "-id"), "key_id_started_at"),
        (lambda rows: rows.filter(team_id=3).order_by("-started_at", "-id"), "team_id_started_at"),
        (lambda rows: rows.filter(end_user="u").order_by("-started_at", "-id"), "end_user_started_at"),
        (
            lambda rows: rows.filter(client_request_id="c").order_by("-started_at", "-id"),
            "client_request_id_started_at",
        ),
        (lambda rows: rows.filter(started_at__gte=NOW).order_by("started_at", "id"), "started_at"),
    ],
)
def test_pages_read_rows_in_the_order_of_an_index(ledger: str, rows: Callable[[Rows], Rows], index: str) -> None:
    asked = rows(UsageRecord.objects.using(ledger))[:50]

    plan = _plan(ledger, *asked.query.sql_with_params())

    assert f"billing_usagerecord_20260314_{index}_idx" in plan
    assert "Seq Scan" not in plan
    # Rows of one moment alone are sorted, not all there are.
    assert "Incremental Sort" in plan


def test_copies_are_found_by_their_key_in_the_days_asked_for(ledger: str) -> None:
    asked = copies_since(NOW - timedelta(hours=1)).using(ledger)[:50]

    plan = _plan(ledger, *asked.query.sql_with_params())

    assert "billing_usagerecord_20260314_key_id_started_at_idx" in plan
    assert "billing_usagerecord_20260313" not in plan
    assert "Seq Scan" not in plan


def test_one_request_is_found_by_its_id(ledger: str) -> None:
    plan = _plan(ledger, *UsageRecord.objects.using(ledger).filter(pk="r").query.sql_with_params())

    assert "billing_usagerecord_20260314_id_idx" in plan
    assert "Seq Scan" not in plan


def test_rows_to_be_reviewed_have_an_index_of_their_own(ledger: str) -> None:
    rows = UsageRecord.objects.using(ledger).filter(needs_review=True).order_by("-started_at")

    assert "billing_usagerecord_20260314_started_at_idx1" in _plan(ledger, *rows.query.sql_with_params())


@pytest.mark.parametrize(
    ("condition", "index"),
    [(Q(key_id="7", hour__gte=NOW), "rollup_by_key"), (Q(team_id=3, hour__gte=NOW), "rollup_by_team")],
)
def test_sums_are_found_by_their_owner(ledger: str, condition: Q, index: str) -> None:
    assert index in _plan(ledger, *UsageRollup.objects.using(ledger).filter(condition).query.sql_with_params())


def test_counters_read_no_partition_of_earlier_days(ledger: str) -> None:
    asked: list[tuple[str, Any]] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append((sql, params))
        return execute(sql, params, many, context)

    with connections[ledger].execute_wrapper(note):
        used([Tally(NOON - 1800, "key_id", "7", each="client_ip")], using=ledger)

    [(sql, parameters)] = asked
    plan = _plan(ledger, sql, parameters)
    assert "billing_usagerecord_20260314" in plan
    assert "billing_usagerecord_20260313" not in plan
