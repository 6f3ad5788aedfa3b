"""Puts a run's tables and plots into the documentation, each where its mark is: `<!-- bench NAME -->`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench.processes import ALL_CPUS, ROOT, BenchError
from bench.report import BUSY, machine, versions
from bench.run import Plan, Result
from bench.tables import tables

PAGE = ROOT / "docs" / "performance.md"
PLOTS = "plots"
_BLOCK = re.compile(r"(<!-- bench (\S+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def publish(result: Result, plan: Plan, pictures: Mapping[str, str], page: Path = PAGE) -> list[str]:
    """Returns the names of what was put in. What the run did not measure stays as it is.

    Raises:
        BenchError: the machine was busy, so that these figures are not fit to be read by others.
    """
    if result.load_average > BUSY * len(ALL_CPUS):
        raise BenchError(
            f"nothing published: the machine was busy before the run (load average {result.load_average:.1f}). "
            "Run it again when it is quiet."
        )
    found = {name: f"{about(plan)}\n\n{text}" for name, text in tables(result, plan).items()}
    put_in = []

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name not in found:
            return match[0]
        put_in.append(name)
        shown = [f"![{found_as}]({PLOTS}/{found_as})" for found_as in _plots_of(name, pictures)]
        return "\n\n".join([f"{match[1].rstrip()}\n{found[name]}", *shown]) + f"\n{match[3]}"

    page.write_text(_BLOCK.sub(block, page.read_text()))
    folder = page.parent / PLOTS
    folder.mkdir(exist_ok=True)
    for name in put_in:
        for picture in _plots_of(name, pictures):
            (folder / picture).write_text(pictures[picture])
    return put_in


def _plots_of(name: str, pictures: Mapping[str, str]) -> list[str]:
    return [picture for picture in pictures if picture in {f"{name}.svg", f"{name}-cpu.svg", f"{name}-latency.svg"}]


def about(plan: Plan) -> str:
    """Where and with what a table was made."""
    of = versions()
    cpu = machine()
    return (
        f"*{datetime.now(UTC):%Y-%m-%d}, version {of['gateway']}, {cpu['usable']} CPUs ({cpu['cpu']}), Python {of['python']}, "
        f"{plan.rounds} rounds of {plan.seconds:g} s.*"
    )
