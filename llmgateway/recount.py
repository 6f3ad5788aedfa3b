"""What shared counters are made from when they were lost, and compared with: the ledger, and each worker's own journal
beyond it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import msgspec
from django.db import connection, transaction

from billing.journal import Journal
from billing.journal_files import CLOSE, START, Position, from_json, segment_path, walk
from billing.models import JournalOffset, UsageRecord
from billing.rollups import input_tokens, output_tokens
from billing.standing import used, used_by
from billing.usage_rows import completed
from llmgateway.pipeline.hedging import SUFFIX as HEDGE_SUFFIX
from llmgateway.pipeline.protocols import Clock, Record, Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Limit, Snapshot
from llmgateway.seeding import Seeds, WindowLimit, seeds, window_limits
from llmgateway.stores.redis_comparison import Comparison, Part
from llmgateway.stores.redis_epoch import Totals
from llmgateway.stores.redis_open import Orphan
from llmgateway.stores.redis_terms import Frame, budget_frame, limit_frame

RATES_S = 120.0
"""Rates per minute remember nothing that is older, with time to spare for the drain."""

LIVELY = timedelta(hours=1)
"""A journal of which nothing came into the ledger for so long has nothing more to say."""

_offsets = msgspec.json.Decoder(dict[str, tuple[int, int]])


class LedgerRecount:
    """Implements `stores.redis_epoch.Recount` and `stores.redis_comparison.ComparedJournal`.

    Reads in threads; `mark` and `whole_to` alone run on the event loop.
    """

    def __init__(self, journal: Journal, snapshot: Callable[[], Snapshot], clock: Clock) -> None:
        self._journal = journal
        self._snapshot = snapshot
        self._clock = clock
        self._listed: tuple[Snapshot, dict[str, WindowLimit]] | None = None

    async def totals(self) -> Totals:
        return await asyncio.to_thread(self._totals)

    def mark(self) -> Position:
        return self._journal.position()

    async def beyond(self, offsets: str, mark: Any) -> Totals:
        return await asyncio.to_thread(self._beyond, offsets, mark)

    def sums(self, budgets: Sequence[BudgetRule], limits: Sequence[WindowLimit]) -> Totals:
        """What the ledger says of these rules. For other threads, whose connection it leaves as it was.

        Raises:
            DatabaseError: the ledger cannot be read.
        """
        with _one_moment():
            found = seeds(budgets, limits, self._clock.time(), used)
            return _totals(found, msgspec.json.encode(_drained()).decode())

    def part(
        self, budgets: Sequence[BudgetRule], limits: Sequence[WindowLimit], offsets: str, mark: Position
    ) -> Totals:
        """What this worker's journal says of these rules beyond `offsets` (of `sums`). For other threads."""
        records = self._closed(offsets, mark)
        found = seeds(budgets, limits, self._clock.time(), lambda tallies: used_by(records, tallies))
        return _totals(found)

    # Comparing.

    @property
    def name(self) -> str:
        return self._journal.name

    def whole_to(self) -> Position | None:
        return None if self._journal.unwritten_closes else self._journal.position()

    async def beyond_ledger(self, comparison: Comparison, until: tuple[int, int]) -> Part:
        return await asyncio.to_thread(self._part, comparison, Position(*until))

    def rules(self) -> tuple[Mapping[int, BudgetRule], dict[str, WindowLimit]]:
        """What can be compared. A limit in shadow mode takes nothing when it is full, so it says less than the ledger."""
        snapshot = self._snapshot()
        if self._listed is None or self._listed[0] is not snapshot:
            limits = {counter: each for counter, each in window_limits(snapshot).items() if not each.limit.shadow}
            self._listed = snapshot, limits
        return snapshot.budgets, self._listed[1]

    def compared_sums(
        self, budgets: Sequence[BudgetRule], limits: Sequence[WindowLimit], at: float
    ) -> tuple[Seeds, str, set[str]]:
        """What the ledger says of these rules, how far that reaches, and which journals it had something of lately.

        Raises:
            DatabaseError: the ledger cannot be read.
        """
        try:
            with _one_moment():
                found = seeds(budgets, limits, at, used)
                lively = JournalOffset.objects.filter(updated_at__gte=datetime.now(UTC) - LIVELY)
                return found, msgspec.json.encode(_drained()).decode(), set(lively.values_list("journal", flat=True))
        finally:
            connection.close()

    def _part(self, comparison: Comparison, until: Position) -> Part:
        budgets, limits = self.rules()
        try:
            some = [budgets[number] for number in comparison.budgets]
            others = [limits[counter] for counter in comparison.limits]
        except KeyError as error:
            return Part(reason=f"a worker does not know the rule {error}")
        start = Position(*_offsets.decode(comparison.offsets).get(self._journal.name, START))
        if until < start:
            return Part(reason=f"the ledger was ahead of what worker {self._journal.name} had told Redis")
        records = self._closed(comparison.offsets, until)
        if not segment_path(self._journal.folder, start.segment).exists():
            return Part(reason=f"journal {self._journal.name} was drained too fast to be read")
        found = seeds(some, others, comparison.at, lambda tallies: used_by(records, tallies))
        return Part(rules_mark(some, others, comparison.at), by_counter(found, comparison.at))

    def _totals(self) -> Totals:
        try:
            with _one_moment():
                offsets = _drained()
                found = self._seeds(used)
                start = Position(*offsets.get(self._journal.name, START))
                idle = not _ran_since(self._clock.time() - RATES_S) and not self._has_closes(start)
            return _totals(found, msgspec.json.encode(offsets).decode(), idle=idle)
        finally:
            connection.close()

    def _beyond(self, offsets: str, mark: Position) -> Totals:
        records = self._closed(offsets, mark)
        return _totals(self._seeds(lambda tallies: used_by(records, tallies)) if records else Seeds())

    def _closed(self, offsets: str, mark: Position) -> list[Record]:
        start = Position(*_offsets.decode(offsets).get(self._journal.name, START))
        return [
            completed(from_json(step.payload))
            for step in walk(self._journal.folder, start, mark, live=True)
            if step.kind == CLOSE
        ]

    def _has_closes(self, start: Position) -> bool:
        return any(step.kind == CLOSE for step in walk(self._journal.folder, start, live=True))

    def _seeds(self, count: Any) -> Seeds:
        snapshot = self._snapshot()
        limits = list(window_limits(snapshot).values())
        return seeds(list(snapshot.budgets.values()), limits, self._clock.time(), count)


def frame_of(rule: BudgetRule | Limit, at: float) -> Frame:
    """The rule's counter at that moment."""
    return budget_frame(rule, at) if isinstance(rule, BudgetRule) else limit_frame(rule, at)


def by_counter(found: Seeds, at: float) -> dict[str, int]:
    """What was used, where it was something."""
    rules: list[tuple[BudgetRule | Limit, float, int]] = [*found.budgets, *found.limits]
    return {frame_of(rule, at).name: amount for rule, _, amount in rules if amount}


def rules_mark(budgets: Sequence[BudgetRule], limits: Sequence[WindowLimit], at: float) -> int:
    """The same where the same is counted."""
    names = [frame_of(budget, at).name for budget in budgets]
    names += [
        f"{limit_frame(each.limit, at).name} {each.column} {each.owner} {sorted(each.without)}" for each in limits
    ]
    return crc32("\n".join(names).encode())


@contextmanager
def _one_moment() -> Iterator[None]:
    """Sums and offsets that are read within are of one moment, whatever is drained meanwhile."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def _drained() -> dict[str, tuple[int, int]]:
    rows = JournalOffset.objects.values_list("journal", "segment", "offset")
    return {journal: (segment, offset) for journal, segment, offset in rows}


def _ran_since(moment: float) -> bool:
    """Whether any request did, as far as the ledger knows."""
    return UsageRecord.objects.filter(started_at__gte=datetime.fromtimestamp(moment, UTC)).exists()


def orphans(rows: Iterable[Record]) -> list[Orphan]:
    """What the rows of an adopted journal say of requests whose worker died.

    Also of those that it had closed: it may have died before it told Redis, which then still holds what they took.
    """
    return [orphan for row in rows for orphan in _orphans(row)]


def _orphans(row: Record) -> Iterator[Orphan]:
    yield Orphan(
        row["id"],
        row["cost_pico_usd"],
        Tokens(input_tokens(row), output_tokens(row)) if row["counted"] else None,
        row.get("reserved_pico_usd", 0),
    )
    attempts = row.get("attempts", ())
    if isinstance(attempts, msgspec.Raw):  # The drain does not read what it only passes on.
        attempts = msgspec.json.decode(attempts)
    if any(attempt.get("hedge") for attempt in attempts):
        # The other attempt of a race held something of its own; the row's cost is booked already.
        yield Orphan(row["id"] + HEDGE_SUFFIX, 0, None)


def _totals(found: Seeds, offsets: str = "", *, idle: bool = False) -> Totals:
    return Totals(found.budgets, found.limits, offsets, idle)


__all__ = ["LedgerRecount", "Orphan", "orphans"]
