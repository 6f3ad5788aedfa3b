"""Sums that were broken by hand are found, named and repaired, and nothing is lost to a drain at work."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.models import F, Sum

from billing import reconciliation
from billing.journal import Journal
from billing.ledger import JournalDrain
from billing.models import Reconciliation, TeamHour, UsageRecord, UsageRollup
from billing.reconciliation import Report, reconcile
from billing.tasks import reconcile_recent_days
from billing.usage_selectors import refusals_by_code
from tests.billing.records import NOON, closed, opened, write

HOUR = datetime.fromtimestamp(NOON, UTC)
EARLIER = HOUR - timedelta(days=2)
REFUSAL = {"hour": NOON, "team_id": 3, "team_name": "red", "key_id": "7", "key_name": "alice-key", "alias": "gpt",
           "code": "rate_limit_exceeded", "count": 4}  # fmt: skip


def fill(journal: Journal, using: str = "default") -> None:
    """Two hours of two keys, and some refusals."""
    write(journal, "a", "b")
    write(journal, "c", key_id="8", started_at=NOON + 3600)
    write(journal, "late", started_at=NOON + 7199.9, admitted_at=NOON + 7200.1)
    journal.refused([REFUSAL, {**REFUSAL, "code": "insufficient_quota", "count": 1}])
    JournalDrain(journal.folder, journal=journal, using=using).drain()


def compared(*, repair: bool = False, using: str = "default", **options: bool) -> Report:
    return reconcile(since=EARLIER, until=HOUR + timedelta(hours=3), repair=repair, using=using, **options)


def named(report: Report) -> set[tuple[str, str, str, str]]:
    return {(drift.table, drift.column, drift.stored, drift.expected) for drift in report.drifts}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def using(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both databases, one after the other."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgres")
    else:
        request.getfixturevalue("transactional_db")
        yield "default"


@pytest.fixture
def filled(journal: Journal, using: str) -> str:
    fill(journal, using)
    return using


def test_what_the_drain_wrote_agrees(filled: str) -> None:
    report = compared(using=filled)

    assert (report.drifts, report.hours, report.unrepaired) == ([], 16, 0)  # From the midnight of the first row on.


def test_mirrored_requests_agree_by_themselves(journal: Journal, using: str) -> None:
    write(journal, "mirror", mirror_of="other")

    fill(journal, using)

    assert compared(using=using).drifts == []
    assert UsageRollup.objects.using(using).get(code="mirror").requests == 1


def test_why_requests_were_refused_is_kept(journal: Journal, transactional_db: None) -> None:
    fill(journal)
    journal.refused([REFUSAL])
    JournalDrain(journal.folder, journal=journal).drain()

    found = refusals_by_code(3, EARLIER, HOUR + timedelta(hours=1))

    assert list(found.items()) == [("rate_limit_exceeded", 8), ("insufficient_quota", 1)]


def test_a_broken_rollup_is_found_named_and_repaired(filled: str) -> None:
    rollups = UsageRollup.objects.using(filled)
    rollups.filter(key_id="8").update(cost_pico_usd=F("cost_pico_usd") + 5)

    found = compared(using=filled)
    assert found.unrepaired == len(found.drifts) == 1
    assert found.drifts[0].name == "2026-03-14 13h team 3 key 8 gpt-4o-mini main completed"
    assert named(found) == {("rollup", "cost_pico_usd", "30000005", "30000000")}

    assert compared(repair=True, using=filled).unrepaired == 0
    assert compared(using=filled).drifts == []
    assert rollups.filter(status="refused").aggregate(count=Sum("requests"))["count"] == 5


def test_rollups_that_are_missing_or_invented_are_found(filled: str) -> None:
    rollups = UsageRollup.objects.using(filled)
    rollups.filter(key_id="8").delete()
    rollups.filter(key_id="7", hour=HOUR, status="completed").update(key_id="9")

    found = compared(repair=True, using=filled)

    assert ("rollup", "requests", "nothing", "1") in named(found)
    assert ("rollup", "requests", "2", "nothing") in named(found)
    assert compared(using=filled).drifts == []
    assert sorted(rollups.exclude(status="refused").values_list("key_id", "requests")) == [("7", 1), ("7", 2), ("8", 1)]


def test_a_broken_team_hour_is_found_named_and_repaired(filled: str) -> None:
    hours = TeamHour.objects.using(filled)
    before = list(hours.order_by("hour").values("hour", "team_id", "by_model", "ttft_histogram"))
    hours.filter(hour=HOUR).update(by_model={"gpt-4o-mini": {"completed": [1, 0, 0, 0, 0, 0]}})
    hours.filter(hour__gt=HOUR).delete()

    found = compared(repair=True, using=filled)

    assert {drift.name for drift in found.drifts} >= {"2026-03-14 12h team 3", "2026-03-14 13h team 3"}
    assert compared(using=filled).drifts == []
    assert list(hours.order_by("hour").values("hour", "team_id", "by_model", "ttft_histogram")) == before


def test_a_histogram_that_lost_a_request_is_found(filled: str) -> None:
    UsageRollup.objects.using(filled).filter(key_id="8").update(duration_histogram={})

    found = compared(repair=True, using=filled)

    assert [(drift.table, drift.column, drift.stored) for drift in found.drifts] == [
        ("rollup", "duration_histogram", "{}")
    ]
    assert compared(using=filled).drifts == []


def test_hours_whose_rows_were_removed_are_left_alone(filled: str, journal: Journal) -> None:
    write(journal, "old", started_at=NOON - 86_400)
    JournalDrain(journal.folder, journal=journal, using=filled).drain()
    UsageRecord.objects.using(filled).filter(id="old").delete()

    report = compared(repair=True, using=filled)

    assert report.drifts == []
    assert UsageRollup.objects.using(filled).filter(hour=HOUR - timedelta(days=1)).exists()


def test_rows_that_differ_from_their_attempts_are_named_and_not_touched(filled: str) -> None:
    found = compared(repair=True, using=filled, attempts=True)

    assert {(drift.table, drift.name, drift.stored, drift.expected) for drift in found.drifts} == {
        ("record", name, "30000000", "0") for name in ("a", "b", "c", "late")
    }
    assert found.unrepaired == 4


def test_rows_that_arrive_between_the_two_looks_are_no_drift(
    filled: str, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = reconciliation._suspicious

    def and_then_a_row(*arguments: object) -> set[datetime]:
        found = look(*arguments)  # type: ignore[arg-type]  # passed through
        write(journal, f"new-{len(found)}-{arguments[1]}")
        JournalDrain(journal.folder, journal=journal, using=filled).drain()
        return found | {HOUR}

    monkeypatch.setattr(reconciliation, "_suspicious", and_then_a_row)

    assert compared(repair=True, using=filled).drifts == []
    assert UsageRollup.objects.using(filled).get(hour=HOUR, status="completed").requests == 3


@pytest.mark.postgres
def test_a_drain_at_work_loses_nothing_to_a_repair(journal: Journal, postgres: str) -> None:
    fill(journal, postgres)
    rounds = 60

    def drain() -> None:
        one = JournalDrain(journal.folder, journal=journal, using=postgres)
        for number in range(rounds):
            write(journal, f"more-{number}")
            one.drain()
        connections[postgres].close()

    thread = threading.Thread(target=drain)
    thread.start()
    repaired = 0
    while thread.is_alive():
        UsageRollup.objects.using(postgres).filter(hour=HOUR, status="completed").update(requests=F("requests") + 7)
        repaired += compared(repair=True, using=postgres).repaired
    thread.join()
    compared(repair=True, using=postgres)

    assert repaired > 0
    assert compared(using=postgres).drifts == []
    total = UsageRollup.objects.using(postgres).exclude(status="refused").aggregate(count=Sum("requests"))
    assert total["count"] == UsageRecord.objects.using(postgres).count() == rounds + 4


@pytest.mark.django_db(transaction=True)
class TestCommand:
    def test_drift_ends_with_1_until_it_is_repaired(self, journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
        fill(journal)
        UsageRollup.objects.filter(key_id="8").update(requests=9)

        with pytest.raises(SystemExit) as ended:
            call_command("reconcile", since="2026-03-01")
        assert ended.value.code == 1
        out = capsys.readouterr().out
        assert "2026-03-14 13h team 3 key 8 gpt-4o-mini main completed" in out
        assert "./gateway reconcile --repair" in out

        call_command("reconcile", since="2026-03-01", repair=True)
        assert "of them repaired" in capsys.readouterr().out
        call_command("reconcile", since="2026-03-01")
        assert "Everything agrees" in capsys.readouterr().out

    def test_scripts_get_one_object_a_line(self, journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
        fill(journal)
        UsageRollup.objects.filter(key_id="8").update(input_tokens=1)

        call_command("reconcile", since="2026-03-01", repair=True, json=True)

        *drifts, whole = map(json.loads, capsys.readouterr().out.splitlines())
        assert [(drift["column"], drift["stored"], drift["expected"]) for drift in drifts] == [
            ("input_tokens", "1", "100")
        ]
        assert (whole["drifted"], whole["repaired"]) == (1, 1)

    def test_without_rows_there_is_nothing_to_say(self, capsys: pytest.CaptureFixture[str]) -> None:
        call_command("reconcile")

        assert "no row of the ledger" in capsys.readouterr().out

    def test_the_night_repairs_recent_days_and_remembers_it(self, journal: Journal) -> None:
        now = datetime.now(UTC).timestamp()
        journal.open(opened("now"))
        journal.close(closed("now", started_at=now))
        JournalDrain(journal.folder, journal=journal).drain()
        UsageRollup.objects.update(requests=5)

        reconcile_recent_days()

        assert UsageRollup.objects.get().requests == 1
        last = Reconciliation.objects.get()
        assert (last.drifted, last.repaired) == (0, 1)
