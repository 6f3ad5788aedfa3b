"""The plots of a run, by file name: bars for what targets cost, curves for what it costs to have more of something."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.catalogue import title_of
from bench.plots import Bar, Dot, Line, bars, curves
from bench.report import CURVES, Figure, Point, Row, curve
from bench.run import Plan
from bench.scenarios import COMMON, PEERS, Scenario

_OTHERS = {*COMMON, *PEERS} - {"gateway"}
_BESIDE = "reload"


def drawings(every: Sequence[Row], plan: Plan) -> dict[str, str]:
    """SVG texts; nothing is drawn of what was not measured."""
    found: dict[str, str] = {}
    for scenario in plan.scenarios:
        measured = [row for row in every if row.scenario == scenario.name and row.target != "direct"]
        if measured and scenario.part not in {*CURVES, _BESIDE}:
            found |= _of_scenario(scenario, measured)
    for name in CURVES:
        if points := curve(name, every):
            found |= _of_curve(name, points)
    if moved := [row for row in every if row.moved_p99_ms]:
        found["reload.svg"] = _of_disturbances(moved, plan)
    return found


def _of_scenario(scenario: Scenario, measured: Sequence[Row]) -> dict[str, str]:
    title = scenario.title[0].upper() + scenario.title[1:]
    found = {f"{scenario.name}-cpu.svg": bars(title, "CPU µs per request", [_bar(row, row.cpu_us) for row in measured])}
    if not scenario.latency_matters:
        return found
    of_streams = bool(scenario.pace_ms)
    added = [(row, row.added_first_token_p99_ms if of_streams else row.added_p99_ms) for row in measured]
    if drawn := [_bar(row, figure) for row, figure in added if figure]:
        what = "ms added to the first token, p99" if of_streams else "ms added, p99"
        found[f"{scenario.name}-latency.svg"] = bars(title, what, drawn)
    return found


def _bar(row: Row, figure: Figure) -> Bar:
    color = 3 if row.target in _OTHERS else 0
    return Bar(title_of(row.target), figure.median, figure.low, figure.high, color)


def _of_curve(name: str, points: Sequence[Point]) -> dict[str, str]:
    label, _ = CURVES[name]
    cost = _line("CPU", points, lambda point: point.cpu_us, 0)
    latency = [
        _line("p50", points, lambda point: point.added_p50_ms, 2),
        _line("p99", points, lambda point: point.added_p99_ms, 1),
    ]
    found = {}
    if cost.dots:
        found[f"{name}-cpu.svg"] = curves(f"CPU per request against {label}", label, "µs per request", [cost])
    if drawn := [line for line in latency if line.dots]:
        found[f"{name}-latency.svg"] = curves(f"Added latency against {label}", label, "ms added", drawn)
    return found


def _line(label: str, points: Sequence[Point], figure_of: Callable[[Point], Figure | None], color: int) -> Line:
    dots = [
        Dot(point.x, figure.median, figure.low, figure.high)
        for point in points
        if (figure := figure_of(point)) is not None
    ]
    return Line(label, dots, color)


def _of_disturbances(moved: Sequence[Row], plan: Plan) -> str:
    names = {scenario.name: scenario.disturbance for scenario in plan.scenarios}
    drawn = [
        Bar(names[row.scenario], row.moved_p99_ms.median, row.moved_p99_ms.low, row.moved_p99_ms.high, 0)
        for row in moved
        if row.moved_p99_ms
    ]
    return bars("How far other work moves the p99 of 400 requests a second", "ms (goal: less than 5)", drawn)
