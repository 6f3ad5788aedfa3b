"""A reporter that writes into another SQL database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.utils import timezone

from billing.journal import Journal
from billing.ledger import JournalDrain
from billing.models import Delivery, ReporterState, UsageReporter
from billing.reporters.claims import replay
from billing.reporters.courier import Courier
from billing.reporters.database import COLUMNS, UsageTable, connection_settings
from billing.reporters.payload import USAGE, Surroundings, Wanted, usage_payload
from billing.usage_rows import completed
from tests.billing.records import closed, write
from tests.billing.reporters.receiver import make_reporter
from tests.postgres import PostgresServer

pytestmark = pytest.mark.django_db(transaction=True)
Rows = Callable[[], list[tuple[Any, ...]]]


def check_that_usage_arrives_once(reporter: UsageReporter, rows: Rows, journal: Journal) -> None:
    write(journal, "a", "b", end_user="O'Brien")
    JournalDrain(journal.folder, journal=journal).drain()

    assert Courier().run(for_s=10) == 2
    assert sorted(row[:2] for row in rows()) == [("a", "O'Brien"), ("b", "O'Brien")]

    assert replay(Delivery.objects.all(), timezone.now()) == 2
    assert Courier().run(for_s=10) == 2
    assert len(rows()) == 2


def test_usage_arrives_once_in_sqlite(journal: Journal, tmp_path: Path) -> None:
    file = tmp_path / "usage.sqlite3"

    def rows() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(file)) as connection:
            return connection.execute("SELECT * FROM llm_usage").fetchall()

    reporter = make_reporter(f"sqlite:///{file}", kind="database", secret="")

    check_that_usage_arrives_once(reporter, rows, journal)

    [row, _] = rows()
    assert dict(zip(COLUMNS, row, strict=True))["cost_pico_usd"] == 30_000_000


@pytest.mark.postgres
def test_usage_arrives_once_in_postgresql(journal: Journal, postgres_server: PostgresServer) -> None:
    name = postgres_server.create_database(template="template1")

    def rows() -> list[tuple[Any, ...]]:
        with psycopg.connect(postgres_server.url(name)) as connection:
            return connection.execute("SELECT * FROM llm_usage").fetchall()

    reporter = make_reporter(postgres_server.url(name), kind="database", secret="not-asked-for")
    try:
        check_that_usage_arrives_once(reporter, rows, journal)

        row = dict(zip(COLUMNS, rows()[0], strict=True))
        assert (row["timestamp"], row["total_tokens"]) == (datetime(2026, 3, 14, 12, tzinfo=UTC), 125)
        assert str(row["cost_usd"]) == "0.000030000000"
    finally:
        postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_that_is_away_is_tried_again(tmp_path: Path, journal: Journal) -> None:
    reporter = make_reporter(f"sqlite:///{tmp_path}/missing/usage.sqlite3", kind="database", secret="")
    write(journal, "a")
    JournalDrain(journal.folder, journal=journal).drain()

    assert Courier().run(for_s=10) == 0

    state = ReporterState.objects.get(reporter=reporter)
    assert "unable to open database file" in state.last_error
    assert state.paused_until is not None
    assert Delivery.objects.get().attempts == 1


def test_the_password_stands_in_no_error(tmp_path: Path) -> None:
    reporter = UsageReporter(url="postgres://bill@127.0.0.1:1/usage", kind="database", allow_private_network=True)
    reporter.set_secret("hunter2-hunter2")

    outcome = UsageTable(reporter).write([])

    assert outcome.unavailable
    assert "hunter2" not in outcome.error


def test_the_connection_is_pinned_to_the_address_that_was_checked() -> None:
    settings = connection_settings("postgres://bill@93.184.216.34:5433/usage", "pw", allow_private=False)

    assert (settings["HOST"], settings["PORT"], settings["PASSWORD"]) == ("93.184.216.34", 5433, "pw")
    assert settings["OPTIONS"]["hostaddr"] == "93.184.216.34"


def test_a_column_for_every_field_of_the_payload() -> None:
    row = completed(closed("a"))
    wanted = Wanted(1, frozenset(), frozenset(), "id", includes_cost=True)
    payload = json.loads(usage_payload(row, wanted, Surroundings({}, {})))

    assert payload.pop("type") == USAGE
    assert list(payload) == list(COLUMNS)
