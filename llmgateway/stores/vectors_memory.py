"""Vectors of questions in the memory of one process, compared one by one."""

from __future__ import annotations

import asyncio
import operator
from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence

import msgspec

from llmgateway.pipeline.cached_answers import Nearest
from llmgateway.pipeline.protocols import Clock

MOST_IN_GROUP = 256
"""Questions with the same conversation before them; the oldest go first."""
MOST_BYTES = 32 * 2**20
AT_ONCE = 32
"""As many are compared on the event loop; more of them in a thread."""


class _Kept(msgspec.Struct, frozen=True):
    vector: array[float]
    digest: bytes
    expires_at: float
    """Monotonic seconds."""


class MemoryVectors:
    """Implements `VectorStore`."""

    def __init__(self, clock: Clock, *, max_bytes: int = MOST_BYTES) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._groups: OrderedDict[bytes, deque[_Kept]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    async def nearest(self, group: bytes, vector: Sequence[float], *, similarity: float) -> Nearest | None:
        kept = self._groups.get(group)
        if kept is None:
            return None
        self._groups.move_to_end(group)
        now = self._clock.monotonic()
        valid = [each for each in kept if each.expires_at > now]
        if len(valid) <= AT_ONCE:
            found = _nearest(vector, valid)
        else:
            found = await asyncio.to_thread(_nearest, vector, valid)
        return found if found is not None and found.similarity >= similarity else None

    def add(self, group: bytes, vector: Sequence[float], digest: bytes, ttl_s: float) -> None:
        kept = self._groups.setdefault(group, deque())
        self._groups.move_to_end(group)
        now = self._clock.monotonic()
        while kept and (kept[0].expires_at <= now or len(kept) >= MOST_IN_GROUP):
            self._bytes -= _size(kept.popleft())
        new = _Kept(array("d", vector), digest, now + ttl_s)
        kept.append(new)
        self._bytes += _size(new)
        while self._bytes > self._max_bytes and self._groups:
            _, dropped = self._groups.popitem(last=False)
            self._bytes -= sum(map(_size, dropped))


def _size(kept: _Kept) -> int:
    return 8 * len(kept.vector) + 256


def _nearest(vector: Sequence[float], kept: Sequence[_Kept]) -> Nearest | None:
    """All vectors have length 1, so their product is the cosine."""
    best: Nearest | None = None
    for each in kept:
        if len(each.vector) != len(vector):
            continue
        similarity = sum(map(operator.mul, vector, each.vector))
        if best is None or similarity > best.similarity:
            best = Nearest(each.digest, similarity)
    return best


__all__ = ["MemoryVectors"]
