"""Kept answers in the memory of one process: those that were not asked for longest go first when it is full."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from llmgateway.pipeline.cached_answers import KeptAnswer, Standing
from llmgateway.pipeline.protocols import Clock

SHARE_OF_ONE = 8
"""No answer takes more than one part in so many of the room."""


class _Entry(msgspec.Struct):
    answer: KeptAnswer
    expires_at: float
    """Monotonic seconds."""


class MemoryAnswers:
    """Implements `AnswerStore`. Every call but `forget` takes the same time, however many answers there are."""

    def __init__(self, clock: Clock, *, max_bytes: int = 64 * 2**20) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._bytes = 0

    @property
    def byte_count(self) -> int:
        return self._bytes

    @property
    def entry_count(self) -> int:
        return len(self._entries)

    async def find(self, digest: bytes) -> KeptAnswer | None:
        return self._found(digest)

    def _found(self, digest: bytes) -> KeptAnswer | None:
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if self._clock.monotonic() >= entry.expires_at:
            self._drop(digest)
            return None
        self._entries.move_to_end(digest)
        return entry.answer

    def keep(self, digest: bytes, answer: KeptAnswer, ttl_s: float) -> None:
        self._drop(digest)
        if answer.size * SHARE_OF_ONE > self._max_bytes:
            return
        self._entries[digest] = _Entry(answer, self._clock.monotonic() + ttl_s)
        self._bytes += answer.size
        self._make_room()

    async def claim(self, digest: bytes, token: bytes, youngest: float) -> KeptAnswer | Standing:
        """Nobody else looks here."""
        answer = self._found(digest)
        return answer if answer is not None and answer.stored_at > youngest else Standing.LEAD

    def renew(self, digest: bytes, token: bytes) -> None:
        """Who leads here cannot die alone."""

    def release(self, digest: bytes, token: bytes, *, alone: bool) -> None:
        """Nothing was claimed."""

    def forget(self, alias: str | None) -> None:
        if alias is None:
            self._entries.clear()
            self._bytes = 0
            return
        for digest in [digest for digest, entry in self._entries.items() if entry.answer.alias == alias]:
            self._drop(digest)

    def resize(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._make_room()

    def _make_room(self) -> None:
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self._bytes -= entry.answer.size


__all__ = ["MemoryAnswers"]
