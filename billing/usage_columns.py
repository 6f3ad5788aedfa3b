"""Rows of the ledger by column: to look at columns is quicker than to look at each row.

Most columns say the same in every row of a batch: such a column is kept, looked at and handed over as one value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from billing.usage_rows import COLUMNS, Row
from llmgateway.pipeline.protocols import Record

Column = Sequence[Any]


class Columns:
    """What some rows say. Each column is either in `shared` or in `differing`."""

    __slots__ = ("count", "differing", "shared")

    def __init__(self, count: int, shared: dict[str, Any], differing: dict[str, Column]) -> None:
        self.count = count
        """Of rows."""
        self.shared = shared
        """What all rows say, by column."""
        self.differing = differing
        """What each row says, by column."""

    def column(self, name: str) -> Column:
        found = self.differing.get(name)
        return [self.shared[name]] * self.count if found is None else found

    def at(self, place: int, name: str) -> Any:
        found = self.differing.get(name)
        return self.shared[name] if found is None else found[place]

    def total(self, name: str) -> int:
        """The sum of a column of numbers."""
        found = self.differing.get(name)
        return int(self.shared[name] * self.count if found is None else sum(found))

    def how_many(self, name: str, value: Any) -> int:
        """Rows whose column says `value`."""
        found = self.differing.get(name)
        if found is None:
            return self.count if self.shared[name] == value else 0
        return found.count(value)

    def values(self, name: str) -> set[Any]:
        """What a column says, each once."""
        found = self.differing.get(name)
        return {self.shared[name]} if found is None else set(found)

    def picked(self, places: Sequence[int], names: Iterable[str]) -> Columns:
        """Some of the rows, with what they have in common and those of the other columns that are named."""
        columns = ((name, self.differing[name]) for name in names if name in self.differing)
        if len(places) == 1:
            return Columns(1, self.shared, {name: (column[places[0]],) for name, column in columns})
        pick = itemgetter(*places)
        return Columns(len(places), self.shared, {name: pick(column) for name, column in columns})

    def records(self) -> list[Record]:
        """Each row by itself, for who looks at few of many."""
        names = tuple(self.differing)
        rows = zip(*self.differing.values(), strict=True) if names else [()] * self.count
        return [{**self.shared, **dict(zip(names, row, strict=True))} for row in rows]


def by_column(rows: Iterable[Row]) -> Columns:
    columns = list(zip(*map(msgspec.structs.astuple, rows), strict=True))
    if not columns:
        return Columns(0, dict.fromkeys(COLUMNS), {})
    count = len(columns[0])
    shared: dict[str, Any] = {}
    differing: dict[str, Column] = {}
    for name, column in zip(COLUMNS, columns, strict=True):
        first = column[0]
        # Those that differ do so at once, as a rule.
        if first == column[-1] and column.count(first) == count:
            shared[name] = first
        else:
            differing[name] = column
    return Columns(count, shared, differing)
