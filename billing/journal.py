"""The crash-safe usage journal of one worker: what happens to each request, written before it counts. No Django here.

`Journal` is the `Ledger` of the hot path. A record is one `write(2)`: a killed process loses nothing. `fsync` runs in
a thread at most 100 ms later. `billing.ledger` moves records into the database and tells the journal how far it got.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from pathlib import Path
from typing import NoReturn

from billing.journal_files import (
    ATTEMPT,
    CLOSE,
    OPEN,
    PROGRESS,
    REFUSED,
    START,
    Position,
    create_journal,
    frame,
    from_json,
    header,
    read_records,
    segment_path,
    sync_folder,
    to_json,
    write_whole_segment,
)
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.protocols import Record

log = logging.getLogger(__name__)

SYNC_DELAY_S = 0.05
RETRY_S = 1.0
SEGMENT_STEP = 2
"""Written segments have odd numbers; the even one after each is kept free for what is rescued from it."""


class Segment:
    """A file of the journal and what keeps it from being deleted."""

    __slots__ = ("descriptor", "doomed", "end", "number", "open_requests", "path", "settled_at", "synced")

    def __init__(self, path: Path, number: int, descriptor: int | None, end: int) -> None:
        self.path = path
        self.number = number
        self.descriptor = descriptor
        self.end = end
        """After the last whole record."""
        self.synced = 0
        self.doomed = False
        """An fsync failed: what the disk holds is unknown, and a second fsync would lie."""
        self.open_requests = 0
        self.settled_at = START
        """Where the last of its requests was closed, here or in a later segment."""


class Journal:
    """Appends records to segments that it alone owns.

    `open`, `attempt`, `progress`, `close` and `refused` come from one thread; the drain and the journal's own thread
    use the rest. `stop` is called last, after the drain has stopped.

    Example:
        journal = Journal(conf.journal_dir, fsync="interval", max_bytes=2**30)
        journal.open({"id": "req_1", "held_pico_usd": 0, ...})
        journal.close({"id": "req_1", "status": "completed", ...})
        journal.stop()
    """

    def __init__(self, root: Path, *, fsync: str = "interval", max_bytes: int, segment_bytes: int = 16 * 2**20) -> None:
        self._owner = create_journal(root)
        self.folder = self._owner.folder
        self.gate = threading.Lock()
        """Held by the drain while it moves records, and while records are rescued from a failing segment."""
        self.drained: Position | None = START
        """How far the database is known to be; None: unknown after an error."""
        self._fsync = fsync
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._open: dict[str, Segment] = {}
        self._unwritten: dict[str, bytes] = {}
        self._backlog = 0
        self._seen = (START, time.monotonic())
        """An end of the journal and when it was there: what lies beyond was written later."""
        self._undrained_since = self._seen[1]
        self._failure = ""
        """Why the last write failed; empty: it did not."""
        self._segments: dict[int, Segment] = {}
        self._retired: list[Segment] = []
        self._segment = self._new_segment(START.segment, previous=0, previous_end=0)
        sync_folder(self.folder)
        self._folder_synced = True
        self._dirty = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    # What the hot path calls.

    def open(self, record: Record) -> None:
        if self._backlog >= self._max_bytes:
            self._refuse(self._too_large())
        request_id: str = record["id"]
        data = frame(OPEN, to_json(record))
        with self._lock:
            try:
                segment = self._append(data)
            except OSError as error:
                self._refuse(f"the usage journal cannot be written: {error.strerror}", error)
            segment.open_requests += 1
            self._open[request_id] = segment

    def attempt(self, request_id: str, record: Record) -> None:
        data = frame(ATTEMPT, to_json({**record, "id": request_id}))
        with self._lock:
            try:
                self._append(data)
            except OSError as error:
                self._refuse(f"the usage journal cannot be written: {error.strerror}", error)

    def progress(self, counted: list[tuple[str, int]]) -> None:
        self._append_if_possible(frame(PROGRESS, to_json(dict(counted))))

    def refused(self, counts: list[Record]) -> None:
        self._append_if_possible(frame(REFUSED, to_json(counts)))

    def close(self, record: Record) -> None:
        request_id: str = record["id"]
        data = frame(CLOSE, to_json(record))
        with self._lock:
            if request_id not in self._open or request_id in self._unwritten:
                log.error("Request %s was closed twice, or never opened; the ledger keeps its first close", request_id)
                return
            if self._unwritten:
                self._keep(request_id, data)
                return
            try:
                self._append(data)
            except OSError as error:
                log.critical("The close of request %s waits in memory: %s", request_id, error.strerror)
                self._keep(request_id, data)
                return
            self._closed(request_id)

    def refusal(self) -> str:
        """Why a new request would be refused now; empty: it would not. For health checks, from any thread.

        While writes fail it tries one: a process that is not ready gets no requests that could show that it works again.
        """
        if self._backlog >= self._max_bytes:
            return self._too_large()
        if self._failure:
            with self._lock, contextlib.suppress(OSError):  # Then it is still so.
                self._append(frame(PROGRESS, b"{}"))
        return f"the usage journal cannot be written: {self._failure}" if self._failure else ""

    def _too_large(self) -> str:
        return f"the usage journal has reached {self._max_bytes} bytes that are not in the database"

    @property
    def backlog_bytes(self) -> int:
        """Bytes that are not in the database yet."""
        return self._backlog

    @property
    def undrained_s(self) -> float:
        """How long the oldest record that is not in the database waits at most."""
        return time.monotonic() - self._undrained_since if self._backlog else 0.0

    @property
    def unwritten_closes(self) -> int:
        """Answers whose ledger row waits in memory because the disk refuses it. More than 0 is an alarm."""
        return len(self._unwritten)

    # What the drain calls.

    @property
    def name(self) -> str:
        return self.folder.name

    def position(self) -> Position:
        """The end of what is written: records below it are whole."""
        with self._lock:
            return Position(self._segment.number, self._segment.end)

    def drained_to(self, position: Position) -> None:
        """Everything before `position` is in the database, durably. Segments that nothing needs any more are deleted."""
        with self._lock:
            self.drained = position
            if position >= self._seen[0]:
                self._undrained_since = self._seen[1]
                self._seen = (Position(self._segment.number, self._segment.end), time.monotonic())
            self._backlog = sum(self._undrained_bytes(segment, position) for segment in self._segments.values())
            for number in sorted(self._segments):
                segment = self._segments[number]
                if number >= position.segment or segment.open_requests or segment.settled_at > position:
                    break
                del self._segments[number]
                segment.path.unlink(missing_ok=True)
                self._retired.append(segment)

    @staticmethod
    def _undrained_bytes(segment: Segment, position: Position) -> int:
        if segment.number < position.segment:
            return 0
        return segment.end - (position.offset if segment.number == position.segment else 0)

    def stop(self) -> None:
        """Writes what waits, syncs, and gives the folder up. What is not drained is adopted by the next worker.

        A second call does nothing.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        self._tidy()
        if self._unwritten:
            ids = ", ".join(self._unwritten)
            log.critical("The disk refused the closes of these requests; they will be estimated: %s", ids)
        with self._lock:
            for segment in [*self._segments.values(), *self._retired]:
                self._release(segment)
        self._owner.release()

    # Writing. All of it under the lock.

    def _append(self, data: bytes) -> Segment:
        segment = self._segment
        if segment.doomed or segment.end >= self._segment_bytes:
            segment = self._rotated()
        assert segment.descriptor is not None
        try:
            written = os.write(segment.descriptor, data)
            while written != len(data):
                written += os.write(segment.descriptor, data[written:])
            if self._fsync == "always":
                os.fdatasync(segment.descriptor)
        except OSError as error:
            self._take_back(segment)
            if not self._failure:
                log.critical("The usage journal cannot be written, new requests are refused: %s", error.strerror)
            self._failure = error.strerror or str(error)
            raise
        if self._failure:
            log.warning("The usage journal can be written again")
            self._failure = ""
        segment.end += len(data)
        self._backlog += len(data)
        if not self._dirty:
            self._dirty = True
            self._wake.set()
        return segment

    def _take_back(self, segment: Segment) -> None:
        """A failed append leaves nothing behind: not in the file, or else not before the next segment's say-so."""
        assert segment.descriptor is not None
        try:
            os.ftruncate(segment.descriptor, segment.end)
        except OSError:
            segment.doomed = True

    def _rotated(self) -> Segment:
        """The next segment, or the current one while no file can be made and it is still good."""
        last = self._segment
        try:
            self._segment = self._new_segment(last.number + SEGMENT_STEP, previous=last.number, previous_end=last.end)
        except OSError as error:
            if last.doomed:
                raise
            log.warning("No new journal segment can be made (%s); the current one grows on", error.strerror)
        return self._segment

    def _new_segment(self, number: int, *, previous: int, previous_end: int) -> Segment:
        path = segment_path(self.folder, number)
        first = header(self.folder, number, previous=previous, previous_end=previous_end)
        # Truncates: a file under this number is a header that could not be written whole.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _write_header(descriptor, first)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        segment = self._segments[number] = Segment(path, number, descriptor, len(first))
        self._folder_synced = False
        self._backlog += len(first)
        return segment

    def _append_if_possible(self, data: bytes) -> None:
        with self._lock:
            try:
                self._append(data)
            except OSError as error:
                log.warning("Progress or refusals could not be journalled: %s", error.strerror)

    def _keep(self, request_id: str, data: bytes) -> None:
        self._unwritten[request_id] = data
        self._wake.set()

    def _closed(self, request_id: str) -> None:
        segment = self._open.pop(request_id)
        segment.open_requests -= 1
        segment.settled_at = Position(self._segment.number, self._segment.end)

    @staticmethod
    def _refuse(reason: str, cause: OSError | None = None) -> NoReturn:
        raise LedgerUnavailableError(
            f"The request was not sent, because {reason}; try again soon.", headers=((b"retry-after", b"5"),)
        ) from cause

    # The journal's own thread.

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._stopping.wait(SYNC_DELAY_S)
            self._wake.clear()
            self._dirty = False
            if not self._tidy():
                self._stopping.wait(RETRY_S)
                self._wake.set()

    def _tidy(self) -> bool:
        """Writes kept closes, syncs, and lets go of deleted segments. Whether nothing is left to be tried again."""
        written = self._write_kept()
        synced = self._fsync == "never" or self._sync()
        with self._lock:
            retired, self._retired = self._retired, []
            for segment in retired:
                self._release(segment)
        return written and synced

    def _write_kept(self) -> bool:
        while self._unwritten:
            with self._lock:
                request_id, data = next(iter(self._unwritten.items()))
                try:
                    self._append(data)
                except OSError:
                    return False
                del self._unwritten[request_id]
                self._closed(request_id)
                log.warning("The close of request %s is written now", request_id)
        return True

    def _sync(self) -> bool:
        with self._lock:
            waiting = [(segment, segment.end) for segment in self._segments.values() if segment.synced < segment.end]
            folder_synced, self._folder_synced = self._folder_synced, True
        try:
            if not folder_synced:
                sync_folder(self.folder)
        except OSError as error:
            self._folder_synced = False
            log.critical("The journal's folder cannot be synced: %s", error.strerror)
            return False
        synced = [self._sync_segment(segment, end) for segment, end in waiting]
        return all(synced)

    def _sync_segment(self, segment: Segment, end: int) -> bool:
        if not segment.doomed:
            try:
                if segment.descriptor is not None:
                    os.fdatasync(segment.descriptor)
            except OSError as error:
                log.critical("The journal segment %s cannot be synced: %s", segment.path, error.strerror)
                segment.doomed = True
            else:
                segment.synced = end
                self._release_if_finished(segment)
                return True
        return self._rescue(segment)

    def _release_if_finished(self, segment: Segment) -> None:
        with self._lock:
            if segment is not self._segment and segment.synced == segment.end:
                self._release(segment)

    @staticmethod
    def _release(segment: Segment) -> None:
        """Only this journal's thread closes descriptors, so that none is closed while it is synced."""
        if segment.descriptor is not None:
            os.close(segment.descriptor)
            segment.descriptor = None

    def _rescue(self, failed: Segment) -> bool:
        """Copies what the database does not have yet out of a segment whose disk state is unknown.

        The copy's header voids the rest of `failed`. The gate keeps the drain from reading either meanwhile.
        """
        with self.gate:
            with self._lock:
                drained = self.drained
                if drained is None:
                    return False
                try:
                    if self._segment is failed:
                        self._rotated()
                except OSError:
                    return False
                still_open = {request_id for request_id, segment in self._open.items() if segment is failed}
            cut = _cut(failed, drained)
            try:
                rescued = self._write_rescued(failed, cut, still_open)
            except OSError as error:
                log.critical("Nothing could be rescued from %s yet: %s", failed.path, error.strerror)
                return False
            with self._lock:
                self._replace(failed, rescued, cut)
        log.warning("The records of %s were rescued into %s", failed.path, rescued.path)
        return True

    def _write_rescued(self, failed: Segment, cut: int, still_open: set[str]) -> Segment:
        number = failed.number + 1
        parts = [header(self.folder, number, previous=failed.number, previous_end=cut)]
        start = 0
        for record in read_records(failed.path, limit=failed.end):
            if start >= cut or (record.kind in (OPEN, ATTEMPT) and _id(record.payload) in still_open):
                parts.append(frame(record.kind, record.payload))
            start = record.end
        content = b"".join(parts)
        write_whole_segment(self.folder, number, content)
        segment = Segment(segment_path(self.folder, number), number, None, len(content))
        segment.synced = segment.end
        return segment

    def _replace(self, failed: Segment, rescued: Segment, cut: int) -> None:
        self._segments[rescued.number] = rescued
        for request_id, segment in self._open.items():
            if segment is failed:
                self._open[request_id] = rescued
                failed.open_requests -= 1
                rescued.open_requests += 1
        # A request that was closed while its `open` was being copied must not look open once that close is deleted.
        rescued.settled_at = max(failed.settled_at, Position(self._segment.number, self._segment.end))
        failed.end = failed.synced = cut
        self._release(failed)


def _cut(segment: Segment, drained: Position) -> int:
    """Up to where the database already has a segment."""
    if drained.segment > segment.number:
        return segment.end
    return drained.offset if drained.segment == segment.number else 0


def _write_header(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _id(payload: bytes) -> str:
    return str(from_json(payload).get("id"))
