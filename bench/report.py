"""Figures out of samples: medians with their spread, ratios, a table for people and JSON for machines."""

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

from bench.processes import ALL_CPUS, ROOT
from bench.run import SATURATED, Plan, Result, Sample, as_json
from bench.scenarios import SCENARIOS, Scenario
from bench.targets import Nginx

BUSY = 0.5
"""Load average per CPU from which on figures are marked as taken on a busy machine."""
TITLES = {"direct": "mock upstream", "echo": "ASGI echo", "nginx": "nginx proxy_pass", "gateway": "gateway, all on"}


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
    requests_per_s: Figure
    latency_p50_ms: Figure
    latency_p99_ms: Figure
    first_byte_p99_ms: Figure
    added_p50_ms: Figure | None
    added_p99_ms: Figure | None
    added_first_byte_p99_ms: Figure | None
    harness_saturated: bool


def rows(samples: Sequence[Sample]) -> list[Row]:
    """One row per scenario and target, in the order of the first measurement."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if sample.outcome.latency_ms:
            groups.setdefault((sample.scenario, sample.target), []).append(sample)
    return [_row(group, _by_round(groups.get((group[0].scenario, "direct"), []))) for group in groups.values()]


def _by_round(samples: Iterable[Sample]) -> dict[int, Sample]:
    return {sample.round: sample for sample in samples}


def _row(group: list[Sample], direct: dict[int, Sample]) -> Row:
    pairs = [(sample, direct[sample.round]) for sample in group if sample.round in direct]

    def added(which: str, rank: str) -> Figure | None:
        """Differences of pairs of one round: what the machine did to both cancels out."""
        if group[0].target == "direct" or not pairs:
            return None
        return Figure.of(getattr(one.outcome, which)[rank] - getattr(base.outcome, which)[rank] for one, base in pairs)

    return Row(
        scenario=group[0].scenario,
        target=group[0].target,
        cpu_us=Figure.of(sample.cpu_us for sample in group),
        requests_per_s=Figure.of(sample.outcome.requests_per_s for sample in group),
        latency_p50_ms=Figure.of(sample.outcome.latency_ms["p50"] for sample in group),
        latency_p99_ms=Figure.of(sample.outcome.latency_ms["p99"] for sample in group),
        first_byte_p99_ms=Figure.of(sample.outcome.first_byte_ms["p99"] for sample in group),
        added_p50_ms=added("latency_ms", "p50"),
        added_p99_ms=added("latency_ms", "p99"),
        added_first_byte_p99_ms=added("first_byte_ms", "p99"),
        harness_saturated=median(sample.harness_share for sample in group) >= SATURATED,
    )


def table(result: Result, plan: Plan) -> str:
    """The run as Markdown, which also reads well in a terminal."""
    every = rows(result.samples)
    parts = [
        _scenario_table(scenario, [row for row in every if row.scenario == scenario.name])
        for scenario in plan.scenarios
    ]
    return "\n\n".join([*parts, _memory_table(result), _closing(result, every)])


def _scenario_table(scenario: Scenario, measured: list[Row]) -> str:
    nginx = next((row for row in measured if row.target == "nginx"), None)
    head = ["target", "CPU µs / request", "spread", "× nginx", "requests/s"]
    head += ["added p50 ms", "added p99 ms", "first byte p99 ms, added"] if scenario.latency_matters else []
    lines = []
    for row in measured:
        ratio = f"{row.cpu_us.median / nginx.cpu_us.median:.2f}" if nginx and nginx.cpu_us.median else "–"
        # A closed loop is bounded by its slowest part; where that was ours, the target could have done more.
        throughput = f"{'≥ ' if row.harness_saturated else ''}{row.requests_per_s.median:,.0f}"
        cells = [
            TITLES[row.target],
            f"{row.cpu_us.median:.1f}",
            f"{row.cpu_us.low:.1f}–{row.cpu_us.high:.1f}",
            ratio,
            throughput,
        ]
        if scenario.latency_matters:
            cells += [_ms(row.added_p50_ms), _ms(row.added_p99_ms), _ms(row.added_first_byte_p99_ms)]
        lines.append(cells)
    return f"{scenario.title}\n\n{_markdown(head, lines)}"


def _ms(figure: Figure | None) -> str:
    return f"{figure.median:.2f}" if figure else "–"


def _memory_table(result: Result) -> str:
    lines = [
        [TITLES[name], f"{rss['before']:.0f}", f"{rss['after']:.0f}", f"{result.requests[name]:,}"]
        for name, rss in result.rss_mb.items()
    ]
    return "Memory\n\n" + _markdown(["target", "RSS MB before", "after", "requests"], lines)


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if not number else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [("-" * width if not number else "-" * (width - 1) + ":") for number, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, lines)])


def _closing(result: Result, measured: list[Row]) -> str:
    said = [f"Errors: {sum(sample.outcome.errors for sample in result.samples)}."]
    if result.ledger is not None and not result.problems:
        said.append(
            f"Ledger: {result.ledger['rows']:,} rows for {result.requests['gateway']:,} requests, every one with the "
            f"provider's usage, {result.ledger['cost_pico_usd'] / 1e12:.6f} USD as priced."
        )
    saturated = [f"{TITLES[row.target]} ({row.scenario})" for row in measured if row.harness_saturated]
    if saturated:
        said.append(
            "≥: load generator and mock upstream used up their core, so the target could have answered more: "
            f"{', '.join(saturated)}. CPU per request is not touched by that."
        )
    if result.load_average > BUSY * len(ALL_CPUS):
        said.append(
            f"The machine was busy before the run (load average {result.load_average:.1f} on {len(ALL_CPUS)} CPUs): time slices "
            "begin with cold caches, which costs large programs most. Run it again when it is quiet."
        )
    if len(ALL_CPUS) < 2:
        said.append(
            "Target, load and upstream shared one CPU: expect more spread, and read requests/s as a lower bound."
        )
    return "\n".join([*said, *(f"PROBLEM: {problem}" for problem in result.problems)])


def document(result: Result, plan: Plan) -> dict[str, Any]:
    """The run as JSON: where, what, how, figures and samples."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": _versions(),
        "settings": {
            "scenarios": [scenario.name for scenario in plan.scenarios],
            "targets": list(plan.targets),
            "rounds": plan.rounds,
            "seconds": plan.seconds,
        },
        "rows": rows(result.samples),
        **as_json(result),
    }


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
    }


def _versions() -> dict[str, str]:
    known = {
        name: version(name)
        for name in ("uvicorn", "uvloop", "httptools", "httpx", "httpx-aiohttp", "aiohttp", "django")
    }
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "gateway": commit.stdout.strip() or "not a git checkout",
        "python": platform.python_version(),
        **known,
        **({"nginx": Nginx.version()} if Nginx.installed() else {}),
    }


__all__ = ["SCENARIOS", "document", "rows", "table"]
