"""The usage journal on disk: records, segments, folders and who owns them. No Django here.

A journal is a folder. Its owner holds an exclusive `flock` on `owner.lock` for life; segments are numbered files.
A record is magic, length and CRC-32, then one kind byte and JSON. Each segment opens with a header that says where
the segment before it ends, so that what a failed write left behind is never read.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import orjson

log = logging.getLogger(__name__)

HEADER, OPEN, ATTEMPT, PROGRESS, CLOSE, REFUSED = b"H", b"O", b"A", b"P", b"C", b"R"
KINDS = (HEADER, OPEN, ATTEMPT, PROGRESS, CLOSE, REFUSED)
ALL_KINDS = frozenset(KINDS)

MAGIC = b"\xffJ"
"""Its first byte occurs in no UTF-8 text, so a search for it does not stop inside a payload."""
FRAME = struct.Struct("<2sII")
MAX_PAYLOAD = 64 * 2**20
WINDOW = 2**16
"""Bytes read at a time. The memory of larger pieces goes back to the system after each, and costs more than reading."""
_CRC_OF_KIND = {kind: zlib.crc32(kind) for kind in KINDS}
_SEGMENT_NAME = re.compile(r"(\d{8})\.journal")


class Position(NamedTuple):
    """A place in a journal; later places compare greater."""

    segment: int
    offset: int


class StoredRecord(NamedTuple):
    """A record as it was found: `payload` is its JSON, `end` the offset after it."""

    kind: bytes
    payload: bytes
    end: int


Skipped = Callable[[Path, int, int], None]
"""Told of unreadable bytes: the file, and the span's start and end."""


def report_skipped(path: Path, start: int, end: int) -> None:
    log.error("Journal %s: bytes %d to %d are unreadable and were left out; keep a copy of the file", path, start, end)


def to_json(content: Any) -> bytes:
    """Compact JSON. What JSON or UTF-8 cannot hold is written as near as possible: no record is lost over a detail."""
    try:
        return orjson.dumps(content)
    except TypeError:
        return json.dumps(content, default=str, ensure_ascii=False).encode("utf-8", "replace")


def from_json(payload: bytes) -> Any:
    return orjson.loads(payload)


def frame(kind: bytes, body: bytes) -> bytes:
    """A record as it stands in the file."""
    return b"".join((FRAME.pack(MAGIC, len(body) + 1, zlib.crc32(body, _CRC_OF_KIND[kind])), kind, body))


def read_records(
    path: Path, offset: int = 0, *, limit: int | None = None, final: bool = True, skipped: Skipped = report_skipped
) -> Iterator[StoredRecord]:
    """The whole records of a segment from `offset` up to `limit`.

    Stops at a torn tail; goes on after corrupt bytes at the next record whose checksum is right. `final` says that
    nobody appends any more, so that a torn tail is reported as skipped too.
    """
    runs = _runs(path, offset, limit=limit, final=final, skipped=skipped)
    return map(StoredRecord._make, chain.from_iterable(runs))


Raw = tuple[bytes, bytes, int]
"""The fields of a `StoredRecord`: to make one of it takes as long as to read it."""
Run = list[Raw]
"""Records that were read together."""


def _runs(
    path: Path,
    offset: int,
    *,
    limit: int | None = None,
    final: bool = True,
    skipped: Skipped = report_skipped,
    wanted: frozenset[bytes] = ALL_KINDS,
) -> Iterator[Run]:
    """As `read_records`. Kinds that are not `wanted` are checked and left out; where they come last, a step without a
    kind says where they end."""
    with path.open("rb") as file:
        # The size is taken first: bytes below it are complete, while later ones may be seen in part.
        size = os.fstat(file.fileno()).st_size
        end = size if limit is None else min(limit, size)
        window, base = WINDOW, offset
        while base < end:
            data = os.pread(file.fileno(), min(window, end - base), base)
            run, place = _records_in(data, base, wanted)
            yield run
            if base + len(data) < end:
                # Cut by the window, or broken: a larger window that holds all the rest tells which.
                base, window = base + place, WINDOW if place else window * 4
                continue
            found = _resynchronised(data, place)
            if found is None:
                if final and place < len(data):
                    skipped(path, base + place, end)
                return
            skipped(path, base + place, base + found)
            base, window = base + found, WINDOW


def _records_in(data: bytes, base: int, wanted: frozenset[bytes]) -> tuple[Run, int]:
    """The records at the beginning of `data`, and where the last of them ends. The drain's inner loop."""
    unpack, head, length_of_data, checksum_of = FRAME.unpack_from, FRAME.size, len(data), zlib.crc32
    view, size = memoryview(data), length_of_data - head
    found: Run = []
    place = told = 0
    while place < size:
        magic, length, checksum = unpack(data, place)
        start = place + head
        end = start + length
        if magic != MAGIC or not 0 < length <= MAX_PAYLOAD or end > length_of_data:
            break
        if checksum_of(view[start:end]) != checksum:
            break
        kind = data[start : start + 1]
        if kind in wanted:
            told = end
            found.append((kind, data[start + 1 : end], base + end))
        elif kind not in ALL_KINDS:
            break
        place = end
    if told < place:
        found.append((b"", b"", base + place))
    return found, place


def _record_at(data: bytes, place: int, base: int) -> StoredRecord | None:
    start = place + FRAME.size
    if len(data) < start:
        return None
    magic, length, checksum = FRAME.unpack_from(data, place)
    end = start + length
    if magic != MAGIC or not 0 < length <= MAX_PAYLOAD or end > len(data):
        return None
    payload = data[start:end]
    kind = payload[:1]
    if zlib.crc32(payload) != checksum or kind not in _CRC_OF_KIND:
        return None
    return StoredRecord(kind, payload[1:], base + end)


def _resynchronised(data: bytes, place: int) -> int | None:
    candidate = data.find(MAGIC, place + 1)
    while candidate != -1:
        if _record_at(data, candidate, 0) is not None:
            return candidate
        candidate = data.find(MAGIC, candidate + 1)
    return None


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.journal"


def segment_numbers(folder: Path) -> list[int]:
    """The numbers of a journal's segments, ascending. Empty if the folder is gone."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for name in names if (found := _SEGMENT_NAME.fullmatch(name)))


def header(folder: Path, number: int, *, previous: int, previous_end: int) -> bytes:
    """The first record of a segment. What lies after `previous_end` in the segment `previous` is void."""
    content = {"journal": folder.name, "segment": number, "previous": previous, "previous_end": previous_end}
    return frame(HEADER, to_json(content))


def _void_after(folder: Path, number: int, following: int) -> int | None:
    """Where segment `number` ends according to the header of the one that follows; None: at the end of the file."""
    for record in read_records(segment_path(folder, following), final=False, skipped=_ignore):
        if record.kind == HEADER:
            content = from_json(record.payload)
            return int(content["previous_end"]) if content["previous"] == number else None
        return None
    return None


def _ignore(path: Path, start: int, end: int) -> None:
    """For looking ahead: the reader that gets there reports."""


class Step(NamedTuple):
    """One step of a walk through a journal: a record and the position after it, or the turn to the next segment."""

    kind: bytes
    """Empty for a turn."""
    payload: bytes
    segment: int
    offset: int

    @property
    def position(self) -> Position:
        return Position(self.segment, self.offset)


def walk(
    folder: Path,
    start: Position,
    until: Position | None = None,
    *,
    live: bool = False,
    skipped: Skipped = report_skipped,
) -> Iterator[Step]:
    """Every record of a journal from `start` to `until`, in order. `live`: its owner may still be writing."""
    for number, run in walk_runs(folder, start, until, live=live, skipped=skipped):
        for kind, payload, offset in run:
            yield Step(kind, payload, number, offset)


def walk_runs(
    folder: Path,
    start: Position,
    until: Position | None = None,
    *,
    live: bool = False,
    skipped: Skipped = report_skipped,
    wanted: frozenset[bytes] = ALL_KINDS,
) -> Iterator[tuple[int, Run]]:
    """`walk` for who reads much: segments, and records of theirs that were read together.

    Other kinds than the `wanted` are checked and left out; where they come last, a step without a kind moves past them.
    """
    numbers = [number for number in segment_numbers(folder) if number >= start.segment]
    if until is not None:
        numbers = [number for number in numbers if number <= until.segment]
    if numbers and numbers[0] > start.segment:
        yield numbers[0], _TURN
    for number, following in zip_longest(numbers, numbers[1:]):
        offset = start.offset if number == start.segment else 0
        limit = None if following is None else _void_after(folder, number, following)
        if until is not None and number == until.segment:
            limit = until.offset if limit is None else min(limit, until.offset)
        final = following is not None or not live
        path = segment_path(folder, number)
        for run in _runs(path, offset, limit=limit, final=final, skipped=skipped, wanted=wanted):
            yield number, run
        if following is not None:
            yield following, _TURN


_TURN: Run = [(b"", b"", 0)]
"""To the beginning of a segment."""

START = Position(1, 0)
"""Where every journal begins."""


class Ownership:
    """The exclusive lock on a journal's folder, held until `release` or the end of the process."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> Ownership | None:
        """None: the folder is somebody else's, or gone."""
        path = folder / "owner.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # Python's descriptors are close-on-exec.
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last owner may have deleted the file between our open and lock: then we hold nothing.
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return cls(folder, descriptor)
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def release(self) -> None:
        os.close(self._descriptor)

    def delete_folder(self) -> None:
        """Removes the journal: segments in order, the lock last, so that a half-deleted one can be taken again."""
        for number in segment_numbers(self.folder):
            segment_path(self.folder, number).unlink()
        for leftover in self.folder.glob("*.part"):
            leftover.unlink()
        (self.folder / "owner.lock").unlink()
        try:
            self.folder.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            log.warning("Journal %s is drained but holds foreign files; remove the folder by hand", self.folder)
        self.release()


def create_journal(root: Path) -> Ownership:
    """A new journal folder under `root`, already owned when it becomes visible under its name."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(6)}"
    hidden = root / f".{name}"
    hidden.mkdir(mode=0o700)
    owner = Ownership.take(hidden)
    if owner is None:
        raise OSError(errno.EBUSY, "another process took a journal folder that was just made", str(hidden))
    owner.folder = hidden.rename(root / name)
    sync_folder(root)
    return owner


def journal_folders(root: Path) -> list[Path]:
    """Every journal under `root`, oldest first."""
    try:
        return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        return []


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole_segment(folder: Path, number: int, content: bytes) -> None:
    """A segment that is there completely and durably, or not at all."""
    path = segment_path(folder, number)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    sync_folder(folder)
