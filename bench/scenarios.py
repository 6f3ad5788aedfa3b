"""The kinds of traffic that are measured, and on which targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.traffic import Job

if TYPE_CHECKING:
    from bench.targets import Target

KEY_COUNTS = (1, 100, 10_000, 100_000)
LIMIT_COUNTS = (1, 2, 4, 8, 12)
ALIAS_COUNTS = (1, 10, 100, 1_000)
STREAM_COUNTS = (10, 100, 1_000, 5_000)
COMMON = ("direct", "echo", "nginx", "gateway")
PROXIES = ("direct", "nginx", "gateway")
PEERS = ("litellm", "portkey")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of traffic: how many connections, JSON or stream, and which targets it is measured on."""

    name: str
    title: str
    connections: int
    stream: bool = False
    pace_ms: int = 0
    mix: bool = False
    rate: float = 0
    held: int = 0
    """Streams that are open meanwhile, without sending."""
    disturbance: str = ""
    """What goes on at the same time in the gateway that is measured; one of `bench.disturbances`."""
    targets: tuple[str, ...] = COMMON
    at_least_s: float = 0.0
    part: str = "usual"
    """Scenarios of one part run on the same processes."""
    target_cpus: int = 1
    latency_matters: bool = False
    """Low load: latency is compared with the mock upstream's own. Under full load it only mirrors the throughput.

    Processes are pinned to CPUs under full load only: at low load that would count wake-ups across CPUs that the
    scheduler avoids when left alone.
    """

    def job(self, target: Target, *, seconds: float, count: int = 1_000_000) -> Job:
        return Job(
            port=target.port,
            path=target.path,
            keys=target.keys,
            models=target.models,
            headers=target.headers,
            by_meaning=target.by_meaning,
            stream=self.stream,
            pace_ms=self.pace_ms,
            mix=self.mix,
            rate=self.rate,
            connections=self.connections,
            seconds=max(seconds, self.at_least_s),
            count=count,
        )


def _paced(name: str, streams: int, pace_ms: int, targets: tuple[str, ...]) -> Scenario:
    title = f"{streams:,} concurrent streams, a chunk every {pace_ms} ms"
    return Scenario(name, title, streams, stream=True, pace_ms=pace_ms, targets=targets, latency_matters=True)


def _pair(name: str, title: str, targets: Iterable[str]) -> list[Scenario]:
    """The same two kinds of traffic: full load for the cost, one connection for the latency."""
    return [
        Scenario(name, f"{title}: JSON, 64 connections at full load", 64, targets=tuple(targets), part=name),
        Scenario(f"{name}-low", f"{title}: JSON, one connection", 1, targets=("direct", *targets), part=name,
                 latency_matters=True),
    ]  # fmt: skip


def _curve(name: str, title: str, points: Iterable[int]) -> list[Scenario]:
    return _pair(name, title, [f"{name}-{point}" for point in points])


def _held(streams: int) -> list[Scenario]:
    title = f"{streams:,} open streams beside it"
    return [
        Scenario(f"streams-{streams}", f"JSON, 64 connections at full load, {title}", 64, held=streams,
                 targets=("many-streams",), part="streams"),
        Scenario(f"streams-{streams}-low", f"JSON, one connection, {title}", 1, held=streams,
                 targets=("direct", "many-streams"), part="streams", latency_matters=True),
    ]  # fmt: skip


def _beside(disturbance: str, title: str) -> Scenario:
    """A steady trickle, so that latency is not made of queues of its own."""
    return Scenario(
        f"reload-{disturbance or 'quiet'}",
        f"JSON, 400 requests a second, {title}",
        16,
        rate=400,
        disturbance=disturbance,
        targets=("direct", "large"),
        part="reload",
        at_least_s=4.0,
        latency_matters=True,
    )


_CURVES = {
    "keys": _curve("keys", "number of keys", KEY_COUNTS),
    "limits": _curve("limits", "limits per request", LIMIT_COUNTS),
    "aliases": _curve("aliases", "number of aliases", ALIAS_COUNTS),
    "streams": [scenario for streams in STREAM_COUNTS for scenario in _held(streams)],
}
_WITH_PEERS = (*COMMON, *PEERS)

GROUPS: dict[str, list[Scenario]] = {
    "json": [Scenario("json", "JSON, 64 connections at full load", 64, targets=_WITH_PEERS)],
    "low": [Scenario("low", "JSON, one connection (low load)", 1, targets=_WITH_PEERS, latency_matters=True)],
    "burst": [
        Scenario("burst", "stream of 50 chunks in a burst, 32 connections", 32, stream=True, targets=_WITH_PEERS)
    ],
    "paced": [
        _paced("paced-100", 100, 20, (*PROXIES, *PEERS)),
        _paced("paced-200", 200, 20, (*PROXIES, *PEERS)),
        # Without peers: one of them would need minutes for so many.
        _paced("paced-1000", 1000, 40, PROXIES),
    ],
    "mixed": [
        Scenario("mixed", "of 20 requests 15 JSON, 4 bursts, 1 paced stream; 128 connections", 128, mix=True,
                 targets=PROXIES)
    ],
    "database": _pair("database", "SQLite or PostgreSQL", ("nginx", "gateway", "postgres")),
    "redis": _pair("redis", "counters in memory or in Redis", ("nginx", "gateway", "redis")),
    "workers": [
        Scenario("workers", "one worker or two, on PostgreSQL and Redis: JSON, 64 connections at full load", 64,
                 targets=("one-worker", "two-workers"), part="workers", target_cpus=2)
    ],
    "daphne": _pair("daphne", "uvicorn or Daphne", ("nginx", "gateway", "daphne")),
    **_CURVES,
    "scale": [scenario for scenarios in _CURVES.values() for scenario in scenarios],
    "reload": [
        _beside("", "undisturbed"),
        _beside("config", "while the whole configuration is read again and again"),
        _beside("drain", "while a backlog of the journal is drained"),
        _beside("rollups", "while days are summed, hours compared and budgets checked"),
        _beside("pages", "while dashboard, admin and management API are asked"),
    ],
}  # fmt: skip
"""What can be asked for by name, and what is measured for it."""
USUAL = ("json", "low", "burst", "paced", "mixed")
"""Without being asked: about three minutes."""
LONG = tuple(name for name in GROUPS if name not in USUAL)
SCENARIOS = {scenario.name: scenario for scenarios in GROUPS.values() for scenario in scenarios}


def chosen(names: Iterable[str]) -> list[Scenario]:
    """Scenarios of groups, or single ones, by name.

    Raises:
        KeyError: a name that is neither.
    """
    found = {scenario.name: scenario for name in names for scenario in GROUPS.get(name) or [SCENARIOS[name]]}
    return list(found.values())
