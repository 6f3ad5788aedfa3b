"""How deployments are doing, and what people can do about it: drain them, put them back, reset their circuits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable, writes
from providers import services
from providers.health import DeploymentHealth, reported_health
from providers.models import Deployment


class ProbeSerializer(serializers.Serializer[Any]):
    healthy = serializers.BooleanField(help_text="By both thresholds, not by the last answer alone.")
    at = serializers.DateTimeField(help_text="Of the last probe.")
    latency_ms = serializers.FloatField()
    detail = serializers.CharField(help_text="What it brought, in a few words.")


class HealthSerializer(serializers.ModelSerializer[Deployment]):
    """A deployment, as the workers of this host know it together."""

    provider = serializers.CharField(source="provider.name")
    state = serializers.SerializerMethodField(
        help_text="`healthy`, `open` or `half_open` (its circuit), `unhealthy` (probes), `draining`, `disabled`, or "
        "`unknown` while no worker says anything."
    )
    last_failure = serializers.SerializerMethodField(help_text="Its kind in one word; empty: there was none lately.")
    failures = serializers.SerializerMethodField(help_text="Within the window of the circuit.")
    retry_at = serializers.SerializerMethodField(help_text="When it is tried again; null: nobody can say.")
    in_flight = serializers.SerializerMethodField(help_text="Attempts that run there now.")
    workers = serializers.SerializerMethodField(help_text="Workers that speak of it.")
    workers_out = serializers.SerializerMethodField(help_text="Those of them that leave it alone.")
    probe = serializers.SerializerMethodField()

    class Meta:
        model = Deployment
        fields = (
            "id", "name", "provider", "model", "state", "draining", "last_failure", "failures", "retry_at", "in_flight",
            "workers", "workers_out", "probe",
        )  # fmt: skip

    def get_state(self, row: Deployment) -> str:
        return self._health(row).state

    def get_last_failure(self, row: Deployment) -> str:
        overall = self._health(row).overall
        return "" if overall is None else overall.kind

    def get_failures(self, row: Deployment) -> int:
        overall = self._health(row).overall
        return 0 if overall is None else overall.failures

    def get_retry_at(self, row: Deployment) -> datetime | None:
        overall = self._health(row).overall
        return None if overall is None or overall.retry_at is None else _moment(overall.retry_at)

    def get_in_flight(self, row: Deployment) -> int:
        overall = self._health(row).overall
        return 0 if overall is None else overall.in_flight

    def get_workers(self, row: Deployment) -> int:
        overall = self._health(row).overall
        return 0 if overall is None else overall.workers

    def get_workers_out(self, row: Deployment) -> int:
        overall = self._health(row).overall
        return 0 if overall is None else overall.workers_out

    @extend_schema_field(ProbeSerializer(allow_null=True))
    def get_probe(self, row: Deployment) -> dict[str, Any] | None:
        overall = self._health(row).overall
        if overall is None or overall.probe is None:
            return None
        probe = overall.probe
        return {
            "healthy": probe.healthy,
            "at": _moment(probe.at),
            "latency_ms": probe.latency_ms,
            "detail": probe.detail,
        }

    def _health(self, row: Deployment) -> DeploymentHealth:
        return DeploymentHealth(row, self.context["reported"].get(row.pk))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class HealthFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    name = django_filters.CharFilter("name", label="The whole name.")
    provider = django_filters.CharFilter("provider__name", label="The name of the provider.")
    draining = django_filters.BooleanFilter("draining")


class HealthViewSet(Readable[Deployment]):
    """How deployments are doing: circuits, probes, what runs there."""

    serializer_class = HealthSerializer
    read_scope, write_scope = "health:read", "health:write"
    filterset_class = HealthFilters
    search_fields = ("name", "model")
    ordering_fields = ("name", "id")
    ordering = ("name",)
    volatile = ("state", "last_failure", "failures", "retry_at", "in_flight", "workers", "workers_out", "probe")

    def rows(self, reach: Reach) -> QuerySet[Deployment]:
        return Deployment.objects.select_related("provider")

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "reported": reported_health()}

    @extend_schema(request=None, responses=HealthSerializer)
    @action(detail=True, methods=["post"])
    @writes
    def drain(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Send it nothing new. What runs there goes on."""
        services.deployment_drain(self.locked(), draining=True)
        return self.shown(self.get_object())

    @extend_schema(request=None, responses=HealthSerializer)
    @action(detail=True, methods=["post"])
    @writes
    def put_back(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Send it requests again."""
        services.deployment_drain(self.locked(), draining=False)
        return self.shown(self.get_object())

    @extend_schema(request=None, responses=HealthSerializer)
    @action(detail=True, methods=["post"])
    @writes
    def reset(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Close its circuit and forget what probes have found, in every worker."""
        services.deployment_forget_health(self.locked())
        return self.shown(self.get_object())
