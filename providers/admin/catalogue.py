"""What models can do, in the admin: entries of the installed catalogue, and people's own."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from llmgateway.admin_base import GatewayAdmin
from providers.models import CatalogueEntry
from providers.validators import MODALITIES


class CatalogueEntryForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    input_modalities = forms.MultipleChoiceField(
        choices=[(kind, kind) for kind in MODALITIES], required=False, widget=UnfoldAdminCheckboxSelectMultipleWidget
    )
    output_modalities = forms.MultipleChoiceField(
        choices=[(kind, kind) for kind in MODALITIES], required=False, widget=UnfoldAdminCheckboxSelectMultipleWidget
    )

    class Meta:
        model = CatalogueEntry
        fields = ("input_modalities", "output_modalities")


def described(entry: CatalogueEntry | None) -> str:
    """What is known of a model, in one line."""
    if entry is None:
        return "not in the catalogue"
    kinds = ", ".join(entry.input_modalities), ", ".join(entry.output_modalities)
    said = (
        entry.context_window and f"{entry.context_window:,} tokens of context",
        entry.max_output_tokens and f"at most {entry.max_output_tokens:,} of output",
        kinds[0] and f"takes {kinds[0]}",
        kinds[1] and f"gives {kinds[1]}",
        entry.tools is not None and ("tools" if entry.tools else "no tools"),
        entry.reasoning is not None and ("reasoning" if entry.reasoning else "no reasoning"),
        entry.deprecated_on and f"deprecated on {entry.deprecated_on:%Y-%m-%d}",
    )
    return "; ".join(text for text in said if text) or "nothing is known"


def entry_of(provider_id: int, model: str) -> CatalogueEntry | None:
    return CatalogueEntry.objects.filter(provider_id=provider_id, model=model).first()


@admin.register(CatalogueEntry)
class CatalogueEntryAdmin(GatewayAdmin):
    form = CatalogueEntryForm
    empty_text = (
        "The catalogue says what models can do. ./gateway update-prices --apply fills it from the installed data."
    )
    list_display = ("model", "provider", "knowledge", "whose")
    list_select_related = ("provider",)
    list_filter = (("provider", AutocompleteSelectFilter),)
    search_fields = ("model", "provider__name")
    autocomplete_fields = ("provider",)
    readonly_fields = ("whose",)
    fieldsets = (
        (None, {"fields": ("provider", "model", "whose")}),
        ("Tokens", {"fields": (("context_window", "max_output_tokens"),)}),
        ("Abilities", {"fields": ("input_modalities", "output_modalities", ("tools", "reasoning"), "deprecated_on")}),
    )

    @display(description="Can do")  # type: ignore[untyped-decorator]
    def knowledge(self, entry: CatalogueEntry) -> str:
        return described(entry)

    @display(description="Whose")  # type: ignore[untyped-decorator]
    def whose(self, entry: CatalogueEntry) -> str:
        return entry.source or "your own"

    def save_model(self, request: HttpRequest, obj: CatalogueEntry, form: Any, change: bool) -> None:
        """What somebody has written is theirs: no update of the catalogue goes over it."""
        obj.source = ""
        super().save_model(request, obj, form, change)
