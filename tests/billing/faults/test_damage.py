"""Torn and flipped bytes anywhere in a journal cost at most the record they are in, and stop no other."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.adoption import settle_interrupted
from billing.journal import Journal
from billing.journal_files import CLOSE, OPEN, START, from_json, read_records, segment_numbers, segment_path
from billing.ledger import read_batch
from billing.usage_rows import decoded
from tests.billing.records import closed, opened

REQUESTS = 14


class Spot(NamedTuple):
    """A record in the undamaged journal."""

    segment: int
    start: int
    end: int
    kind: bytes
    request_id: str


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Spot]]:
    """A dead worker's journal of several segments, with closed and open requests, and where each record is."""
    journal = Journal(tmp_path_factory.mktemp("damage"), fsync="never", max_bytes=2**30, segment_bytes=2_500)
    for number in range(REQUESTS):
        journal.open(opened(f"r{number:02}"))
        if number >= 2 and number % 5 != 4:
            journal.close(closed(f"r{number:02}"))
    journal.stop()
    spots = []
    for number in segment_numbers(journal.folder):
        start = 0
        for record in read_records(segment_path(journal.folder, number)):
            name = from_json(record.payload).get("id", "")
            spots.append(Spot(number, start, record.end, record.kind, name))
            start = record.end
    assert len({spot.segment for spot in spots}) > 3
    return journal.folder, spots


@contextmanager
def copy_of(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as root:
        yield Path(shutil.copytree(folder, Path(root) / folder.name))


def rows_of(folder: Path) -> dict[str, str]:
    """Status by request, of what an adopter would store. Fails for a request with two rows."""
    settle_interrupted(folder)
    rows = [decoded(payload) for payload in read_batch(folder, START, None).closes]
    statuses = {row.id: row.status for row in rows}
    assert len(statuses) == len(rows)
    return statuses


def expected(spots: list[Spot], lost: set[Spot]) -> dict[str, str]:
    """What is left if these records are."""
    statuses = {spot.request_id: "interrupted" for spot in spots if spot.kind == OPEN and spot not in lost}
    statuses |= {spot.request_id: "completed" for spot in spots if spot.kind == CLOSE and spot not in lost}
    return statuses


def test_an_undamaged_journal_is_read_whole(written: tuple[Path, list[Spot]]) -> None:
    folder, spots = written

    with copy_of(folder) as copy:
        assert rows_of(copy) == expected(spots, set())


@settings(max_examples=80)
@given(data=st.data())
def test_flipped_bits_cost_only_the_records_they_hit(data: st.DataObject, written: tuple[Path, list[Spot]]) -> None:
    folder, spots = written
    hit: set[Spot] = set()

    with copy_of(folder) as copy:
        for _ in range(data.draw(st.integers(1, 3), label="flips")):
            spot = data.draw(st.sampled_from(spots), label="record")
            place = data.draw(st.integers(spot.start, spot.end - 1), label="byte")
            bit = data.draw(st.integers(0, 7), label="bit")
            path = segment_path(copy, spot.segment)
            content = bytearray(path.read_bytes())
            content[place] ^= 1 << bit
            path.write_bytes(content)
            # A second flip of the same bit mends the first.
            hit = {each for each in {*hit, spot} if content[each.start : each.end] != _original(folder, each)} | {
                each for each in hit if each.segment != spot.segment
            }

        assert rows_of(copy) == expected(spots, hit)


@settings(max_examples=50)
@given(data=st.data())
def test_a_torn_tail_costs_only_what_is_torn_off(data: st.DataObject, written: tuple[Path, list[Spot]]) -> None:
    folder, spots = written
    last = spots[-1].segment
    size = segment_path(folder, last).stat().st_size
    cut = data.draw(st.integers(0, size), label="cut")
    garbage = data.draw(st.binary(max_size=40), label="garbage")

    with copy_of(folder) as copy:
        path = segment_path(copy, last)
        path.write_bytes(path.read_bytes()[:cut] + garbage)
        intact = path.read_bytes()
        torn = {
            spot for spot in spots if spot.segment == last and intact[spot.start : spot.end] != _original(folder, spot)
        }

        assert rows_of(copy) == expected(spots, torn)


def _original(folder: Path, spot: Spot) -> bytes:
    return segment_path(folder, spot.segment).read_bytes()[spot.start : spot.end]
