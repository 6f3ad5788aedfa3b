"""Journals and records for the tests of billing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from billing.journal import Journal

MakeJournal = Callable[..., Journal]


@pytest.fixture
def make_journal(tmp_path: Path) -> Iterator[MakeJournal]:
    """Journals below one folder, stopped at the end."""
    made: list[Journal] = []

    def make(**options: object) -> Journal:
        settings = {"fsync": "never", "max_bytes": 2**30, **options}
        journal = Journal(tmp_path / "journal", **settings)  # type: ignore[arg-type]  # settings of many types
        made.append(journal)
        return journal

    yield make
    for journal in made:
        journal.stop()


@pytest.fixture
def journal(make_journal: MakeJournal) -> Journal:
    return make_journal()
