"""A disk that is full, and a wall clock that goes backwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import time_machine

from billing.journal import Journal
from billing.journal_files import segment_numbers, segment_path
from billing.ledger import JournalDrain, drain_orphans
from billing.models import UsageRecord, UsageRollup
from tests.billing.conftest import MakeJournal
from tests.billing.faults.conftest import Scene
from tests.billing.records import NOON, closed, opened, write


def test_a_worker_survives_a_full_disk_and_loses_nothing(scene: Scene) -> None:
    scene.killed("full disk")

    scene.adopt()

    books = scene.books()
    assert scene.diary.read_text().splitlines() == ["waiting 1"], "the request was let in, or its close was lost"
    assert {row.pk: row.status for row in books.rows} == {"first": "completed", "second": "completed"}
    books.check_sums()


@pytest.mark.django_db(transaction=True)
def test_where_no_segment_can_be_made_the_old_one_grows_on(make_journal: MakeJournal) -> None:
    journal = make_journal(segment_bytes=1_500)
    write(journal, "a")
    # The kernel itself says that there is no space.
    segment_path(journal.folder, 3).symlink_to("/dev/full")

    write(journal, "b")

    assert segment_numbers(journal.folder) == [1]
    write(journal, "c")
    assert segment_numbers(journal.folder) == [1, 3], "once there is space, a new one is begun"
    JournalDrain(journal.folder, journal=journal).drain()
    assert UsageRecord.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_a_clock_that_goes_backwards_moves_no_row_and_no_sum(tmp_path: Path) -> None:
    root = tmp_path / "journal"
    with time_machine.travel(NOON, tick=False) as clock:
        first = Journal(root, fsync="never", max_bytes=2**30)
        write(first, "a", started_at=NOON, admitted_at=NOON)
        clock.shift(-86_400)
        # Admitted before it came: the clock was set in between.
        write(first, "b", started_at=NOON, admitted_at=NOON - 86_400)
        first.open(opened("left", started_at=NOON - 86_400))
        second = Journal(root, fsync="never", max_bytes=2**30)
        write(second, "c", started_at=NOON - 86_400, admitted_at=NOON - 86_400)
        assert first.undrained_s >= 0
        first.stop()
        drain = JournalDrain(second.folder, journal=second)
        drain.drain()
        drain_orphans(root)
        clock.shift(3 * 86_400)
        write(second, "d", started_at=NOON + 2 * 86_400)
        drain.drain()
        second.stop()
        drain_orphans(root)

    days = {
        row.pk: (row.day - min(each.day for each in UsageRecord.objects.all())).days
        for row in UsageRecord.objects.all()
    }
    assert days == {"a": 1, "b": 1, "left": 0, "c": 0, "d": 3}
    counted = dict(UsageRollup.objects.values_list("hour__day", "requests").filter(status="completed"))
    assert counted == {14: 1, 13: 2, 16: 1}
    assert os.listdir(root) == []  # noqa: PTH208  # names alone


@pytest.mark.django_db(transaction=True)
def test_a_request_counts_for_the_hour_in_which_it_was_admitted(make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.open(opened("a"))
    journal.close(closed("a", started_at=NOON - 0.5, admitted_at=NOON + 0.5))

    JournalDrain(journal.folder, journal=journal).drain()

    row = UsageRecord.objects.get()
    assert (row.started_at.hour, UsageRollup.objects.get().hour.hour) == (11, 12)
