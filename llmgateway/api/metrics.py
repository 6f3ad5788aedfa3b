"""`/metrics` in Prometheus' text format, from the figures that the pipeline keeps."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from billing.money import usd
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.health import Status
from llmgateway.api.health_metrics import health_metrics
from llmgateway.api.merged_metrics import merged
from llmgateway.conf import Conf
from llmgateway.pipeline.conditions import Conditions
from llmgateway.pipeline.errors import PermissionDeniedError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.snapshot import Networks, parse_address
from llmgateway.pipeline.telemetry import Buckets, Figures, Histogram, OpenConnections, SharedCounters
from llmgateway.pipeline.turns import Turns

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
LOOPBACK = ("127.0.0.0/8", "::1/128")


class MetricsPage:
    """Open to loopback unless the operator says otherwise."""

    def __init__(self, conf: Conf, status: Status) -> None:
        access = conf.metrics_access
        self._open = "open" in access
        listed = tuple(item for item in access if item not in {"open", "loopback"})
        self._networks = Networks.of((*listed, *LOOPBACK) if "loopback" in access else listed)
        self._token = conf.metrics_token.encode()
        self._status = status

    async def show(self, gateway: Gateway, exchange: HttpExchange) -> None:
        """Raises PermissionDeniedError for callers that may not read it."""
        if not self._may_read(exchange):
            raise PermissionDeniedError(
                "These metrics may not be read from here. Set METRICS_ACCESS or send METRICS_TOKEN as a bearer token."
            )
        pages = [page_of(gateway, self._status), *await self._status.sibling_metrics()]
        await exchange.responder.whole(200, merged(pages), [(b"content-type", CONTENT_TYPE)])

    def _may_read(self, exchange: HttpExchange) -> bool:
        if self._open or parse_address(exchange.client_ip) in self._networks:
            return True
        secret = exchange.inbound.secret
        return bool(self._token) and secret is not None and hmac.compare_digest(secret, self._token)


def page_of(gateway: Gateway, status: Status) -> bytes:
    """The figures of this process alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(gateway, status))
    return generate_latest(registry)


class _Figures:
    """Turns the pipeline's dictionaries into metric families, at the moment of the scrape."""

    def __init__(self, gateway: Gateway, status: Status) -> None:
        self._gateway = gateway
        self._status = status
        self._series = list(gateway.telemetry.figures.series.items())

    def collect(self) -> Iterable[Metric]:
        yield from self._llmproxy()
        yield from self._gen_ai()
        yield from self._gateway_itself()
        yield from self._gauges()
        yield from _load(self._gateway.turns)
        yield _rule_failures(self._gateway.router.conditions)
        yield from health_metrics(self._gateway.health)
        yield from self._webhooks()
        yield from self._cache()
        if self._gateway.telemetry.figures.connections is not None:
            yield from _connections(self._gateway.telemetry.figures.connections)
        if self._gateway.telemetry.figures.shared_counters is not None:
            yield from _shared(self._gateway.telemetry.figures.shared_counters)

    def _llmproxy(self) -> Iterable[Metric]:
        series = self._series
        yield _counter(
            "llmproxy_requests",
            "Requests answered, refused ones included.",
            ("path", "stream", "backend", "status"),
            _summed(
                (path, _flag(stream), backend, str(status), each.requests)
                for (path, stream, backend, status, *_), each in series
            ),
        )
        yield _histogram(
            "llmproxy_latency_ms",
            "Milliseconds from request to the end of the answer.",
            ("path", "stream", "backend"),
            _merged(((path, _flag(stream), backend), each.duration_ms) for (path, stream, backend, *_), each in series),
        )
        prompt, completion = sum(each.input_tokens for _, each in series), sum(each.output_tokens for _, each in series)
        totals: dict[tuple[str, ...], float] = {("prompt",): prompt, ("completion",): completion}
        yield _counter("llmproxy_usage_tokens", "Tokens used.", ("type",), totals)
        cost = _summed((provider, model, each.cost_pico_usd) for (*_, provider, model), each in series if provider)
        dollars = {labels: float(usd(int(pico))) for labels, pico in cost.items()}
        yield _counter("llmproxy_cost_usd", "Cost in US dollars.", ("provider", "model"), dollars)
        build = GaugeMetricFamily("llmproxy_build_info", "Version of the gateway.", labels=("version",))
        build.add_metric((self._status.version,), 1)
        yield build

    def _gen_ai(self) -> Iterable[Metric]:
        series = [(labels, each) for labels, each in self._series if labels[5]]
        kinds = (
            item
            for (*_, provider, model), each in series
            for item in ((provider, model, "input", each.input_tokens), (provider, model, "output", each.output_tokens))
        )
        yield _counter(
            "gen_ai_client_token_usage",
            "Tokens used, by OpenTelemetry's names; cached and reasoning tokens included.",
            ("gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type"),
            _summed(kinds),
        )
        yield _histogram(
            "gen_ai_client_operation_duration_seconds",
            "Seconds from request to the end of the answer.",
            ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"),
            _merged((labels[4:], each.duration_ms) for labels, each in series),
            unit=1000,
        )
        yield _histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Seconds from request to the first piece of the answer.",
            ("gen_ai_provider_name", "gen_ai_request_model"),
            _merged((labels[5:], each.ttft_s) for labels, each in series),
        )

    def _gateway_itself(self) -> Iterable[Metric]:
        figures = self._gateway.telemetry.figures
        yield _histogram(
            "llmgateway_overhead_seconds",
            "Seconds spent in the gateway itself, by phase.",
            ("phase",),
            {(phase,): each for phase, each in figures.phases_s.items()},
        )
        yield _counter(
            "llmgateway_refusals",
            "Requests refused, by error code.",
            ("code",),
            {(c,): n for c, n in figures.refusals.items()},
        )
        yield _counter(
            "llmgateway_shadow_refusals",
            "Requests that a limit in shadow mode would have refused.",
            ("scope", "limit"),
            {(scope, limit): n for (scope, limit), n in figures.shadow_refusals.items()},
        )
        yield _counter("llmgateway_unpriced_requests", "Requests without a price in force.", (), {(): figures.unpriced})
        yield _counter(
            "llmgateway_inconsistent_usage",
            "Answers whose usage contradicts itself.",
            (),
            {(): figures.inconsistent_usage},
        )
        yield from _attempts(figures)
        yield _counter("llmgateway_counter_repairs", "Counters that were put right.", (), {(): figures.counter_repairs})

    def _gauges(self) -> Iterable[Metric]:
        figures, facts = self._gateway.telemetry.figures, self._status.facts()
        for name, text, value in (
            ("llmgateway_requests_in_flight", "Requests that are running.", len(self._gateway.exchanges)),
            (
                "llmgateway_journal_backlog_bytes",
                "Usage that is not in the database yet.",
                facts["journal_backlog_bytes"],
            ),
            (
                "llmgateway_journal_undrained_seconds",
                "How long the oldest usage that is not in the database yet has waited, at most.",
                facts["journal_undrained_s"],
            ),
            (
                "llmgateway_counter_drift_pico_usd",
                "How far counters of budgets were from the ledger when they were last compared.",
                figures.counter_drift_pico_usd,
            ),
            (
                "llmgateway_counter_drift_limits",
                "The same of limits over a window, in requests and tokens.",
                figures.counter_drift_limits,
            ),
            (
                "llmgateway_rollup_drift_rows",
                "Rows of sums that differ from the ledger.",
                figures.rollup_drift_rows,
            ),
            ("llmgateway_config_revision", "Revision of the configuration in use.", facts["config_revision"]),
        ):
            yield GaugeMetricFamily(name, text, value=value)

    def _cache(self) -> Iterable[Metric]:
        figures = self._gateway.telemetry.figures
        yield _counter(
            "llmproxy_cache_hits",
            "Requests that kept answers concern, by what was found.",
            ("result",),
            {(result,): count for result, count in figures.cache_results.items()},
        )
        saved = float(usd(figures.cache_savings_pico_usd))
        yield _counter(
            "llmproxy_cost_savings_from_cache_usd", "What kept answers would have cost, in US dollars.", (), {(): saved}
        )
        if figures.kept_answers is not None:
            kept = figures.kept_answers
            yield GaugeMetricFamily("llmgateway_cache_bytes", "Answers kept in memory.", value=kept.byte_count)
            yield GaugeMetricFamily("llmgateway_cache_entries", "How many they are.", value=kept.entry_count)

    def _webhooks(self) -> Iterable[Metric]:
        facts = self._status.facts()["webhooks"]
        yield _counter("llmproxy_webhook_success", "Events delivered, ever.", (), {(): facts["delivered"]})
        yield _counter("llmproxy_webhook_failure", "Deliveries that failed, ever.", (), {(): facts["failed"]})
        for name, text, fact in (
            ("llmgateway_webhook_pending", "Events that wait for delivery.", "pending"),
            ("llmgateway_webhook_dead", "Events that were given up.", "dead"),
            ("llmgateway_webhook_oldest_seconds", "How long the oldest event that waits has waited.", "oldest_age_s"),
        ):
            yield GaugeMetricFamily(name, text, value=facts[fact])


def _connections(connections: OpenConnections) -> Iterable[Metric]:
    by_state = GaugeMetricFamily("llmgateway_connections", "Clients' connections.", labels=("state",))
    by_state.add_metric(("idle",), connections.resting)
    by_state.add_metric(("busy",), connections.open - connections.resting)
    yield by_state
    for name, text, counts in (
        ("llmgateway_connections_ended", "Connections that the gateway ended, by reason.", connections.ended),
        ("llmgateway_connections_refused", "Connections beyond a bound, by which.", connections.refused),
    ):
        totals: dict[tuple[str, ...], float] = {(reason,): count for reason, count in counts.items()}
        yield _counter(name, text, ("reason",), totals)


def _rule_failures(conditions: Conditions) -> Metric:
    return _counter(
        "llmgateway_routing_rule_failures",
        "Routing rules that could not be evaluated, so that they did not apply.",
        ("alias", "rule"),
        {(alias, rule): count for (alias, rule), count in conditions.failures.items()},
    )


def _load(turns: Turns) -> Iterable[Metric]:
    for name, text, value in (
        ("llmgateway_turns_taken", "Requests and realtime sessions that have their turn.", turns.taken),
        ("llmgateway_turns_bound", "How many may at the same time; 0: any number.", turns.rules.max_in_flight),
        ("llmgateway_requests_queued", "Requests that wait for their turn.", turns.queued),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    refused: dict[tuple[str, ...], float] = {(reason,): count for reason, count in turns.refused.items()}
    yield _counter("llmgateway_overload_refusals", "Requests that got no turn, by reason.", ("reason",), refused)
    text = "Seconds that requests waited which got their turn, those that need not wait left out."
    yield _histogram("llmgateway_queue_wait_seconds", text, (), {(): turns.waits_s})


def _shared(counters: SharedCounters) -> Iterable[Metric]:
    mode = GaugeMetricFamily("llmgateway_store_mode", "Workers by the mode of their counters.", labels=("mode",))
    mode.add_metric((counters.mode,), 1)
    yield mode
    yield _counter("llmgateway_store_errors", "How often Redis was lost or not reached.", (), {(): counters.errors})
    for name, text, value in (
        ("llmgateway_store_unsent", "Settlements and sums that Redis has to be told when it is back.", counters.unsent),
        ("llmgateway_store_workers", "Workers that count in the same Redis.", counters.workers),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    yield _histogram(
        "llmgateway_store_round_trip_seconds", "How long Redis took to answer.", (), {(): counters.round_trips}
    )


def _attempts(figures: Figures) -> Iterable[Metric]:
    yield _counter("llmgateway_retries", "Attempts after a wait.", (), {(): figures.retries})
    for name, text, label, counts in (
        ("llmgateway_fallbacks", "Times that other aliases were asked, by cause.", "cause", figures.fallbacks),
        ("llmgateway_hedges", "Second attempts, by what became of them.", "result", figures.hedges),
        ("llmgateway_mirrors", "Copies of requests, by what became of them.", "result", figures.mirrors),
    ):
        yield _counter(name, text, (label,), {(value,): count for value, count in counts.items()})
    cost = float(usd(figures.hedge_cost_pico_usd))
    yield _counter("llmgateway_hedge_cost_usd", "What second attempts cost beside the answers.", (), {(): cost})


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _counter(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for label_values, value in list(values.items()):
        family.add_metric(label_values, value)
    return family


def _summed(items: Iterable[tuple[Any, ...]]) -> dict[tuple[str, ...], float]:
    """Items of labels and, last, a number: the sum per combination of labels."""
    sums: dict[tuple[str, ...], float] = {}
    for *labels, number in items:
        sums[tuple(labels)] = sums.get(tuple(labels), 0) + number
    return sums


def _merged(items: Iterable[tuple[tuple[Any, ...], Histogram]]) -> dict[tuple[Any, ...], Histogram]:
    """The sum of the histograms of each combination of labels."""
    merged: dict[tuple[Any, ...], Histogram] = {}
    for labels, histogram in items:
        merged.setdefault(labels, Histogram(histogram.bounds)).add(histogram)
    return merged


def _histogram(
    name: str, text: str, labels: tuple[str, ...], histograms: Mapping[Any, Buckets], *, unit: float = 1
) -> HistogramMetricFamily:
    """`unit` is how many of the histogram's units make one of the metric's."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for label_values, histogram in histograms.items():
        running, buckets = 0, []
        bounds = [str(bound / unit) for bound in histogram.bounds]
        for bound, count in zip((*bounds, "+Inf"), histogram.counts, strict=True):
            running += count
            buckets.append((bound, running))
        family.add_metric(label_values, buckets=buckets, sum_value=histogram.total / unit)
    return family
