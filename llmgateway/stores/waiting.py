"""Requests that wait for a hold to return, and whose turn it is."""

from __future__ import annotations

import asyncio
from bisect import bisect, insort
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

TRIES = 4
"""How many in a row may find that what returned is not enough for them, before nobody else is woken for it."""

_Task = asyncio.Task[Any]
_ANY = ""
"""What those wait for who were refused by no window before."""


class _Waiter(NamedTuple):
    ticket: int
    """Lower ones are served first."""
    woken: asyncio.Future[int]
    """Answered with how many attempts in a row may fail, this one included; 0: the time is over."""


class _Turn(NamedTuple):
    window: str
    tries: int
    ticket: int


class Waiters:
    """One queue for each budget window; first come, first served.

    A returned hold wakes one waiter. After its next attempt the one behind it is woken, until there is none or `TRIES`
    in a row did not fit; so never more than one runs for one hold. Who did not fit and waits again keeps its place.
    Between two holds that return at the same time, and against newcomers, there is no order.
    """

    def __init__(self) -> None:
        self._tickets = count()
        self._queues: dict[str, list[_Waiter]] = {}
        self._wanted: WeakKeyDictionary[_Task, str] = WeakKeyDictionary()
        """The window that refused a task last."""
        self._turns: WeakKeyDictionary[_Task, _Turn] = WeakKeyDictionary()
        """Whose attempt comes next."""
        self._places: WeakKeyDictionary[_Task, int] = WeakKeyDictionary()
        """Tickets of those who had their turn in vain."""

    def __bool__(self) -> bool:
        """Whether anybody waits or has been woken."""
        # Every request asks, and a weak dictionary takes long to say how long it is.
        return bool(self._queues or self._turns.data)  # type: ignore[attr-defined]

    def windows(self) -> list[str]:
        """Those that somebody waits for."""
        return [window for window in self._queues if window != _ANY]

    def refused(self, window: str) -> None:
        """The present task found no room in `window`; if it waits now, it waits for that."""
        self._wanted[_present()] = window

    def tried(self, *, admitted: bool) -> None:
        """The present task has tried again; if that was its turn, it is the next one's."""
        task = _present()
        self._places.pop(task, None)
        turn = self._turns.pop(task, None)
        if turn is None:
            return
        if not admitted:
            self._places[task] = turn.ticket
        left = TRIES if admitted else turn.tries - 1
        if left:
            self._wake(turn.window, left, behind=turn.ticket)

    def returned(self, window: str) -> None:
        """Something of what was held of `window` is free again."""
        self._wake(window, TRIES)

    async def wait(self, timeout_s: float) -> bool:
        """Until it is the present task's turn; False: `timeout_s` passed."""
        loop, task = asyncio.get_running_loop(), _present()
        window = self._wanted.pop(task, _ANY)
        ticket = self._places.pop(task, None)
        waiter = _Waiter(next(self._tickets) if ticket is None else ticket, loop.create_future())
        insort(self._queues.setdefault(window, []), waiter, key=_ticket)
        alarm = loop.call_later(timeout_s, self._expire, window, waiter)
        try:
            tries = await waiter.woken
        except asyncio.CancelledError:
            self._leave(window, waiter)
            if not waiter.woken.cancelled() and waiter.woken.result():  # It was woken before: that is the next one's.
                self._wake(window, waiter.woken.result(), behind=waiter.ticket)
            raise
        finally:
            alarm.cancel()
        if tries:
            self._turns[task] = _Turn(window, tries, waiter.ticket)
        return tries > 0

    def _wake(self, window: str, tries: int, *, behind: int = -1) -> None:
        name = window if window in self._queues else _ANY
        queue = self._queues.get(name, [])
        place = bisect(queue, behind, key=_ticket)
        while place < len(queue):
            waiter = queue.pop(place)
            if not waiter.woken.done():  # Else its task was cancelled a moment ago.
                waiter.woken.set_result(tries)
                break
        if not queue:
            self._queues.pop(name, None)

    def _expire(self, window: str, waiter: _Waiter) -> None:
        if not waiter.woken.done():
            self._leave(window, waiter)
            waiter.woken.set_result(0)

    def _leave(self, window: str, waiter: _Waiter) -> None:
        queue = self._queues.get(window, [])
        place = bisect(queue, waiter.ticket - 1, key=_ticket)
        if place < len(queue) and queue[place] is waiter:
            del queue[place]
        if not queue:
            self._queues.pop(window, None)


def _ticket(waiter: _Waiter) -> int:
    return waiter.ticket


def _present() -> _Task:
    task = asyncio.current_task()
    assert task is not None
    return task
