"""What an import changes, for people: one line an object, one a field, secrets masked."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

MASK = "••••"


class Action(enum.StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    REMOVED = "removed"


_SIGNS = {Action.CREATED: "+", Action.CHANGED: "~", Action.REMOVED: "-"}


@dataclass(frozen=True, slots=True)
class FieldChange:
    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Change:
    """One row that is created, changed or removed."""

    action: Action
    kind: str
    name: str
    fields: tuple[FieldChange, ...] = ()

    def lines(self) -> Iterator[str]:
        yield f"{_SIGNS[self.action]} {self.kind} {self.name}"
        for item in self.fields:
            yield f"    {item.name}: {item.new}" if not item.old else f"    {item.name}: {item.old} → {item.new}"


@dataclass(slots=True)
class Report:
    """The outcome of one import. `secrets` are shown once, after the rows are safe, and kept nowhere."""

    changes: list[Change] = field(default_factory=list)
    unchanged: int = 0
    kept: list[str] = field(default_factory=list)
    """Rows that the file does not name and that were left alone."""
    notes: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    """Generated secrets by key name."""

    def add_field(self, kind: str, name: str, change: FieldChange) -> None:
        """A field of the row that was handled last, kept in a table of its own."""
        last = self.changes[-1] if self.changes else None
        if last is not None and (last.kind, last.name) == (kind, name):
            self.changes[-1] = replace(last, fields=(*last.fields, change))
        else:
            self.changes.append(Change(Action.CHANGED, kind, name, (change,)))
            self.unchanged -= 1

    def lines(self) -> Iterator[str]:
        """The diff, what else is worth knowing, and the sums."""
        for change in self.changes:
            yield from change.lines()
        yield from (f"note: {note}" for note in self.notes)
        yield from self._kept_lines()
        yield self.summary()

    def summary(self) -> str:
        counts = Counter(change.action for change in self.changes)
        return ", ".join([f"{counts[action]} {action}" for action in Action] + [f"{self.unchanged} unchanged"]) + "."

    def _kept_lines(self) -> Iterator[str]:
        if not self.kept:
            return
        shown = ", ".join(self.kept[:10]) + (f" and {len(self.kept) - 10} more" if len(self.kept) > 10 else "")
        yield f"note: not in the file and left alone: {shown}. `--prune` removes them."


def as_text(value: object) -> str:
    """A value as the diff shows it."""
    if value is None or value in ("", []):
        return "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
