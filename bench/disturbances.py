"""What goes on in a gateway while it is measured: reloads, a backlog, sums, readers. See `bench.disturber`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.gateway_target import Gateway
from bench.processes import PYTHON, BenchError, Child
from bench.traffic import Job

if TYPE_CHECKING:
    from bench.run import Bench
    from bench.scenarios import Scenario

BACKLOG = 10_000
"""Requests whose records wait for the drain when it is let go."""


@dataclass(slots=True)
class Disturbance:
    """What happened."""

    count: int = 0


@contextmanager
def disturbing(bench: Bench, scenario: Scenario) -> Iterator[Disturbance]:
    """The gateway of `scenario` is disturbed, also while another target is measured: so what the machine alone does
    to latency shows.
    """
    name, gateway = _subject(bench, scenario)
    disturbance = Disturbance()
    if scenario.disturbance == "drain":
        with _disturber(gateway, "lock"):
            before = gateway.drained()
            _make_backlog(bench, name, gateway)
        yield disturbance
        disturbance.count = gateway.drained() - before
        return
    with _disturber(gateway, scenario.disturbance) as child:
        yield disturbance
        disturbance.count = int(child.ask(b"stop"))


def _subject(bench: Bench, scenario: Scenario) -> tuple[str, Gateway]:
    for name in scenario.targets:
        target = bench.by_name.get(name)
        if isinstance(target, Gateway):
            return name, target
    raise BenchError(f"{scenario.name} needs a gateway to disturb.")


@contextmanager
def _disturber(gateway: Gateway, kind: str) -> Iterator[Child]:
    command = [PYTHON, "-m", "bench.disturber", kind, str(gateway.port)]
    with Child(command, env=gateway.env, talks=True) as child:
        child.read_line()
        yield child


def _make_backlog(bench: Bench, name: str, gateway: Gateway) -> None:
    """While the ledger is locked, requests go on, and their records wait in the journal."""
    job = Job(port=gateway.port, keys=gateway.keys, connections=64, seconds=60, count=BACKLOG)
    bench.send(job, name)
