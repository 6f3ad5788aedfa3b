"""What the event loop pays for one request, without sockets: `python -m bench.inprocess`.

The server's HTTP protocol gets the bytes of a request, the gateway does everything it does in production (key with
address and model list, limits, strict budget, journal, ledger row, access line, metrics), and the transport's
connection gets the bytes of the upstream's answer. Only the kernel's sockets, the drain and the database are left out.

    python -m bench.inprocess                          # microseconds per request, best and median of the rounds
    python -m bench.inprocess --stream                 # the same for streams of fifty chunks that arrive at once
    python -m bench.inprocess --profile 40             # the functions that cost most
    python -m bench.inprocess --against /other/tree    # in turns with another checkout, to compare two versions

The time is that of the thread, so other processes change it little; what they do to the caches remains.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn.server import ServerState

from bench import wire
from bench.processes import ROOT, BenchError
from billing.journal import Journal
from billing.pricing import PriceVersion
from billing.windows import load_zone
from llmgateway.api.app import DataPlane
from llmgateway.conf import Conf
from llmgateway.key_secrets import digest
from llmgateway.pipeline.authentication import Authenticator
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.lean_connection import Connection
from llmgateway.pipeline.lean_pool import ConnectionPool
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.snapshot import (
    Alias,
    BudgetRule,
    Deployment,
    Key,
    KeyDigest,
    Limit,
    Networks,
    Snapshot,
    Target,
)
from llmgateway.pipeline.telemetry import AccessLog, Telemetry
from llmgateway.pipeline.upstream import Upstream
from llmgateway.stores.memory import MemoryStore
from providers.adapters.registry import get_adapter

SECRET = "sk-gw-inprocess00-0123456789abcdef0123456789abcdef"
PEPPER = b"pepper of a bench that keeps nothing"
CONNECTIONS = 32
"""Requests that are on their way at the same time."""
PLENTY = 10**12


def snapshot() -> Snapshot:
    """A key with everything: address and model list, three limits, a strict budget and one of its team."""
    load_zone("UTC")
    price = PriceVersion(
        id=1, effective_from=0.0, input=150_000, output=600_000, cache_read=75_000, cache_write_5m=150_000,
        cache_write_1h=150_000, audio_input=150_000, image_input=150_000, reasoning=600_000, audio_output=600_000,
    )  # fmt: skip
    deployment = Deployment(
        id=1,
        name="bench-mock",
        provider="bench-mock",
        adapter=get_adapter("openai_compatible"),
        base_url="http://127.0.0.1:9/v1",
        model="bench-upstream",
        headers=((b"authorization", b"Bearer sk-bench-upstream"),),
        prices=(price,),
    )
    key = Key(
        id="1",
        public_id="inprocess00",
        name="bench",
        team_id=1,
        team_name="bench",
        models=frozenset({wire.MODEL}),
        networks=Networks.of(("127.0.0.0/8", "::1")),
        limits=tuple(
            Limit(f"limit:{number}", f"plenty of {metric}", "key", PLENTY, PLENTY, metric, per)
            for number, (metric, per) in enumerate(
                (("requests", "minute"), ("tokens", "minute"), ("concurrency", "")), start=1
            )
        ),
        budgets=(
            BudgetRule(1, "day", "key", "1", "day", PLENTY * 10**6, "UTC", strict=True),
            BudgetRule(2, "month", "team", "1", "month", PLENTY * 10**6, "UTC"),
        ),
    )
    return Snapshot(
        keys={digest(SECRET.encode(), PEPPER): KeyDigest(key)},
        aliases={wire.MODEL: Alias(1, wire.MODEL, 1_700_000_000, "weighted", (Target(deployment),))},
        providers=("bench-mock",),
        budgets={budget.id: budget for budget in key.budgets},
    )


class Clock:
    def __init__(self) -> None:
        self.time = time.time
        self.monotonic = time.monotonic


class Status:
    ready = True
    version = "0"

    def facts(self) -> dict[str, Any]:
        return {}


class Pipe(asyncio.Transport):
    """A transport that ends nowhere: `on_write` is told what is written."""

    def __init__(self, on_write: Callable[[bytes], None]) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 4000)})
        self.on_write = on_write
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.on_write(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.on_write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.is_aborted

    def close(self) -> None:
        self.is_aborted = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class CannedPool(ConnectionPool):
    """Connections whose upstream has answered before it could read the question."""

    answer: bytes = b""

    async def _open_connection(self, *_: Any) -> Connection:
        connection = Connection(self._on_closed)
        loop = asyncio.get_running_loop()

        def reply(_: bytes) -> None:
            loop.call_soon(connection.data_received, self.answer)

        connection.connection_made(Pipe(reply))
        return connection


def canned_answer(*, stream: bool) -> bytes:
    """As the mock upstream sends it: a head, and a body with a length or in chunks."""
    if not stream:
        body = wire.chat_answer()
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Request-Id: up-1\r\n"
            b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nServer: mock\r\n\r\n%b" % (len(body), body)
        )
    events = b"".join(map(wire.http_chunk, wire.stream_events(include_usage=True)))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + events + wire.LAST_HTTP_CHUNK


def request(*, stream: bool) -> bytes:
    """What an SDK sends: a dozen headers and a body of about 1 KB."""
    body = wire.request_body(stream=stream)
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:4000\r\nAccept: application/json\r\n"
        b"Content-Type: application/json\r\nUser-Agent: bench\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
        % (SECRET.encode(), len(body))
    ) + body


class House:
    """A data plane on one event loop, everything of it real but sockets and database."""

    def __init__(self, folder: Path, *, stream: bool) -> None:
        self.request = request(stream=stream)
        # What tells that an answer is complete: the body in one piece, or the last chunk.
        self.end = b"0\r\n\r\n" if stream else wire.chat_answer()[-40:]
        self.stream = stream
        self.waiting = 0
        self.all_done = asyncio.Event()
        self.sink = os.open(os.devnull, os.O_WRONLY)
        self.log = AccessLog(self.sink)
        self.log.start()
        self.journal = Journal(folder, max_bytes=2**40)
        transport = LeanTransport(max_connections=0)
        transport._pool = pool = CannedPool(max_connections=0, tls=cast("Any", None))  # noqa: SLF001
        pool.answer = canned_answer(stream=stream)
        clock = Clock()
        self.gateway = Gateway(
            snapshot=snapshot(),
            authenticator=Authenticator((PEPPER,)),
            store=MemoryStore(clock),
            ledger=self.journal,
            upstream=Upstream(transport),
            telemetry=Telemetry(self.log),
            clock=clock,
        )
        application = DataPlane(self.gateway, Conf({}), cast("Any", Status()))
        config = uvicorn.Config(
            cast("Any", application), http=http_protocol(), ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, date_header=False, proxy_headers=False, timeout_keep_alive=75,
        )  # fmt: skip
        config.load()
        state = ServerState()
        connections = connections_for(application)
        self.protocols: list[Any] = []
        for _ in range(CONNECTIONS):
            protocol = cast("Any", config.http_protocol_class)(
                config=config, server_state=state, app_state={}, **connections
            )
            protocol.connection_made(Pipe(self._written))
            self.protocols.append(protocol)

    def _written(self, data: bytes) -> None:
        if data.endswith(self.end):
            self.waiting -= 1
            if not self.waiting:
                self.all_done.set()
        elif not data.startswith((b"HTTP/1.1 200", b"\r\n")) and not self.stream:
            raise BenchError(f"unexpected answer: {data[:300]!r}")

    async def round(self, count: int) -> float:
        """Processor time of this thread per request, in microseconds; `count` requests."""
        begin = time.thread_time()
        for _ in range(count // CONNECTIONS):
            self.waiting = CONNECTIONS
            self.all_done.clear()
            for protocol in self.protocols:
                protocol.data_received(self.request)
            await asyncio.wait_for(self.all_done.wait(), 30)
        return (time.thread_time() - begin) / (count // CONNECTIONS * CONNECTIONS) * 1e6

    async def close(self) -> None:
        for protocol in self.protocols:
            protocol.connection_lost(None)
        await asyncio.sleep(0.01)
        self.journal.stop()
        self.log.close()
        os.close(self.sink)


def http_protocol() -> Any:
    """The protocol that `serve` uses, or uvicorn's in versions that had none of their own."""
    try:
        from llmgateway.api.http_protocol import GatewayProtocol
    except ImportError:
        return "httptools"
    return GatewayProtocol


def connections_for(application: DataPlane) -> dict[str, Any]:
    """As `serve` sets them up; empty in versions without express."""
    if not hasattr(application, "express"):
        return {}
    from llmgateway.api.connections import Bounds, Connections

    connections = Connections(Bounds(keep_alive_s=75))
    connections.express = application.express
    return {"connections": connections}


async def measured(*, stream: bool, count: int, rounds: int, profile: int) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="gateway-inprocess-") as folder:
        house = House(Path(folder), stream=stream)
        await house.round(CONNECTIONS * 10)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        figures = [await house.round(count) for _ in range(rounds)]
        if profile:
            profiler.disable()
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(profile)
        await house.close()
    return figures


def in_turns(other: Path, arguments: Sequence[str], turns: int) -> None:
    """This tree and another by turns, in processes of their own, with this file's harness."""
    figures: dict[Path, list[float]] = {ROOT: [], other: []}
    for _ in range(turns):
        for tree, found in figures.items():
            command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--plain"]
            env = {**os.environ, "PYTHONPATH": str(tree)}
            done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=True)
            found.append(float(done.stdout))
    for tree, found in figures.items():
        print(f"{statistics.median(found):7.1f} µs median, {min(found):7.1f} µs best  {tree}")


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="python -m bench.inprocess", description=__doc__.partition("\n")[0])
    made.add_argument("--stream", action="store_true", help="streams in place of JSON answers")
    made.add_argument("--count", type=int, default=3200, help="requests of a round")
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--profile", type=int, default=0, metavar="N", help="print the N functions that cost most")
    made.add_argument("--against", type=Path, metavar="TREE", help="another checkout to take turns with")
    made.add_argument("--turns", type=int, default=5, help="of this tree and the other")
    made.add_argument("--plain", action="store_true", help="print the best figure and nothing else")
    options = made.parse_args(arguments)
    if options.against:
        passed = ["--stream"] if options.stream else []
        in_turns(
            options.against, [*passed, "--count", str(options.count), "--rounds", str(options.rounds)], options.turns
        )
        return 0
    figures = uvloop.run(
        measured(stream=options.stream, count=options.count, rounds=options.rounds, profile=options.profile)
    )
    if options.plain:
        print(min(figures))
    else:
        print(f"{statistics.median(figures):.1f} µs median, {min(figures):.1f} µs best of {len(figures)} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
