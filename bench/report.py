"""Figures out of samples: medians with their spread, ratios, tables for people and JSON for machines."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from bench.catalogue import title_of
from bench.processes import ALL_CPUS, ROOT
from bench.run import SATURATED, Plan, Result, Sample, as_json
from bench.scenarios import ALIAS_COUNTS, KEY_COUNTS, LIMIT_COUNTS, SCENARIOS, STREAM_COUNTS, Scenario

BUSY = 0.5
"""Load average per CPU from which on figures are marked as taken on a busy machine."""
CURVES = {
    "keys": ("keys", KEY_COUNTS),
    "limits": ("limits per request", LIMIT_COUNTS),
    "aliases": ("aliases", ALIAS_COUNTS),
    "streams": ("open streams", STREAM_COUNTS),
}
"""What cost is held against, and at which points."""
GOAL_MOVED_MS = 5.0


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of the rounds, and the smallest and largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        known = list(values)
        return cls(round(median(known), 4), round(min(known), 4), round(max(known), 4))


@dataclass(frozen=True, slots=True)
class Row:
    """One target in one scenario."""

    scenario: str
    target: str
    cpu_us: Figure
    services_us: Figure
    requests_per_s: Figure
    latency_p50_ms: Figure
    latency_p99_ms: Figure
    first_token_p99_ms: Figure
    added_p50_ms: Figure | None
    added_p99_ms: Figure | None
    added_first_token_p99_ms: Figure | None
    moved_p99_ms: Figure | None
    """How much more p99 it added than undisturbed, where something went on beside it."""
    harness_saturated: bool


@dataclass(frozen=True, slots=True)
class Point:
    """Cost where there is so much of something."""

    x: int
    cpu_us: Figure | None
    added_p50_ms: Figure | None
    added_p99_ms: Figure | None


Groups = dict[tuple[str, str], dict[int, Sample]]
"""By scenario and target, the sample of each round."""


def rows(samples: Sequence[Sample]) -> list[Row]:
    """One row per scenario and target, in the order of the first measurement."""
    groups: Groups = {}
    for sample in samples:
        if sample.outcome.latency_ms:
            groups.setdefault((sample.scenario, sample.target), {})[sample.round] = sample
    return [_row(scenario, target, groups) for scenario, target in groups]


def _row(scenario: str, target: str, groups: Groups) -> Row:
    group = groups[scenario, target].values()
    return Row(
        scenario=scenario,
        target=target,
        cpu_us=Figure.of(sample.cpu_us for sample in group),
        services_us=Figure.of(sample.services_us for sample in group),
        requests_per_s=Figure.of(sample.outcome.requests_per_s for sample in group),
        latency_p50_ms=Figure.of(sample.outcome.latency_ms["p50"] for sample in group),
        latency_p99_ms=Figure.of(sample.outcome.latency_ms["p99"] for sample in group),
        first_token_p99_ms=Figure.of(sample.outcome.first_token_ms["p99"] for sample in group),
        added_p50_ms=_figure(_added(scenario, target, groups, "p50")),
        added_p99_ms=_figure(_added(scenario, target, groups, "p99")),
        added_first_token_p99_ms=_figure(_added(scenario, target, groups, "p99", of="first_token_ms")),
        moved_p99_ms=_figure(_moved(scenario, target, groups)),
        harness_saturated=median(sample.harness_share for sample in group) >= SATURATED,
    )


def _figure(by_round: dict[int, float]) -> Figure | None:
    return Figure.of(by_round.values()) if by_round else None


def _added(scenario: str, target: str, groups: Groups, rank: str, *, of: str = "latency_ms") -> dict[int, float]:
    """Differences of pairs of one round: what the machine did to both cancels out."""
    if target == "direct":
        return {}
    direct, mine = groups.get((scenario, "direct"), {}), groups.get((scenario, target), {})
    return {
        number: getattr(sample.outcome, of)[rank] - getattr(direct[number].outcome, of)[rank]
        for number, sample in mine.items()
        if number in direct
    }


def _moved(scenario: str, target: str, groups: Groups) -> dict[int, float]:
    """What a disturbance adds to what is added anyway, in the same round; what it does to the machine is in both."""
    known = SCENARIOS.get(scenario)
    if known is None or not known.disturbance:
        return {}
    quiet = _added("reload-quiet", target, groups, "p99")
    disturbed = _added(scenario, target, groups, "p99")
    return {number: disturbed[number] - quiet[number] for number in disturbed if number in quiet}


def curve(name: str, every: Sequence[Row]) -> list[Point]:
    """The points of one curve that were measured."""
    by_name = {(row.scenario, row.target): row for row in every}
    points = []
    for x in CURVES[name][1]:
        full, low, target = (
            (f"streams-{x}", f"streams-{x}-low", "many-streams")
            if name == "streams"
            else (name, f"{name}-low", f"{name}-{x}")
        )
        cost, latency = by_name.get((full, target)), by_name.get((low, target))
        if cost or latency:
            points.append(
                Point(
                    x,
                    cost.cpu_us if cost else None,
                    latency.added_p50_ms if latency else None,
                    latency.added_p99_ms if latency else None,
                )
            )
    return points


def document(result: Result, plan: Plan) -> dict[str, Any]:
    """The run as JSON: where, what, how, figures and samples."""
    every = rows(result.samples)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": {
            "scenarios": [scenario.name for scenario in plan.scenarios],
            "targets": list(plan.targets),
            "rounds": plan.rounds,
            "seconds": plan.seconds,
        },
        "titles": {row.target: title_of(row.target) for row in every},
        "rows": every,
        "curves": {name: points for name in CURVES if (points := curve(name, every))},
        **as_json(result),
    }


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "usable": len(ALL_CPUS),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """Of the gateway and what it runs on. Other targets tell theirs where they are described."""
    known = {
        name: version(name)
        for name in ("uvicorn", "uvloop", "httptools", "httpx", "httpx-aiohttp", "aiohttp", "django", "daphne")
    }
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "gateway": commit.stdout.strip() or "not a git checkout",
        "python": platform.python_version(),
        **known,
    }


__all__ = [
    "BUSY",
    "CURVES",
    "SCENARIOS",
    "Figure",
    "Point",
    "Row",
    "Scenario",
    "curve",
    "document",
    "machine",
    "rows",
    "versions",
]
