"""The ledger on a real PostgreSQL: partitions, COPY, row locks, and the same exactness."""

from __future__ import annotations

import threading
from datetime import date

import pytest
from django.db import connections

from billing import ledger
from billing.journal import Journal
from billing.ledger import JournalDrain, drain_orphans
from billing.models import UsageRecord, UsageRollup
from billing.partitions import ensure_partitions
from tests.billing.conftest import MakeJournal
from tests.billing.records import NOON, closed, opened, write

pytestmark = pytest.mark.postgres


def _partition_of(using: str, request_id: str) -> str:
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM billing_usagerecord WHERE id = %s", [request_id])
        return str(cursor.fetchone()[0])


def test_rows_arrive_in_the_partition_of_their_day(postgres: str, journal: Journal) -> None:
    write(journal, "a", usage_raw={"note": "nul \0 and ünïcode\t\\"})

    JournalDrain(journal.folder, journal=journal, using=postgres).drain()

    row = UsageRecord.objects.using(postgres).get(pk="a")
    assert (row.day, row.started_at.timestamp(), row.usage_raw) == (
        date(2026, 3, 14), NOON, {"note": "nul  and ünïcode\t\\"},
    )  # fmt: skip
    assert _partition_of(postgres, "a") == "billing_usagerecord_20260314"
    assert row.attempts == [{"deployment": "main", "status": 200}]
    assert row.cost_pico_usd == 30_000_000


def test_parts_of_a_transaction_are_copied_as_one(
    postgres: str, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "PART_ROWS", 2)
    for number in range(5):
        write(journal, str(number), started_at=NOON + 86_400 * (number % 2), cost_pico_usd=number)

    JournalDrain(journal.folder, journal=journal, using=postgres).drain()

    stored = UsageRecord.objects.using(postgres).order_by("id").values_list("id", "day__day", "cost_pico_usd")
    assert list(stored) == [("0", 14, 0), ("1", 15, 1), ("2", 14, 2), ("3", 15, 3), ("4", 14, 4)]


def test_a_day_that_can_get_no_partition_goes_to_the_default_one(postgres: str, make_journal: MakeJournal) -> None:
    write(journal := make_journal(), "a")
    drain = JournalDrain(journal.folder, journal=journal, using=postgres)
    drain._days = {date(2026, 3, 14)}
    drain.drain()
    assert _partition_of(postgres, "a") == "billing_usagerecord_default"

    ensure_partitions(postgres, [date(2026, 3, 14)])
    write(journal, "b")
    drain.drain()

    assert _partition_of(postgres, "b") == "billing_usagerecord_default"


def test_drains_of_many_workers_add_up_without_deadlock(postgres: str, make_journal: MakeJournal) -> None:
    journals = [make_journal() for _ in range(4)]
    for number, journal in enumerate(journals):
        for request in range(120):
            # Each worker meets the same rollups in an order of its own.
            key = str((request * (2 * number + 1)) % 40)
            journal.open(opened(f"{number}-{request}"))
            journal.close(closed(f"{number}-{request}", key_id=key))

    def drain(journal: Journal) -> None:
        mover = JournalDrain(journal.folder, journal=journal, using=postgres)
        mover._most = 25
        try:
            mover.drain()
        finally:
            connections[postgres].close()

    threads = [threading.Thread(target=drain, args=(journal,)) for journal in journals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    rollups = UsageRollup.objects.using(postgres).all()
    assert UsageRecord.objects.using(postgres).count() == 480
    assert sum(rollup.requests for rollup in rollups) == 480
    assert sum(sum(rollup.duration_histogram.values()) for rollup in rollups) == 480
    assert sum(rollup.cost_pico_usd for rollup in rollups) == 480 * 30_000_000


def test_orphans_are_adopted(postgres: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.open(opened("lost"))
    journal.stop()

    assert drain_orphans(journal.folder.parent, using=postgres) == 1

    assert UsageRecord.objects.using(postgres).get(pk="lost").status == "interrupted"
    assert not journal.folder.exists()


def test_the_primary_key_is_day_and_id(postgres: str) -> None:
    with connections[postgres].cursor() as cursor:
        constraints = connections[postgres].introspection.get_constraints(cursor, "billing_usagerecord")
        primary = [found["columns"] for found in constraints.values() if found["primary_key"]]
        indexed = [found["columns"] for found in constraints.values() if found["index"]]

    assert primary == [["day", "id"]]
    assert sorted(indexed) == [
        ["client_request_id", "started_at"],
        ["end_user", "started_at"],
        ["id"],
        ["key_id", "started_at"],
        ["started_at"],
        ["started_at"],
        ["started_at"],
        ["team_id", "started_at"],
    ]
