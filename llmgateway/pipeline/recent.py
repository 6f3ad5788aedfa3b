"""Values that were worked out of late, as many as fit: what was not asked for the longest gives way, one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """By key, together no heavier than `most`. `weigh` tells a value's weight, which never changes."""

    __slots__ = ("_most", "_weigh", "values", "weight")

    def __init__(self, most: int, weigh: Callable[[V], int]) -> None:
        self._most = most
        self._weigh = weigh
        self.values: OrderedDict[K, V] = OrderedDict()
        """For who only looks."""
        self.weight = 0
        """Of all that is kept."""

    def __len__(self) -> int:
        return len(self.values)

    def get(self, key: K) -> V | None:
        found = self.values.get(key)
        if found is not None:
            self.values.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> None:
        """One that was not there."""
        self.values[key] = value
        self.weight += self._weigh(value)
        while self.weight > self._most:
            _, gone = self.values.popitem(last=False)
            self.weight -= self._weigh(gone)

    def clear(self) -> None:
        self.values.clear()
        self.weight = 0
