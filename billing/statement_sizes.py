"""Few sizes for statements about many rows. No Django here.

A connection to SQLite keeps what it has prepared: half a megabyte for a statement about two hundred rows, and it has
room for 128. A statement of its own for each count of rows would fill that, and be prepared for longer than it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

STEPS = (50, 10, 1)


def in_steps(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """All items in order, in slices of one of `STEPS`."""
    start = 0
    for size in STEPS:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size


def padded(items: Sequence[Item]) -> list[Item]:
    """Items, and the last of them again until there are a power of two: for statements that may hear one twice."""
    room = 1 << (len(items) - 1).bit_length()
    return [*items, *[items[-1]] * (room - len(items))]
