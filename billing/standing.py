"""What requests have used since a moment, for counters to start from and to be compared with.

Whole hours come from the rollups, and days that are over from their sums, so that a total costs little and survives
the ledger's retention. The part of an hour before them comes from the ledger's rows, for not every zone's midnight is a
whole hour of UTC; so do addresses and end users, which rollups do not know. What is not in the database yet is added
from the journal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from msgspec import structs

from billing.day_sums import END_OF_TIME, Parts, summed_until
from billing.journal import Journal
from billing.journal_files import CLOSE, START, Position, from_json, walk
from billing.models import JournalOffset
from billing.rollups import input_tokens, output_tokens
from billing.usage_rows import admission, completed
from llmgateway.pipeline.protocols import Record

HOUR = 3600
LONGEST_ADMISSION = timedelta(hours=1)
"""Rows are found by when they started, but count from when they were admitted: at most this much later."""
OWNERS_AT_ONCE = 500
MOST_OWNERS = 5_000
"""Of more owners than this, everybody's rows are read: one pass is cheaper than many look-ups."""

COLUMNS = ("", "key_id", "team_id", "provider", "deployment", "alias")
SUBJECTS = ("", "client_ip", "end_user", "alias")
VIA = "via"
"""The column with the aliases between the one asked for and the target. Limits and budgets of theirs count it too."""


class Tally(msgspec.Struct, frozen=True, gc=False):
    """Whose requests count, from when on."""

    start: float
    """Seconds since the epoch."""
    column: str = ""
    """The ledger's column that names the owner, one of `COLUMNS`. Empty: everybody's requests count."""
    owner: str = ""
    alias: str = ""
    """Requests for this alias alone."""
    without: frozenset[str] = frozenset()
    """Requests for these aliases do not count."""
    each: str = ""
    """One of `SUBJECTS`: every value of that column counts for itself, and requests without one do not."""
    reserved: bool = False
    """What is set aside for rows that nobody has reviewed yet counts as cost, as strict budgets have it."""


@dataclass(slots=True)
class Used:
    """What some requests used."""

    requests: int = 0
    """Those that count for limits."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_pico_usd: int = 0

    def add(self, other: Used) -> None:
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost_pico_usd += other.cost_pico_usd

    def amount(self, metric: str) -> int:
        """What counts of a limit's metric."""
        if metric == "tokens":
            return self.input_tokens + self.output_tokens
        if metric == "input_tokens":
            return self.input_tokens
        return self.output_tokens if metric == "output_tokens" else self.requests

    def __bool__(self) -> bool:
        return bool(self.requests or self.input_tokens or self.output_tokens or self.cost_pico_usd)


BySubject = dict[str, Used]
"""What each subject used; of a tally that counts for none, everything under the empty text."""


def used(tallies: Sequence[Tally], *, records: Iterable[Record] = (), using: str = "default") -> list[BySubject]:
    """What counts for each tally: what is in the database, and `records`, rows of requests that are not yet.

    A tally without `each` always has its one entry; of subjects, those that used something.
    """
    beyond = list(records)
    return _found(tallies, lambda group, owners: group.sums(owners, beyond, connections[using]))


def used_by(records: Iterable[Record], tallies: Sequence[Tally]) -> list[BySubject]:
    """What counts of these rows alone, for each tally."""
    rows = list(records)
    return _found(tallies, lambda group, _: group.sums_of(rows))


def _found(tallies: Sequence[Tally], sums: Callable[[_Group, set[str]], Sums]) -> list[BySubject]:
    groups: dict[_Group, set[str]] = defaultdict(set)
    for tally in tallies:
        for group in _Group.of(tally):
            groups[group].add(tally.owner)
    found = {group: _by_owner(sums(group, owners)) for group, owners in groups.items()}
    return [
        _of(tally, [line for group in _Group.of(tally) for line in found[group].get(tally.owner, ())])
        for tally in tallies
    ]


def used_up_to(journal: Journal, tallies: Sequence[Tally], mark: Callable[[], Position]) -> list[BySubject]:
    """What counts for each tally before the position that `mark` returns, to the unit.

    `mark` is called while the drain stands still, so that the database is never past that position: what it lacks is
    read from the journal. From `mark` on the caller counts for itself.

    Raises:
        DatabaseError: the database is away; ask again, with a new mark.
    """
    with journal.gate:
        until = mark()
        return used(tallies, records=[record for _, record in closes(journal, until)])


def closes(journal: Journal, until: Position) -> Iterator[tuple[Position, Record]]:
    """The rows that are in the journal and not in the database, each with the position after it. Hold the gate."""
    drained = journal.drained or _stored_position(journal.name)
    for step in walk(journal.folder, drained, until, live=True):
        if step.kind == CLOSE:
            yield step.position, completed(from_json(step.payload))


def _stored_position(name: str) -> Position:
    row = JournalOffset.objects.filter(journal=name).first()
    return Position(row.segment, row.offset) if row else START


Name = tuple[str, str, str]
"""Owner, alias, subject; each is empty where it does not matter."""
Sums = dict[Name, Used]
Line = tuple[str, str, Used]
"""Alias, subject, and what was used."""


def _by_owner(sums: Sums) -> dict[str, list[Line]]:
    lines: dict[str, list[Line]] = defaultdict(list)
    for (owner, alias, subject), one in sums.items():
        lines[owner].append((alias, subject, one))
    return lines


def _of(tally: Tally, lines: Sequence[Line]) -> BySubject:
    found: BySubject = {} if tally.each else {"": Used()}
    for alias, subject, one in lines:
        if (tally.alias and alias != tally.alias) or alias in tally.without or (tally.each and not subject):
            continue
        if one:
            found.setdefault(subject, Used()).add(one)
    return found


class _Group(msgspec.Struct, frozen=True, gc=False):
    """Tallies that one pass over the database answers."""

    start: float
    column: str
    each: str
    by_alias: bool
    reserved: bool = False
    """Sums what is set aside for review, and nothing else."""
    on_the_way: bool = False
    """Sums requests under the names of the aliases that they passed through, and nothing else. They are in no rollup."""

    @classmethod
    def of(cls, tally: Tally) -> tuple[_Group, ...]:
        """What must be asked for a tally."""
        is_of_aliases = bool(tally.alias) or "alias" in {tally.column, tally.each}
        by_alias = bool(tally.alias or tally.without)
        return _groups(tally.start, tally.column, tally.each, by_alias, tally.reserved, is_of_aliases=is_of_aliases)

    def sums(self, owners: set[str], records: Sequence[Record], connection: BaseDatabaseWrapper) -> Sums:
        total = self.sums_of(records)
        for chunk in self._chunks(owners):
            for name, one in self._stored(chunk, connection):
                total[name].add(one)
        return total

    def sums_of(self, records: Sequence[Record]) -> Sums:
        total: Sums = defaultdict(Used)
        for record in () if self.reserved else records:  # Only rows of dead processes have something reserved.
            if admission(record) >= self.start:
                for name in self._passed(record) if self.on_the_way else (self._name(record),):
                    total[name].add(_used_by(record))
        return total

    def _passed(self, record: Record) -> Iterator[Name]:
        """A name for each alias on the way, as if it had been the one asked for."""
        for alias in dict.fromkeys(record.get(VIA, "").split()):
            if alias != record["alias"]:
                yield self._name({**record, "alias": alias})

    def _chunks(self, owners: set[str]) -> list[list[str]]:
        # Those to be reviewed are few; and whose alias was passed through no column says.
        if not self.column or len(owners) > MOST_OWNERS or self.reserved or self._is_passed_owner:
            return [[]]
        ordered = sorted(owners)
        return [ordered[place : place + OWNERS_AT_ONCE] for place in range(0, len(ordered), OWNERS_AT_ONCE)]

    def _name(self, record: Record) -> Name:
        return (
            str(record[self.column]) if self.column else "",
            record["alias"] if self.by_alias else "",
            record[self.each] if self.each else "",
        )

    def _stored(self, owners: list[str], connection: BaseDatabaseWrapper) -> Iterator[tuple[Name, Used]]:
        whole_hour = math.ceil(self.start / HOUR) * HOUR
        if self.on_the_way:
            yield from self._ways(owners, connection)
        elif self.reserved:
            yield from self._rows(_RESERVED_SUMS, owners, connection, None, "needs_review")
        elif self.each in {"client_ip", "end_user"}:
            yield from self._rows(_ROW_SUMS, owners, connection, None)
        else:
            yield from self._rollups(owners, connection, whole_hour)
            if self.start < whole_hour:
                yield from self._rows(_ROW_SUMS, owners, connection, whole_hour)

    def _rollups(self, owners: list[str], connection: BaseDatabaseWrapper, hour: float) -> Iterator[tuple[Name, Used]]:
        """Days that are summed, and the hours around them: in one statement, so that all are of one moment."""
        since = datetime.fromtimestamp(hour, UTC)
        parts = Parts.of(since, END_OF_TIME, summed_until(connection.alias))
        bounds = [("billing_usagerollup", "hour", each) for each in parts.hours]
        if parts.days is not None:
            bounds.append(("billing_keyday" if self.column == "key_id" else "billing_teamday", "day", parts.days))
        columns = ", ".join((*(name for name in dict.fromkeys(self._names) if name), *_ROLLUP_COLUMNS))
        wanted, asked = self._of_owners(owners)
        selects, parameters = [], []
        for table, column, (start, end) in bounds:
            conditions = [f"{column} >= %s", f"{column} < %s", *wanted]
            selects.append(f"SELECT {columns} FROM {table} WHERE {' AND '.join(conditions)}")  # noqa: S608  # our own
            parameters += [*(connection.ops.adapt_datetimefield_value(moment) for moment in (start, end)), *asked]
        yield from self._ask(connection, f"({' UNION ALL '.join(selects)}) AS parts", _ROLLUP_SUMS, ([], parameters))

    def _rows(
        self, sums: str, owners: list[str], connection: BaseDatabaseWrapper, until: float | None, *also: str
    ) -> Iterator[tuple[Name, Used]]:
        where = self._where(owners, connection, until, *also)
        yield from self._ask(connection, "billing_usagerecord", sums, where)

    def _where(
        self, owners: list[str], connection: BaseDatabaseWrapper, until: float | None, *also: str
    ) -> tuple[list[str], list[Any]]:
        earliest = datetime.fromtimestamp(self.start, UTC) - LONGEST_ADMISSION if self.start else None
        conditions, parameters = [*also], []
        if earliest is not None:
            conditions += ["started_at >= %s", "COALESCE(admitted_at, started_at) >= %s"]
            parameters += [connection.ops.adapt_datetimefield_value(earliest), _moment(connection, self.start)]
            if connection.vendor == "postgresql":
                conditions.append("day >= %s")  # Leaves the partitions of other days alone.
                parameters.append(earliest.date())
        if until is not None:
            conditions += ["started_at < %s", "COALESCE(admitted_at, started_at) < %s"]
            parameters += [_moment(connection, until)] * 2
        wanted, asked = self._of_owners(owners)
        return [*conditions, *wanted], [*parameters, *asked]

    @property
    def _is_passed_owner(self) -> bool:
        return self.on_the_way and self.column == "alias"

    def _ways(self, owners: list[str], connection: BaseDatabaseWrapper) -> Iterator[tuple[Name, Used]]:
        """Of rows that name aliases on their way, which have an index of their own."""
        columns = ["alias", VIA, *(name for name in (self.column, self.each) if name and name != "alias")]
        sums, also = (_RESERVED_SUMS, ["needs_review"]) if self.reserved else (_ROW_SUMS, [])
        where = self._where(owners, connection, None, f"NOT ({VIA} = '')", *also)
        for row in self._selected(connection, "billing_usagerecord", columns, sums, where):
            said, one = dict(zip(columns, row, strict=False)), _used_of(row[len(columns) :])
            for name in self._passed(said):
                yield name, one

    def _of_owners(self, owners: list[str]) -> tuple[list[str], list[Any]]:
        """The condition that leaves out others than these; none for all there are."""
        if not owners:
            return [], []
        values = [int(owner) if self.column == "team_id" else owner for owner in owners]
        return [f"{self.column} IN ({', '.join(['%s'] * len(values))})"], values

    @property
    def _names(self) -> tuple[str, str, str]:
        """The columns of a `Name`; empty where it does not matter."""
        return self.column, "alias" if self.by_alias else "", self.each

    def _ask(
        self,
        connection: BaseDatabaseWrapper,
        table: str,
        sums: str,
        where: tuple[list[str], list[Any]],
    ) -> Iterator[tuple[Name, Used]]:
        for owner, alias, subject, *figures in self._selected(connection, table, self._names, sums, where):
            yield (str(owner), alias, subject), _used_of(figures)

    def _selected(
        self,
        connection: BaseDatabaseWrapper,
        table: str,
        names: Sequence[str],
        sums: str,
        where: tuple[list[str], list[Any]],
    ) -> Sequence[Sequence[Any]]:
        conditions, parameters = where
        selected = ", ".join(name or "''" for name in names)
        only = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        # Rows to be reviewed are added up here: grouping would lure SQLite away from the index that has them alone.
        by = "" if self.reserved else ", ".join(dict.fromkeys(name for name in names if name))
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {selected}, {sums} FROM {table}{only}{f' GROUP BY {by}' if by else ''}",  # noqa: S608
                parameters,
            )
            found: Sequence[Sequence[Any]] = cursor.fetchall()
        return found


def _used_of(figures: Sequence[Any]) -> Used:
    requests, input_sum, output_sum, whole, rest = figures
    cost = int(whole or 0) * _PART + int(rest or 0)
    return Used(int(requests or 0), int(input_sum or 0), int(output_sum or 0), cost)


@lru_cache(maxsize=4096)
def _groups(
    start: float, column: str, each: str, by_alias: bool, reserved: bool, *, is_of_aliases: bool
) -> tuple[_Group, ...]:
    """The very same for equal tallies, of which there may be a hundred thousand: to compare groups takes long."""
    if column not in COLUMNS or each not in SUBJECTS:
        raise ValueError(f"{column!r} and {each!r} are not among the columns {COLUMNS} and {SUBJECTS} to count by")
    groups = [_Group(start, column, each, by_alias)]
    if is_of_aliases:
        groups.append(structs.replace(groups[0], on_the_way=True))
    return (*groups, *[structs.replace(group, reserved=True) for group in groups]) if reserved else tuple(groups)


_PART = 10**9


def _in_parts(column: str) -> str:
    """In two parts, for a sum over all time may exceed the 64 bits that SQLite adds in."""
    return f"SUM({column} / {_PART}), SUM({column} %% {_PART})"


_COUNTED = "CASE WHEN counted THEN 1 ELSE 0 END"
_INPUT = "input + cache_read + cache_write_5m + cache_write_1h + audio_input + image_input"
_ROLLUP_COLUMNS = ("counted_requests", "input_tokens", "output_tokens", "cost_pico_usd")
_ROLLUP_SUMS = f"SUM(counted_requests), SUM(input_tokens), SUM(output_tokens), {_in_parts('cost_pico_usd')}"
_ROW_SUMS = f"SUM({_COUNTED}), SUM({_INPUT}), SUM(output + reasoning + audio_output), {_in_parts('cost_pico_usd')}"
_RESERVED_SUMS = "0, 0, 0, 0, reserved_pico_usd"


def _moment(connection: BaseDatabaseWrapper, seconds: float) -> Any:
    return connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(seconds, UTC))


def _used_by(row: Record) -> Used:
    return Used(int(row["counted"]), input_tokens(row), output_tokens(row), row["cost_pico_usd"])


__all__ = ["BySubject", "Tally", "Used", "closes", "used", "used_by", "used_up_to"]
