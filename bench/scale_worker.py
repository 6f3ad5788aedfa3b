"""A worker that is told by lines on its standard input what to measure, and answers with lines: `python -m bench.scale_worker`.

It runs the data plane on the event loop that `serve` uses, in the environment it was given, and calls it as the
server does, without sockets of clients.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Self, cast

import uvloop

from bench import wire
from bench.processes import rss_mb
from bench.scale_keys import SECRET

SEEN_WITHIN_S = 30.0
LINGER_S = 8.0
"""After a change: keys are renewed in the background, and five seconds later the follower lets go of the old snapshot.
Neither must be felt."""
TICK_S = 0.001
TRICKLE_S = 0.02
"""Between two requests."""
LONG_S = 0.02
SCOPE = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
    "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b"", "root_path": "",
    "headers": [
        (b"host", b"127.0.0.1"), (b"content-type", b"application/json"),
        (b"authorization", b"Bearer " + SECRET.encode()),
    ],
    "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 8000), "extensions": {}, "state": {},
}  # fmt: skip


@dataclass(slots=True)
class Lateness:
    """How late short sleeps end."""

    longest_s: float = 0.0
    longest_own_s: float = 0.0
    """Without the time in which this thread could have run and other processes had the CPUs, and at most what this
    process was working meanwhile: who has the interpreter may have to wait for a CPU, too."""
    long: int = 0

    async def watch(self) -> None:
        with _Queueing() as queueing:
            while True:  # Until it is cancelled.
                before, worked, queued = time.perf_counter(), time.process_time(), queueing.seconds()
                await asyncio.sleep(TICK_S)
                late = time.perf_counter() - before - TICK_S
                own = min(late - (queueing.seconds() - queued), time.process_time() - worked)
                self.longest_s, self.longest_own_s = max(self.longest_s, late), max(self.longest_own_s, own)
                self.long += own > LONG_S


class _Queueing:
    """How long this thread has waited for a CPU while it could have run, as the system counts it."""

    def __enter__(self) -> Self:
        self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def seconds(self) -> float:
        return int(os.pread(self._file, 100, 0).split()[1]) / 1e9


@dataclass(slots=True)
class Trickle:
    """One request after the other, with pauses."""

    application: Any
    requests: int = 0
    failed: int = 0

    async def flow(self) -> None:
        while True:  # Until it is cancelled.
            await asyncio.sleep(TRICKLE_S)
            self.requests += 1
            self.failed += await self._request() != 200

    async def _request(self) -> int:
        messages = [{"type": "http.request", "body": wire.request_body(), "more_body": False}]
        left, status = asyncio.Event(), [0]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]

        await self.application(dict(SCOPE), receive, send)
        left.set()
        return status[0]


class Measured:
    """The running data plane, and what is told of it."""

    def __init__(self, runtime: Any) -> None:
        self._gateway = runtime.gateway
        self._trickle = Trickle(runtime.data_plane)
        self._lateness = Lateness()
        self._revision = 0
        self._watching: list[asyncio.Task[None]] = []

    def mark(self) -> str:
        self._lateness, self._trickle.requests, self._trickle.failed = Lateness(), 0, 0
        self._revision = self._gateway.snapshot.revision
        self._watching = [asyncio.create_task(self._lateness.watch()), asyncio.create_task(self._trickle.flow())]
        return "marked"

    async def seen(self, *, expected: bool) -> str:
        deadline = time.monotonic() + SEEN_WITHIN_S
        while expected and self._gateway.snapshot.revision == self._revision:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the change was not seen after {SEEN_WITHIN_S:.0f} s")
            await asyncio.sleep(TICK_S)
        at = time.time() if expected else 0.0
        await asyncio.sleep(LINGER_S)
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        return json.dumps(
            {
                "seen_at": at,
                "gap_ms": self._lateness.longest_s * 1000,
                "own_gap_ms": self._lateness.longest_own_s * 1000,
                "gaps": self._lateness.long,
                "requests": self._trickle.requests,
                "failed": self._trickle.failed,
            }
        )


async def started() -> tuple[Any, dict[str, float]]:
    """The data plane, and what it took until it could answer."""
    from llmgateway import wiring

    load = cast("Any", wiring).load_snapshot
    figures = {"empty_mb": rss_mb(os.getpid())}

    def timed_load(**options: Any) -> Any:
        began, worked = time.perf_counter(), time.thread_time()
        snapshot = load(**options)
        figures["load_s"], figures["load_cpu_s"] = time.perf_counter() - began, time.thread_time() - worked
        return snapshot

    cast("Any", wiring).load_snapshot = timed_load
    began, worked = time.perf_counter(), time.process_time()
    runtime = await wiring.start()
    figures["start_s"], figures["start_cpu_s"] = time.perf_counter() - began, time.process_time() - worked
    figures["started_mb"] = rss_mb(os.getpid())
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return runtime, figures


async def serve(answers: int) -> None:
    from llmgateway import wiring

    runtime, figures = await started()
    measured = Measured(runtime)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def answer(text: str) -> None:
        os.write(answers, text.encode() + b"\n")

    async def obey(line: str) -> None:
        match line:
            case "mark":
                answer(measured.mark())
            case "rss":
                answer(f"{rss_mb(os.getpid()):.1f}")
            case _:
                answer(await measured.seen(expected=line == "seen"))

    def read() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(obey(line.strip()), loop).result()
        loop.call_soon_threadsafe(over.set)

    answer(json.dumps(figures))
    threading.Thread(target=read, daemon=True).start()
    await over.wait()
    await wiring.stop()


def main() -> None:
    # The access log goes to standard output, which is where the answers go.
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ["DJANGO_SETTINGS_MODULE"] = "llmgateway.settings"
    import django

    django.setup()
    import llmgateway.asgi  # noqa: F401  # What a server has loaded before it starts the data plane.

    uvloop.run(serve(answers))


if __name__ == "__main__":
    main()
