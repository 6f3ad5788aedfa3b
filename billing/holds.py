"""What running requests hold of each budget, followed in the journals of this host. No Django here.

Pages ask every few seconds, so each journal is read on from where the last reading ended, never from its beginning.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from billing.journal_files import CLOSE, OPEN, START, Position, from_json, journal_folders, walk

FRESH_S = 2.0
"""How old an answer may be: so often are the journals read at most, however many pages are open."""

REMEMBERED = 20_000
"""Ids of closed requests kept per journal: a record rescued from a failing segment may stand after its close."""


class Holds:
    """Follows all journals below `root`. Safe to ask from any thread."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._lock = threading.Lock()
        self._journals: dict[str, _Journal] = {}
        self._read_at = float("-inf")
        self._by_budget: dict[int, int] = {}

    def by_budget(self) -> dict[int, int]:
        """Pico-dollars by budget id. A budget that nothing is held of is absent."""
        with self._lock:
            if self._clock() - self._read_at >= FRESH_S:
                self._by_budget = self._read()
                self._read_at = self._clock()
            return self._by_budget

    def _read(self) -> dict[int, int]:
        folders = {folder.name: folder for folder in journal_folders(self._root)}
        self._journals = {name: self._journals.get(name) or _Journal(folder) for name, folder in folders.items()}
        total: dict[int, int] = {}
        for journal in self._journals.values():
            journal.read_on()
            for windows in journal.open.values():
                for _, budget_id, held in windows:
                    total[budget_id] = total.get(budget_id, 0) + held
        return total


class _Journal:
    """One journal: how far it was read, and which of its requests are open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open: dict[str, list[tuple[str, int, int]]] = {}
        """(counter, budget id, pico-dollars held) of each request's windows."""
        self._closed: dict[str, None] = {}
        self._position: Position = START

    def read_on(self) -> None:
        try:
            # Damage is reported by the drain, which reads the same bytes.
            for step in walk(self.folder, self._position, live=True, skipped=lambda *_: None):
                if step.kind == OPEN:
                    self._opened(step.payload)
                elif step.kind == CLOSE:
                    self._close(from_json(step.payload)["id"])
                self._position = step.position
        except FileNotFoundError:
            self.open.clear()  # Drained and deleted meanwhile.

    def _opened(self, payload: bytes) -> None:
        record = from_json(payload)
        if record["id"] not in self._closed:
            self.open[record["id"]] = record["windows"]

    def _close(self, request_id: str) -> None:
        self.open.pop(request_id, None)
        self._closed[request_id] = None
        if len(self._closed) > REMEMBERED:
            del self._closed[next(iter(self._closed))]
