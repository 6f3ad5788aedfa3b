"""All connections of clients to this process: how many there may be, and how long each may do nothing.

A client may be silent between requests, slow to say what it wants, and slow to read, each for so long and no longer.
One sweep looks at all of them: they stand in dictionaries in the order in which they began to be as they are, so it
only touches those whose time is over. Nothing is done for a connection that is busy.

When there is no room for another connection, the one that has been silent the longest makes room. If all are busy, the
newcomer is heard all the same: health, metrics and the admin are answered, and for anything else it is told to come back.
"""

from __future__ import annotations

import asyncio
import enum
import resource
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from llmgateway.api.known_heads import KnownHeads
from llmgateway.conf import Conf
from llmgateway.pipeline.snapshot import Networks, parse_address

if TYPE_CHECKING:
    from llmgateway.api.express import ExpressDoor

SPARE = 128
"""Connections beyond the bound that are heard."""
KEPT_FILES = 256
"""Open files that are neither clients' nor upstreams' connections: database, journals, logs."""
NEWCOMER_S = 1.0
"""Nobody is sent away who has been here shorter than this."""
LEFTOVERS_S = 30.0
"""How long the rest of a body is taken in that nobody reads any more, so that its sender gets to read the answer."""
BODY_GRACE_S = 30
"""What a body may take longer than its reader waits for it."""
LEAST_BYTES_PER_S = 1024
"""Who reads more slowly than this is not reading."""
SWEEP_S = 1.0


class Bounds(msgspec.Struct, frozen=True):
    """Seconds, and numbers of connections; 0 connections: any number."""

    keep_alive_s: float = 75
    head_s: float = 10
    """For the headers of a request, from their first byte on."""
    body_s: float = 300
    """For all of a body. Who reads it usually has a bound of its own, and answers in time."""
    write_stall_s: float = 60
    """How long a client may not read while something waits for it."""
    most: int = 0
    most_per_address: int = 0
    not_counted: Networks = Networks()
    """Addresses of proxies, behind which there are many clients."""

    @classmethod
    def of(cls, conf: Conf) -> Bounds:
        """As set, and in any case so that files remain for upstreams and for the process itself."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = max(files // 2, files - conf.max_upstream_connections - KEPT_FILES) - SPARE
        return cls(
            keep_alive_s=conf.keep_alive_s,
            head_s=conf.request_head_timeout_s,
            body_s=conf.request_body_timeout_s + BODY_GRACE_S,
            write_stall_s=conf.write_stall_s,
            most=min(conf.max_connections or room, room),
            most_per_address=conf.max_connections_per_address,
            not_counted=Networks.of(tuple(conf.trusted_proxies)),
        )


def allow_more_files() -> None:
    """Raise the soft limit on open files to the hard one. Every client and every upstream takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Verdict(enum.Enum):
    """What becomes of a new connection."""

    WELCOME = enum.auto()
    HEARD = enum.auto()
    """There is no room; only operators are answered."""
    TOO_MANY = enum.auto()
    """Its address has as many as it may have; it is told so."""
    TURNED_AWAY = enum.auto()
    """There is not even room to hear it."""


class Connection(Protocol):
    """A client's connection, as its server has it."""

    @property
    def unread(self) -> int:
        """Bytes that wait for the client to read."""
        ...

    def end(self, reason: str) -> None:
        """Its time is over: `idle`, `crowded_out`, `slow_head`, `slow_body`, `unread_body` or `stalled`."""
        ...


class Connections:
    """Those of one process. Used from the event loop alone."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.open = 0
        self.idle: dict[Connection, float] = {}
        """Those without a request, and since when. Servers put themselves in and out of this and the next three."""
        self.heads: dict[Connection, float] = {}
        """Those whose request has begun and whose headers are not complete."""
        self.leftovers: dict[Connection, float] = {}
        """Those that still send a body though they have been answered."""
        self.bodies: dict[Connection, float] = {}
        """Those whose headers are complete and whose body is not."""
        self.known_heads = KnownHeads()
        self.express: ExpressDoor | None = None
        """Answers ordinary requests without a task; None: nobody does."""
        self._stalled: dict[Connection, tuple[float, int]] = {}
        self._by_address: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        """By reason."""
        self.refused: Counter[str] = Counter()
        """`full` or `address`."""
        self._heard = 0
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None
        self._pause_s = min(
            SWEEP_S, *(each / 4 for each in (bounds.keep_alive_s, bounds.head_s, bounds.body_s, bounds.write_stall_s))
        )

    @property
    def resting(self) -> int:
        """Those without a request."""
        return len(self.idle)

    def enter(self, connection: Connection, address: str) -> Verdict:
        """A client has connected. Whatever the verdict, it `leave`s."""
        self.open += 1
        self._by_address[address] += 1
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(self._pause_s, self._tick)
        verdict = self._verdict(address)
        self.idle[connection] = self._loop.time()
        return verdict

    def _verdict(self, address: str) -> Verdict:
        bounds = self.bounds
        if 0 < bounds.most_per_address < self._by_address[address] and parse_address(address) not in bounds.not_counted:
            self.refused["address"] += 1
            return Verdict.TOO_MANY if self._may_be_heard() else Verdict.TURNED_AWAY
        if not 0 < bounds.most < self.open - self._heard or self._crowd_out():
            return Verdict.WELCOME
        self.refused["full"] += 1
        return Verdict.HEARD if self._may_be_heard() else Verdict.TURNED_AWAY

    def _may_be_heard(self) -> bool:
        if self._heard >= SPARE:
            return False
        self._heard += 1
        return True

    def _crowd_out(self) -> bool:
        """Whether somebody has gone who was silent."""
        longest = next(iter(self.idle.items()), None)
        if longest is None or self._loop.time() - longest[1] < NEWCOMER_S:
            return False
        self._end(longest[0], "crowded_out")
        return True

    def leave(self, connection: Connection, address: str, verdict: Verdict) -> None:
        """The connection has ended."""
        self.open -= 1
        if verdict in {Verdict.HEARD, Verdict.TOO_MANY}:
            self._heard -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """It is not to be looked after any more; it still counts."""
        self.idle.pop(connection, None)
        self.heads.pop(connection, None)
        self.bodies.pop(connection, None)
        self.leftovers.pop(connection, None)
        self._stalled.pop(connection, None)

    def stalls(self, connection: Connection) -> None:
        """More waits for its client than it has read of late."""
        self._stalled[connection] = (self._loop.time(), connection.unread)

    def flows(self, connection: Connection) -> None:
        """Its client has read what waited for it."""
        self._stalled.pop(connection, None)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._pause_s, self._tick) if self.open else None
        self.sweep()

    def sweep(self) -> None:
        """End what has lasted too long."""
        now, bounds = self._loop.time(), self.bounds
        for group, longest, reason in (
            (self.idle, bounds.keep_alive_s, "idle"),
            (self.heads, bounds.head_s, "slow_head"),
            (self.bodies, bounds.body_s, "slow_body"),
            (self.leftovers, LEFTOVERS_S, "unread_body"),
        ):
            for connection in list(_older(group, now - longest)):
                self._end(connection, reason)
        self._end_stalled(now)

    def _end(self, connection: Connection, reason: str) -> None:
        self.forget(connection)
        self.ended[reason] += 1
        connection.end(reason)

    def _end_stalled(self, now: float) -> None:
        longest = self.bounds.write_stall_s
        for connection, (since, unread) in list(self._stalled.items()):
            if now - since < longest:
                continue
            left = connection.unread
            if unread - left >= longest * LEAST_BYTES_PER_S:
                self._stalled[connection] = (now, left)
            else:
                self._end(connection, "stalled")


def _older(group: dict[Connection, float], moment: float) -> Iterator[Connection]:
    """Those in the group since before a moment. They are in order, so it looks no further than it must."""
    for connection, since in group.items():
        if since > moment:
            return
        yield connection
