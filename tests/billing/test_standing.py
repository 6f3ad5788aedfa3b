"""What a budget made in the middle of traffic starts from, to the unit."""

from __future__ import annotations

from pathlib import Path

import pytest

from billing.journal import Journal
from billing.journal_files import Position
from billing.ledger import JournalDrain
from billing.standing import settled_up_to

STARTED = 1_773_489_600.0
KEY_1, TEAM_3, ALL = ("key", "1", STARTED), ("team", "3", STARTED), ("global", "", STARTED)


def finish(journal: Journal, number: int, cost: int, *, key_id: str = "1", started_at: float = STARTED) -> None:
    record = {
        "id": f"req_{number}",
        "started_at": started_at,
        "status": "completed",
        "key_id": key_id,
        "key_name": "k",
        "team_id": 3,
        "operation": "chat",
        "alias": "gpt",
        "cost_pico_usd": cost,
    }
    journal.open({"id": record["id"], "started_at": started_at, "held_pico_usd": 0})
    journal.close(record)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, max_bytes=2**20)


@pytest.mark.django_db(transaction=True)
def test_what_is_in_the_database_and_what_is_still_in_the_journal_both_count_once(journal: Journal) -> None:
    finish(journal, 1, 100)
    JournalDrain(journal.folder, journal=journal).drain()
    finish(journal, 2, 20)
    finish(journal, 3, 3, key_id="2")
    finish(journal, 4, 1000, started_at=STARTED - 1)

    assert settled_up_to(journal, [KEY_1, TEAM_3, ALL], journal.position) == [120, 123, 123]
    journal.stop()


@pytest.mark.django_db(transaction=True)
def test_nothing_after_the_mark_counts(journal: Journal) -> None:
    finish(journal, 1, 100)

    def mark() -> Position:
        position = journal.position()
        finish(journal, 2, 20)
        return position

    assert settled_up_to(journal, [KEY_1], mark) == [100]
    journal.stop()


@pytest.mark.django_db(transaction=True)
def test_after_an_error_of_the_drain_the_database_says_how_far_it_is(journal: Journal) -> None:
    finish(journal, 1, 100)
    JournalDrain(journal.folder, journal=journal).drain()
    journal.drained = None
    finish(journal, 2, 20)

    assert settled_up_to(journal, [KEY_1], journal.position) == [120]
    journal.stop()
