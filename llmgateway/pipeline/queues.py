"""Who waits for a turn, and who is next: the higher priority, and of equal ones each key in its turn.

Pure: it is told when somebody came, and knows nothing of requests, tasks and bounds.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

HEAD_START_S = 5.0
"""What a point of priority is worth, in seconds of waiting."""


class Place:
    """Somebody who waits."""

    __slots__ = ("arrival", "future", "order", "priority", "whose")

    def __init__(self, arrival: int, future: asyncio.Future[None], *, priority: int, whose: str, began: float) -> None:
        self.arrival = arrival
        self.future = future
        self.priority = priority
        self.whose = whose
        """The key, among whose places who came first goes first."""
        self.order = priority * HEAD_START_S - began, -arrival
        """Between those of different priorities the greater goes first."""


class Queue:
    """Keys of one priority take turns, however many places each of them has: one that floods the queue waits for itself."""

    def __init__(self) -> None:
        self._ranks: dict[int, OrderedDict[str, deque[Place]]] = {}
        """By priority, the lines of the keys; the first of them is served next."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, place: Place) -> None:
        lines = self._ranks.setdefault(place.priority, OrderedDict())
        line = lines.get(place.whose)
        if line is None:
            line = lines[place.whose] = deque()
        line.append(place)
        self._count += 1

    def remove(self, place: Place) -> None:
        """Of somebody who goes without having been served; whoever is not in it any more is left alone."""
        lines = self._ranks.get(place.priority)
        line = None if lines is None else lines.get(place.whose)
        if lines is None or line is None or place not in line:
            return
        line.remove(place)
        self._count -= 1
        if not line:
            self._end(place, lines)

    def pop(self) -> Place:
        """Who is served next."""
        place = max((next(iter(lines.values()))[0] for lines in self._ranks.values()), key=_order)
        lines = self._ranks[place.priority]
        line = lines[place.whose]
        line.popleft()
        self._count -= 1
        if line:
            lines.move_to_end(place.whose)
        else:
            self._end(place, lines)
        return place

    def last(self) -> Place:
        """Who goes if there is one too many: of each priority the latest of the key that has the most."""
        return min((max(map(_crowd, lines.values()))[2] for lines in self._ranks.values()), key=_order)

    def _end(self, place: Place, lines: OrderedDict[str, deque[Place]]) -> None:
        del lines[place.whose]
        if not lines:
            del self._ranks[place.priority]


def _order(place: Place) -> tuple[float, int]:
    return place.order


def _crowd(line: deque[Place]) -> tuple[int, int, Place]:
    return len(line), line[-1].arrival, line[-1]
