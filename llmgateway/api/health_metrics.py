"""The health of deployments as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from llmgateway.pipeline.health import Health
from llmgateway.pipeline.standings import STATES

_LABELS = ("deployment", "provider", "model")


def health_metrics(health: Health) -> Iterable[Metric]:
    """One series for each state of each deployment, so that an alert can name the state it is about."""
    states = GaugeMetricFamily(
        "llmgateway_deployment_state", "Workers that see a deployment in a state.", labels=(*_LABELS, "state")
    )
    opens = CounterMetricFamily("llmgateway_circuit_opens", "How often circuits were opened.", labels=_LABELS)
    for deployment, standing in health.standings():
        labels = deployment.name, deployment.provider, deployment.model
        for state in STATES:
            states.add_metric((*labels, state), state == standing.state)
        opens.add_metric(labels, standing.opens)
    yield states
    yield opens
