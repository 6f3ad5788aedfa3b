"""`usage`, `budgets` and the reads behind them: true beside a running worker and after its death."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.db import connection

from billing.journal import Journal
from billing.ledger import Drain, JournalDrain
from billing.management.commands.usage import moment
from billing.models import Budget
from billing.selectors import budget_standings, journal_ends, key_usage_by_day, undrained
from llmgateway import conf
from llmgateway.conf import Conf
from tests.billing.conftest import MakeJournal
from tests.billing.records import NOON, closed, opened, write
from tests.cast import create_cast

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(conf, "conf", Conf({**conf.conf.values, "GATEWAY_DATA_DIR": str(tmp_path)}))
    return tmp_path


@pytest.fixture
def noon() -> Iterator[None]:
    with time_machine.travel(NOON + 600, tick=True):
        yield


def run(*arguments: str) -> list[Any]:
    out = io.StringIO()
    call_command(*arguments, "--json", stdout=out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_usage_prints_every_named_field(make_journal: MakeJournal) -> None:
    journal = make_journal()
    beside_tokens = {"units": {"search": 2}, "reported_cost_pico_usd": 29_000_000}
    write(
        journal, "a", cache_write_5m=3, cache_write_1h=4, audio_output=1, cache="hit", saved_pico_usd=7, **beside_tokens
    )
    journal.stop()

    [row] = run("usage")

    assert row == {
        "request_id": "a", "status": "completed", "http_status": 200, "key": "alice-key", "team": "red",
        "alias": "gpt-4o-mini", "provider": "openai", "deployment": "main", "model": "gpt-4o-mini",
        "input_tokens": 107, "output_tokens": 26, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 7,
        "reasoning_output_tokens": 5, "usage_source": "provider", "cost_pico_usd": 30_000_000, "price_id": 5,
        "units": {"search": 2}, "reported_cost_pico_usd": 29_000_000, "priced": True, "default_price": False,
        "started_at": "2026-03-14T12:00:00+00:00", "duration_ms": 400.0, "ttft_ms": 90.0,
        "cache": "hit", "saved_pico_usd": 7, "mirror_of": "", "via": [], "own_key": "", "attempts": [{"deployment": "main", "status": 200}],
    }  # fmt: skip


def test_usage_filters_by_key_and_moment(make_journal: MakeJournal) -> None:
    journal = make_journal()
    write(journal, "early", started_at=NOON - 60)
    write(journal, "late")
    write(journal, "other", key_name="bob-key")
    journal.stop()

    assert [row["request_id"] for row in run("usage")] == ["early", "late", "other"]
    assert [row["request_id"] for row in run("usage", "--key", "alice-key")] == ["early", "late"]
    assert [row["request_id"] for row in run("usage", "--since", "2026-03-14T12:00:00Z")] == ["late", "other"]
    assert run("usage", "--key", "nobody") == []


@pytest.fixture
def _reads_beside_writers(transactional_db: None) -> Iterator[None]:
    """The tests' own database lies in memory, where a reader fails instead of waiting for a writer's commit."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA read_uncommitted = 1")
        yield
        cursor.execute("PRAGMA read_uncommitted = 0")


@pytest.mark.usefixtures("_reads_beside_writers")
def test_usage_waits_for_a_running_worker(journal: Journal) -> None:
    write(journal, "a")
    journal.open(opened("running"))
    drain = Drain(journal, poll_s=0.3)
    drain.start()
    write(journal, "b")

    rows = run("usage")

    assert {"a", "b"} <= {row["request_id"] for row in rows}
    assert drain.stop()


def test_usage_names_the_backlog_of_a_worker_that_does_not_drain(journal: Journal) -> None:
    write(journal, "a", "b")

    with pytest.raises(CommandError, match=rf"{journal.name} \(2 rows\)"):
        call_command("usage", "--json", "--wait", "0")


def test_usage_prints_a_table_for_people(make_journal: MakeJournal, capsys: pytest.CaptureFixture[str]) -> None:
    journal = make_journal()
    write(journal, "a", usage_source="estimated")
    journal.stop()

    call_command("usage")

    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["started", "key", "model", "status", "input", "output", "cost"]
    assert row.split() == [
        "2026-03-14", "12:00:00", "alice-key", "gpt-4o-mini", "completed", "~100", "~25", "$0.00003",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-14T12:00:00Z", "2026-03-14T12:00:00+00:00"),
        ("2026-03-14T13:00:00+01:00", "2026-03-14T12:00:00+00:00"),
        ("2026-03-14", "2026-03-14T00:00:00+00:00"),
        ("1773489600", "2026-03-14T12:00:00+00:00"),
        ("2h", "2026-03-14T10:10:00+00:00"),
    ],
)
def test_moments_may_be_written_in_several_ways(text: str, expected: str) -> None:
    with time_machine.travel(NOON + 600, tick=False):
        assert moment(text) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("text", ["yesterday", "2026-02-30", ""])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is no moment"):
        moment(text)


@pytest.mark.usefixtures("noon")
def test_budgets_count_ledger_journal_and_holds(journal: Journal) -> None:
    key = create_cast().platform_key
    mine = Budget.objects.create(name="day", key=key, window="day", limit_pico_usd=10**12)
    team = Budget.objects.create(name="month", team=key.team, window="month", limit_pico_usd=10**13)
    everyone = Budget.objects.create(name="hourly", window="hour", limit_pico_usd=10**14)
    Budget.objects.create(name="off", window="hour", limit_pico_usd=1, enabled=False)
    of_alice = {"key_id": str(key.pk), "team_id": key.team_id}
    write(journal, "drained", **of_alice, cost_pico_usd=1)
    write(journal, "yesterday", **of_alice, cost_pico_usd=1000, started_at=NOON - 86_400)
    JournalDrain(journal.folder, journal=journal).drain()
    write(journal, "journalled", **of_alice, cost_pico_usd=20)
    write(journal, "somebody", key_id="999", team_id=998, cost_pico_usd=300)
    journal.open(
        opened("running", held_pico_usd=7, windows=[["x", mine.pk, 7], ["y", team.pk, 7], ["z", everyone.pk, 7]])
    )
    journal.open(opened("another", held_pico_usd=5, windows=[["z", everyone.pk, 5]]))

    found = {row["name"]: row for row in run("budgets")}

    assert {name: (row["settled_pico_usd"], row["held_pico_usd"]) for name, row in found.items()} == {
        "day": (21, 7), "month": (1021, 7), "hourly": (321, 12),
    }  # fmt: skip
    assert (found["day"]["scope"], found["day"]["of"], found["month"]["scope"]) == ("key", key.name, "team")
    assert (found["hourly"]["window_start"], found["hourly"]["limit_pico_usd"]) == ("2026-03-14T12:00:00+00:00", 10**14)


@pytest.mark.usefixtures("noon")
def test_budgets_are_the_same_wherever_a_record_stands(make_journal: MakeJournal, data_dir: Path) -> None:
    budget = Budget.objects.create(name="all", window="total", limit_pico_usd=10**12)
    journal = make_journal()
    write(journal, "a", "b")

    def standing() -> tuple[int, int, int]:
        [found] = budget_standings(data_dir / "journal")
        return found.settled_pico_usd, found.held_pico_usd, found.remaining_pico_usd

    before = standing()
    JournalDrain(journal.folder, journal=journal).drain()

    assert before == standing() == (60_000_000, 0, budget.limit_pico_usd - 60_000_000)


def test_budgets_prints_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Budget.objects.create(name="hourly", window="hour", limit_pico_usd=10 * 10**12)

    call_command("budgets")

    assert capsys.readouterr().out.splitlines()[1].split() == ["hourly", "global", "hour", "$10.00", "$0.00", "$0.00"]


def test_the_days_of_a_key_are_those_where_it_lives(journal: Journal) -> None:
    write(journal, "before", started_at=NOON - 14 * 3600)  # 23:00 in Berlin, the day before.
    write(journal, "a", "b", started_at=NOON - 12.5 * 3600)  # 00:30 in Berlin.
    write(journal, "other", key_id="8")
    JournalDrain(journal.folder, journal=journal).drain()

    with time_machine.travel(NOON, tick=False):
        days = key_usage_by_day("7", days=3, time_zone="Europe/Berlin")

    assert [(str(day.day), day.requests, day.cost_pico_usd) for day in days] == [
        ("2026-03-12", 0, 0), ("2026-03-13", 1, 30_000_000), ("2026-03-14", 2, 60_000_000),
    ]  # fmt: skip
    assert days[-1].input_tokens == 200


def test_open_requests_are_no_backlog(journal: Journal) -> None:
    journal.open(opened("running"))
    root = journal.folder.parent
    assert undrained(journal_ends(root)) == {}

    journal.close(closed("running"))

    assert undrained(journal_ends(root)) == {journal.folder: 1}
