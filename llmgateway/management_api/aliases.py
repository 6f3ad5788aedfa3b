"""Model aliases and where they lead, to be read."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import Prefetch, QuerySet
from rest_framework import serializers

from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable
from providers.models import AliasTarget, ModelAlias


class TargetSerializer(serializers.ModelSerializer[AliasTarget]):
    deployment = serializers.CharField(source="deployment.name")
    provider = serializers.CharField(source="deployment.provider.name")
    model = serializers.CharField(source="deployment.model", help_text="The provider's name for the model.")
    enabled = serializers.BooleanField(source="deployment.enabled")

    class Meta:
        model = AliasTarget
        fields = ("deployment", "provider", "model", "enabled", "weight", "position")


class ModelSerializer(serializers.ModelSerializer[ModelAlias]):
    targets = TargetSerializer(many=True, read_only=True)

    class Meta:
        model = ModelAlias
        fields = ("id", "name", "strategy", "enabled", "created_at", "targets")


class ModelFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    name = django_filters.CharFilter("name", label="The whole name.")
    enabled = django_filters.BooleanFilter("enabled")
    provider = django_filters.CharFilter(
        "targets__deployment__provider__name", distinct=True, label="The name of a provider that may answer."
    )


class ModelViewSet(Readable[ModelAlias]):
    """The model names that applications call, and the deployments that may answer."""

    serializer_class = ModelSerializer
    read_scope = "models:read"
    filterset_class = ModelFilters
    search_fields = ("name",)
    ordering_fields = ("name", "created_at", "id")
    ordering = ("name",)

    def rows(self, reach: Reach) -> QuerySet[ModelAlias]:
        targets: QuerySet[Any] = AliasTarget.objects.select_related("deployment__provider")
        return ModelAlias.objects.prefetch_related(Prefetch("targets", targets))
