"""Figures: medians of rounds, differences of pairs, and no table without its problems."""

from __future__ import annotations

import os

from bench.gateway_target import COST_PICO_USD
from bench.load import Outcome
from bench.report import Figure, rows, table
from bench.run import Plan, Result, Sample
from bench.scenarios import SCENARIOS

PLAN = Plan(scenarios=[SCENARIOS["low"]], targets=("nginx", "gateway"), rounds=3, seconds=1)


def sample(target: str, number: int, *, cpu_us: float, p50: float, errors: int = 0, harness: float = 0.5) -> Sample:
    latency = {"p50": p50, "p90": p50, "p99": p50 * 2, "max": p50 * 3}
    outcome = Outcome(
        sent=1001,
        measured=1000,
        seconds=1.0,
        requests_per_s=1000.0,
        latency_ms=latency,
        first_byte_ms=latency,
        errors=errors,
        first_error="status 500" if errors else "",
        cpu_share=harness,
    )
    return Sample("low", target, number, cpu_us=cpu_us, harness_share=harness, outcome=outcome)


def three_rounds() -> list[Sample]:
    return [
        made
        for number, noise in ((1, 0.0), (2, 5.0), (3, 0.5))
        for made in (
            sample("direct", number, cpu_us=4 + noise, p50=0.1 + noise),
            sample("nginx", number, cpu_us=14 + noise, p50=0.14 + noise, harness=0.99),
            sample("gateway", number, cpu_us=70 + noise, p50=0.4 + noise),
        )
    ]


def result(samples: list[Sample], ledger_rows: int = 3003) -> Result:
    ledger = {"rows": ledger_rows, "with_provider_usage": ledger_rows, "cost_pico_usd": ledger_rows * COST_PICO_USD}
    memory = {"gateway": {"before": 80.0, "after": 90.0}}
    return Result(samples=samples, rss_mb=memory, requests={"gateway": 3003}, ledger=ledger)


def test_a_figure_is_the_median_of_the_rounds_with_its_spread() -> None:
    [_, nginx, _] = rows(three_rounds())

    assert nginx.cpu_us == Figure(14.5, 14.0, 19.0)


def test_added_latency_is_taken_within_each_round() -> None:
    """A slow second round slows both of a pair, so it does not show up as latency of the gateway."""
    [direct, _, gateway] = rows(three_rounds())

    assert direct.added_p50_ms is None
    assert gateway.added_p50_ms == Figure(0.3, 0.3, 0.3)


def test_the_table_compares_with_nginx_and_marks_what_the_harness_held_back() -> None:
    text = table(result(three_rounds()), PLAN)

    assert "| gateway, all on  |             70.5 | 70.0–75.0 |    4.86 |" in text
    assert "≥ 1,000" in text
    assert "3,003 rows for 3,003 requests" in text


def test_a_busy_machine_is_told() -> None:
    quiet, busy = result(three_rounds()), result(three_rounds())
    busy.load_average = 40.0 * (os.cpu_count() or 1)

    assert "machine was busy" not in table(quiet, PLAN)
    assert "machine was busy before the run (load average" in table(busy, PLAN)


def test_errors_are_a_problem() -> None:
    broken = result([*three_rounds(), sample("gateway", 4, cpu_us=1, p50=0.1, errors=7)])

    assert broken.problems == ["gateway, low: 7 errors, first: status 500"]
    assert "PROBLEM: gateway, low: 7 errors" in table(broken, PLAN)


def test_a_missing_ledger_row_is_a_problem() -> None:
    [problem] = result(three_rounds(), ledger_rows=3002).problems

    assert "'rows': 3002" in problem
