"""Model aliases and where they lead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import django_filters
from django.db.models import Prefetch, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway.management_api.fields import NameField, StrictModel, UsdField
from llmgateway.management_api.filters import NameFilters
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Removable, worded, writes
from llmgateway.services import forget_all_answers
from providers import services
from providers.models import AliasFallback, AliasRule, AliasTarget, CatalogueEntry, Deployment, ModelAlias


class CapabilitiesSerializer(serializers.ModelSerializer[CatalogueEntry]):
    """What a model can do. Absent figures are not known."""

    class Meta:
        model = CatalogueEntry
        fields = (
            "context_window", "max_output_tokens", "input_modalities", "output_modalities", "tools", "reasoning",
            "deprecated_on", "source",
        )  # fmt: skip


class TargetSerializer(serializers.ModelSerializer[AliasTarget]):
    deployment = NameField(queryset=Deployment.objects.all(), required=False, allow_null=True)
    alias = NameField(
        source="target_alias", queryset=ModelAlias.objects.all(), required=False, allow_null=True,
        help_text="In place of a deployment.",
    )  # fmt: skip
    provider = serializers.CharField(source="deployment.provider.name", default=None, read_only=True)
    model = serializers.CharField(
        source="deployment.model", default=None, read_only=True, help_text="The provider's name for the model."
    )
    enabled = serializers.SerializerMethodField()
    capabilities = serializers.SerializerMethodField()

    class Meta:
        model = AliasTarget
        fields = (
            "deployment", "alias", "provider", "model", "enabled", "weight", "canary_percent", "position", "capabilities",
        )  # fmt: skip
        read_only_fields = ("position",)
        validators: tuple[Any, ...] = ()

    def to_internal_value(self, data: Any) -> Any:
        # What is only shown may be sent back, so that what was read can be written; a slip must not pass for a success.
        if isinstance(data, Mapping) and (wrong := [name for name in data if name not in self.fields]):
            raise serializers.ValidationError({name: ["There is no such field."] for name in wrong})
        return super().to_internal_value(data)

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


class RuleSerializer(StrictModel[AliasRule]):
    use = NameField(queryset=ModelAlias.objects.all(), help_text="An alias.")

    class Meta:
        model = AliasRule
        fields = ("name", "when", "use", "enabled")


class FallbackSerializer(StrictModel[AliasFallback]):
    use = NameField(queryset=ModelAlias.objects.all(), help_text="An alias.")

    class Meta:
        model = AliasFallback
        fields = ("cause", "use")


class ModelSerializer(StrictModel[ModelAlias]):
    targets = TargetSerializer(
        many=True, required=False, help_text="Written, they take the place of all that are there."
    )
    rules = RuleSerializer(many=True, required=False, help_text="Likewise. The first that holds decides.")
    fallbacks = FallbackSerializer(many=True, required=False, help_text="Likewise.")
    parameter_defaults = serializers.DictField(required=False, help_text="For requests that do not say.")
    parameter_overrides = serializers.DictField(
        required=False, help_text="Whatever requests say; null removes a field."
    )
    cache_embeddings = NameField(queryset=ModelAlias.objects.all(), required=False, allow_null=True)
    hedge_max_usd = UsdField(
        source="hedge_max_pico_usd", required=False, allow_null=True, help_text="What a second attempt may cost."
    )
    mirror_alias = NameField(queryset=ModelAlias.objects.all(), required=False, allow_null=True)

    class Meta:
        model = ModelAlias
        fields = (
            "id", "name", "strategy", "sticky", "enabled", "retires_at", "replacement", "parameter_defaults",
            "parameter_overrides", "first_token_timeout_s", "idle_timeout_s", "total_timeout_s", "retry_attempts",
            "cache_ttl_s", "cache_mode", "cache_similarity", "cache_embeddings", "cache_generation", "hedge_max_usd",
            "hedge_after_s", "mirror_alias", "mirror_percent", "created_at", "targets", "rules", "fallbacks",
        )  # fmt: skip
        read_only_fields = ("id", "cache_generation", "created_at")

    def create(self, validated_data: dict[str, Any]) -> ModelAlias:
        return services.alias_create(validated_data)

    def update(self, instance: ModelAlias, validated_data: dict[str, Any]) -> ModelAlias:
        services.alias_update(instance, validated_data)
        return instance


class ModelFilters(NameFilters):
    enabled = django_filters.BooleanFilter("enabled")
    provider = django_filters.CharFilter(
        "targets__deployment__provider__name", distinct=True, label="The name of a provider that may answer."
    )


@worded(
    create="Create a model name with its targets, rules and fallbacks. It can be called within a second.",
    change="Change what is named in the body, and leave the rest: switch a model off, retire it, say where it leads.",
    delete="Delete it with its own limits and budgets, unless another alias leads to it. Calls of it are answered 404.",
)
class ModelViewSet(Removable[ModelAlias]):
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
        aliases = ModelAlias.objects.select_related("cache_embeddings", "mirror_alias")
        return aliases.prefetch_related(Prefetch("targets", targets), "rules__use", "fallbacks__use")

    @extend_schema(request=None, responses=ModelSerializer)
    @action(detail=True, methods=["post"], url_path="purge-cache")
    @writes
    def purge_cache(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Forget every answer that was kept for the model. Within a second nobody gets one any more."""
        services.alias_forget_answers(self.locked())
        return self.shown(self.get_object())

    @extend_schema(operation_id="models_purge_every_cache", request=None, responses={204: None}, filters=False)
    @action(detail=False, methods=["post"], url_path="purge-cache", pagination_class=None, filter_backends=[])
    @writes
    def purge_every_cache(self, request: Request) -> Response:
        """Forget every answer that was kept, of all models."""
        forget_all_answers()
        return Response(status=status.HTTP_204_NO_CONTENT)
