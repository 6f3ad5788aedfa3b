"""Holds are those of requests that are open in some journal now."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing.holds import FRESH_S, Holds
from billing.journal import Journal
from tests.fakes import FakeClock


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, max_bytes=2**24, segment_bytes=2000)
    yield journal
    journal.stop()


@pytest.fixture
def holds(tmp_path: Path, clock: FakeClock) -> Holds:
    return Holds(tmp_path, clock=clock.monotonic)


def opened(request_id: str, held: int, *budget_ids: int) -> dict[str, Any]:
    windows = [[f"budget:{budget_id}:day", budget_id, held] for budget_id in budget_ids]
    return {"id": request_id, "started_at": 1.0, "held_pico_usd": held, "windows": windows}


def closed(request_id: str) -> dict[str, Any]:
    return {"id": request_id, "status": "completed", "started_at": 1.0, "cost_pico_usd": 1}


def later(holds: Holds, clock: FakeClock) -> dict[int, int]:
    clock.advance(FRESH_S)
    return holds.by_budget()


def test_an_open_request_holds_of_each_of_its_budgets(journal: Journal, holds: Holds) -> None:
    journal.open(opened("a", 5, 1, 2))
    journal.open(opened("b", 7, 2))

    assert holds.by_budget() == {1: 5, 2: 12}


def test_a_closed_request_holds_nothing(journal: Journal, holds: Holds, clock: FakeClock) -> None:
    journal.open(opened("a", 5, 1))
    journal.open(opened("b", 7, 1))
    assert holds.by_budget() == {1: 12}

    journal.close(closed("a"))

    assert later(holds, clock) == {1: 7}


def test_reading_goes_on_over_the_end_of_a_segment(journal: Journal, holds: Holds, clock: FakeClock) -> None:
    for number in range(60):
        journal.open(opened(f"r{number}", 1, 1))
        if number % 2:
            journal.close(closed(f"r{number}"))
        assert later(holds, clock) == {1: number // 2 + 1}

    assert len(list(journal.folder.glob("*.journal"))) > 1


def test_journals_of_all_workers_add_up(tmp_path: Path, journal: Journal, holds: Holds) -> None:
    other = Journal(tmp_path, max_bytes=2**24)
    journal.open(opened("a", 5, 1))
    other.open(opened("b", 6, 1))

    assert holds.by_budget() == {1: 11}
    other.stop()


def test_a_journal_that_is_gone_holds_nothing(tmp_path: Path, journal: Journal, holds: Holds, clock: FakeClock) -> None:
    other = Journal(tmp_path, max_bytes=2**24)
    other.open(opened("b", 6, 1))
    assert holds.by_budget() == {1: 6}

    other.stop()
    shutil.rmtree(other.folder)

    assert later(holds, clock) == {}


def test_a_rescued_copy_after_the_close_does_not_open_the_request_again(
    journal: Journal, holds: Holds, clock: FakeClock
) -> None:
    journal.open(opened("a", 5, 1))
    journal.close(closed("a"))
    assert holds.by_budget() == {}

    journal.open(opened("a", 5, 1))

    assert later(holds, clock) == {}


def test_many_pages_read_the_journals_once(journal: Journal, holds: Holds, clock: FakeClock) -> None:
    assert holds.by_budget() == {}
    journal.open(opened("a", 5, 1))

    clock.advance(FRESH_S / 2)
    assert holds.by_budget() == {}
    clock.advance(FRESH_S / 2)
    assert holds.by_budget() == {1: 5}


def test_without_a_folder_nothing_is_held(tmp_path: Path) -> None:
    assert Holds(tmp_path / "missing").by_budget() == {}
