"""The catalogue: what models of providers can do. Entries that somebody writes win over those of the installed data."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet
from rest_framework import serializers

from llmgateway.management_api.fields import NameField, Saved
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Removable, worded
from providers import services
from providers.models import CatalogueEntry, Provider
from providers.validators import MODALITIES


def _kinds(help_text: str) -> serializers.ListField:
    kinds = serializers.CharField(max_length=20)
    return serializers.ListField(
        child=kinds, required=False, help_text=f"{help_text} One of {', '.join(MODALITIES)} each."
    )


class CatalogueEntrySerializer(Saved[CatalogueEntry]):
    provider = NameField(queryset=Provider.objects.all(), help_text="The provider's name.")
    input_modalities = _kinds("What it reads.")
    output_modalities = _kinds("What it answers with.")

    class Meta:
        model = CatalogueEntry
        fields = (
            "id", "provider", "model", "context_window", "max_output_tokens", "input_modalities", "output_modalities",
            "tools", "reasoning", "deprecated_on", "source",
        )  # fmt: skip
        read_only_fields = ("source",)
        # Uniqueness is checked below, with a message that names the model.
        validators: tuple[Any, ...] = ()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        row = self.instance if isinstance(self.instance, CatalogueEntry) else CatalogueEntry()
        provider, model = attrs.get("provider", getattr(row, "provider", None)), attrs.get("model", row.model)
        if CatalogueEntry.objects.filter(provider=provider, model=model).exclude(pk=row.pk).exists():
            raise serializers.ValidationError(
                {"model": f"The catalogue has {provider}/{model} already; change that entry."}
            )
        return attrs

    def write(self, row: CatalogueEntry, columns: dict[str, Any]) -> None:
        services.catalogue_entry_save(row, columns)


class CatalogueFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    provider = django_filters.CharFilter("provider__name", label="The provider's name.")
    model = django_filters.CharFilter("model", label="The provider's name for the model.")
    source = django_filters.CharFilter("source", label="Where it is from.")
    own = django_filters.BooleanFilter("source", "exact", method="of_somebody", label="Written by somebody.")

    def of_somebody(self, entries: QuerySet[CatalogueEntry], _name: str, own: bool) -> QuerySet[CatalogueEntry]:
        return entries.filter(source="") if own else entries.exclude(source="")


@worded(
    create="Say what a model can do. No update of the installed data goes over it.",
    change="Change what is named. The entry is somebody's own from then on: its `source` is empty.",
    delete="Delete it. `./gateway update-prices --apply` brings back what the installed data has.",
)
class CatalogueViewSet(Removable[CatalogueEntry]):
    """What models can do: their context window, what they read and say, when they are given up. For everybody the same."""

    serializer_class = CatalogueEntrySerializer
    read_scope, write_scope = "catalogue:read", "catalogue:write"
    filterset_class = CatalogueFilters
    search_fields = ("model", "provider__name")
    ordering_fields = ("model", "provider__name", "deprecated_on", "id")
    ordering = ("provider__name", "model")

    def rows(self, reach: Reach) -> QuerySet[CatalogueEntry]:
        return CatalogueEntry.objects.select_related("provider")
