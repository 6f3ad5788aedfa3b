"""One connection to Redis that calls of concurrent requests share: one write per turn of the event loop.

It knows batches of calls, answers, timeouts and reconnecting; nothing of limits and money. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from llmgateway.pipeline.protocols import CountersAwayError
from llmgateway.stores.redis_wire import Script, Wire, Words, packed

if TYPE_CHECKING:
    # The library takes 9 MB, which who does without Redis need not have.
    import redis.asyncio.connection as redis_connection

logger = logging.getLogger(__name__)

SCRIPT = (files("llmgateway.stores") / "admission.lua").read_bytes()
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0
LATER_S = 0.001
"""Calls that nobody waits for are sent with the next that somebody does, or after this."""
LARGEST_BATCH = 64
"""Calls in one run of the script: Redis does nothing else meanwhile."""
BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1)
"""Upper bounds of the histogram of round trips."""
GRACE_S = 0.005
"""After a timer is late, answers that have arrived are read before Redis is blamed."""

Call = tuple[Any, ...]
"""An operation of `admission.lua` by name, and what it takes."""
Note = Callable[[bool], tuple[str, str]]
"""This worker's name and how far it is, being told whether the batch holds all that was handed over before."""


class LinkLostError(CountersAwayError):
    """Redis did not answer, or not as it should. Whether it did what it was asked is unknown."""


class EpochChangedError(CountersAwayError):
    """The counters were made anew; what was asked was not done."""


class Asker(Protocol):
    """Who is told the answer to a call: a future, or somebody who goes on at once."""

    def done(self) -> bool:
        """It does not want to know any more, or knows."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Does not raise."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """A `LinkLostError` or `EpochChangedError`. The connection is just being given up, so nobody is asked from here."""
        ...


class RoundTrips:
    """How long Redis took, for metrics."""

    bounds = BUCKETS_S

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        """By upper bound, and one more for what took longer."""
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total += seconds


class _Batch(msgspec.Struct):
    """What was sent together and is answered together."""

    calls: list[Call]
    answers: list[Asker | None]
    """One for each call; None: nobody waits, and it is sent again if it was lost."""
    sent_at: float


class RedisLink:
    """Keeps one connection, and sends what is handed to it in order.

    `on_connect` is awaited after each connecting, before anything else is sent; when it returns, calls flow. `on_lost`
    is called when that ends. Calls that nobody waits for (`post`) are kept while the process lives and sent again.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        timeout_s: float,
        on_connect: Callable[[], Awaitable[None]],
        on_lost: Callable[[], None],
        now_us: Callable[[], int] | None = None,
    ) -> None:
        self._url = url
        self.epoch_key = f"{{{namespace}}}:epoch"
        self.epoch = ""
        """Which counters are meant."""
        self.timeout_s = timeout_s
        self.open = False
        """Calls are sent now."""
        self.lost = 0
        """How often the connection was lost or could not be made."""
        self.round_trips = RoundTrips()
        self.note: Note | None = None
        """While counters are compared: what is sent with each batch, after its calls."""
        self._on_connect = on_connect
        self._on_lost = on_lost
        self._now_us = now_us
        self._wire: Wire | None = None
        self._script = Script()
        self._sha = ""
        self._calls: list[Call] = []
        self._answers: list[Asker | None] = []
        self._backlog: deque[Call] = deque()
        self._pending: deque[_Batch | asyncio.Future[Any]] = deque()
        self._loop = asyncio.get_running_loop()
        self._flushing = False
        self._later: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._broken = asyncio.Event()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder().decode

    # For the store.

    def ask(self, call: Call) -> asyncio.Future[Any]:
        """The answer to a call; fails with `LinkLostError` or `EpochChangedError`."""
        answer = self._loop.create_future()
        if not self.open:
            answer.set_exception(LinkLostError("Redis is away"))
        else:
            self._add(call, answer)
        return answer

    def ask_for(self, asker: Asker, call: Call) -> None:
        """The same, told to `asker`. Only while `open`."""
        self._add(call, asker)

    def post(self, call: Call) -> None:
        """Sent as soon as Redis is there, after everything handed over before."""
        if self.open:
            self._add(call, None)
        else:
            self._backlog.append(call)

    def command(self, *words: str | bytes | int) -> asyncio.Future[Any]:
        """The answer to an ordinary Redis command, sent at once. Fails with `LinkLostError`."""
        answer = self._loop.create_future()
        if self._wire is None or self._broken.is_set():
            answer.set_exception(LinkLostError("Redis is away"))
            return answer
        self._send(packed(words), answer)
        return answer

    async def run_script(self, epoch: str, calls: Sequence[Call], mode: str) -> list[Any]:
        """Run calls on counters that are not published yet. Fails with `LinkLostError`."""
        calls_text = self._encode(calls)
        answer = await self.command("EVALSHA", self._sha, 1, self.epoch_key, epoch, calls_text, self._time(), mode)
        answers: list[Any] = self._decode(answer)
        return answers

    def forget_posted(self) -> None:
        """Drop the calls that nobody waits for and that were not sent: the counters know what they would say."""
        self._backlog.clear()
        kept = [(call, answer) for call, answer in zip(self._calls, self._answers, strict=True) if answer is not None]
        self._calls, self._answers = [call for call, _ in kept], [answer for _, answer in kept]

    @property
    def waiting(self) -> int:
        """Calls that are kept until Redis is back."""
        return len(self._backlog)

    def break_off(self, reason: str) -> None:
        """Give this connection up; the next one is made at once."""
        if not self._broken.is_set():
            logger.warning("Redis: %s", reason)
            self._lose()

    def release(self) -> None:
        """Send the kept calls, in the order they came. Called when the counters are known to be valid."""
        self.open = True
        while self._backlog:
            self._add(self._backlog.popleft(), None)

    # Sending.

    def _add(self, call: Call, answer: Asker | None) -> None:
        self._calls.append(call)
        self._answers.append(answer)
        if answer is not None:
            self._start_flush()
        elif not self._flushing and self._later is None:
            self._later = self._loop.call_later(LATER_S, self._start_flush)

    def _start_flush(self) -> None:
        if self._later is not None:
            # Left to ring for nothing it would cost more than a new one: the loop wakes up for it.
            self._later.cancel()
            self._later = None
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Runs one turn of the event loop after the first call came, and takes all that have come since."""
        self._flushing = False
        while self._calls:
            self._send_batch(self._next_batch())

    def _send_batch(self, batch: _Batch) -> None:
        if not self.open:
            self._give_up(batch, LinkLostError("Redis is away"))
            return
        calls = self._encode(batch.calls)
        if self.note is None:
            self._send(self._script.packed(self._sha, self.epoch_key, self.epoch, calls, self._time()), batch)
            return
        words: Words = "EVALSHA", self._sha, 1, self.epoch_key, self.epoch, calls, self._time()
        self._send(packed((*words, "", *self.note(not self._calls))), batch)

    def _next_batch(self) -> _Batch:
        calls, answers = self._calls, self._answers
        if len(calls) <= LARGEST_BATCH:
            self._calls, self._answers = [], []
        else:
            self._calls, self._answers = calls[LARGEST_BATCH:], answers[LARGEST_BATCH:]
            calls, answers = calls[:LARGEST_BATCH], answers[:LARGEST_BATCH]
        return _Batch(calls, answers, time.perf_counter())

    def _time(self) -> bytes:
        return b"" if self._now_us is None else b"%d" % self._now_us()

    def _send(self, written: bytes, asked: _Batch | asyncio.Future[Any]) -> None:
        """What is asked is noted and written in one step: answers come in the order of writing.

        Nobody waits for the socket to take it: what is not answered in time ends the connection.
        """
        if self._wire is None or self._broken.is_set():
            self._fail(asked)
            return
        self._pending.append(asked)
        if self._alarm is None:
            self._alarm = self._loop.call_later(self.timeout_s, self._ring)
            self._alarm_for = self._pending[0]
        self._wire.write(written)

    # Timeouts: one timer, for the oldest that is not answered when it starts.

    def _ring(self) -> None:
        self._alarm = None
        if not self._pending:
            return
        loop = self._loop
        if self._pending[0] is self._alarm_for:
            self._alarm = loop.call_later(GRACE_S, self._blame, self._alarm_for)
        else:
            self._alarm_for = self._pending[0]
            self._alarm = loop.call_later(self._left(self._alarm_for), self._ring)

    def _left(self, oldest: _Batch | asyncio.Future[Any]) -> float:
        if isinstance(oldest, _Batch):
            return max(0.0, oldest.sent_at + self.timeout_s - time.perf_counter())
        return self.timeout_s

    def _blame(self, oldest: _Batch | asyncio.Future[Any]) -> None:
        self._alarm = None
        if self._pending and self._pending[0] is oldest:
            self.break_off(f"no answer within {self.timeout_s * 1000:.0f} ms")
        else:
            self._ring_again()

    def _ring_again(self) -> None:
        if self._pending:
            self._alarm_for = self._pending[0]
            self._alarm = self._loop.call_later(self._left(self._alarm_for), self._ring)

    # Receiving.

    def _receive(self, answer: Any) -> None:
        if self._broken.is_set():
            return  # Whoever asked was told so.
        asked = self._pending.popleft()
        if isinstance(asked, _Batch):
            self.round_trips.observe(time.perf_counter() - asked.sent_at)
            try:
                self._answer(asked, answer)
            except Exception as error:
                self._give_up(asked, LinkLostError(f"an answer that says nothing: {error}"))
                raise
        elif not asked.done():
            if isinstance(answer, Exception):
                asked.set_exception(LinkLostError(str(answer)))
            else:
                asked.set_result(answer)

    def _answer(self, batch: _Batch, answer: Any) -> None:
        if isinstance(answer, Exception):
            if "EPOCH" in str(answer):
                self._give_up(batch, EpochChangedError(str(answer)))
                self.break_off("the counters are gone or were made anew")
                return
            self._give_up(batch, LinkLostError(str(answer)))
            self.break_off(f"refused: {answer}")
            return
        results = self._decode(answer)
        for result in results:
            if type(result) is list and result and result[0] == "error":
                self._answer_each(batch, results)
                return
        for future, result in zip(batch.answers, results, strict=True):
            if future is not None and not future.done():
                future.set_result(result)

    def _answer_each(self, batch: _Batch, results: list[Any]) -> None:
        """One of the calls failed."""
        if any(type(result) is list and result and _is_read_only(result) for result in results):
            self._give_up(batch, LinkLostError("a replica"))
            self.break_off("it is a replica by now, and only a master's counters are valid")
            return
        for call, future, result in zip(batch.calls, batch.answers, results, strict=True):
            if type(result) is list and result and result[0] == "error":
                self._failed(call, future, result[1])
            elif future is not None and not future.done():
                future.set_result(result)

    def _failed(self, call: Call, future: Asker | None, message: str) -> None:
        """The script stumbled over one call. Redis is well, so it would stumble again."""
        logger.error(
            "Redis could not do %s: %s. The counters it concerns are off until they are reconciled.", call[0], message
        )
        if future is not None and not future.done():
            future.set_exception(LinkLostError(message))

    def _give_up(self, batch: _Batch, error: Exception) -> None:
        """Fail those who wait, keep the rest for the next connection."""
        kept = []
        for call, future in zip(batch.calls, batch.answers, strict=True):
            if future is None:
                kept.append(call)
            elif not future.done():
                future.set_exception(error)
        self._backlog.extend(kept)

    def _fail(self, asked: _Batch | asyncio.Future[Any]) -> None:
        error = LinkLostError("Redis did not answer")
        if isinstance(asked, _Batch):
            self._give_up(asked, error)
        elif not asked.done():
            asked.set_exception(error)

    # Connecting.

    def _lose(self) -> None:
        self.open = False
        self.lost += 1
        self._broken.set()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        pending, self._pending = self._pending, deque()
        behind, self._backlog = self._backlog, deque()
        for asked in pending:
            self._fail(asked)
        self._backlog.extend(behind)
        self._on_lost()

    async def run(self) -> None:
        """Connect, and connect again whenever that is lost, until cancelled."""
        from redis.exceptions import RedisError

        wait_s = RETRY_FIRST_S
        while True:
            self._broken.clear()
            # In a thread: it reads files (its own version, certificates).
            connection = await asyncio.to_thread(self._new_connection)
            try:
                async with asyncio.timeout(max(1.0, 4 * self.timeout_s)):
                    await connection.connect()  # type: ignore[no-untyped-call]
                    self._sha = await self._load_script(connection)
                self._wire = Wire(connection, on_answer=self._receive, on_end=self._ended)
                await self._on_connect()
                wait_s = RETRY_FIRST_S
                await self._broken.wait()
            except (OSError, RedisError, LinkLostError, EpochChangedError, TimeoutError) as error:
                if not self._broken.is_set():
                    logger.warning("Redis cannot be reached: %s", error or type(error).__name__)
                    self._lose()
            except Exception:
                # Whatever it was, requests are decided by the policy meanwhile, and connecting goes on.
                logger.exception("Redis: connecting met an unexpected error")
                if not self._broken.is_set():
                    self._lose()
            finally:
                self.open = False
                if self._wire is not None:
                    self._wire.leave()
                    self._wire = None
                await connection.disconnect(nowait=True)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MOST_S)

    def _ended(self, reason: str) -> None:
        self.break_off(f"the connection ended: {reason}")

    def _new_connection(self) -> redis_connection.AbstractConnection:
        import redis.asyncio.connection as redis_connection
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        options: dict[str, Any] = dict(redis_connection.parse_url(self._url))
        kind = options.pop("connection_class", redis_connection.Connection)
        # Every answer is waited for by `_ring`; a timer for each read and write would cost more than the rest.
        options |= {"socket_timeout": None, "socket_connect_timeout": max(1.0, 4 * self.timeout_s)}
        return cast("redis_connection.AbstractConnection", kind(**options, retry=Retry(NoBackoff(), 0)))

    async def _load_script(self, connection: redis_connection.AbstractConnection) -> str:
        await connection.send_command("SCRIPT", "LOAD", SCRIPT)
        return str((await connection.read_response()).decode())


def _is_read_only(result: list[Any]) -> bool:
    return result[0] == "error" and "READONLY" in result[1]
