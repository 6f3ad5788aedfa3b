"""A team report as charts: series of numbers to draw, and the same as text for the table beside each canvas."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from billing.money import PICO_PER_USD, format_usd
from billing.usage_selectors import Usage
from dashboard.formats import count, duration
from dashboard.report import LatencyFigures, TeamReport


@dataclass(frozen=True, slots=True)
class Series:
    """`values` are drawn and may be rounded; `texts` are what people read."""

    label: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One canvas and its table. `kind` is `bars` (stacked) or `lines`; `unit` tells how to write a value."""

    id: str
    title: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]

    def drawing(self) -> dict[str, Any]:
        """What the page's script needs."""
        series = [{"label": one.label, "values": one.values} for one in self.series]
        return {"id": self.id, "kind": self.kind, "unit": self.unit, "labels": self.labels, "series": series}

    def rows(self) -> Iterable[tuple[str, ...]]:
        """Of the table: a label, then each series' text."""
        return zip(self.labels, *(one.texts for one in self.series), strict=True)


def charts_of(report: TeamReport) -> tuple[Chart, ...]:
    labels, spans = report.spans.labels, report.by_span
    return (
        Chart(
            "cost", f"Cost per {report.period.unit} by model", "bars", "usd", labels,
            tuple(_cost(model.model or "no model", model.by_span) for model in report.models),
        ),
        Chart(
            "requests", f"Requests per {report.period.unit}", "bars", "count", labels,
            (
                _counts("Answered", spans, lambda usage: usage.requests - usage.errors),
                _counts("Failed", spans, lambda usage: usage.errors),
                _counts("Refused", spans, lambda usage: usage.refused),
            ),
        ),
        Chart(
            "tokens", f"Tokens per {report.period.unit}", "bars", "count", labels,
            (
                _counts("Input", spans, lambda usage: usage.input_tokens),
                _counts("Output", spans, lambda usage: usage.output_tokens),
            ),
        ),
        Chart("duration", "Duration of requests", "lines", "us", labels, _percentiles(report.duration)),
        Chart("ttft", "Time to first token", "lines", "us", labels, _percentiles(report.ttft)),
    )  # fmt: skip


def _cost(label: str, usages: tuple[Usage, ...]) -> Series:
    costs = [usage.cost_pico_usd for usage in usages]
    return Series(label, tuple(cost / PICO_PER_USD for cost in costs), tuple(map(format_usd, costs)))


def _counts(label: str, usages: tuple[Usage, ...], read: Callable[[Usage], int]) -> Series:
    counts = [read(usage) for usage in usages]
    return Series(label, tuple(counts), tuple(map(count, counts)))


def _percentiles(figures: LatencyFigures) -> tuple[Series, ...]:
    return tuple(
        Series(name, values, tuple(map(duration, values)))
        for name, values in (
            ("p50", tuple(span.p50 for span in figures.by_span)),
            ("p95", tuple(span.p95 for span in figures.by_span)),
            ("p99", tuple(span.p99 for span in figures.by_span)),
        )
    )
