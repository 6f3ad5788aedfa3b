"""The drain: every record is in the database once, whoever dies when."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection
from django.test.utils import CaptureQueriesContext

from billing import ledger, usage_table
from billing.journal import Journal
from billing.journal_files import START, from_json, segment_numbers
from billing.ledger import Drain, JournalDrain, drain_orphans
from billing.models import JournalOffset, UsageRecord, UsageRollup
from billing.rollups import input_tokens, output_tokens
from llmgateway.pipeline.protocols import Record
from tests.billing.conftest import MakeJournal
from tests.billing.records import NOON, closed, opened, write

pytestmark = pytest.mark.django_db(transaction=True)


REFUSAL: Record = {
    "hour": int(NOON), "team_id": 3, "team_name": "red", "key_id": "7", "key_name": "alice-key",
    "alias": "gpt-4o-mini", "code": "rate_limit_exceeded", "count": 4,
}  # fmt: skip


def ids() -> list[str]:
    return list(UsageRecord.objects.order_by("id").values_list("id", flat=True))


def drain(journal: Journal) -> JournalDrain:
    mover = JournalDrain(journal.folder, journal=journal)
    mover.drain()
    return mover


def test_a_close_becomes_a_row_with_its_columns(journal: Journal) -> None:
    write(journal, "a", started_at=NOON + 0.25, ttft_us=None)

    drain(journal)

    row = UsageRecord.objects.get()
    assert {name: getattr(row, name) for name in closed("a") if name not in {"started_at", "ttft_us"}} == {
        name: value for name, value in closed("a").items() if name not in {"started_at", "ttft_us"}
    }
    assert (row.started_at.timestamp(), row.day, row.ttft_us) == (NOON + 0.25, date(2026, 3, 14), None)
    assert (row.error_type, row.audio_input, row.priced) == ("", 0, True)
    assert journal.backlog_bytes == 0


def test_texts_are_cut_to_what_a_column_holds(journal: Journal) -> None:
    write(journal, "a", end_user="u" * 500, client_request_id="x\0y")

    drain(journal)

    row = UsageRecord.objects.get()
    assert (len(row.end_user), row.client_request_id) == (200, "xy")


def test_what_was_drained_is_not_drained_again(journal: Journal) -> None:
    write(journal, "a")
    drain(journal)
    write(journal, "b")

    drain(journal)
    drain(journal)

    assert ids() == ["a", "b"]
    assert sum(UsageRollup.objects.values_list("requests", flat=True)) == 2


def test_a_crash_before_the_commit_leaves_nothing_behind(journal: Journal) -> None:
    write(journal, "a", "b")

    with (
        failing(ledger, "add_rollups", _raise(OperationalError("the server is gone"))),
        pytest.raises(OperationalError),
    ):
        drain(journal)

    assert (ids(), UsageRollup.objects.count()) == ([], 0)
    assert journal.drained is None
    drain(journal)
    assert ids() == ["a", "b"]


def test_a_crash_after_the_commit_doubles_nothing(make_journal: MakeJournal) -> None:
    journal = make_journal(segment_bytes=1500)
    write(journal, *"abcdef")

    with (
        failing(journal, "drained_to", _raise(RuntimeError("killed before the segments were deleted"))),
        pytest.raises(RuntimeError),
    ):
        drain(journal)
    journal.stop()
    drain_orphans(journal.folder.parent)

    assert ids() == [*"abcdef"]
    assert sum(UsageRollup.objects.values_list("requests", flat=True)) == 6


def test_a_copy_of_a_drained_journal_stores_nothing_again(journal: Journal, tmp_path: Path) -> None:
    write(journal, "a", "b")
    copy = tmp_path / "restored" / journal.name
    shutil.copytree(journal.folder, copy)
    drain(journal)

    JournalDrain(copy).drain()

    assert ids() == ["a", "b"]


def test_two_drains_of_one_journal_store_each_row_once(journal: Journal) -> None:
    for number in range(400):
        write(journal, f"{number:04}")
        journal.refused([REFUSAL])
    first, second = (JournalDrain(journal.folder) for _ in range(2))
    first._most = second._most = 7

    first.step()
    while first.step() | second.step():
        first._most = second._most = 7

    assert len(ids()) == 400
    counted = dict(UsageRollup.objects.values_list("status", "requests"))
    assert counted == {"completed": 400, "refused": 400 * REFUSAL["count"]}
    assert not (journal.folder.parent / "rejected.jsonl").exists(), "the offset decides, not the unique key"


def test_the_loser_of_a_race_rolls_back(journal: Journal) -> None:
    """Counts have no unique key that could stand in for the compare-and-set of the offset."""
    journal.refused([REFUSAL])
    mover = JournalDrain(journal.folder)
    mover._position = START
    JournalDrain(journal.folder).drain()

    mover.drain()

    assert UsageRollup.objects.get().requests == REFUSAL["count"]


def test_an_unusable_record_is_set_aside_and_stops_no_other(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    write(journal, "a")
    write(journal, "bad", cost_pico_usd=2**63)
    write(journal, "worse", key_name=5)
    write(journal, "null", input=None)
    write(journal, "z")

    drain(journal)

    assert ids() == ["a", "z"]
    aside = [from_json(line) for line in (journal.folder.parent / "rejected.jsonl").read_bytes().splitlines()]
    assert [content["close"][0]["id"] for content in aside] == ["bad", "worse", "null"]
    assert caplog.text.count("cannot be stored") == 3


def test_parts_of_a_transaction_are_stored_together_or_not_at_all(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "PART_ROWS", 2)
    for number in range(4):
        write(journal, str(number), cost_pico_usd=number, started_at=NOON + 86_400 * number)
    write(journal, "bad", cost_pico_usd=2**63)
    mover = JournalDrain(journal.folder, journal=journal)

    mover.step()

    assert (ids(), UsageRollup.objects.count(), mover.lags) == ([], 0, True)
    mover.drain()
    assert (ids(), mover.rows) == ([*"0123"], 4)
    sums = UsageRollup.objects.order_by("hour").values_list("requests", "cost_pico_usd")
    assert list(sums) == [(1, 0), (1, 1), (1, 2), (1, 3)]
    write(journal, *"45678", cost_pico_usd=7, started_at=NOON + 86_400)
    mover._most = 100
    assert mover.step()
    assert (ids(), mover.rows, list(sums.all())[1]) == ([*"012345678"], 9, (6, 36))


def test_a_fault_of_our_own_loses_nothing(journal: Journal) -> None:
    write(journal, "a")

    with failing(ledger, "column_sums", _raise(KeyError("bug"))), pytest.raises(KeyError):
        drain(journal)

    assert not (journal.folder.parent / "rejected.jsonl").exists()
    drain(journal)
    assert ids() == ["a"]


def test_rollups_equal_the_sums_of_the_ledger(make_journal: MakeJournal) -> None:
    journal = make_journal()
    for number in range(60):
        write(
            journal, f"{number:02}", started_at=NOON + 97.0 * number, key_id=str(number % 3), cost_pico_usd=number**7,
            status="failed" if number % 7 == 0 else "completed", usage_source="estimated" if number % 5 == 0 else "provider",
            priced=number % 4 != 0, cache_write_1h=number, audio_output=2, ttft_us=None if number % 2 else 1000 * number,
        )  # fmt: skip
        if number % 20 == 0:
            drain(journal)
    drain(journal)

    totals: dict[tuple[object, ...], list[int]] = {}
    for row in UsageRecord.objects.all():
        hour = row.started_at.replace(minute=0, second=0, microsecond=0)
        total = totals.setdefault((hour, row.key_id, row.status), [0] * 11)
        added = [
            1, input_tokens(vars(row)), output_tokens(vars(row)), row.cache_read, row.reasoning, row.cost_pico_usd,
            row.usage_source == "estimated", not row.priced, row.ttft_us is not None, 1, 1,
        ]  # fmt: skip
        totals[hour, row.key_id, row.status] = [left + right for left, right in zip(total, added, strict=True)]
    stored = {
        (row.hour, row.key_id, row.status): [
            row.requests, row.input_tokens, row.output_tokens, row.cache_read_tokens, row.reasoning_tokens,
            row.cost_pico_usd, row.estimated_requests, row.unpriced_requests,
            *(sum(found.values()) for found in (row.ttft_histogram, row.duration_histogram, row.overhead_histogram)),
        ]
        for row in UsageRollup.objects.all()
    }  # fmt: skip
    assert stored == totals


def test_refusals_are_counted_in_rollups_alone(journal: Journal) -> None:
    journal.refused([REFUSAL, {**REFUSAL, "code": "insufficient_quota", "count": 2}])

    drain(journal)

    counted = UsageRollup.objects.order_by("code").values_list("status", "code", "requests", "cost_pico_usd")
    assert list(counted) == [("refused", "insufficient_quota", 2, 0), ("refused", "rate_limit_exceeded", 4, 0)]
    assert ids() == []


def test_mirrored_requests_stand_apart_in_rollups(journal: Journal) -> None:
    write(journal, "a", cost_pico_usd=5)
    write(journal, "b", cost_pico_usd=7, mirror_of="a")

    drain(journal)

    counted = UsageRollup.objects.order_by("code").values_list("code", "requests", "cost_pico_usd")
    assert list(counted) == [("", 1, 5), ("mirror", 1, 7)]
    assert UsageRecord.objects.get(pk="b").mirror_of == "a"


def test_a_kept_answer_says_what_it_saved(journal: Journal) -> None:
    write(journal, "a", cost_pico_usd=0, cache="semantic", saved_pico_usd=2**62)

    drain(journal)

    row = UsageRecord.objects.get(pk="a")
    assert (row.cache, row.saved_pico_usd, row.cost_pico_usd) == ("semantic", 2**62, 0)


def test_draining_stops_exactly_where_it_is_told(journal: Journal) -> None:
    write(journal, "a")
    here = journal.position()
    write(journal, "b")

    mover = JournalDrain(journal.folder, journal=journal)
    mover.drain(here)

    assert (ids(), mover.position) == (["a"], here)


def test_the_commit_is_durable(journal: Journal) -> None:
    write(journal, "a")
    drain(journal)

    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous")
        assert cursor.fetchone() == (2,)


def test_the_drain_keeps_a_megabyte_of_pages_and_maps_none(journal: Journal) -> None:
    write(journal, "a")

    # A database in memory has nothing to map, so what is said to it must tell.
    with CaptureQueriesContext(connection) as said:
        drain(journal)

    assert {"PRAGMA cache_size=-1000", "PRAGMA mmap_size=0"} <= {query["sql"] for query in said}


def _is_without_checks() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA ignore_check_constraints")
        return bool(cursor.fetchone()[0])


def test_only_the_threads_own_connection_goes_without_checks(journal: Journal) -> None:
    """What is drained from elsewhere shares its connection with writers whose rows nobody has looked at."""
    seen: list[bool] = []
    write(journal, "a")
    thread = Drain(journal, on_commit=lambda _: seen.append(_is_without_checks()), poll_s=0.01)
    thread.start()
    assert thread.wait_until(journal.position(), 10)
    assert thread.stop()
    write(journal, "b")

    drain(journal)

    assert (seen, _is_without_checks(), ids()) == ([True], False, ["a", "b"])


def test_the_thread_stores_rows_as_they_come_and_tells_who_listens(journal: Journal) -> None:
    told: list[Record] = []
    thread = Drain(journal, on_commit=told.extend, poll_s=0.01)
    thread.start()
    write(journal, "a", "b")

    assert thread.wait_until(journal.position(), 10)
    write(journal, "c")
    assert thread.stop()

    assert ids() == ["a", "b", "c"]
    assert [row["id"] for row in told] == ["a", "b", "c"]
    assert (thread.healthy, thread.drained_rows, journal.backlog_bytes) == (True, 3, 0)


def test_a_listener_that_fails_is_not_the_ledgers_fault(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    write(journal, "a")

    JournalDrain(journal.folder, journal=journal, on_commit=_raise(ValueError("no"))).drain()

    assert ids() == ["a"]
    assert "A listener failed" in caplog.text


def test_while_the_database_is_away_the_journal_keeps_everything(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away, tried = threading.Event(), threading.Semaphore(0)
    away.set()

    def insert(*args: Any) -> None:
        if away.is_set():
            tried.release()
            raise DatabaseError("the database is away")
        real_insert(*args)

    real_insert = usage_table.insert
    monkeypatch.setattr(ledger, "insert", insert)
    monkeypatch.setattr(ledger, "LONGEST_BACKOFF_S", 0.02)
    thread = Drain(journal, poll_s=0.01)
    write(journal, "a")
    thread.start()
    for _ in range(3):
        assert tried.acquire(timeout=10)
    write(journal, "b")

    assert (thread.healthy, thread.last_error) == (False, "the database is away")
    assert journal.backlog_bytes > 1000
    away.clear()
    assert thread.wait_until(journal.position(), 10)
    thread.stop()
    assert ids() == ["a", "b"]
    assert (thread.healthy, thread.last_error, caplog.text.count("database is away, the journal")) == (True, "", 1)


def test_the_thread_adopts_what_dead_workers_left(make_journal: MakeJournal) -> None:
    dead, alive = make_journal(), make_journal()
    write(dead, "a")
    dead.open(opened("b"))
    dead.stop()

    thread = Drain(alive, poll_s=0.01)
    thread.start()
    with thread._moved:
        assert thread._moved.wait_for(lambda: thread.drained_rows == 2, 10)
    thread.stop()

    assert ids() == ["a", "b"]
    assert not dead.folder.exists()
    assert list(JournalOffset.objects.values_list("journal", flat=True)) == [alive.name]


def test_a_database_restored_from_a_backup_goes_on(make_journal: MakeJournal) -> None:
    journal = make_journal(segment_bytes=1500)
    write(journal, *"abcdef")
    drain(journal)
    assert segment_numbers(journal.folder)[0] > 1
    for model in (JournalOffset, UsageRecord, UsageRollup):
        model.objects.all().delete()
    write(journal, "g")

    drain(journal)

    assert ids()[-1] == "g"
    assert len(ids()) == sum(UsageRollup.objects.values_list("requests", flat=True))


def _fail_syncs(journal: Journal) -> None:
    """The disk refuses one sync; the journal's thread then rescues what is not drained."""
    with failing(os, "fdatasync", _raise(OSError(5, "Input/output error"))):
        journal._sync()


def test_records_rescued_from_a_failing_segment_are_stored_once(journal: Journal) -> None:
    write(journal, "a")
    journal.open(opened("early"))
    mover = drain(journal)
    write(journal, "b")
    journal.open(opened("late"))
    _fail_syncs(journal)
    write(journal, "c")
    journal.close(closed("early"))

    mover.drain()
    journal.close(closed("late"))
    mover.drain()

    assert ids() == ["a", "b", "c", "early", "late"]
    assert segment_numbers(journal.folder) == [3]


def test_a_worker_killed_after_a_rescue_is_adopted_once(journal: Journal) -> None:
    write(journal, "a")
    journal.open(opened("early"))
    drain(journal)
    write(journal, "b")
    _fail_syncs(journal)
    write(journal, "c")
    journal.stop()

    drain_orphans(journal.folder.parent)

    statuses = dict(UsageRecord.objects.values_list("id", "status"))
    assert statuses == {"a": "completed", "b": "completed", "c": "completed", "early": "interrupted"}
    assert not (journal.folder.parent / "rejected.jsonl").exists()


def test_nothing_is_rescued_while_it_is_unknown_what_is_stored(journal: Journal) -> None:
    write(journal, "a")
    with failing(ledger, "add_rollups", _raise(OperationalError("the answer to the commit was lost"))):
        with pytest.raises(OperationalError):
            drain(journal)
        _fail_syncs(journal)
    assert segment_numbers(journal.folder) == [1]

    drain(journal)
    journal._sync()
    drain(journal)

    assert ids() == ["a"]


@contextmanager
def failing(target: object, name: str, failure: Any) -> Iterator[None]:
    """`target.name` is replaced for the block alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, failure)
        yield


def _raise(error: BaseException) -> Any:
    def fail(*args: object, **options: object) -> None:
        raise error

    return fail
