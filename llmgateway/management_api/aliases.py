"""Model aliases and where they lead: to be read, switched off and retired."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import Prefetch, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway.management_api.fields import StrictModel
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable, writes
from providers.models import AliasTarget, CatalogueEntry, ModelAlias


class CapabilitiesSerializer(serializers.ModelSerializer[CatalogueEntry]):
    """What a model can do. Absent figures are not known."""

    class Meta:
        model = CatalogueEntry
        fields = (
            "context_window", "max_output_tokens", "input_modalities", "output_modalities", "tools", "reasoning",
            "deprecated_on", "source",
        )  # fmt: skip


class TargetSerializer(serializers.ModelSerializer[AliasTarget]):
    deployment = serializers.CharField(source="deployment.name", default=None)
    alias = serializers.CharField(source="target_alias.name", default=None, help_text="In place of a deployment.")
    provider = serializers.CharField(source="deployment.provider.name", default=None)
    model = serializers.CharField(
        source="deployment.model", default=None, help_text="The provider's name for the model."
    )
    enabled = serializers.SerializerMethodField()
    capabilities = serializers.SerializerMethodField()

    class Meta:
        model = AliasTarget
        fields = (
            "deployment", "alias", "provider", "model", "enabled", "weight", "canary_percent", "position", "capabilities",
        )  # fmt: skip

    def get_enabled(self, target: AliasTarget) -> bool:
        place = target.deployment or target.target_alias
        return place is not None and place.enabled

    @extend_schema_field(CapabilitiesSerializer(allow_null=True))
    def get_capabilities(self, target: AliasTarget) -> dict[str, Any] | None:
        if target.deployment is None:
            return None
        entries = target.deployment.provider.catalogue.all()
        entry = next((each for each in entries if each.model == target.deployment.model), None)
        return None if entry is None else dict(CapabilitiesSerializer(entry).data)


class ModelSerializer(StrictModel[ModelAlias]):
    targets = TargetSerializer(many=True, read_only=True)

    class Meta:
        model = ModelAlias
        fields = ("id", "name", "strategy", "enabled", "retires_at", "replacement", "created_at", "targets")
        read_only_fields = ("id", "name", "strategy", "created_at")

    def update(self, instance: ModelAlias, validated_data: dict[str, Any]) -> ModelAlias:
        for column, value in validated_data.items():
            setattr(instance, column, value)
        instance.full_clean()
        instance.save(update_fields=list(validated_data))
        return instance


class ModelFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    name = django_filters.CharFilter("name", label="The whole name.")
    enabled = django_filters.BooleanFilter("enabled")
    provider = django_filters.CharFilter(
        "targets__deployment__provider__name", distinct=True, label="The name of a provider that may answer."
    )


class ModelViewSet(Readable[ModelAlias]):
    """The model names that applications call, and the deployments that may answer."""

    serializer_class = ModelSerializer
    read_scope, write_scope = "models:read", "models:write"
    filterset_class = ModelFilters
    search_fields = ("name",)
    ordering_fields = ("name", "created_at", "id")
    ordering = ("name",)

    def rows(self, reach: Reach) -> QuerySet[ModelAlias]:
        targets: QuerySet[Any] = AliasTarget.objects.select_related("deployment__provider", "target_alias")
        targets = targets.prefetch_related("deployment__provider__catalogue")
        return ModelAlias.objects.prefetch_related(Prefetch("targets", targets))

    @extend_schema(request=ModelSerializer(partial=True), responses=ModelSerializer)
    @writes
    def partial_update(self, request: Request, /, **kwargs: Any) -> Response:
        """Switch a model off or on, or say when it retires and what replaces it."""
        alias = self.locked()
        serializer = self.get_serializer(alias, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return self.shown(alias)
