"""The regression check: what costs more beside the same nginx is found, what a slow machine does is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import __main__ as command
from bench import baseline
from bench.baseline import Baseline, Verdict
from bench.processes import BenchError
from bench.run import Plan, Result, Sample
from tests.bench.test_report import sample


def run(*, gateway_us: float, nginx_us: float = 14, echo_us: float = 40, machine: float = 1.0) -> list[Sample]:
    """Three rounds of JSON, of which the second was slow."""
    return [
        sample(target, number, scenario="json", cpu_us=cpu_us * machine * noise)
        for number, noise in ((1, 1.0), (2, 3.0), (3, 1.1))
        for target, cpu_us in (("nginx", nginx_us), ("echo", echo_us), ("gateway", gateway_us))
        if cpu_us
    ]


def of(samples: list[Sample]) -> Baseline:
    return Baseline("today", {"cpu": 0.25, "p50": 0.35}, baseline.ratios(samples))


def verdict(samples: list[Sample]) -> Verdict:
    [found] = baseline.compare(samples, of(run(gateway_us=70)))
    return found


def test_a_regression_is_found() -> None:
    found = verdict(run(gateway_us=91))

    assert found.regressed
    assert str(found) == "REGRESSION json       cpu    6.50 × nginx, baseline 5.00 (+30%, tolerated +25%)"


def test_what_is_within_the_tolerance_is_none() -> None:
    assert not verdict(run(gateway_us=84)).regressed


def test_a_slow_machine_is_no_regression() -> None:
    assert not verdict(run(gateway_us=70, machine=4.0)).regressed


def test_without_nginx_the_echo_is_what_is_compared_with() -> None:
    found = verdict(run(gateway_us=91, nginx_us=0))

    assert (found.base, found.expected, found.regressed) == ("echo", 1.75, True)


def test_latency_is_compared_at_low_load_alone() -> None:
    samples = [
        sample(target, 1, scenario=scenario, cpu_us=10, p50=p50)
        for scenario in ("json", "low")
        for target, p50 in (("nginx", 0.1), ("gateway", 0.4))
    ]

    assert baseline.ratios(samples) == {"json": {"cpu": {"nginx": 1.0}}, "low": {"p50": {"nginx": 4.0}}}


def test_nothing_to_compare_is_no_success() -> None:
    with pytest.raises(BenchError, match="neither nginx nor the ASGI echo"):
        baseline.compare(run(gateway_us=70, nginx_us=0, echo_us=0), of(run(gateway_us=70)))


def test_a_missing_file_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--write-baseline"):
        baseline.read(tmp_path / "none.json")


@pytest.mark.parametrize(("gateway_us", "code"), [(70, 0), (100, 1)], ids=["as before", "slower"])
def test_the_command_fails_on_a_regression(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gateway_us: float,
    code: int,
) -> None:
    file = tmp_path / "baseline.json"
    baseline.write(run(gateway_us=70), about="then", file=file)
    measured = Result(samples=run(gateway_us=gateway_us))
    monkeypatch.setattr(command, "measure", lambda plan, say: measured)

    assert command.main(["--check", "--baseline", str(file), "--output", str(tmp_path / "out")]) == code
    assert ("REGRESSION" in capsys.readouterr().out) == bool(code)


def test_the_committed_file_holds_what_is_checked() -> None:
    committed = baseline.read()

    assert set(committed.ratios) == set(baseline.CHECKED)
    assert all(
        set(by_base) <= set(baseline.BASES) for figures in committed.ratios.values() for by_base in figures.values()
    )
    assert {scenario: next(iter(figures)) for scenario, figures in committed.ratios.items()} == baseline.CHECKED
    assert all("nginx" in by_base for figures in committed.ratios.values() for by_base in figures.values())


def test_a_check_measures_what_the_file_has() -> None:
    plan: Plan = command.plan_of(command.parser().parse_args(["--check"]))

    assert [scenario.name for scenario in plan.scenarios] == list(baseline.CHECKED)
    assert "gateway" in plan.targets
