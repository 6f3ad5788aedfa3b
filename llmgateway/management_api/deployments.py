"""Deployments: a model at a provider, reached with one credential. Credentials are named here and never read."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway.management_api.fields import NameField, Saved, UsdField
from llmgateway.management_api.filters import NameFilters
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Removable, worded
from providers import services
from providers.connection_check import check_connection
from providers.models import Credential, Deployment, Provider


class CredentialField(NameField):
    """The name of a credential, which is known among those of its provider alone."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return data


class DeploymentSerializer(Saved[Deployment]):
    provider = NameField(queryset=Provider.objects.all())
    credential = CredentialField(
        queryset=Credential.objects.all(), required=False, allow_null=True,
        help_text="The name of one of the provider's credentials; null: none.",
    )  # fmt: skip
    max_request_usd = UsdField(
        source="max_request_pico_usd", required=False, allow_null=True,
        help_text="What strict budgets hold for requests whose cost has no other bound.",
    )  # fmt: skip

    class Meta:
        model = Deployment
        fields = (
            "id", "name", "provider", "credential", "model", "inject_usage", "connect_timeout_s",
            "first_token_timeout_s", "idle_timeout_s", "total_timeout_s", "drain_s", "max_output_tokens",
            "max_request_usd", "probe_enabled", "probe_path", "probe_interval_s", "probe_timeout_s",
            "probe_unhealthy_after", "probe_healthy_after", "draining", "enabled",
        )  # fmt: skip

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        name = attrs.get("credential")
        if name is None:
            return attrs
        provider: Provider = (
            attrs["provider"] if self.instance is None else attrs.get("provider", self.instance.provider)
        )
        found = provider.credentials.filter(name=name).first()
        if found is None:
            raise serializers.ValidationError({"credential": f"{provider} has no credential {name}."})
        return {**attrs, "credential": found}

    def write(self, row: Deployment, columns: dict[str, Any]) -> None:
        services.deployment_save(row, columns)


class ConnectionSerializer(serializers.Serializer[Any]):
    """What came of asking the provider for its models."""

    ok = serializers.BooleanField()
    headline = serializers.CharField(help_text="The status and the time, or that nothing was sent.")
    detail = serializers.CharField(help_text="What it means and what to do. Neither text holds the secret.")


class DeploymentFilters(NameFilters):
    provider = django_filters.CharFilter("provider__name", label="The name of the provider.")
    model = django_filters.CharFilter("model", label="The provider's name for the model.")
    enabled = django_filters.BooleanFilter("enabled")


@worded(
    create="Create a deployment. Requests reach it as soon as an alias leads to it.",
    change="Change what is named in the body, and leave the rest. It applies to the next request.",
    delete="Delete it with its own limits and budgets, unless an alias leads to it.",
)
class DeploymentViewSet(Removable[Deployment]):
    """The models at providers to which aliases lead."""

    serializer_class = DeploymentSerializer
    read_scope, write_scope = "deployments:read", "deployments:write"
    filterset_class = DeploymentFilters
    search_fields = ("name", "model")
    ordering_fields = ("name", "id")
    ordering = ("name",)

    def rows(self, reach: Reach) -> QuerySet[Deployment]:
        return Deployment.objects.select_related("provider", "credential")

    # No transaction around it: a provider may take ten seconds to answer.
    @extend_schema(request=None, responses=ConnectionSerializer)
    @action(detail=True, methods=["post"], url_path="test")
    def test_connection(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Ask the provider for its models with the credential and say how it went. It costs nothing."""
        result = check_connection(self.get_object())
        return Response(ConnectionSerializer(result).data)
