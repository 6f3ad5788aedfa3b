"""How much a worker takes on at once: a turn for each request that runs, and a queue for those that must wait for one.

Whoever waits holds nothing but its place: no money, no slot of a limit, no connection upstream. `queues` says who is next:
by the priorities of keys, of which a point is worth some seconds of waiting, so that who waits long enough overtakes
newcomers of any higher priority; keys of equal priority take turns. When the queue is full the last in this order goes: a
newcomer, or whoever it displaces.
"""

from __future__ import annotations

import asyncio
import math
import random

from llmgateway.pipeline.errors import OverloadedError
from llmgateway.pipeline.protocols import Clock
from llmgateway.pipeline.queues import Place, Queue
from llmgateway.pipeline.requests import Presence
from llmgateway.pipeline.route_rules import LoadRules
from llmgateway.pipeline.snapshot import ForeignKey, Key
from llmgateway.pipeline.telemetry import DURATION_BOUNDS_S, Histogram

REASONS = ("full", "displaced", "waited")
"""Why requests are refused: no place was free, somebody of higher priority took theirs, no turn came in time."""


class QueueLeftError(asyncio.CancelledError):
    """The client left before its turn came; nothing was taken."""


class Turns:
    """All turns of this process. Used from the event loop alone; whoever has taken one gives it back once.

    Example:
        waited_s = 0.0 if turns.take() else await turns.wait(key, presence)
        try:
            ...
        finally:
            turns.give_back()
    """

    def __init__(self, clock: Clock, rules: LoadRules) -> None:
        self.rules = rules
        self.taken = 0
        self.refused = dict.fromkeys(REASONS, 0)
        self.waits_s = Histogram(DURATION_BOUNDS_S)
        """Of those who got a turn in the end; who need not wait is not in it."""
        self._clock = clock
        self._queue = Queue()
        """Whenever somebody is in it, all turns are taken."""
        self._arrivals = 0

    @property
    def queued(self) -> int:
        return len(self._queue)

    def use(self, rules: LoadRules) -> None:
        """From now on these bounds hold. Who has a turn or a place keeps it."""
        self.rules = rules
        self._let_in()

    def take(self) -> bool:
        """A turn without waiting for it, if one is free."""
        if 0 < self.rules.max_in_flight <= self.taken:
            return False
        self.taken += 1
        return True

    def give_back(self) -> None:
        self.taken -= 1
        if self._queue:
            self._let_in()

    async def wait(self, key: Key, presence: Presence) -> float:
        """Take a turn when that of `key` comes. Returns the seconds until then.

        Raises:
            OverloadedError: there is no place in the queue, or no turn came in time.
            QueueLeftError: the client has left.
        """
        began, loop = self._clock.monotonic(), asyncio.get_running_loop()
        self._arrivals += 1
        place = Place(self._arrivals, loop.create_future(), priority=key.priority, whose=_whose(key), began=began)
        self._enter(place)
        presence.watch()
        timer = loop.call_later(self.rules.queue_wait_s, self._give_up, place)
        try:
            await place.future
        except asyncio.CancelledError:
            if place.future.cancelled():
                self._queue.remove(place)
            elif place.future.exception() is None:
                self.give_back()  # It came in the same moment.
            if presence.client_left:
                raise QueueLeftError from None
            raise
        finally:
            timer.cancel()
        waited = self._clock.monotonic() - began
        self.waits_s.observe(waited)
        return waited

    def _enter(self, place: Place) -> None:
        self._queue.add(place)
        if len(self._queue) <= self.rules.max_queued:
            return
        last = self._queue.last()
        self._queue.remove(last)
        if last is place:
            self.refused["full"] += 1
            raise self._overloaded()
        self._refuse(last, "displaced")

    def _give_up(self, place: Place) -> None:
        self._queue.remove(place)
        self._refuse(place, "waited")

    def _refuse(self, place: Place, reason: str) -> None:
        if not place.future.done():  # Else its client has left, and its task does not know yet.
            self.refused[reason] += 1
            place.future.set_exception(self._overloaded())

    def _overloaded(self) -> OverloadedError:
        # Not all at the same moment, or the queue is full again at once.
        pause = random.randint(1, max(1, math.ceil(self.rules.queue_wait_s)))  # noqa: S311
        return OverloadedError(
            f"The gateway has as many requests as it can take. Try again in {pause} s.",
            headers=((b"retry-after", b"%d" % pause),),
        )

    def _let_in(self) -> None:
        while self._queue and self.take():
            place = self._queue.pop()
            if place.future.done():
                self.taken -= 1
            else:
                place.future.set_result(None)


def _whose(key: Key) -> str:
    """Who shares a line. Callers who have but a key of their own do: anybody can make up as many as they like."""
    return "" if isinstance(key, ForeignKey) and key.is_stranger else key.id
