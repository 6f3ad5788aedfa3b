"""What Redis last said of counters, for when it is away."""

from __future__ import annotations

from collections.abc import Sequence

from llmgateway.pipeline.snapshot import Limit
from llmgateway.stores.redis_terms import Frame

LARGEST_MEMORY = 50_000


class Seen:
    """How much was taken of windows, and how full buckets were."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}
        self._levels: dict[str, tuple[int, float]] = {}

    def note_limits(self, limits: Sequence[Frame], rooms: Sequence[tuple[int, int]], now: float) -> None:
        """What `admission.lua` says they leave."""
        taken, levels = self._taken, self._levels
        for frame, (room, _) in zip(limits, rooms, strict=True):
            if frame.is_bucket:
                levels[frame.name] = frame.most - room, now
            else:
                taken[frame.name] = frame.most - room
        self._forget_too_many()

    def note_budgets(self, budgets: Sequence[Frame], left: Sequence[str]) -> None:
        """What `admission.lua` says remains of them."""
        taken = self._taken
        for frame, remaining in zip(budgets, left, strict=True):
            taken[frame.name] = frame.most - int(remaining)
        self._forget_too_many()

    def _forget_too_many(self) -> None:
        for known in (self._taken, self._levels):
            if len(known) > LARGEST_MEMORY:
                known.clear()

    def add(self, window: str, amount: int) -> None:
        """Redis is told of so much besides."""
        if window in self._taken:
            self._taken[window] += amount

    def taken(self, window: str) -> int | None:
        """How much of it was taken; None: Redis was never asked about it."""
        return self._taken.get(window)

    def level(self, bucket: str, limit: Limit, now: float) -> int:
        """What has not drained by now, had nobody taken more; 0: Redis was never asked about it."""
        known = self._levels.get(bucket)
        return 0 if known is None else drained(*known, limit.amount, now)

    def add_rate(self, bucket: str, limit: Limit, more: int, now: float) -> None:
        self._levels[bucket] = self.level(bucket, limit, now) + more, now

    def empty_at(self, bucket: str, limit: Limit, now: float) -> float:
        """When a bucket has drained by itself."""
        return now + self.level(bucket, limit, now) / max(1, limit.amount) / 1e6


def drained(level: int, since: float, pace: int, now: float) -> int:
    """What is left of a bucket's level that drains by `pace` in each microsecond."""
    return max(0, level - max(0, int((now - since) * 1e6)) * pace)


__all__ = ["Seen", "drained"]
