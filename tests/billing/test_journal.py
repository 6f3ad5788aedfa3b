"""The journal: what was written is read again, whatever the disk does."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import journal as journal_module
from billing.journal import Journal
from billing.journal_files import (
    CLOSE,
    OPEN,
    PROGRESS,
    REFUSED,
    START,
    Ownership,
    Position,
    frame,
    from_json,
    read_records,
    segment_numbers,
    segment_path,
    to_json,
    walk,
)
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.protocols import Ledger
from tests.billing.conftest import MakeJournal
from tests.billing.records import closed, opened, write


def contents(folder: Path, kind: bytes) -> list[object]:
    return [from_json(step.payload) for step in walk(folder, START, live=True) if step.kind == kind]


def closed_ids(folder: Path) -> list[str]:
    return [record["id"] for record in contents(folder, CLOSE)]  # type: ignore[index]  # records are objects


class FullDisk:
    """`os` for the journal, with a disk that takes `room` more bytes and maybe cannot truncate or sync."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.can_truncate = True
        self.can_sync = True

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = data[: self.room]
        self.room -= len(taken)
        return os.write(descriptor, taken)

    def ftruncate(self, descriptor: int, length: int) -> None:
        if not self.can_truncate:
            raise OSError(errno.EIO, "Input/output error")
        os.ftruncate(descriptor, length)

    def fdatasync(self, descriptor: int) -> None:
        if not self.can_sync:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[FullDisk]:
    disk = FullDisk(room=2**40)
    monkeypatch.setattr(journal_module, "os", disk)
    yield disk
    disk.room, disk.can_sync, disk.can_truncate = 2**40, True, True


def test_it_is_the_ledger_of_the_hot_path(journal: Journal) -> None:
    ledger: Ledger = journal
    ledger.open(opened("a"))
    ledger.attempt("a", {"provider": "spare"})
    ledger.progress([("a", 7)])
    ledger.refused([{"code": "rate_limit_exceeded", "count": 2}])
    ledger.close(closed("a"))

    kinds = b"".join(step.kind for step in walk(journal.folder, START, live=True))
    assert kinds == b"HOAPRC"
    assert contents(journal.folder, OPEN) == [opened("a")]
    assert contents(journal.folder, PROGRESS) == [{"a": 7}]
    assert contents(journal.folder, REFUSED) == [[{"code": "rate_limit_exceeded", "count": 2}]]
    assert contents(journal.folder, CLOSE) == [closed("a")]


def test_content_that_json_cannot_hold_is_written_all_the_same(journal: Journal) -> None:
    write(journal, "a", usage_raw={"huge": 2**70}, end_user="\udcff")

    assert closed_ids(journal.folder) == ["a"]


def test_a_second_close_is_ignored(journal: Journal) -> None:
    write(journal, "a")
    journal.close(closed("a", cost_pico_usd=5))

    assert closed_ids(journal.folder) == ["a"]


def test_a_torn_tail_is_not_read(journal: Journal) -> None:
    write(journal, "a", "b")
    path = segment_path(journal.folder, 1)
    os.truncate(path, path.stat().st_size - 3)

    assert closed_ids(journal.folder) == ["a"]


RECORDS = [frame(CLOSE, to_json({"id": str(number), "text": "x" * number})) for number in range(40)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_loses_no_other_record(tmp_path: Path, data: st.DataObject) -> None:
    whole = b"".join(RECORDS)
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    ends = [len(b"".join(RECORDS[: number + 1])) for number in range(len(RECORDS))]
    hit = next(number for number, end in enumerate(ends) if place < end)
    spans: list[tuple[int, int]] = []

    found = [record.payload for record in read_records(path, skipped=lambda _, *span: spans.append(span))]

    expected = [record[11:] for number, record in enumerate(RECORDS) if number != hit]
    assert found == expected
    assert spans == [(ends[hit] - len(RECORDS[hit]), ends[hit])]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=300), at=st.integers(0, 40), window=st.integers(1, 300))
def test_reading_in_windows_finds_every_record_around_garbage(
    tmp_path: Path, garbage: bytes, at: int, window: int
) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(b"".join(RECORDS[:at]) + garbage + b"".join(RECORDS[at:]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("billing.journal_files.WINDOW", window)
        found = [record.payload for record in read_records(path, skipped=lambda *_: None)]

    assert found == [record[11:] for record in RECORDS]


def test_reading_may_go_on_from_any_end(journal: Journal) -> None:
    write(journal, "a", "b", "c")
    steps = list(walk(journal.folder, START, live=True))

    for number, step in enumerate(steps):
        assert list(walk(journal.folder, step.position, live=True)) == steps[number + 1 :]


def test_segments_follow_each_other(make_journal: MakeJournal) -> None:
    journal = make_journal(segment_bytes=2000)
    ids = [str(number) for number in range(12)]
    write(journal, *ids)

    assert len(segment_numbers(journal.folder)) > 3
    assert closed_ids(journal.folder) == ids
    assert list(walk(journal.folder, journal.position(), journal.position(), live=True)) == []


def test_a_full_disk_refuses_the_request_and_leaves_no_trace(journal: Journal, disk: FullDisk) -> None:
    write(journal, "a")
    size = segment_path(journal.folder, 1).stat().st_size
    disk.room = 40

    with pytest.raises(LedgerUnavailableError, match="No space left"):
        journal.open(opened("b"))

    assert segment_path(journal.folder, 1).stat().st_size == size
    disk.room = 2**40
    write(journal, "c")
    assert closed_ids(journal.folder) == ["a", "c"]


def test_what_cannot_even_be_cut_off_is_void(journal: Journal, disk: FullDisk) -> None:
    write(journal, "a")
    disk.room, disk.can_truncate = 40, False
    with pytest.raises(LedgerUnavailableError):
        journal.open(opened("b"))
    disk.room = 2**40
    write(journal, "c")

    skipped: list[object] = []
    found = [
        from_json(step.payload)["id"]
        for step in walk(journal.folder, START, live=True, skipped=lambda *span: skipped.append(span))
        if step.kind == CLOSE
    ]

    assert (found, skipped) == (["a", "c"], [])
    assert segment_numbers(journal.folder) == [1, 3]


def test_a_close_that_cannot_be_written_waits_and_is_written_later(journal: Journal, disk: FullDisk) -> None:
    journal.open(opened("a"))
    journal.open(opened("b"))
    disk.room = 0

    journal.close(closed("a"))
    disk.room = 2**40
    journal.close(closed("b"))

    assert journal.unwritten_closes > 0
    journal._tidy()
    assert (journal.unwritten_closes, closed_ids(journal.folder)) == (0, ["a", "b"])


def test_a_close_waits_through_the_journals_own_thread(journal: Journal, disk: FullDisk) -> None:
    journal.open(opened("a"))
    disk.room = 0
    journal.close(closed("a"))
    disk.room = 2**40

    journal.stop()

    assert closed_ids(journal.folder) == ["a"]


def test_a_full_disk_is_a_refusal_until_a_write_succeeds_without_any_request(journal: Journal, disk: FullDisk) -> None:
    journal.open(opened("a"))
    assert journal.refusal() == ""
    disk.room = 0

    with pytest.raises(LedgerUnavailableError):
        journal.open(opened("b"))

    assert "No space left" in journal.refusal()
    assert journal.unwritten_closes == 0
    disk.room = 2**40
    assert journal.refusal() == ""
    journal.close(closed("a"))
    assert closed_ids(journal.folder) == ["a"]


def test_the_size_limit_refuses_new_requests_but_no_close(make_journal: MakeJournal) -> None:
    journal = make_journal(max_bytes=800)
    journal.open(opened("a"))
    journal.open(opened("b"))

    with pytest.raises(LedgerUnavailableError, match="800 bytes"):
        journal.open(opened("c"))
    assert "800 bytes" in journal.refusal()
    journal.close(closed("a"))

    assert closed_ids(journal.folder) == ["a"]
    journal.drained_to(journal.position())
    journal.open(opened("c"))
    assert 0 < journal.backlog_bytes < 800


def test_a_segment_is_deleted_once_nothing_needs_it(make_journal: MakeJournal) -> None:
    journal = make_journal(segment_bytes=1)
    journal.open(opened("long"))
    write(journal, "a")
    journal.drained_to(journal.position())
    assert segment_numbers(journal.folder) == [3, 5, 7]

    journal.close(closed("long"))
    before_the_close = Position(7, segment_path(journal.folder, 7).stat().st_size)
    journal.drained_to(before_the_close)
    assert segment_numbers(journal.folder)[0] == 3

    journal.drained_to(journal.position())
    assert segment_numbers(journal.folder) == [journal.position().segment]


def test_a_failed_sync_moves_what_is_not_drained_to_a_new_segment(make_journal: MakeJournal, disk: FullDisk) -> None:
    journal = make_journal(fsync="interval")
    write(journal, "drained")
    journal.open(opened("early"))
    journal.drained_to(drained := journal.position())
    write(journal, "late")
    journal.open(opened("running"))
    disk.can_sync = False
    journal._sync()
    disk.can_sync = True
    journal._sync()

    assert segment_numbers(journal.folder) == [1, 2, 3]
    assert [step.kind for step in walk(journal.folder, drained, live=True)] == [
        b"",
        b"H",
        b"O",
        b"O",
        b"C",
        b"O",
        b"",
        b"H",
    ]
    journal.close(closed("running"))
    journal.close(closed("early"))
    assert closed_ids(journal.folder) == ["drained", "late", "running", "early"]
    journal.drained_to(journal.position())
    assert segment_numbers(journal.folder) == [3]


def test_always_syncs_before_it_returns(make_journal: MakeJournal, disk: FullDisk) -> None:
    journal = make_journal(fsync="always")
    disk.can_sync = False

    with pytest.raises(LedgerUnavailableError, match="Input/output error"):
        journal.open(opened("a"))

    disk.can_sync = True
    write(journal, "b")
    assert contents(journal.folder, OPEN) == [opened("b")]


def test_a_real_file_size_limit_is_survived(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from billing.journal import Journal
from llmgateway.pipeline.errors import LedgerUnavailableError
from tests.billing.records import opened, closed
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
journal = Journal(Path(sys.argv[1]), max_bytes=2**30)
for number in range(1000):
    try:
        journal.open(opened(str(number)))
    except LedgerUnavailableError:
        break
    if number % 2:
        journal.close(closed(str(number)))
print(number, flush=True)
journal._owner.release()
import os; os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)

    [folder] = tmp_path.iterdir()
    assert 5 < int(done.stdout) < 100
    assert len(contents(folder, OPEN)) == int(done.stdout)
    assert segment_path(folder, 1).stat().st_size <= 20_000


def test_a_journal_has_one_owner_for_as_long_as_it_lives(journal: Journal) -> None:
    assert Ownership.take(journal.folder) is None

    journal.stop()

    owner = Ownership.take(journal.folder)
    assert owner is not None
    owner.delete_folder()
    assert not journal.folder.exists()
    assert Ownership.take(journal.folder) is None


def test_the_lock_is_not_inherited_by_programs_it_starts(journal: Journal) -> None:
    descriptor = journal._owner._descriptor

    assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert not os.get_inheritable(descriptor)


def test_the_age_of_the_oldest_undrained_record_grows_until_it_is_stored(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr("billing.journal.time.monotonic", lambda: now[0])
    journal.drained_to(journal.position())
    assert journal.undrained_s == 0

    write(journal, "a")
    now[0] += 7
    assert 7 <= journal.undrained_s < 8

    first = journal.position()
    journal.drained_to(Position(first.segment, first.offset - 1))
    now[0] += 5
    write(journal, "b")
    assert journal.undrained_s >= 12, "one byte is missing, and so is the record"
    journal.drained_to(journal.position())
    assert journal.undrained_s == 0
