"""Requests in flight: their deadlines, their clients' presence, and how each of them is ended early.

When a deadline passes the request's task is cancelled, and the conductor finds `timed_out` set. All are looked at
together every `TICK_S`, for a timer per request and chunk would cost more than the work it guards. The first look at
a request also begins the watch over its client: most short answers are gone before anybody had to be watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llmgateway.pipeline.protocols import Clock
from llmgateway.pipeline.requests import ModelRequest, Presence
from llmgateway.pipeline.snapshot import Alias, Deployment

TICK_S = 0.05
"""A client that leaves is noticed within this time at first, and at once from then on."""
LAST_WORDS_S = 1.0


def total_s(request: ModelRequest, alias: Alias, candidates: Sequence[Deployment], *, now: float) -> float:
    """Seconds from `now` on that a request may take, its attempts and the waits between them together."""
    patience, timeout_s = alias.patience, request.timeout_s
    if patience is None and timeout_s is None and len(candidates) == 1:
        return candidates[0].timeouts.total_s
    if patience is not None and patience.total_s is not None:
        total = patience.total_s
    else:
        total = max([deployment.timeouts.total_s for deployment in candidates])
    return total if timeout_s is None else min(total, request.received + timeout_s - now)


class Exchange:
    """One request in flight. Touched for every chunk, so it is plain attributes and nothing else."""

    __slots__ = (
        "deadline",
        "is_over",
        "output_tokens",
        "patience_s",
        "presence",
        "request_id",
        "task",
        "timed_out",
        "waiting_since",
        "watched",
    )

    def __init__(self, request_id: str, presence: Presence, *, now: float, deadline: float) -> None:
        self.request_id = request_id
        self.presence = presence
        self.watched = False
        self.task = presence.task
        self.timed_out = False
        self.deadline = deadline
        """Monotonic seconds at which the request ends, whatever happens."""
        self.is_over = False
        """Nothing more is asked; what is left of the time is for the client."""
        self.waiting_since = now
        self.patience_s = deadline - now
        """How long the present wait may last."""
        self.output_tokens: Callable[[], int] | None = None
        """Counts what a stream has brought so far."""

    def wait(self, now: float, patience_s: float) -> None:
        """A wait begins: for a connection, a first chunk, the next one."""
        self.waiting_since = now
        self.patience_s = patience_s

    def left_s(self, now: float) -> float:
        """Seconds until the request ends; less than nothing, if it is over."""
        return -1.0 if self.is_over else self.deadline - now

    def allow_last_words(self, now: float) -> None:
        """Time has run out; a moment remains to say so."""
        self.is_over = True
        self.wait(now, LAST_WORDS_S)
        self.deadline = now + LAST_WORDS_S

    def take_timeout(self) -> bool:
        """Whether a deadline ended the wait; the request may then go on, with another target or an apology."""
        if not self.timed_out:
            return False
        self.timed_out = False
        self.task.uncancel()
        return True


class Exchanges:
    """All requests in flight of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: dict[str, Exchange] = {}

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, request_id: str, presence: Presence, *, total_s: float) -> Exchange:
        now = self._clock.monotonic()
        deadline = now + total_s
        exchange = self._running[request_id] = Exchange(request_id, presence, now=now, deadline=deadline)
        return exchange

    def end(self, exchange: Exchange) -> bool:
        """Whether it was still running."""
        exchange.output_tokens = None  # It holds the call, which holds the exchange.
        return self._running.pop(exchange.request_id, None) is not None

    def tick(self) -> None:
        """Begin the watch over clients that are new, and end what is overdue."""
        now = self._clock.monotonic()
        for exchange in self._running.values():
            if not exchange.watched:
                exchange.watched = True
                exchange.presence.watch()
            overdue = now > exchange.deadline or now - exchange.waiting_since > exchange.patience_s
            if overdue and not exchange.timed_out:
                exchange.timed_out = True
                exchange.task.cancel()

    def progress(self) -> Iterator[tuple[str, int]]:
        """Output tokens counted so far, of every stream that has brought any."""
        for exchange in self._running.values():
            if exchange.output_tokens is not None and (count := exchange.output_tokens()):
                yield exchange.request_id, count
