"""The kinds of traffic that are measured."""

from __future__ import annotations

from dataclasses import dataclass

from bench.load import Job


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of traffic: how many connections, JSON or stream, and which targets it is measured on."""

    name: str
    title: str
    connections: int
    stream: bool = False
    pace_ms: int = 0
    targets: frozenset[str] = frozenset({"direct", "echo", "nginx", "gateway"})
    latency_matters: bool = False
    """Low load: latency is compared with the mock upstream's own. Under full load it only mirrors the throughput.

    Processes are pinned to CPUs under full load only: at low load that would count wake-ups across CPUs that the
    scheduler avoids when left alone.
    """

    def job(self, *, port: int, key: str, seconds: float, count: int) -> Job:
        return Job(
            port=port,
            key=key,
            stream=self.stream,
            pace_ms=self.pace_ms,
            connections=self.connections,
            seconds=seconds,
            count=count,
        )


_PROXIES = frozenset({"direct", "nginx", "gateway"})

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("json", "JSON, 64 connections at full load", 64),
        Scenario("low", "JSON, one connection (low load)", 1, latency_matters=True),
        Scenario("burst", "stream of 50 chunks in a burst, 32 connections", 32, stream=True),
        Scenario(
            "paced",
            "100 concurrent streams, a chunk every 20 ms",
            100,
            stream=True,
            pace_ms=20,
            targets=_PROXIES,
            latency_matters=True,
        ),
    )
}
