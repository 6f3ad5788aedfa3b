"""The load generator: keep-alive connections on uvloop, each sending its next request when the last is answered.

    python -m bench.load        reads one job as a JSON line from standard input, prints its outcome as one, and so on

Every answer's status, length and checksum are compared with what the mock upstream sends. It stops at a count or a
time, whichever comes first, and after a hundred errors.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import zlib
from array import array
from typing import cast

import httptools
import msgspec
import uvloop

from bench import wire

MAX_ERRORS = 100
_CONNECTIONS_PER_STEP = 50


class Job(msgspec.Struct, frozen=True):
    """What to send, and how much of it."""

    port: int
    path: str = "/v1/chat/completions"
    key: str = ""
    stream: bool = False
    pace_ms: int = 0
    connections: int = 1
    seconds: float = 1.0
    count: int = 1_000_000
    """At most this many measured requests."""

    def request(self) -> bytes:
        body = wire.request_body(stream=self.stream, pace_ms=self.pace_ms)
        authorization = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: bench\r\n"
            f"{authorization}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Outcome(msgspec.Struct, frozen=True):
    """What came of a job. Latencies are milliseconds of the measured requests; the warm-up is only counted."""

    sent: int
    """All requests, the warm-up included."""
    measured: int
    seconds: float
    requests_per_s: float
    latency_ms: dict[str, float]
    first_byte_ms: dict[str, float]
    errors: int
    first_error: str
    cpu_share: float
    """Of one core, taken by the load generator; near 1 it was the bottleneck."""


class Run:
    """One job while it runs: counts, latencies, and the moment it ends."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = job.request()
        self.expected = wire.expected_answer(stream=job.stream)
        self.latencies = array("d")
        self.first_bytes = array("d")
        self.sent = 0
        self.busy = 0
        self.errors = 0
        self.first_error = ""
        self.deadline = 0.0
        self.limit = 0
        self.idle = asyncio.Event()

    def may_send(self) -> bool:
        return self.sent < self.limit and time.perf_counter() < self.deadline and self.errors < MAX_ERRORS

    def failed(self, message: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or message

    def finished_one(self) -> None:
        self.busy -= 1
        if self.busy == 0:
            self.idle.set()

    async def drive(self, connections: list[Connection], *, count: int, seconds: float) -> float:
        """Let all connections send until `count` or `seconds` is reached; returns how long that took."""
        self.limit, self.deadline = self.sent + count, time.perf_counter() + seconds
        self.idle.clear()
        begin = time.perf_counter()
        for connection in connections:
            if self.may_send() and not connection.closed:
                connection.send()
        if self.busy:
            await asyncio.wait_for(self.idle.wait(), seconds + 60)
        return time.perf_counter() - begin


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.closed = False
        self.waiting = False
        self.transport: asyncio.Transport
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, though they have all its methods.
        self.transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        self.status = self.length = self.checksum = 0
        self.first_byte = 0.0
        self.excerpt = b""
        self.waiting = True
        self.run.sent += 1
        self.run.busy += 1
        self.begin = time.perf_counter()
        self.transport.write(self.run.request)

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
            self.excerpt = body[:300]
        self.length += len(body)
        self.checksum = zlib.crc32(body, self.checksum)

    def on_message_complete(self) -> None:
        run, now = self.run, time.perf_counter()
        self.waiting = False
        if self.status != 200 or (self.length, self.checksum) != run.expected:
            run.failed(f"status {self.status}, {self.length} of {run.expected[0]} bytes: {self.excerpt!r}")
        run.latencies.append(now - self.begin)
        run.first_bytes.append(self.first_byte - self.begin)
        if not self.parser.should_keep_alive():
            run.failed("the connection was not kept alive")
            self.closed = True
        elif run.may_send():
            self.send()
        run.finished_one()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.waiting:
            self.waiting = False
            self.run.failed(f"the connection was lost before the answer was complete: {exc or 'end of stream'}")
            self.run.finished_one()


async def perform(job: Job) -> Outcome:
    """Open the connections, send one request on each as warm-up, then measure."""
    run = Run(job)
    connections = await _connect(run)
    await run.drive(connections, count=job.connections, seconds=30)
    run.latencies, run.first_bytes = array("d"), array("d")
    warm, cpu = run.sent, time.process_time()
    seconds = await run.drive(connections, count=job.count, seconds=job.seconds)
    cpu = time.process_time() - cpu
    for connection in connections:
        connection.transport.close()
    measured = run.sent - warm
    return Outcome(
        sent=run.sent,
        measured=measured,
        seconds=round(seconds, 4),
        requests_per_s=round(measured / seconds, 1),
        latency_ms=percentiles(run.latencies),
        first_byte_ms=percentiles(run.first_bytes),
        errors=run.errors,
        first_error=run.first_error,
        cpu_share=round(cpu / seconds, 3),
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
