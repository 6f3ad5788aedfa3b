"""What budgets have settled up to an exact point of a journal that goes on being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from billing.journal import Journal
from billing.journal_files import CLOSE, START, Position, from_json, walk
from billing.ledger import settled_windows
from billing.models import JournalOffset
from llmgateway.pipeline.protocols import Record

Window = tuple[str, str, float]
"""Scope (`key`, `team` or `global`), the row id of the key or team, and the window's start in seconds since the epoch."""


def settled_up_to(journal: Journal, windows: Sequence[Window], mark: Callable[[], Position]) -> list[int]:
    """Pico-dollars settled in each window before the position that `mark` returns, to the unit.

    `mark` is called while the drain stands still, so that the database is never past that position: what it lacks is
    read from the journal. From `mark` on the caller counts for itself.

    Raises:
        DatabaseError: the database is away; ask again, with a new mark.
    """
    with journal.gate:
        until = mark()
        drained = journal.drained or _stored_position(journal.name)
        sums = settled_windows(windows)
        for step in walk(journal.folder, drained, until, live=True):
            if step.kind == CLOSE:
                row = from_json(step.payload)
                for number, window in enumerate(windows):
                    sums[number] += row["cost_pico_usd"] if _counts(row, *window) else 0
    return sums


def _stored_position(name: str) -> Position:
    row = JournalOffset.objects.filter(journal=name).first()
    return Position(row.segment, row.offset) if row else START


def _counts(row: Record, scope: str, scope_id: str, start: float) -> bool:
    if row["started_at"] < start:
        return False
    if scope == "key":
        return bool(row["key_id"] == scope_id)
    return scope == "global" or str(row["team_id"]) == scope_id
