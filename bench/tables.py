"""A run as Markdown, which also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bench.catalogue import title_of
from bench.processes import ALL_CPUS
from bench.report import BUSY, CURVES, GOAL_MOVED_MS, Figure, Row, curve, rows
from bench.run import Plan, Result
from bench.scenarios import Scenario


def report(result: Result, plan: Plan) -> str:
    """Every table of the run, and what must be known to read them."""
    return "\n\n".join([*tables(result, plan).values(), _books_table(result), closing(result, rows(result.samples))])


def tables(result: Result, plan: Plan) -> dict[str, str]:
    """By scenario, by curve, and one for what goes on beside requests."""
    every = rows(result.samples)
    disturbed = [scenario for scenario in plan.scenarios if scenario.part == "reload"]
    found = {
        scenario.name: _scenario_table(scenario, measured)
        for scenario in plan.scenarios
        if scenario.part not in {*CURVES, "reload"}
        and (measured := [row for row in every if row.scenario == scenario.name])
    }
    found |= {name: _curve_table(name, every) for name in CURVES if curve(name, every)}
    if disturbed:
        found["reload"] = _disturbance_table(disturbed, every)
    return found


def _scenario_table(scenario: Scenario, measured: list[Row]) -> str:
    base = next((row for row in measured if row.target == "nginx"), None)
    head = ["target", "CPU µs / request", "spread"]
    head += ["× nginx"] if base else []
    with_services = any(row.services_us.median for row in measured)
    head += ["database and Redis µs"] if with_services else []
    head += ["requests/s"]
    head += ["added p50 ms", "added p99 ms", "first token p99 ms, added"] if scenario.latency_matters else []
    lines = []
    for row in measured:
        cells = [title_of(row.target), f"{row.cpu_us.median:.1f}", f"{row.cpu_us.low:.1f}–{row.cpu_us.high:.1f}"]
        if base:
            cells.append(f"{row.cpu_us.median / base.cpu_us.median:.2f}" if base.cpu_us.median else "–")
        if with_services:
            cells.append(f"{row.services_us.median:.1f}")
        # A closed loop is bounded by its slowest part; where that was ours, the target could have done more.
        cells.append(f"{'≥ ' if row.harness_saturated else ''}{row.requests_per_s.median:,.0f}")
        if scenario.latency_matters:
            cells += [_ms(row.added_p50_ms), _ms(row.added_p99_ms), _ms(row.added_first_token_p99_ms)]
        lines.append(cells)
    comparison = _comparison(measured)
    return f"{scenario.title}\n\n{markdown(head, lines)}{comparison}"


def _comparison(measured: list[Row]) -> str:
    """What is asked of a pair of gateways, in a sentence."""
    found = {row.target: row for row in measured}
    if {"gateway", "redis"} <= found.keys():
        more = found["redis"].cpu_us.median - found["gateway"].cpu_us.median
        return f"\n\nRedis costs the gateway {more:+.0f} µs of CPU a request (goal: at most +60)."
    if {"one-worker", "two-workers"} <= found.keys():
        one, two = found["one-worker"], found["two-workers"]
        text = f"\n\nTwo workers answer {two.requests_per_s.median / one.requests_per_s.median:.2f} × what one does"
        if len(ALL_CPUS) < 4:
            # Two workers, the load, the upstream and the databases need a CPU each.
            return (
                f"{text}; with {len(ALL_CPUS)} CPUs for everything that says nothing of what they could (goal: at least "
                f"1.8 × where there are four or more). A request costs {two.cpu_us.median / one.cpu_us.median:.2f} × the CPU."
            )
        return f"{text} (goal: at least 1.8)."
    return ""


def _ms(figure: Figure | None) -> str:
    return f"{figure.median:.2f}" if figure else "–"


def _us(figure: Figure | None) -> str:
    return f"{figure.median:.1f}" if figure else "–"


def _spread(figure: Figure | None, digits: int) -> str:
    return f"{figure.low:.{digits}f}–{figure.high:.{digits}f}" if figure else "–"


def _curve_table(name: str, every: Sequence[Row]) -> str:
    label, _ = CURVES[name]
    lines = [
        [
            f"{point.x:,}",
            _us(point.cpu_us),
            _spread(point.cpu_us, 1),
            _ms(point.added_p50_ms),
            _ms(point.added_p99_ms),
            _spread(point.added_p99_ms, 2),
        ]
        for point in curve(name, every)
    ]
    head = [label, "CPU µs / request", "spread", "added p50 ms", "added p99 ms", "spread"]
    return f"Cost against {label}\n\n{markdown(head, lines)}"


def _disturbance_table(disturbed: Sequence[Scenario], every: Sequence[Row]) -> str:
    lines = []
    for scenario in disturbed:
        for row in every:
            if row.scenario == scenario.name and row.target != "direct":
                moved = f"{row.moved_p99_ms.median:+.2f}" if row.moved_p99_ms else ""
                lines.append([scenario.title.partition(", ")[2].partition(", ")[2] or scenario.title,
                              _ms(row.added_p50_ms), _ms(row.added_p99_ms), moved,
                              _spread(row.moved_p99_ms, 2) if row.moved_p99_ms else ""])  # fmt: skip
    head = ["400 requests a second", "added p50 ms", "added p99 ms", "p99 moved by ms", "spread"]
    return f"Latency beside other work (goal: p99 moves by less than {GOAL_MOVED_MS:.0f} ms)\n\n{markdown(head, lines)}"


def _books_table(result: Result) -> str:
    lines = [
        [
            books.part,
            title_of(books.target),
            f"{books.requests:,}",
            f"{books.rss_mb[0]:.0f}",
            f"{books.rss_mb[1]:.0f}",
            f"{books.pages_mb:.0f}" if books.pages_mb else "–",
            "–" if books.ledger is None else "balances" if books.balance else "DIFFERS",
        ]
        for books in result.books
        if books.requests
    ]
    head = ["part", "target", "requests", "RSS MB before", "after", "process of pages", "ledger"]
    return "Memory and books\n\n" + markdown(head, lines, texts=2)


def markdown(head: list[str], lines: list[list[str]], *, texts: int = 1) -> str:
    """A table; all columns but the first `texts` are of numbers."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [
            cell.rjust(width) if number >= texts else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (width - 1) + ":" if number >= texts else "-" * width for number, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, lines)])


def closing(result: Result, measured: list[Row]) -> str:
    said = [f"Errors: {sum(sample.outcome.errors for sample in result.samples)}."]
    kept = [books for books in result.books if books.ledger is not None]
    if kept and not result.problems:
        requests = sum(books.requests for books in kept)
        cost = sum(books.ledger["cost_pico_usd"] for books in kept if books.ledger) / 1e12
        said.append(
            f"Ledgers: {requests:,} rows for {requests:,} requests, every one with the provider's usage, "
            f"{cost:.6f} USD as priced."
        )
    said += [f"Not measured: {title_of(name)}. {reason}." for name, reason in result.absent.items()]
    said += [
        f"{title_of(name)}: version {about['version']}."
        for name, about in result.described.items()
        if "version" in about
    ]
    return "\n".join([*said, *_warnings(result, measured), *(f"PROBLEM: {problem}" for problem in result.problems)])


def _warnings(result: Result, measured: list[Row]) -> list[str]:
    said = []
    if saturated := [f"{title_of(row.target)} ({row.scenario})" for row in measured if row.harness_saturated]:
        said.append(
            "≥: load generator and mock upstream used up their core, so the target could have answered more: "
            f"{', '.join(saturated)}. CPU per request is not touched by that."
        )
    if result.load_average > BUSY * len(ALL_CPUS):
        said.append(
            f"The machine was busy before the run (load average {result.load_average:.1f} on {len(ALL_CPUS)} CPUs): time "
            "slices begin with cold caches, which costs large programs most. Run it again when it is quiet."
        )
    if len(ALL_CPUS) < 2:
        said.append(
            "Target, load and upstream shared one CPU: expect more spread, and read requests/s as a lower bound."
        )
    return said
