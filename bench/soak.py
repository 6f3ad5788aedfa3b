"""`python -m bench.soak`: many streams at once through a gateway with everything on, and what they leave behind.

    python -m bench.soak                                        # 1,000 streams at once for a minute
    python -m bench.soak --streams 100 --seconds 10 --leavers 5

Beside clients that read every stream to its end and check its bytes there are some that leave in the middle. Afterwards
nothing may be left: no request in flight, no slot, no hold, no turn, no connection to the provider beyond its time, no
descriptor; and memory must have been flat. It takes a minute longer than the load, for kept connections live so long.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.gateway_target import COST_PICO_USD, Gateway, command, environment
from bench.load import Job, Outcome
from bench.processes import BenchError, rss_mb
from bench.run import started
from bench.wire import MODEL
from llmgateway.http import httpx
from llmgateway.pipeline.departure import KEEP_ALIVE_S

SAMPLE_S = 0.5
SETTLES_WITHIN_S = 20.0
"""After the last answer: what runs, slots, holds, turns and ledger rows."""
CONNECTIONS_END_S = KEEP_ALIVE_S + 15.0
SPARE_DESCRIPTORS = 8
"""That a server may have more of than before the load: log files, databases, event loops of threads."""
GROWTH = 0.05
"""Of memory between the second and the last quarter of the load."""
_SECRET = re.compile(r"gw-mgmt-\S+")
_pause = threading.Event().wait
Found = TypeVar("Found")


class Sample(msgspec.Struct, frozen=True):
    """What the server's processes have at a moment."""

    at_s: float
    rss_mb: float
    descriptors: int
    upstream_connections: int


class Figures(msgspec.Struct):
    """What came of a soak."""

    streams: int
    before: Sample
    outcome: Outcome
    during: list[Sample]
    after: Sample
    left: int
    """Clients that went away in the middle of a stream."""
    rows: dict[str, int]
    """Rows of the ledger by status."""
    cost_pico_usd: int
    """Of the completed ones."""
    open: dict[str, Any]
    """What the gateway says that it still has: all of it should be nothing."""

    @property
    def quarters_mb(self) -> list[float]:
        """The median of resident memory in each quarter of the load."""
        size = max(1, len(self.during) // 4)
        parts = [self.during[at * size : (at + 1) * size] or self.during[-1:] for at in range(4)]
        return [round(statistics.median(sample.rss_mb for sample in part), 1) for part in parts]

    @property
    def problems(self) -> list[str]:
        """What must not be; empty when all is well."""
        found = []
        if self.outcome.errors:
            found.append(f"{self.outcome.errors} errors, first: {self.outcome.first_error}")
        completed = self.rows.get("completed", 0)
        if not self.outcome.sent <= completed <= self.outcome.sent + self.left:
            found.append(f"{completed} completed rows for {self.outcome.sent} streams that were read to their end")
        if others := {status: count for status, count in self.rows.items() if status not in {"completed", "cancelled"}}:
            found.append(f"rows that should not be: {others}")
        if self.cost_pico_usd != completed * COST_PICO_USD:
            found.append(
                f"completed rows cost {self.cost_pico_usd}, and should {completed * COST_PICO_USD} pico-dollars"
            )
        found += [f"{name}: {value}" for name, value in self.open.items() if value]
        if self.after.upstream_connections:
            found.append(f"{self.after.upstream_connections} connections to the provider outlived their time")
        if self.after.descriptors > self.before.descriptors + SPARE_DESCRIPTORS:
            found.append(f"{self.before.descriptors} descriptors before, {self.after.descriptors} after")
        _, early, _, late = self.quarters_mb
        if late > early * (1 + GROWTH):
            found.append(f"memory grew from {early} to {late} MB under a load that did not change")
        return found


def soak(streams: int, seconds: float, *, pace_ms: int, leavers: int, say: Callable[[str], None]) -> Figures:
    """Raises BenchError where nothing can be said at all."""
    with started(("gateway",)) as bench:
        [gateway] = [target for target in bench.targets if isinstance(target, Gateway)]
        token = _token(gateway)
        before = sample(gateway, bench.direct.port)
        say(f"{streams} streams, a chunk every {pace_ms} ms, and {leavers} clients that leave, for {seconds:.0f} s")
        deserters = Deserters(gateway, pace_ms=pace_ms, count=leavers, seconds=seconds)
        watch = Watch(gateway, bench.direct.port)
        job = Job(
            port=gateway.port, key=gateway.key, stream=True, pace_ms=pace_ms, connections=streams, seconds=seconds
        )
        with watch, deserters:
            outcome = msgspec.json.decode(bench.load.ask(msgspec.json.encode(job)), type=Outcome)
        say("the load is over; waiting until everything is back")
        still_open = _settled(lambda: _open(gateway, token), lambda found: not any(found.values()), SETTLES_WITHIN_S)
        rows = _settled(gateway.statuses, lambda found: found.get("completed", 0) >= outcome.sent, SETTLES_WITHIN_S)
        after = _settled(
            lambda: sample(gateway, bench.direct.port),
            lambda found: (
                not found.upstream_connections and found.descriptors <= before.descriptors + SPARE_DESCRIPTORS
            ),
            CONNECTIONS_END_S,
        )
        return Figures(
            streams=streams,
            before=before,
            outcome=outcome,
            during=watch.samples,
            after=after,
            left=deserters.left,
            rows=rows,
            cost_pico_usd=gateway.completed_cost(),
            open=still_open,
        )


def sample(gateway: Gateway, upstream_port: int) -> Sample:
    return Sample(
        at_s=round(time.monotonic(), 2),
        rss_mb=round(sum(map(rss_mb, gateway.pids)), 1),
        descriptors=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in gateway.pids),
        upstream_connections=_connections_to(upstream_port),
    )


def _connections_to(port: int) -> int:
    """Established ones of this machine; the gateway is the only one that connects there."""
    remote, established = f":{port:04X}", "01"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(each[2].endswith(remote) and each[3] == established for each in fields)


def _settled(ask: Callable[[], Found], is_well: Callable[[Found], bool], within_s: float) -> Found:
    """What `ask` finds when all is well, or when the time is over."""
    deadline = time.monotonic() + within_s
    while not is_well(found := ask()) and time.monotonic() < deadline:
        _pause(SAMPLE_S)
    return found


def _token(gateway: Gateway) -> str:
    told = command(environment(gateway.folder, gateway.port), "create-token", "soak", "--scopes", "explain:read")
    secret = _SECRET.search(told)
    if secret is None:
        raise BenchError("./gateway create-token printed no token")
    return secret[0]


def _open(gateway: Gateway, token: str) -> dict[str, Any]:
    """What the gateway still has of the requests that are over."""
    told = httpx.post(
        f"http://127.0.0.1:{gateway.port}/manage/api/v1/explain",
        json={"key": gateway.key, "model": MODEL},
        headers={"authorization": f"Bearer {token}"},
        timeout=10,
    ).raise_for_status()
    found = told.json()
    return {
        "requests in flight": found["load"]["in_flight"],
        "requests that wait for a turn": found["load"]["queued"],
        "requests at the deployment": sum(target["in_flight"] for target in found["targets"]),
        "slots of concurrency": sum(each["used"] for each in found["limits"] if each["metric"] == "concurrency"),
        "held by budgets": [each["held_usd"] for each in found["budgets"] if each["held_usd"] != "0"],
    }


class Watch:
    """Looks at the server's processes twice a second while the load runs."""

    def __init__(self, gateway: Gateway, upstream_port: int) -> None:
        self.samples: list[Sample] = []
        self._gateway = gateway
        self._upstream_port = upstream_port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.samples.append(sample(self._gateway, self._upstream_port))


class Deserters:
    """Clients that ask for a stream and are gone before its end, one after the other."""

    def __init__(self, gateway: Gateway, *, pace_ms: int, count: int, seconds: float) -> None:
        self.left = 0
        self._port = gateway.port
        self._request = Job(port=gateway.port, key=gateway.key, stream=True, pace_ms=pace_ms).request()
        self._count = count
        self._seconds = seconds
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._thread.join()

    async def _run(self) -> None:
        deadline = time.monotonic() + self._seconds
        await asyncio.gather(*[self._again_and_again(random.Random(number), deadline) for number in range(self._count)])

    async def _again_and_again(self, chance: random.Random, deadline: float) -> None:
        while time.monotonic() < deadline:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(self._request)
            self.left += 1
            await asyncio.sleep(chance.expovariate(4))
            writer.transport.abort()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.partition("\n")[0])
    made.add_argument("--streams", type=int, default=1000, metavar="N", help="at the same time (1,000)")
    made.add_argument("--seconds", type=float, default=60, help="of load (60)")
    made.add_argument("--pace-ms", type=int, default=100, help="between the 50 chunks of a stream (100)")
    made.add_argument("--leavers", type=int, default=20, metavar="N", help="clients that leave in the middle (20)")
    made.add_argument("--json", type=Path, metavar="FILE", help="where all samples go")
    return made


def report(figures: Figures) -> str:
    outcome, before, during, after = figures.outcome, figures.before, figures.during, figures.after
    most_connections = max(each.upstream_connections for each in during)
    most_descriptors = max(each.descriptors for each in during)
    first_token = outcome.first_token_ms
    lines = {
        "streams read to their end": f"{outcome.sent}, {outcome.requests_per_s} per second, {outcome.errors} errors",
        "first token": f"p50 {first_token.get('p50')} ms, p99 {first_token.get('p99')} ms",
        "clients that left": figures.left,
        "ledger": f"{figures.rows}; the completed ones cost {figures.cost_pico_usd} pico-dollars",
        "connections to the provider": f"{most_connections} at most, {after.upstream_connections} in the end",
        "descriptors": f"{before.descriptors} before, {most_descriptors} at most, {after.descriptors} in the end",
        "memory, MB": f"{before.rss_mb} before, {figures.quarters_mb} by quarters, {after.rss_mb} in the end",
        "left open": figures.open,
    }
    told = [f"{name:<28}{text}" for name, text in lines.items()]
    return "\n".join([*told, *[f"PROBLEM: {problem}" for problem in figures.problems]])


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        figures = soak(
            options.streams,
            options.seconds,
            pace_ms=options.pace_ms,
            leavers=options.leavers,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1))
    print(report(figures))
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
