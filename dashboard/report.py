"""A team's usage over a period, cut into spans: what the team page says in figures, charts and tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from billing import usage_selectors
from billing.histogram import Histogram, merge, percentile
from billing.usage_selectors import KeyUsage, ModelHour, Usage
from dashboard.periods import Buckets, Period, buckets
from dashboard.refusals import Refusal, refusals_of
from dashboard.teams import ShownTeam

TOP = 8
"""How many models and keys are named; the rest of the models is one band, "other"."""


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """One model over the period: its total, and its share of each span."""

    model: str
    total: Usage
    by_span: tuple[Usage, ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in microseconds; None where nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class LatencyFigures:
    """Percentiles of the whole period, and of each span."""

    whole: Latency
    by_span: tuple[Latency, ...]


@dataclass(frozen=True, slots=True)
class TeamReport:
    period: Period
    spans: Buckets
    total: Usage
    by_span: tuple[Usage, ...]
    models: tuple[ModelUsage, ...]
    """The dearest first; at most `TOP` and one for all others."""
    keys: tuple[KeyUsage, ...]
    refusals: tuple[Refusal, ...]
    """Why requests were refused, the most frequent reason first."""
    duration: LatencyFigures
    ttft: LatencyFigures
    overhead: LatencyFigures


def team_report(team: ShownTeam, period: Period, now: datetime) -> TeamReport:
    spans = buckets(period, team.zone, now)
    start, end = spans.starts[0], spans.end
    model_hours, hours = usage_selectors.usage_by_hour(team.id, start, end)
    by_model = _by_model(model_hours, spans)
    by_span = tuple(map(_total, zip(*(model.by_span for model in by_model), strict=True))) or (Usage(),) * len(
        spans.starts
    )
    total = _total(by_span)
    return TeamReport(
        period=period,
        spans=spans,
        total=total,
        by_span=by_span,
        models=_top(by_model),
        keys=tuple(usage_selectors.usage_by_key(team.id, start, end, limit=TOP)),
        refusals=refusals_of(usage_selectors.refusals_by_code(team.id, start, end)) if total.refused else (),
        duration=_latency([(hour.hour, hour.duration) for hour in hours], spans),
        ttft=_latency([(hour.hour, hour.ttft) for hour in hours], spans),
        overhead=_latency([(hour.hour, hour.overhead) for hour in hours], spans),
    )


def _total(usages: Iterable[Usage]) -> Usage:
    return sum(usages, Usage())


def _by_model(hours: Iterable[ModelHour], spans: Buckets) -> list[ModelUsage]:
    """Each model's usage, the dearest first."""
    models: dict[str, list[Usage]] = {}
    for hour in hours:
        by_span = models.setdefault(hour.model, [Usage()] * len(spans.starts))
        by_span[spans.index(hour.hour)] += hour.usage
    found = [ModelUsage(model, _total(by_span), tuple(by_span)) for model, by_span in models.items()]
    return sorted(found, key=lambda used: (-used.total.cost_pico_usd, -used.total.requests, used.model))


def _top(models: list[ModelUsage]) -> tuple[ModelUsage, ...]:
    named = [model for model in models if model.total.requests]
    if len(named) <= TOP:
        return tuple(named)
    rest = named[TOP:]
    by_span = tuple(map(_total, zip(*(model.by_span for model in rest), strict=True)))
    return (*named[:TOP], ModelUsage(f"{len(rest)} others", _total(by_span), by_span))


def _latency(hours: list[tuple[datetime, Histogram]], spans: Buckets) -> LatencyFigures:
    grouped: list[list[Histogram]] = [[] for _ in spans.starts]
    for hour, histogram in hours:
        grouped[spans.index(hour)].append(histogram)
    merged = [merge(histograms) for histograms in grouped]
    return LatencyFigures(_percentiles(merge(merged)), tuple(map(_percentiles, merged)))


def _percentiles(histogram: Histogram) -> Latency:
    return Latency(percentile(histogram, 0.5), percentile(histogram, 0.95), percentile(histogram, 0.99))
