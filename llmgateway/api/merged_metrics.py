"""Several workers behind one port, one `/metrics`: whoever is asked asks the others, and adds up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

WEBHOOKS = (
    "llmproxy_webhook_success",
    "llmproxy_webhook_failure",
    "llmgateway_webhook_pending",
    "llmgateway_webhook_dead",
    "llmgateway_webhook_oldest_seconds",
)
ALIKE = frozenset(
    {
        "llmproxy_build_info",
        "llmgateway_config_revision",
        "llmgateway_journal_undrained_seconds",
        "llmgateway_store_workers",
        *WEBHOOKS,
    }
)
"""What every worker says of the same thing; the largest counts. All else is added."""

SampleKey = tuple[str, tuple[tuple[str, str], ...]]


def merged(pages: Sequence[bytes]) -> bytes:
    """One page of metrics out of those of all workers, in Prometheus' text format."""
    if len(pages) == 1:
        return pages[0]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(pages))
    return generate_latest(registry)


class _Merged:
    def __init__(self, pages: Sequence[bytes]) -> None:
        self._families: dict[str, Metric] = {}
        self._values: dict[str, dict[SampleKey, float]] = {}
        for page in pages:
            for family in text_string_to_metric_families(page.decode()):
                self._add(family)

    def _add(self, family: Metric) -> None:
        self._families.setdefault(family.name, family)
        values = self._values.setdefault(family.name, {})
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            before = values.get(key, 0.0)
            values[key] = max(before, sample.value) if family.name in ALIKE else before + sample.value

    def collect(self) -> Iterable[Metric]:
        for name, family in self._families.items():
            whole = Metric(name, family.documentation, family.type)
            whole.samples = [
                Sample(sample, dict(labels), value) for (sample, labels), value in self._values[name].items()
            ]
            yield whole
