"""Figures: medians of rounds, differences of pairs, and no table without its problems."""

from __future__ import annotations

import os

from bench.gateway_configuration import COST_PICO_USD
from bench.report import CURVES, Figure, curve, rows
from bench.run import Books, Plan, Result, Sample
from bench.scenarios import SCENARIOS, chosen
from bench.tables import report
from bench.traffic import Outcome

PLAN = Plan(scenarios=[SCENARIOS["low"]], targets=("nginx", "gateway"), rounds=3, seconds=1)


def sample(
    target: str,
    number: int,
    *,
    cpu_us: float = 10,
    p50: float = 0.1,
    errors: int = 0,
    harness: float = 0.5,
    scenario: str = "low",
    disturbances: int | None = None,
) -> Sample:
    latency = {"p50": p50, "p90": p50, "p99": p50 * 2, "max": p50 * 3}
    outcome = Outcome(
        sent=1001,
        measured=1000,
        seconds=1.0,
        requests_per_s=1000.0,
        latency_ms=latency,
        first_token_ms=latency,
        errors=errors,
        first_error="status 500" if errors else "",
        cpu_share=harness,
    )
    return Sample(
        scenario, target, number, cpu_us=cpu_us, harness_share=harness, outcome=outcome, disturbances=disturbances
    )


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
    ledger = {
        "rows": ledger_rows,
        "with_provider_usage": ledger_rows,
        "cost_pico_usd": ledger_rows * COST_PICO_USD,
        "in_sums": ledger_rows,
    }
    return Result(samples=samples, books=[Books("usual", "gateway", 3003, (80.0, 90.0), ledger)])


def test_a_figure_is_the_median_of_the_rounds_with_its_spread() -> None:
    [_, nginx, _] = rows(three_rounds())

    assert nginx.cpu_us == Figure(14.5, 14.0, 19.0)


def test_added_latency_is_taken_within_each_round() -> None:
    """A slow second round slows both of a pair, so it does not show up as latency of the gateway."""
    [direct, _, gateway] = rows(three_rounds())

    assert direct.added_p50_ms is None
    assert gateway.added_p50_ms == Figure(0.3, 0.3, 0.3)


def test_the_table_compares_with_nginx_and_marks_what_the_harness_held_back() -> None:
    text = report(result(three_rounds()), PLAN)

    assert "| gateway, all on  |             70.5 | 70.0–75.0 |    4.86 |" in text
    assert "≥ 1,000" in text
    assert "3,003 rows for 3,003 requests" in text


def test_a_busy_machine_is_told() -> None:
    quiet, busy = result(three_rounds()), result(three_rounds())
    busy.load_average = 40.0 * (os.cpu_count() or 1)

    assert "machine was busy" not in report(quiet, PLAN)
    assert "machine was busy before the run (load average" in report(busy, PLAN)


def test_errors_are_a_problem() -> None:
    broken = result([*three_rounds(), sample("gateway", 4, cpu_us=1, p50=0.1, errors=7)])

    assert broken.problems == ["gateway, low: 7 errors, first: status 500"]
    assert "PROBLEM: gateway, low: 7 errors" in report(broken, PLAN)


def test_a_missing_ledger_row_is_a_problem() -> None:
    [problem] = result(three_rounds(), ledger_rows=3002).problems

    assert "the ledger of gateway (usual) holds" in problem
    assert "'rows': 3002" in problem


def test_a_disturbance_that_did_not_happen_is_a_problem() -> None:
    idle, busy = (
        result([sample("large", 1, scenario="reload-pages", disturbances=count)]).problems for count in (0, 9)
    )

    assert idle == ["large, reload-pages: nothing went on beside it, so it was not disturbed"]
    assert busy == []


def test_what_is_absent_is_told_with_its_reason() -> None:
    found = result(three_rounds())
    found.absent = {"portkey": "Portkey needs Node.js, which is not installed"}

    assert "Not measured: Portkey. Portkey needs Node.js, which is not installed." in report(found, PLAN)


def test_a_disturbance_counts_for_what_it_adds_to_the_gateway_and_not_to_the_machine() -> None:
    """Undisturbed it adds 2 × 0.3 ms to the mock upstream's p99, disturbed 2 × 1.3, of a machine that is slower by 4."""
    found = rows(
        [
            sample("direct", 1, scenario="reload-quiet", p50=0.1),
            sample("large", 1, scenario="reload-quiet", p50=0.4),
            sample("direct", 1, scenario="reload-config", p50=2.1),
            sample("large", 1, scenario="reload-config", p50=3.4),
        ]
    )

    assert found[1].moved_p99_ms is None
    assert found[3].moved_p99_ms == Figure(2.0, 2.0, 2.0)


def test_a_curve_joins_cost_at_full_load_and_latency_at_low_load() -> None:
    [point, _] = curve(
        "keys",
        rows(
            [
                sample("keys-1", 1, scenario="keys", cpu_us=70),
                sample("keys-100000", 1, scenario="keys", cpu_us=72),
                sample("direct", 1, scenario="keys-low", p50=0.1),
                sample("keys-1", 1, scenario="keys-low", p50=0.4),
            ]
        ),
    )

    assert (point.x, point.cpu_us, point.added_p50_ms) == (1, Figure(70, 70, 70), Figure(0.3, 0.3, 0.3))


def test_every_curve_is_a_table() -> None:
    plan = Plan(scenarios=chosen(["scale"]), targets=(), rounds=1, seconds=1)
    samples = [sample(name, 1, scenario=scenario.name) for scenario in plan.scenarios for name in scenario.targets]

    text = report(Result(samples=samples), plan)

    for label, points in CURVES.values():
        assert f"Cost against {label}" in text
        assert f"| {points[-1]:,} " in text


def test_too_few_cpus_for_two_workers_are_told() -> None:
    plan = Plan(scenarios=chosen(["workers"]), targets=("one-worker", "two-workers"), rounds=1, seconds=1)
    samples = [sample(name, 1, scenario="workers") for name in ("one-worker", "two-workers")]

    text = report(Result(samples=samples), plan)

    assert "Two workers answer 1.00 × what one does" in text
    assert "goal: at least 1.8" in text
