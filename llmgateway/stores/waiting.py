"""Requests that wait for a hold to return, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

TRIES = 4
"""How many in a row may find that what returned is not enough for them, before nobody else is woken for it."""

_Task = asyncio.Task[Any]
_Waiter = asyncio.Future[int]
"""Answered with how many attempts in a row may fail, this one included; 0: the time is over."""
_Queue = OrderedDict[_Waiter, None]
_ANY = ""
"""The queue of those who were refused by no window before they waited."""


class Waiters:
    """One queue for each budget window; first come, first served.

    A returned hold wakes one waiter. What becomes of its next attempt decides: the next in the queue is woken after
    it, until the queue is empty or `TRIES` in a row did not fit. So never more than one runs for one hold.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._wanted: WeakKeyDictionary[_Task, str] = WeakKeyDictionary()
        """The window that refused a task last."""
        self._turns: WeakKeyDictionary[_Task, tuple[str, int]] = WeakKeyDictionary()
        """Whose attempt comes next, for which window, and how many more may fail."""

    def __bool__(self) -> bool:
        """Whether anybody waits or has been woken."""
        return bool(self._queues) or bool(self._turns)

    def windows(self) -> list[str]:
        """Those that somebody waits for."""
        return [window for window in self._queues if window != _ANY]

    def refused(self, window: str) -> None:
        """The present task found no room in `window`; if it waits now, it waits for that."""
        self._wanted[_present()] = window

    def tried(self, *, admitted: bool) -> None:
        """The present task has tried again; if that was its turn, it is the next one's."""
        turn = self._turns.pop(_present(), None)
        if turn is None:
            return
        window, tries = turn
        left = TRIES if admitted else tries - 1
        if left:
            self._wake(window, left)

    def returned(self, window: str) -> None:
        """Something of what was held of `window` is free again."""
        self._wake(window, TRIES)

    async def wait(self, timeout_s: float) -> bool:
        """Until it is the present task's turn; False: `timeout_s` passed."""
        loop, task = asyncio.get_running_loop(), _present()
        window = self._wanted.pop(task, _ANY)
        waiter: _Waiter = loop.create_future()
        self._queues.setdefault(window, OrderedDict())[waiter] = None
        alarm = loop.call_later(timeout_s, self._expire, window, waiter)
        try:
            tries = await waiter
        except asyncio.CancelledError:
            self._leave(window, waiter)
            if not waiter.cancelled() and waiter.result():  # It was woken before: its turn is the next one's.
                self._wake(window, waiter.result())
            raise
        finally:
            alarm.cancel()
        if tries:
            self._turns[task] = window, tries
        return tries > 0

    def _wake(self, window: str, tries: int) -> None:
        name = window if window in self._queues else _ANY
        queue = self._queues.get(name, OrderedDict())
        while queue:
            waiter, _ = queue.popitem(last=False)
            if not waiter.done():  # Else its task was cancelled a moment ago.
                waiter.set_result(tries)
                break
        if not queue:
            self._queues.pop(name, None)

    def _expire(self, window: str, waiter: _Waiter) -> None:
        if not waiter.done():
            self._leave(window, waiter)
            waiter.set_result(0)

    def _leave(self, window: str, waiter: _Waiter) -> None:
        queue = self._queues.get(window)
        if queue is not None and waiter in queue:
            del queue[waiter]
            if not queue:
                del self._queues[window]


def _present() -> _Task:
    task = asyncio.current_task()
    assert task is not None
    return task
