"""Records that the database refused for what they say: kept in a file beside the journals, and stored on demand.

A line holds what one batch could not store. Storing it again is exactly once: the line's digest goes into the table of
journal offsets in the same transaction, and a request that has its row already gets no second one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, connections, transaction

from billing.journal_files import from_json, to_json
from billing.models import JournalOffset, UsageRecord
from billing.partitions import ensure_partitions
from billing.rollups import add_rollups, sums
from billing.usage_columns import by_column
from billing.usage_rows import UnusableRecordError, completed, row_of
from billing.usage_table import insert
from llmgateway.pipeline.protocols import Record

FILE = "rejected.jsonl"
MARK = "rejected-"
"""How the name of a stored line begins in the table of journal offsets."""

UNUSABLE = (UnusableRecordError, DataError, IntegrityError, OverflowError)
"""Errors of a record's content: trying again will not help. Any other error stops the drain, and nothing is lost."""


@dataclass(slots=True)
class Replay:
    """What became of the lines."""

    rows: int = 0
    """Stored now."""
    known: int = 0
    """Lines that were stored before."""
    refused: list[str] = field(default_factory=list)
    """Which lines still cannot be stored, and why."""


def set_aside(root: Path, content: Record) -> Path:
    """Appends one line, durably. Waits while a replay reads the file."""
    path = root / FILE
    with path.open("ab") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        out.write(to_json({**content, "at": datetime.now(UTC).isoformat()}) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    return path


def rejected_lines(root: Path) -> int:
    """How many lines wait."""
    try:
        return (root / FILE).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def replay(root: Path, *, using: str = "default", tell: Callable[[str], None] = lambda _: None) -> Replay:
    """Tries to store every line; once all are stored, the file is emptied. Safe to repeat, and to interrupt.

    Raises:
        DatabaseError, InterfaceError: the database is away; nothing is lost.
    """
    done = Replay()
    with _locked(root / FILE) as file:
        if file is None:
            return done
        for number, line in enumerate(file.read().splitlines(), 1):
            if not line.strip():
                continue
            try:
                rows = _store(line, using)
            except (DatabaseError, InterfaceError, ValueError, KeyError, TypeError, OverflowError) as error:
                if isinstance(error, DatabaseError | InterfaceError) and not isinstance(error, UNUSABLE):
                    raise
                done.refused.append(f"line {number}: {error}")
                tell(done.refused[-1])
                continue
            done.rows += rows or 0
            done.known += rows is None
        if not done.refused:
            file.truncate(0)
            os.fsync(file.fileno())
    return done


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes] | None]:
    """The file, with no drain adding to it meanwhile. None: there is none."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        yield None
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _store(line: bytes, using: str) -> int | None:
    """The rows that were added; None: this very line was stored before."""
    content = from_json(line)
    rows = [row_of(completed(record)) for record in content["close"]]
    ensure_partitions(using, {row.day for row in rows})
    with transaction.atomic(using=using, durable=True):
        _, fresh = JournalOffset.objects.using(using).get_or_create(
            journal=MARK + hashlib.sha256(line).hexdigest()[:32], defaults={"updated_at": datetime.now(UTC)}
        )
        if not fresh:
            return None
        known = set(
            UsageRecord.objects.using(using).filter(pk__in=[row.id for row in rows]).values_list("pk", flat=True)
        )
        rows = [row for row in rows if row.id not in known]
        if rows:
            insert(connections[using], by_column(rows))
        add_rollups(connections[using], sums(rows, content["refused"]))
    return len(rows)
