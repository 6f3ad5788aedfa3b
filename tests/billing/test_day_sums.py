"""Days that are over say what their hours add up to, whatever comes late, and readers find the same with and without them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections
from django.db.models import F, Sum

from billing import tasks
from billing.day_sums import Parts, differing, sum_days, summed_until
from billing.journal import Journal
from billing.ledger import JournalDrain
from billing.models import DayMark, KeyDay, TeamDay, UsageRollup
from billing.reconciliation import reconcile
from billing.standing import BySubject, Tally, used
from llmgateway.celery import app
from tests.billing.records import NOON, write
from tests.billing.test_reconciliation import REFUSAL, using

__all__ = ["using"]

DAY_S = 86_400
REFUSED = 4
MIDNIGHT = datetime(2026, 3, 14, tzinfo=UTC)
NOW = datetime.fromtimestamp(NOON, UTC)
DAY = timedelta(days=1)


def drained(journal: Journal, using: str) -> None:
    JournalDrain(journal.folder, journal=journal, using=using).drain()


@pytest.fixture
def filled(journal: Journal, using: str) -> str:
    """Two days that are over and half of one that is not; two keys, and some refusals."""
    for days in (0, 1, 2):
        for number in range(3):
            write(
                journal, f"r{days}-{number}", started_at=NOON - days * DAY_S - number * 3600, key_id=str(7 + number % 2)
            )
    journal.refused([{**REFUSAL, "hour": NOON - DAY_S, "count": REFUSED}])
    drained(journal, using)
    return using


def _sums(using: str) -> list[BySubject]:
    """What budgets of a key, a team, an alias and of all have used since some moments."""
    starts = [0.0, NOON - 2 * DAY_S - 7200, NOON - 2 * DAY_S, NOON - DAY_S / 2, NOON - 7200]
    owners = [("", ""), ("key_id", "8"), ("team_id", "3"), ("alias", "gpt-4o-mini")]
    tallies = [Tally(start, column, owner) for start in starts for column, owner in owners]
    tallies += [Tally(start, "key_id", "7", alias="gpt-4o-mini") for start in starts]
    return used(tallies, using=using)


def test_every_day_that_is_over_is_summed_once(filled: str) -> None:
    assert sum_days(NOW, using=filled) == 2
    assert sum_days(NOW, using=filled) == 0

    assert summed_until(filled) == MIDNIGHT
    for table in (KeyDay, TeamDay):
        days = dict(table.objects.using(filled).values_list("day").annotate(count=Sum("requests")))
        assert days == {MIDNIGHT - DAY: 3 + REFUSED, MIDNIGHT - 2 * DAY: 3}
    assert [differing(connections[filled], MIDNIGHT - days * DAY) for days in (1, 2)] == [{}, {}]


def test_nothing_is_summed_where_there_is_nothing(using: str) -> None:
    assert sum_days(NOW, using=using) == 0
    assert summed_until(using) is None


def test_counters_start_from_the_same_with_days_and_without(filled: str) -> None:
    before = _sums(filled)

    sum_days(NOW, using=filled)

    assert _sums(filled) == before
    assert before[0][""].requests == 9
    # Days are what was read: without their hours a total is still the same.
    UsageRollup.objects.using(filled).filter(hour__lt=MIDNIGHT).delete()
    assert _sums(filled)[:4] == before[:4]


def test_what_comes_late_is_added_to_its_day(filled: str, journal: Journal) -> None:
    sum_days(NOW, using=filled)
    write(journal, "late", started_at=NOON - DAY_S)
    write(journal, "late of a new key", started_at=NOON - 2 * DAY_S, key_id="9")
    write(journal, "of today", started_at=NOON)
    journal.refused([{**REFUSAL, "hour": NOON - DAY_S, "key_id": "9"}])

    drained(journal, filled)

    days = dict(KeyDay.objects.using(filled).values_list("day").annotate(count=Sum("requests")))
    assert days == {MIDNIGHT - DAY: 4 + 2 * REFUSED, MIDNIGHT - 2 * DAY: 4}
    assert [differing(connections[filled], MIDNIGHT - days * DAY) for days in (1, 2)] == [{}, {}]


def test_a_broken_day_is_found_named_and_repaired(filled: str) -> None:
    sum_days(NOW, using=filled)
    KeyDay.objects.using(filled).filter(key_id="8", day=MIDNIGHT - DAY).update(cost_pico_usd=F("cost_pico_usd") + 1)

    found = reconcile(since=NOW - 3 * DAY, until=NOW, using=filled)
    assert [(drift.table, drift.name, drift.column, drift.stored) for drift in found.drifts] == [
        ("day", "2026-03-13", "billing_keyday", "1 rows")
    ]

    assert reconcile(since=NOW - 3 * DAY, until=NOW, repair=True, using=filled).unrepaired == 0
    assert reconcile(since=NOW - 3 * DAY, until=NOW, using=filled).drifts == []


def test_an_hour_that_is_repaired_takes_its_day_along(filled: str) -> None:
    sum_days(NOW, using=filled)
    expected = list(
        KeyDay.objects.using(filled).order_by("day", "key_id", "code").values_list("day", "key_id", "requests")
    )
    UsageRollup.objects.using(filled).filter(hour__lt=MIDNIGHT).exclude(status="refused").update(requests=7)

    assert reconcile(since=NOW - 3 * DAY, until=NOW, repair=True, using=filled).unrepaired == 0

    days = KeyDay.objects.using(filled).order_by("day", "key_id", "code")
    assert list(days.values_list("day", "key_id", "requests")) == expected


def test_a_span_is_days_and_the_hours_around_them() -> None:
    hour = timedelta(hours=1)
    mark = MIDNIGHT

    inside = Parts.of(MIDNIGHT - 3 * DAY - hour, MIDNIGHT + hour, mark)
    whole = Parts.of(MIDNIGHT - 2 * DAY, MIDNIGHT - DAY, mark)
    short = Parts.of(MIDNIGHT - DAY + hour, MIDNIGHT - hour, mark)
    ahead = Parts.of(MIDNIGHT, MIDNIGHT + 3 * DAY, mark)

    assert inside == Parts(
        (MIDNIGHT - 3 * DAY, MIDNIGHT),
        ((MIDNIGHT - 3 * DAY - hour, MIDNIGHT - 3 * DAY), (MIDNIGHT, MIDNIGHT + hour)),
    )
    assert whole == Parts((MIDNIGHT - 2 * DAY, MIDNIGHT - DAY), ())
    assert short == Parts(None, ((MIDNIGHT - DAY + hour, MIDNIGHT - hour),))
    assert ahead == Parts(None, ((MIDNIGHT, MIDNIGHT + 3 * DAY),))
    assert Parts.of(MIDNIGHT - 3 * DAY, MIDNIGHT, None) == Parts(None, ((MIDNIGHT - 3 * DAY, MIDNIGHT),))


def test_a_task_sums_what_is_over(journal: Journal, transactional_db: None) -> None:
    write(journal, "old", started_at=NOON)
    drained(journal, "default")

    tasks.sum_days_that_are_over()

    assert DayMark.objects.get().summed_until > MIDNIGHT
    assert tasks.sum_days_that_are_over.name in {entry["task"] for entry in app.conf.beat_schedule.values()}
