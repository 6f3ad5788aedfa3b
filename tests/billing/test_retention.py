"""What retention removes from the ledger, and what it must leave."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connections

from billing import tasks
from billing.journal import Journal
from billing.ledger import JournalDrain
from billing.models import TeamHour, UsageRecord, UsageRollup
from billing.partitions import ensure_partitions, partition_days
from billing.retention import ROWS_AT_ONCE, Removed, delete_old_usage
from billing.standing import Tally, used
from llmgateway import conf as conf_module
from llmgateway.celery import app
from llmgateway.conf import Conf
from tests.billing.records import NOON, closed, opened

DAY_S = 86_400
NOW = datetime.fromtimestamp(NOON, UTC)
TODAY = date(2026, 3, 14)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def using(request: pytest.FixtureRequest) -> str:
    """The alias of an empty database."""
    if request.param == "sqlite":
        request.getfixturevalue("db")
        return "default"
    return str(request.getfixturevalue("postgres"))


def _write(journal: Journal, using: str, **days_ago: float) -> None:
    """One request for each name, so many days before now."""
    for name, days in days_ago.items():
        at = NOON - days * DAY_S
        journal.open(opened(name))
        journal.close(closed(name, started_at=at, admitted_at=at))
    JournalDrain(journal.folder, journal=journal, using=using).drain()


def _kept(using: str) -> set[str]:
    return set(UsageRecord.objects.using(using).values_list("id", flat=True))


def test_days_that_ended_too_long_ago_go_and_their_sums_stay(using: str, journal: Journal) -> None:
    _write(journal, using, today=0, edge=3.4, gone=3.6, long_gone=40)

    removed = delete_old_usage(NOW, keep_days=3, using=using)

    assert _kept(using) == {"today", "edge"}
    assert removed == (Removed(days=2) if using == "postgres" else Removed(rows=2))
    assert sum(UsageRollup.objects.using(using).values_list("requests", flat=True)) == 4
    assert TeamHour.objects.using(using).count() == 4
    [counted] = used([Tally(0.0)], using=using)
    assert counted[""].requests == 4


def test_nothing_goes_unless_days_are_said(using: str, journal: Journal) -> None:
    _write(journal, using, old=4000)

    assert delete_old_usage(NOW, keep_days=0, using=using) == Removed()
    assert _kept(using) == {"old"}


def test_rows_that_wait_for_review_stay_alone(using: str, journal: Journal) -> None:
    _write(journal, using, guessed=10, known=10.1)
    UsageRecord.objects.using(using).filter(pk="guessed").update(needs_review=True, reserved_pico_usd=7)

    delete_old_usage(NOW, keep_days=3, using=using)
    assert _kept(using) == {"guessed"}

    UsageRecord.objects.using(using).update(needs_review=False)
    delete_old_usage(NOW, keep_days=3, using=using)
    assert _kept(using) == set()


def test_more_rows_than_one_transaction_takes_all_go(db: None, journal: Journal) -> None:
    started_at = NOW - timedelta(days=5)
    UsageRecord.objects.bulk_create(
        UsageRecord(id=f"r{number}", day=started_at.date(), started_at=started_at, status="completed")
        for number in range(ROWS_AT_ONCE + 3)
    )

    assert delete_old_usage(NOW, keep_days=1) == Removed(rows=ROWS_AT_ONCE + 3)


@pytest.mark.postgres
def test_what_lies_in_the_default_partition_goes_too(postgres: str) -> None:
    started_at = NOW - timedelta(days=5)
    rows = UsageRecord.objects.using(postgres)
    rows.create(id="r", day=started_at.date(), started_at=started_at, status="completed")

    assert delete_old_usage(NOW, keep_days=1, using=postgres) == Removed(rows=1)


@pytest.mark.postgres
def test_a_day_that_somebody_reads_is_dropped_another_time(postgres: str) -> None:
    ensure_partitions(postgres, [TODAY - timedelta(days=9), TODAY])
    reader = connections.create_connection(postgres)
    try:
        reader.set_autocommit(False)
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM billing_usagerecord_20260305")
        assert delete_old_usage(NOW, keep_days=3, using=postgres).days == 0
        assert partition_days(postgres) == [TODAY - timedelta(days=9), TODAY]
        reader.rollback()
    finally:
        reader.close()

    assert delete_old_usage(NOW, keep_days=3, using=postgres).days == 1
    assert partition_days(postgres) == [TODAY]


def test_it_runs_every_night(db: None, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf_module, "conf", Conf({"USAGE_RETENTION_DAYS": "30"}))
    _write(journal, "default", old=0)  # Of a day long before the test runs.

    tasks.forget_old_usage()

    assert _kept("default") == set()
    assert tasks.forget_old_usage.name in {entry["task"] for entry in app.conf.beat_schedule.values()}
