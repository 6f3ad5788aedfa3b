"""From the journals to the database, each record exactly once.

Rows, rollups and the journal's offset are committed in one transaction, and the offset moves by compare-and-set:
whoever loses rolls back and reads it again. Only after that commit, which is durable, may a segment be deleted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from billing.adoption import adopt_orphans
from billing.credits import settle_expired
from billing.journal import Journal
from billing.journal_files import CLOSE, REFUSED, START, Ownership, Position, from_json, walk_runs
from billing.models import JournalOffset
from billing.partitions import ensure_partitions
from billing.rejected import UNUSABLE, set_aside
from billing.reporters.outbox import Outbox
from billing.rollups import add_rollups, column_sums
from billing.usage_columns import Columns, by_column
from billing.usage_rows import all_decoded
from billing.usage_table import insert
from llmgateway.pipeline.protocols import Record

log = logging.getLogger(__name__)

BATCH_ROWS = 4000
"""Records in one transaction: a commit, and rollups to add to, cost the less for each the more they are."""
PART_ROWS = 500
"""Rows that are decoded together; what they have in common is kept once."""
POLL_S = 0.5
ADOPT_EVERY_S = 5.0
QUIET_COMMIT_S = 1.0
"""How often an offset is written that moved past no row: `open` records alone are worth no commit each."""
LONGEST_BACKOFF_S = 5.0

_COMPARE_AND_SET = (
    'UPDATE billing_journaloffset SET segment = %s, "offset" = %s, updated_at = %s '
    'WHERE journal = %s AND segment = %s AND "offset" = %s'
)
_DRAINED = frozenset((CLOSE, REFUSED))

OnCommit = Callable[[list[Record]], None]
"""Told the completed rows of each batch after its commit, in the draining thread."""


class OffsetMovedError(Exception):
    """Somebody else moved this journal's offset since we read it."""


@dataclass(slots=True)
class Batch:
    """What lies between two positions of a journal."""

    start: Position
    end: Position
    closes: list[bytes] = field(default_factory=list)
    """Payloads of `close` records."""
    refused: list[Record] = field(default_factory=list)
    taken: int = 0
    """Records that mean work for the database."""

    @property
    def empty(self) -> bool:
        return not self.closes and not self.refused


def read_batch(
    folder: Path, start: Position, until: Position | None, *, most: int = BATCH_ROWS, live: bool = False
) -> Batch:
    batch = Batch(start, start)
    for segment, run in walk_runs(folder, start, until, live=live, wanted=_DRAINED):
        end = batch.end.offset
        for kind, payload, end in run:  # noqa: B007  # The last one counts.
            if not kind:
                continue
            if kind == CLOSE:
                batch.closes.append(payload)
            else:
                batch.refused += from_json(payload)
            batch.taken += 1
            if batch.taken >= most:
                break
        if run:
            batch.end = Position(segment, end)
        if batch.taken >= most:
            break
    return batch


class JournalDrain:
    """Moves one journal into the database. `journal` is the live one of this process, None for an adopted one."""

    def __init__(
        self, folder: Path, *, journal: Journal | None = None, on_commit: OnCommit | None = None, using: str = "default"
    ) -> None:
        self.folder = folder
        self.rows = 0
        self._journal = journal
        self._on_commit = on_commit
        self._using = using
        self.has_own_connection = False
        """Nobody else writes through this thread's connection to the database."""
        self._outbox = Outbox(using)
        self._prepared: object = None
        """The connection that has been told what it must be."""
        self._position: Position | None = None
        self._most = BATCH_ROWS
        self.lags = False
        """The last batch was full or has to be tried again, so there is surely more to move."""
        self._days: set[date] = set()
        self._quiet_since = time.monotonic()

    @property
    def position(self) -> Position | None:
        """How far the database is; None: not known now."""
        return self._position

    def drain(self, until: Position | None = None) -> None:
        """Moves everything up to `until`, or all there is.

        Raises:
            DatabaseError, InterfaceError: the database is away; call again later, nothing is lost or doubled.
        """
        if until is None and self._journal is not None:
            until = self._journal.position()
        while self.step(until, quietly=False):
            pass

    def step(self, until: Position | None = None, *, quietly: bool = True) -> bool:
        """Moves one batch; whether there was one. `quietly` saves commits that would only move the offset."""
        if self._journal is None:
            return self._step(until, quietly=quietly)
        until = self._journal.position() if until is None else until
        with self._journal.gate:
            try:
                return self._step(until, quietly=quietly)
            except BaseException:
                self._forget_position()
                raise

    def _step(self, until: Position | None, *, quietly: bool) -> bool:
        if self._position is None:
            self._position = self._stored_position()
            self._tell_journal(self._position)
        batch = read_batch(self.folder, self._position, until, most=self._most, live=self._journal is not None)
        if batch.end == batch.start:
            return False
        if batch.empty and quietly and time.monotonic() - self._quiet_since < QUIET_COMMIT_S:
            return False
        self._commit(batch)
        return True

    def _commit(self, batch: Batch) -> None:
        self._forget_position()
        self.lags = True
        try:
            parts = self._store(batch)
        except OffsetMovedError:
            log.warning("Journal %s was drained by somebody else meanwhile; reading its offset again", self.folder.name)
            return
        except UNUSABLE as error:
            if self._most > 1:
                self._most = max(1, self._most // 16)
                return
            self._set_aside(batch, error)
            parts = self._store(Batch(batch.start, batch.end))
        self.lags = batch.taken >= self._most
        self._most = min(BATCH_ROWS, self._most * 2)
        self._quiet_since = time.monotonic()
        self._position = batch.end
        self._tell_journal(batch.end)
        self._tell_listener(parts)

    def _store(self, batch: Batch) -> list[Columns]:
        """The one transaction. Returns the rows as they were stored."""
        starts = range(0, len(batch.closes), PART_ROWS)
        parts = [by_column(all_decoded(batch.closes[start : start + PART_ROWS])) for start in starts]
        self._ensure_days(set().union(*(part.values("day") for part in parts)))
        connection = connections[self._using]
        self._prepare(connection)
        with transaction.atomic(using=self._using, durable=True):
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL synchronous_commit TO ON")
            self._advance(batch)
            if parts:
                insert(connection, *parts)
            # After the database has had its say about what the rows hold.
            add_rollups(connection, column_sums(parts, batch.refused))
            self._outbox.add(connection, parts)
        self.rows += sum(part.count for part in parts)
        return parts

    def _prepare(self, connection: BaseDatabaseWrapper) -> None:
        """Once for each connection: what is committed is durable."""
        if connection.vendor != "sqlite" or connection.in_atomic_block:
            return
        connection.ensure_connection()
        if connection.connection is self._prepared:
            return
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous=FULL")
            # It writes at the ends of tables and reads little: a large cache would only be memory. So would be what it maps
            # of the file, which becomes more as the ledger grows.
            cursor.execute("PRAGMA cache_size=-1000")
            cursor.execute("PRAGMA mmap_size=0")
            if self.has_own_connection:
                # What the checks ask is known here: a status is a number from 0 on, and JSON was read as such. To read
                # it again would be a quarter of what SQLite does for a row.
                cursor.execute("PRAGMA ignore_check_constraints=ON")
            # Pages that several batches change are copied into the database once for all of them.
            cursor.execute("PRAGMA wal_autocheckpoint=4000")
        self._prepared = connection.connection

    def _advance(self, batch: Batch) -> None:
        connection = connections[self._using]
        now = connection.ops.adapt_datetimefield_value(datetime.now(UTC))
        with connection.cursor() as cursor:
            cursor.execute(_COMPARE_AND_SET, [*batch.end, now, self.folder.name, *batch.start])
            if cursor.rowcount != 1:
                raise OffsetMovedError(self.folder.name)

    def _stored_position(self) -> Position:
        stored, _ = JournalOffset.objects.using(self._using).get_or_create(
            journal=self.folder.name,
            defaults={"segment": START.segment, "offset": START.offset, "updated_at": datetime.now(UTC)},
        )
        return Position(stored.segment, stored.offset)

    def _ensure_days(self, days: set[date]) -> None:
        missing = days - self._days
        if missing:
            # The next day too, so that midnight under load finds its partition.
            ensure_partitions(self._using, missing | {max(missing) + timedelta(days=1)})
            self._days |= missing

    def _set_aside(self, batch: Batch, error: Exception) -> None:
        """Keeps a record that the database refuses for what it says, so that it stops nobody else's."""
        closes = [from_json(payload) for payload in batch.closes]
        content = {"journal": self.folder.name, "error": str(error), "close": closes, "refused": batch.refused}
        file = set_aside(self.folder.parent, content)
        log.critical(
            "A usage record cannot be stored and was put into %s; mend the cause and run `./gateway replay-rejected`: %s",
            file,
            error,
        )

    def _forget_position(self) -> None:
        """A commit whose answer was lost may have happened: until one succeeds, only the database knows the offset."""
        self._position = None
        if self._journal is not None:
            self._journal.drained = None

    def _tell_journal(self, position: Position) -> None:
        if self._journal is not None:
            self._journal.drained_to(position)

    def _tell_listener(self, parts: list[Columns]) -> None:
        if self._on_commit is None or not parts:
            return
        rows = [record for part in parts for record in part.records()]
        try:
            self._on_commit(rows)
        except Exception:
            # The rows are stored; a listener's fault must not look like the ledger's.
            log.exception("A listener failed on %d stored usage rows", len(rows))


def drain_orphans(root: Path, *, on_commit: OnCommit | None = None, using: str = "default") -> int:
    """Adopts, drains and deletes every journal under `root` whose worker is gone. Returns how many rows were stored.

    Needs no thread: commands call it too.
    """
    rows = 0
    for owner in adopt_orphans(root):
        try:
            rows += _drain_orphan(owner, on_commit=on_commit, using=using)
        except OSError as error:
            log.critical("The journal %s of a dead worker cannot be drained: %s", owner.folder, error)
            owner.release()
        except BaseException:
            owner.release()
            raise
    return rows


def _drain_orphan(owner: Ownership, *, on_commit: OnCommit | None, using: str) -> int:
    drain = JournalDrain(owner.folder, on_commit=on_commit, using=using)
    drain.drain()
    owner.delete_folder()
    # Last: while a segment exists, its offset must too, or it would be drained again.
    _forget_journal(owner.folder.name, using)
    return drain.rows


def _forget_journal(name: str, using: str) -> None:
    JournalOffset.objects.using(using).filter(journal=name).delete()


class Drain:
    """The thread that keeps the database up with this worker's journal, and adopts those of dead workers.

    Start it after the journal, stop it before. While the database is away it keeps trying and the backlog grows.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        on_commit: OnCommit | None = None,
        on_adopted: OnCommit | None = None,
        using: str = "default",
        poll_s: float = POLL_S,
    ) -> None:
        """`on_commit` is told all rows; `on_adopted`, in its place, those of dead workers' journals."""
        self.healthy = True
        self.last_error = ""
        """Why the database cannot be reached now; empty: it can."""
        self._journal = journal
        self._drain = JournalDrain(journal.folder, journal=journal, on_commit=on_commit, using=using)
        self._on_adopted = on_adopted or on_commit
        self._using = using
        self._poll_s = poll_s
        self._adopted_rows = 0
        self._adopt_at = 0.0
        self._stop = threading.Event()
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ledger-drain", daemon=True)

    @property
    def drained_rows(self) -> int:
        """Rows stored since the start, those of adopted journals included."""
        return self._drain.rows + self._adopted_rows

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Moves what is left and ends the thread. False: it did not end in time; the next worker adopts the rest."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def wait_until(self, position: Position, timeout_s: float) -> bool:
        """Waits until everything before `position` of the journal is in the database; whether it is."""
        with self._moved:
            return self._moved.wait_for(lambda: (self._drain.position or START) >= position, timeout_s)

    def _run(self) -> None:
        self._drain.has_own_connection = True
        backoff_s = self._poll_s
        while not self._stop.is_set():
            if self._pass():
                backoff_s = self._poll_s
            else:
                backoff_s = min(LONGEST_BACKOFF_S, backoff_s * 2)
            self._stop.wait(backoff_s)
        self._pass(last=True)
        connections.close_all()

    def _pass(self, *, last: bool = False) -> bool:
        """One round of work; whether the database took it."""
        try:
            if last:
                self._drain.drain()
            else:
                # What came meanwhile waits for the next round: many small commits would cost more than all the rest.
                while self._drain.step() and self._drain.lags and not self._stop.is_set():
                    self._announce()
                self._adopt()
        except (DatabaseError, InterfaceError) as error:
            self._fail(error)
        except Exception as error:
            # This thread must not die: everything that is billed passes through it.
            log.exception("The ledger's drain met an unexpected error and goes on")
            self._fail(error)
        else:
            if not self.healthy:
                log.warning("The ledger's database is back; the backlog is being stored")
            self.healthy, self.last_error = True, ""
        self._announce()
        return self.healthy

    def _adopt(self) -> None:
        if time.monotonic() >= self._adopt_at and not self._stop.is_set():
            self._adopted_rows += drain_orphans(
                self._journal.folder.parent, on_commit=self._on_adopted, using=self._using
            )
            self._adopt_at = time.monotonic() + ADOPT_EVERY_S
            if not self._drain.lags:
                self._settle_credit()

    def _settle_credit(self) -> None:
        try:
            settle_expired(using=self._using)
        except (DatabaseError, InterfaceError):
            raise
        except Exception:
            # The ledger must not look ill for it; the credit is tried again.
            log.exception("What was spent of expired credit cannot be told; until then it adds nothing to its budget")

    def _announce(self) -> None:
        with self._moved:
            self._moved.notify_all()

    def _fail(self, error: Exception) -> None:
        if self.healthy:
            log.error("The ledger's database is away, the journal keeps the usage: %s", error)
        self.healthy, self.last_error = False, str(error) or type(error).__name__
        connections[self._using].close()
