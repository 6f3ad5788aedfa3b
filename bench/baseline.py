"""The regression check: what the gateway costs, as ratios to nginx or a bare ASGI server in the same run, against a file.

Microseconds are not compared: they are of a machine. A ratio is the median of the rounds' own ratios, so that what slowed
a whole round slowed both. It is a regression when it exceeds the file's by more than the file's tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from bench.processes import ROOT, BenchError
from bench.run import Sample

FILE = ROOT / "bench" / "baseline.json"
CHECKED = {"json": "cpu", "burst": "cpu", "low": "p50", "paced-200": "cpu"}
"""The figure of each scenario that is held: processor time, or at low load, where that is mostly waking up, latency."""
BASES = ("nginx", "echo")
"""In this order: nginx where it is installed."""
TOLERANCE = {"cpu": 0.25, "p50": 0.35}
"""Well above the spread of one run's rounds, which is a tenth for processor time; latencies spread more."""


class Baseline(msgspec.Struct):
    """Ratios by scenario, figure and base, such as `json`, `cpu`, `nginx`."""

    about: str
    tolerance: dict[str, float]
    ratios: dict[str, dict[str, dict[str, float]]]


class Verdict(msgspec.Struct, frozen=True):
    """One ratio of this run beside the file's."""

    scenario: str
    figure: str
    base: str
    ratio: float
    expected: float
    tolerance: float

    @property
    def regressed(self) -> bool:
        return self.ratio > self.expected * (1 + self.tolerance)

    def __str__(self) -> str:
        change = self.ratio / self.expected - 1
        word = "REGRESSION" if self.regressed else "ok"
        return (
            f"{word:<11}{self.scenario:<10} {self.figure:<4}{self.ratio:7.2f} × {self.base}, baseline {self.expected:.2f} "
            f"({change:+.0%}, tolerated +{self.tolerance:.0%})"
        )


def ratios(samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, float]]]:
    """Those of a run."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for scenario, figure in CHECKED.items():
        if by_base := {base: ratio for base in BASES if (ratio := _ratio(samples, scenario, figure, base))}:
            found[scenario] = {figure: by_base}
    return found


def _ratio(samples: Sequence[Sample], scenario: str, figure: str, base: str) -> float:
    mine, others = (
        {
            sample.round: _value(sample, figure)
            for sample in samples
            if (sample.scenario, sample.target) == (scenario, name)
        }
        for name in ("gateway", base)
    )
    pairs = [mine[number] / others[number] for number in mine if others.get(number)]
    return round(median(pairs), 3) if pairs else 0.0


def _value(sample: Sample, figure: str) -> float:
    return sample.cpu_us if figure == "cpu" else sample.outcome.latency_ms["p50"]


def read(file: Path = FILE) -> Baseline:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Baseline)
    except FileNotFoundError:
        raise BenchError(
            f"there is no {file}; make it on a quiet machine with ./gateway bench --write-baseline."
        ) from None


def write(samples: Sequence[Sample], *, about: str, file: Path = FILE) -> None:
    made = Baseline(about, TOLERANCE, ratios(samples))
    file.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")


def compare(samples: Sequence[Sample], baseline: Baseline) -> list[Verdict]:
    """
    Raises:
        BenchError: nothing of the file was measured, so nothing can be said.
    """
    verdicts = []
    for scenario, figures in ratios(samples).items():
        for figure, by_base in figures.items():
            expected = baseline.ratios.get(scenario, {}).get(figure, {})
            base = next((base for base in BASES if base in by_base and base in expected), None)
            if base:
                tolerance = baseline.tolerance[figure]
                verdicts.append(Verdict(scenario, figure, base, by_base[base], expected[base], tolerance))
    if not verdicts:
        raise BenchError(
            "neither nginx nor the ASGI echo was measured beside the gateway, so there is nothing to compare."
        )
    return verdicts
