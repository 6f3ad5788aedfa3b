"""Identical requests at the same moment: one asks the provider, the others wait for its answer.

If it fails, or its client leaves, the next takes over. Each failure lets one more try at the same time,
up to `WIDEST`: a request that always fails must not keep all the others waiting one after another. So does slowness: a
provider that stalls holds up its own request, and nobody else's for long. A client that hardly reads holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque

from llmgateway.pipeline.cached_answers import KeptAnswer, Standing

WIDEST = 32
SLOW_S = 20.0
"""After so long without an answer one more of those who wait asks as well, and another one after as long again."""

Turn = asyncio.Future["KeptAnswer | Standing"]


class Flight:
    """One question that is being asked. Used from the event loop alone."""

    __slots__ = ("claim", "digest", "leaders", "timer", "waiting", "width")

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.claim = b""
        """The token by which this process leads among all; empty: it does not, or not yet."""
        self.leaders = 0
        self.width = 1
        self.waiting: deque[Turn] = deque()
        self.timer: asyncio.TimerHandle | None = None
        """Runs while anybody waits."""


class Flights:
    """All of this process, by the digests of their questions."""

    def __init__(self, slow_s: float = SLOW_S) -> None:
        self._slow_s = slow_s
        self._flights: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def of(self, digest: bytes) -> Flight:
        """The one that is on its way; a new one, if there is none."""
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._flights[digest] = Flight(digest)
        return flight

    async def board(self, flight: Flight, patience_s: float) -> KeptAnswer | Standing:
        """The answer, once somebody has it; or LEAD or ALONE. Whoever leads says how it ended: `land` or `leave`.

        After `patience_s` whoever still waits asks for itself.
        """
        if flight.leaders < flight.width and not flight.waiting:
            flight.leaders += 1
            return Standing.LEAD
        loop = asyncio.get_running_loop()
        turn: Turn = loop.create_future()
        flight.waiting.append(turn)
        if flight.timer is None:
            flight.timer = loop.call_later(self._slow_s, self._widen, flight)
        patience = loop.call_later(patience_s, _send_alone, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is Standing.LEAD:
                self.leave(flight)  # It was called to lead in the moment in which it went.
            raise
        finally:
            patience.cancel()

    def land(self, flight: Flight, outcome: KeptAnswer | Standing) -> None:
        """Give it to all who wait: an answer, or ALONE where there will be none to share."""
        if self._flights.get(flight.digest) is flight:
            self._end(flight)
        waiting, flight.waiting = flight.waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_result(outcome)

    def leave(self, flight: Flight, *, failed: bool = False) -> None:
        """A leader goes without an answer. `failed`: because the provider, and not its client, let it down."""
        if self._flights.get(flight.digest) is not flight:
            return  # Another leader has landed meanwhile.
        flight.leaders -= 1
        if failed:
            flight.width = min(flight.width + 1, WIDEST)
        self._call(flight)
        if not flight.leaders:
            self._end(flight)

    def _widen(self, flight: Flight) -> None:
        """Whoever leads is slow."""
        flight.width = min(flight.width + 1, WIDEST)
        self._call(flight)
        flight.timer = None
        if flight.waiting:
            flight.timer = asyncio.get_running_loop().call_later(self._slow_s, self._widen, flight)

    def _call(self, flight: Flight) -> None:
        """Let as many lead as may."""
        while flight.leaders < flight.width and flight.waiting:
            turn = flight.waiting.popleft()
            if not turn.done():  # Else it has gone.
                flight.leaders += 1
                turn.set_result(Standing.LEAD)

    def _end(self, flight: Flight) -> None:
        del self._flights[flight.digest]
        if flight.timer is not None:
            flight.timer.cancel()
            flight.timer = None


def _send_alone(turn: Turn) -> None:
    if not turn.done():
        turn.set_result(Standing.ALONE)
