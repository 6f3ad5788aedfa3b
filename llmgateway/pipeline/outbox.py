"""What leaves in one turn of the event loop, sent one after the other at its end.

A system call between two stretches of Python finds every cache cold, and wakes a peer that has just gone to sleep:
it costs three times what it costs right after another one. So writes wait until the tasks that are ready have run,
at most `MOST` of them, which is less than a millisecond. Nothing waits for what has not arrived yet.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

MOST = 8
"""Writes that wait for each other."""


class Outbox:
    """The writes of one event loop, in the order in which they were put in.

    Whoever writes to a transport beside it, or closes it, calls `flush` before; a `Departing` transport does.
    """

    __slots__ = ("_loop", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiting: list[tuple[asyncio.WriteTransport, bytes]] = []
        """Nobody else changes it."""

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> Outbox:
        """The one of `loop`."""
        found = _outboxes.get(loop)
        if found is None:
            found = _outboxes[loop] = Outbox(loop)
        return found

    def put(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        waiting = self.waiting
        waiting.append((transport, data))
        if len(waiting) == 1:
            self._loop.call_soon(self.flush)
        elif len(waiting) == MOST:
            self.flush()

    def put_alone(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """The same where nothing else is expected: it leaves at once, unless something waits before it."""
        if self.waiting:
            self.put(transport, data)
        else:
            transport.write(data)

    def flush(self) -> None:
        """Send everything now. What is meant for a connection that has ended meanwhile is dropped."""
        waiting, self.waiting = self.waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)


class Departing:
    """A transport whose writes go through the outbox. It has what a server's protocol asks of one."""

    __slots__ = ("_outbox", "_transport", "get_extra_info", "is_closing", "pause_reading", "resume_reading")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._outbox = Outbox.of(asyncio.get_running_loop())
        self._transport = transport
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        self._outbox.put(self._transport, data)

    def write_alone(self, data: bytes) -> None:
        """`write` where nothing would wait with it."""
        outbox = self._outbox
        if outbox.waiting:
            outbox.put(self._transport, data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._outbox.flush()
        self._transport.close()

    def abort(self) -> None:
        """Without a word more."""
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def laid_off(self) -> asyncio.Transport:
        """The transport itself, with nothing of it left in the outbox."""
        self._outbox.flush()
        return self._transport


_outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()
