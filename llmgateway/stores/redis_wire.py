"""What goes over a connection to Redis: calls of the script as bytes, and answers as soon as they arrive.

The client library connects, and says hello in whatever way the URL asks for. From then on its streams would cost a task's
turn for each answer, which is more than everything else that a request needs of Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import hiredis

if TYPE_CHECKING:
    # The library takes 9 MB, which who does without Redis need not have.
    import redis.asyncio.connection as redis_connection

Words = tuple[str | bytes | int, ...]


def packed(words: Words) -> bytes:
    """A command as Redis reads it."""
    written: bytes = hiredis.pack_command(cast("Any", words))  # Its declaration knows tuples of one word only.
    return written


class Script:
    """Calls of one script: all but the calls themselves and the time is written once."""

    def __init__(self) -> None:
        self._words: tuple[str, str, str] | None = None
        self._begin = b""

    def packed(self, sha: str, key: str, epoch: str, calls: bytes, time: bytes) -> bytes:
        """`EVALSHA sha 1 key epoch calls time`"""
        words = sha, key, epoch
        if words != self._words:
            self._words = words
            self._begin = packed(("EVALSHA", sha, 1, key, epoch)).replace(b"*5", b"*7", 1)
        return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (self._begin, len(calls), calls, len(time), time)


class Wire(asyncio.Protocol):
    """A connection that was made by the library and is used without it from here on."""

    def __init__(
        self,
        connection: redis_connection.AbstractConnection,
        *,
        on_answer: Callable[[Any], None],
        on_end: Callable[[str], None],
    ) -> None:
        """`on_answer` is called with each answer, in the order of asking; one that is an exception is an error.

        `on_end`: the connection ended by itself; why.
        """
        self._on_answer = on_answer
        self._on_end: Callable[[str], None] | None = on_end
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        writer = connection._writer  # noqa: SLF001  # There is no other way to the socket that is connected.
        assert writer is not None
        self._transport = cast("asyncio.Transport", writer.transport)
        self._transport.set_protocol(self)
        self.write = self._transport.write

    def leave(self) -> None:
        """Whatever still comes is nobody's business any more."""
        self._on_end = None

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while self._on_end is not None and (answer := self._reader.gets()) is not _NOTHING:
                if type(answer) is not _PUSHED:
                    self._on_answer(answer)
        except Exception as error:  # noqa: BLE001  # What comes is not Redis's, or not an answer to what was asked.
            self._end(str(error) or type(error).__name__)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc else "Redis closed it")

    def _end(self, reason: str) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(reason)


_NOTHING = object()
_PUSHED = getattr(hiredis, "PushNotification", None)
"""What Redis says unasked."""
