"""The load generator: keep-alive connections on uvloop, each sending its next request when the last is answered.

    python -m bench.load        reads one job as a JSON line from standard input, prints its outcome as one, and so on

Every answer's status, length and checksum (or its words) are compared with what the mock upstream sends. It stops at a
count or a time, whichever comes first, and after a hundred errors.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import time
import zlib
from array import array
from typing import cast

import httptools
import msgspec
import uvloop

from bench import wire
from bench.traffic import Job, Outcome, Request

__all__ = ["OPEN", "Connection", "Job", "Outcome", "percentiles", "perform"]

MAX_ERRORS = 100
_CONNECTIONS_PER_STEP = 50
_GRACE_S = 60
"""How long the last answers may take."""
MOST_HELD_S = 600
OPEN = b"open"
"""What is printed before the outcome when all streams that are held have begun."""


class Run:
    """One job while it runs: counts, latencies, and the moment it ends."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.requests = job.requests()
        self.latencies = array("d")
        self.first_tokens = array("d")
        self.sent = 0
        self.measured = 0
        self.busy = 0
        """Connections that are not done: with a request on its way, or waiting for the time of their next."""
        self.opened = 0
        self.errors = 0
        self.first_error = ""
        self.deadline = 0.0
        self.limit = 0
        self.measured_from = math.inf
        """Requests that were sent before this moment are warm-up."""
        self.seconds = 0.0
        self.cpu_share = 0.0
        self.idle = asyncio.Event()
        self.all_open = asyncio.Event()

    def next_request(self) -> Request:
        request = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        return request

    def may_send(self) -> bool:
        return self.sent < self.limit and time.perf_counter() < self.deadline and self.errors < MAX_ERRORS

    def failed(self, message: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or message
        self.all_open.set()  # Who waits for all streams to be open waits in vain now.

    def opened_one(self) -> None:
        self.opened += 1
        if self.opened == self.job.connections:
            self.all_open.set()

    def answered(self, request: Request, begin: float, first_token: float, end: float) -> None:
        if begin < self.measured_from:
            return
        self.measured += 1
        if not (self.job.mix and request.stream):
            self.latencies.append(end - begin)
        if not self.job.mix or request.stream:
            self.first_tokens.append(first_token - begin)

    def done_one(self) -> None:
        self.busy -= 1
        if self.busy == 0:
            self.idle.set()

    async def warm_up(self, connections: list[Connection]) -> None:
        """One request on each connection."""
        self.limit, self.deadline = len(connections), time.perf_counter() + _GRACE_S
        self._begin(connections)
        await self._end(_GRACE_S)

    async def drive(self, connections: list[Connection]) -> None:
        """Let all connections send until count or seconds are reached. Paced streams begin one after the other, and are
        measured when the last has begun.
        """
        job, begin, cpu = self.job, time.perf_counter(), time.process_time()
        self.measured_from = begin + job.stagger_s
        self.deadline = self.measured_from + job.seconds
        self.limit = self.sent + job.count + (len(connections) if job.pace_ms else 0)
        self._begin(connections)
        await self._end(job.seconds + job.stagger_s)
        end = time.perf_counter()
        self.seconds = max(end - self.measured_from, 0.001)  # All may have failed before the measurement.
        self.cpu_share = (time.process_time() - cpu) / (end - begin)

    async def hold(self, connections: list[Connection]) -> None:
        """Open one stream on each connection, say so, and wait until they are released."""
        begin = time.perf_counter()
        self.measured_from, self.limit, self.deadline = begin, len(connections), math.inf
        self._begin(connections)
        await asyncio.wait_for(self.all_open.wait(), self.job.stagger_s + _GRACE_S)
        if self.busy < len(connections):
            self.failed("streams that were to stay open have ended")
        if not self.errors:
            print(OPEN.decode(), flush=True)
            await self._end(MOST_HELD_S)
        self.seconds = max(time.perf_counter() - begin, 0.001)

    def _begin(self, connections: list[Connection]) -> None:
        loop, begin = asyncio.get_running_loop(), time.perf_counter()
        self.busy = len(connections)
        self.idle.clear()
        for number, connection in enumerate(connections):
            connection.next_at = begin + number / self.job.rate if self.job.rate else 0.0
            if self.job.stagger_s:
                loop.call_later(self.job.stagger_s * number / len(connections), connection.go_on)
            else:
                connection.go_on()

    async def _end(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.idle.wait(), seconds + _GRACE_S)
        except TimeoutError:
            self.failed(f"{self.busy} connections had no whole answer {_GRACE_S} s after the last request")


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.closed = False
        self.waiting = False
        self.next_at = 0.0
        """When the timetable has its next request, where there is one."""
        self.transport: asyncio.Transport
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, though they have all its methods.
        self.transport = cast("asyncio.Transport", transport)

    def go_on(self) -> None:
        """Send the next request, now or when it is due, or be done."""
        if not self.run.job.rate:
            self.send_or_stop()
        elif (ahead := self.next_at - time.perf_counter()) > 0:
            asyncio.get_running_loop().call_later(ahead, self.send_or_stop)
        else:
            # An answer that came late delayed this one: its caller has been waiting since it was due.
            self.send_or_stop(self.next_at)

    def send_or_stop(self, due: float = 0.0) -> None:
        run = self.run
        if self.closed or not run.may_send():
            run.done_one()
            return
        if run.job.rate:
            self.next_at += run.job.connections / run.job.rate
        self.status = self.length = self.checksum = 0
        self.first_byte = self.first_token = 0.0
        self.pieces: list[bytes] = []
        self.waiting = True
        self.request = run.next_request()
        self.begin = due or time.perf_counter()
        self.transport.write(self.request.data)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.run.failed(f"not HTTP: {error} in {data[:200]!r}")
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self.first_byte:
            self.first_byte = time.perf_counter()
            self.pieces.append(body)
            self.run.opened_one()
        elif self.run.job.by_meaning:
            self.pieces.append(body)
        if not self.first_token and wire.says_a_word(body):
            self.first_token = time.perf_counter()
        self.length += len(body)
        self.checksum = zlib.crc32(body, self.checksum)

    def on_message_complete(self) -> None:
        run, now = self.run, time.perf_counter()
        self.waiting = False
        if wrong := self.wrong():
            run.failed(wrong)
        run.answered(self.request, self.begin, self.first_token or now, now)
        if not self.parser.should_keep_alive():
            run.failed("the connection was not kept alive")
            self.closed = True
        self.go_on()

    def wrong(self) -> str:
        """What is wrong with the answer; empty when nothing is."""
        request = self.request
        if self.status == 200 and self.run.job.by_meaning:
            return _wrong_words(b"".join(self.pieces), stream=request.stream)
        if self.status != 200 or (self.length, self.checksum) != (request.length, request.checksum):
            excerpt = b"".join(self.pieces)[:300]
            return f"status {self.status}, {self.length} of {request.length} bytes: {excerpt!r}"
        return ""

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.waiting:
            self.waiting = False
            self.run.failed(f"the connection was lost before the answer was complete: {exc or 'end of stream'}")
            self.run.done_one()


def _wrong_words(body: bytes, *, stream: bool) -> str:
    try:
        words = wire.meaning_of(body, stream=stream)
    except (ValueError, LookupError, TypeError) as error:
        return f"status 200, but no answer ({error}): {body[:300]!r}"
    return "" if words == wire.meaning(stream=stream) else f"status 200, but other words: {words[:300]!r}"


async def perform(job: Job) -> Outcome:
    """Open the connections, send one request on each as warm-up, then measure."""
    run = Run(job)
    connections = await _connect(run)
    if job.hold:
        await run.hold(connections)
    else:
        if not job.pace_ms:
            await run.warm_up(connections)
        await run.drive(connections)
    for connection in connections:
        connection.transport.close()
    return Outcome(
        sent=run.sent,
        measured=run.measured,
        seconds=round(run.seconds, 4),
        requests_per_s=round(run.measured / run.seconds, 1),
        latency_ms=percentiles(run.latencies),
        first_token_ms=percentiles(run.first_tokens),
        errors=run.errors,
        first_error=run.first_error,
        cpu_share=round(run.cpu_share, 3),
    )


async def _connect(run: Run) -> list[Connection]:
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    while (missing := run.job.connections - len(connections)) > 0:
        # In steps, so that a thousand of them do not overflow the target's accept queue.
        opened = await asyncio.gather(
            *(
                loop.create_connection(lambda: Connection(run), "127.0.0.1", run.job.port)
                for _ in range(min(missing, _CONNECTIONS_PER_STEP))
            )
        )
        connections += [connection for _, connection in opened]
    return connections


def percentiles(seconds: array[float]) -> dict[str, float]:
    """p50, p90, p99 and the largest, in milliseconds; empty without any value."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    ranks = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}
    return {
        name: round(ordered[min(int(len(ordered) * rank), len(ordered) - 1)] * 1000, 4) for name, rank in ranks.items()
    }


def main() -> None:
    gc.freeze()
    gc.disable()
    for line in sys.stdin:
        outcome = uvloop.run(perform(msgspec.json.decode(line, type=Job)))
        print(msgspec.json.encode(outcome).decode(), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
