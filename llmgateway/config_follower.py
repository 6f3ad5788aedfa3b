"""Keeps a process's snapshot up to date: a thread that reads the log of configuration changes.

    waits 250 ms (or for NOTIFY, or a poke) → reads what is new in the log → builds a new snapshot → hands it over

It goes by what is visible and not by the largest id: on PostgreSQL a transaction that began earlier may commit later.
While the database is away the last snapshot stays in force; when it is back everything is read again.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import Error as DatabaseError
from django.db import OperationalError, connection, connections
from django.db.utils import load_backend
from django.utils import timezone

from llmgateway import triggers
from llmgateway.conf import Conf
from llmgateway.config_loader import (
    FILE,
    MOST_CHANGES,
    Change,
    LentKeys,
    give_back,
    held_by,
    keep,
    load_snapshot,
    no_collection,
    patch_snapshot,
)
from llmgateway.models import ConfigChange
from llmgateway.pipeline.snapshot import LogPosition, Snapshot

logger = logging.getLogger(__name__)

POLL_S = 0.25
LISTENING_POLL_S = 0.5
"""Between looks while NOTIFY wakes us: for poolers that swallow it, and to know that the database is there."""
REST_S = 0.05
"""At least, between looks: many small changes are taken together."""
SILENT_S = 5.0
"""Without a look for so long, the follower is not healthy, whatever it thinks of itself."""
LONGEST_RETRY_S = 10.0
LONGEST_GAP_S = 1800.0
"""After a longer sleep (a suspended machine), parts of the log may be gone: everything is read again."""
LOG_KEPT = timedelta(hours=1)
PRUNE_EVERY_S = 60.0
PRUNED_AT_ONCE = 1000
STRETCH_S = 0.002
"""Work without a break while others wait for the interpreter."""
BREAK_S = 0.001
SETTLING_S = 0.1
"""Renewing keys, between looks for further changes."""
RETIRED_AFTER_S = 5.0
"""When requests that began with the old snapshot have let go of it."""
RETIRED_AT_ONCE = 500


class _StoppedError(Exception):
    """Raised in the middle of a load when the follower is to stop."""


class ConfigFollower:
    """Follows the configuration in a thread of its own, with a database connection of its own.

    `on_change` is called in that thread with each new snapshot; an event loop passes `loop.call_soon_threadsafe` on.
    An exception from it is logged. `start` and `stop` are called once each; everything else from any thread.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        on_change: Callable[[Snapshot], None],
        *,
        conf: Conf | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._snapshot = snapshot
        self._position = snapshot.position
        self._on_change = on_change
        self._conf = conf
        self._poll_s = poll_s
        self._failures = 0
        self._last_seen = time.monotonic()
        self._last_look = time.time()
        self._pruning = _Pruning(snapshot.position.watermark)
        self._files: dict[str, object] = {}
        self._must_reload = False
        self._waking = _Waking()
        self._database = _Database(on_notify=self._waking.wake)
        self._stopping = threading.Event()
        self._breath = time.monotonic()
        self._retired: list[tuple[float, list[object]]] = []
        self._thread = threading.Thread(target=self._run, name="config-follower", daemon=True)

    def start(self) -> None:
        self._waking.open()
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Ask the thread to end and wait for it. A thread stuck in the network is left behind; it holds nothing back."""
        self._stopping.set()
        self.poke()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def poke(self) -> None:
        """Look now, for a change was made in this very process."""
        self._waking.wake()

    @property
    def snapshot(self) -> Snapshot:
        """The latest."""
        return self._snapshot

    @property
    def revision(self) -> int:
        return self._snapshot.revision

    @property
    def healthy(self) -> bool:
        """Whether the database answers, so that changes arrive."""
        return not self._failures and time.monotonic() - self._last_seen < SILENT_S

    @property
    def last_seen(self) -> float:
        """`time.monotonic()` of the last look that succeeded."""
        return self._last_seen

    # What follows runs in the thread.

    def _run(self) -> None:
        use_own_connection()
        try:
            self._check_triggers()
            while not self._stopping.is_set():
                began = time.monotonic()
                self._round()
                # A look that took long is followed by as long a rest, within what a change may take to arrive.
                self._stopping.wait(min(max(REST_S, time.monotonic() - began), POLL_S))
                self._rest()
        finally:
            connection.close()
            self._waking.close()

    def _check_triggers(self) -> None:
        try:
            self._database.connect()
            repaired = triggers.ensure_triggers()
        except Exception as error:  # noqa: BLE001  # The thread must live, or no change would ever arrive.
            self._failed(error)
            return
        if repaired:
            logger.warning(
                "Put back %d triggers that note changes of configuration, such as %s.", len(repaired), repaired[0]
            )

    def _round(self) -> None:
        """One look. Whatever goes wrong leaves the last snapshot in force."""
        try:
            self._look()
        except _StoppedError:
            return
        except Exception as error:  # noqa: BLE001  # As above.
            self._failed(error)
            return
        if self._failures:
            logger.warning("Changes of configuration arrive again.")
        self._failures = 0
        self._last_seen = time.monotonic()
        self._last_look = time.time()

    def _failed(self, error: Exception) -> None:
        """What is known stays in force, and everything will be read again."""
        logger.log(
            logging.DEBUG if self._failures else logging.ERROR,
            "Changes of configuration do not arrive; the last known configuration stays in force (%s: %s).",
            type(error).__name__,
            error,
            exc_info=None if isinstance(error, DatabaseError) else error,
        )
        self._failures += 1
        self._must_reload = True
        self._database.forget()

    def _look(self) -> None:
        if self._database.connect():
            self._must_reload = True
        if time.time() - self._last_look > LONGEST_GAP_S:
            self._must_reload = True
        if self._must_reload:
            self._reload()
        else:
            self._follow()
        self._settle()
        self._release_retired()
        self._pruning.prune(self._position)

    def _follow(self) -> None:
        news = read_log(self._position)
        if news is None:
            self._reload()
            return
        changes, position = news
        files = signatures(self._snapshot.watched_files)
        changes |= {
            Change(FILE, path) for path, signature in files.items() if signature != self._files.get(path, UNREAD)
        }
        if changes:
            self._breath = time.monotonic()
            snapshot = patch_snapshot(
                self._snapshot,
                changes,
                revision=self.revision + 1,
                position=position,
                conf=self._conf,
                pause=self._pause,
            )
            self._hand_over(snapshot, files)
        self._position = position

    def _reload(self) -> None:
        files = signatures(self._snapshot.watched_files)
        self._breath = time.monotonic()
        snapshot = load_snapshot(revision=self.revision + 1, conf=self._conf, pause=self._pause, before=self._snapshot)
        self._must_reload = False
        self._hand_over(snapshot, files)
        self._position = snapshot.position

    def _settle(self) -> None:
        """Go on renewing keys after a change of what they share; it holds already, so that further changes go first."""
        keys = self._snapshot.keys
        if not isinstance(keys, LentKeys):
            return
        self._breath = time.monotonic()
        with no_collection():
            settled = keys.settle(self._pause, self._breath + SETTLING_S)
            if settled is None:
                return
            keep(len(settled))
        self._hand_over(replace(self._snapshot, keys=settled, revision=self.revision + 1), self._files)

    def _hand_over(self, snapshot: Snapshot, files: dict[str, object]) -> None:
        """`files` are the signatures from before they were read; a file that is new here is read once more."""
        old, self._snapshot = self._snapshot, snapshot
        self._files = {path: files.get(path, UNREAD) for path in snapshot.watched_files}
        if old.keys is not snapshot.keys:
            # Freeing a hundred thousand keys at once would stop the process; holding them here frees them in slices.
            self._retired.append((time.monotonic() + RETIRED_AFTER_S, held_by(old.keys)))
        for problem in snapshot.problems:
            if problem not in old.problems:
                logger.warning("Configuration: %s", problem)
        # If it fails everything is read and handed over again: else a revoked key would live until the next change.
        self._on_change(snapshot)

    def _release_retired(self) -> None:
        while self._retired and self._retired[0][0] <= time.monotonic():
            _, objects = self._retired.pop(0)
            many = len(objects)
            while objects:
                del objects[-RETIRED_AT_ONCE:]
                self._pause()
            give_back(many)

    def _pause(self) -> None:
        """Let others run. Called every few hundred rows."""
        if self._stopping.is_set():
            raise _StoppedError
        self._last_seen = time.monotonic()
        if self._last_seen - self._breath >= STRETCH_S:
            self._stopping.wait(BREAK_S)
            self._breath = time.monotonic()

    def _rest(self) -> None:
        try:
            self._wait()
        except Exception as error:  # noqa: BLE001  # As above.
            self._failed(error)

    def _wait(self) -> None:
        if isinstance(self._snapshot.keys, LentKeys) and not self._failures:
            return
        if self._failures:
            self._waking.wait(min(self._poll_s * 2 ** min(self._failures - 1, 10), LONGEST_RETRY_S))
        elif self._database.listening:
            self._waking.wait(LISTENING_POLL_S, connection.connection.fileno())
        else:
            self._waking.wait(self._poll_s - REST_S)


class _Database:
    """The thread's connection: whether it is the same as before, and LISTENing where that is possible."""

    def __init__(self, on_notify: Callable[[], None]) -> None:
        self._on_notify = on_notify
        self._heard: Any = None
        """The driver's connection that LISTENs. Whoever is told of a change may close it and make another."""
        self._connected_before = False
        self._file: tuple[int, int] | None = None

    @property
    def listening(self) -> bool:
        return self._heard is not None and self._heard is connection.connection

    def connect(self) -> bool:
        """Be connected. True: not as before, so that something may have been missed.

        Raises:
            django.db.Error: it is away.
        """
        return self._connect_sqlite() if connection.vendor == "sqlite" else self._connect_postgresql()

    def forget(self) -> None:
        """Something failed: begin with a new connection."""
        self._heard = None
        with contextlib.suppress(DatabaseError):  # It may be broken already.
            connection.close()

    def _connect_postgresql(self) -> bool:
        if self.listening:
            return False
        connection.ensure_connection()
        # Any query may take a notification off the wire; waiting for the descriptor alone would then miss it.
        connection.connection.add_notify_handler(lambda _: self._on_notify())
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {triggers.CHANNEL}")
        self._heard = connection.connection
        again, self._connected_before = self._connected_before, True
        return again

    def _connect_sqlite(self) -> bool:
        """An open connection would go on with a file that was moved away, and a new one would create an empty file."""
        path = str(connection.settings_dict["NAME"])
        if ":memory:" in path or "mode=memory" in path:
            return False
        try:
            state = Path(path).stat()
        except OSError as error:
            raise OperationalError(f"{path} cannot be opened: {error.strerror}") from error
        before, self._file = self._file, (state.st_dev, state.st_ino)
        if before in {None, self._file}:
            return False
        connection.close()
        return True


class _Waking:
    """Waits for a time, a wake from another thread, or something to read on a descriptor."""

    def __init__(self) -> None:
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def open(self) -> None:
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)

    def wake(self) -> None:
        if self._ends is not None:
            with contextlib.suppress(OSError):  # Full: it wakes anyway. Closed: nobody waits any more.
                self._ends[1].send(b"!")

    def wait(self, seconds: float, descriptor: int | None = None) -> None:
        """At most `seconds`, which may be none at all."""
        assert self._ends is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._ends[0], selectors.EVENT_READ)
            if descriptor is not None:
                selector.register(descriptor, selectors.EVENT_READ)
            selector.select(max(seconds, 0))
        with contextlib.suppress(BlockingIOError):
            self._ends[0].recv(4096)

    def close(self) -> None:
        for end in self._ends or ():
            end.close()


class _Pruning:
    """Deletes entries of the log that are old and that every follower has had time to read."""

    def __init__(self, watermark: int) -> None:
        self._next = time.monotonic() + PRUNE_EVERY_S
        self._watermark = watermark
        """Of the last time: an entry's own time is not enough, for its transaction may have committed just now."""

    def prune(self, position: LogPosition) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PRUNE_EVERY_S
        column = "transaction_id__lt" if connection.vendor == "postgresql" else "id__lte"
        rows = ConfigChange.objects.filter(**{column: self._watermark}).order_by("id").values_list("id", "created_at")
        self._watermark = position.watermark
        before = timezone.now() - LOG_KEPT
        try:
            ids = [row_id for row_id, created_at in rows[:PRUNED_AT_ONCE] if created_at < before]
            ConfigChange.objects.filter(pk__in=ids).delete()
        except DatabaseError as error:
            # Nothing depends on it: another follower may be at it, or a writer holds the database.
            logger.info("Old entries of the configuration log stay for now: %s", error)


UNREAD = object()
"""The signature of a file that was not read yet."""


def signatures(paths: tuple[str, ...]) -> dict[str, object]:
    """What tells a file from its earlier self; None where there is none."""
    return {path: _signature(path) for path in paths}


def _signature(path: str) -> tuple[int, int, int, int] | None:
    try:
        state = Path(path).stat()
    except (OSError, ValueError):
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def read_log(position: LogPosition) -> tuple[set[Change], LogPosition] | None:
    """What the log has beyond `position`, and the position after it. None: everything must be read."""
    return _read_postgresql(position) if connection.vendor == "postgresql" else _read_sqlite(position)


def _read_sqlite(position: LogPosition) -> tuple[set[Change], LogPosition] | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'llmgateway_configchange'")
        last = cursor.fetchone()
    if last is not None and last[0] < position.watermark:
        return None  # The database was restored from an older copy.
    rows = list(
        ConfigChange.objects.filter(id__gt=position.watermark)
        .order_by("id")
        .values_list("id", "table_name", "row_id", "owner")[: MOST_CHANGES + 1]
    )
    if len(rows) > MOST_CHANGES:
        return None
    watermark = rows[-1][0] if rows else position.watermark
    return {Change(*row[1:]) for row in rows}, LogPosition(watermark)


def _read_postgresql(position: LogPosition) -> tuple[set[Change], LogPosition] | None:
    # First the watermark, then the rows: whatever ended before the watermark is visible to the later query.
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        (watermark,) = cursor.fetchone()
    rows = list(
        ConfigChange.objects.filter(transaction_id__gte=position.watermark)
        .order_by("id")
        .values_list("id", "transaction_id", "table_name", "row_id", "owner")[: MOST_CHANGES + len(position.seen) + 1]
    )
    new = [row for row in rows if row[0] not in position.seen]
    if len(new) > MOST_CHANGES:
        return None
    seen = frozenset(row[0] for row in rows if row[1] >= watermark)
    return {Change(*row[2:]) for row in new}, LogPosition(watermark, seen)


def use_own_connection() -> None:
    """Give this thread a connection outside any pool, which notices a dead server soon and does not wait for locks."""
    settings = copy.deepcopy(connection.settings_dict)
    options = settings["OPTIONS"]
    options.pop("pool", None)
    if connection.vendor == "sqlite":
        options["timeout"] = 1
        # What it maps counts as this process's memory, and a file with many keys is large; it is read in one go anyway.
        options["init_command"] = f"{options.get('init_command', '')}PRAGMA mmap_size=0;PRAGMA cache_size=-2000;"
    else:
        settings["CONN_MAX_AGE"] = None
        defaults = {
            "connect_timeout": 3, "keepalives_idle": 3, "keepalives_interval": 1, "keepalives_count": 3,
            "tcp_user_timeout": 5000,
        }  # fmt: skip
        for name, value in defaults.items():
            options.setdefault(name, value)
    connections["default"] = load_backend(settings["ENGINE"]).DatabaseWrapper(settings, "default")
