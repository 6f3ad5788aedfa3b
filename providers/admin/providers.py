"""Providers in the admin."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget

from billing.admin.budgets import ProviderBudgetInline
from llmgateway.admin.limits import ProviderLimitInline
from llmgateway.admin_base import GatewayAdmin
from providers.adapters.registry import adapter_names, get_adapter
from providers.admin.credentials import CredentialInline
from providers.models import Provider
from providers.validators import validate_provider_name


class ProviderForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    adapter = forms.ChoiceField(
        widget=UnfoldAdminSelectWidget(),
        help_text="How to talk to it. Servers that speak OpenAI's protocol use openai_compatible.",
    )

    class Meta:
        model = Provider
        fields = ("name", "adapter", "base_url", "allow_private_network", "enabled")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        adapter = self.fields.get("adapter")
        if isinstance(adapter, forms.ChoiceField):
            adapter.choices = [(name, name) for name in sorted(adapter_names() | {self.instance.adapter} - {""})]

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        validate_provider_name(name)
        return name


@admin.register(Provider)
class ProviderAdmin(GatewayAdmin):
    form = ProviderForm
    empty_text = "A provider is a vendor's API, or a server of your own that speaks one."
    list_display = ("name", "adapter", "address", "deployment_count", "enabled")
    list_filter = ("enabled",)
    search_fields = ("name", "base_url")
    fields = ("name", "adapter", "base_url", "allow_private_network", "enabled")
    inlines = (CredentialInline, ProviderLimitInline, ProviderBudgetInline)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        found: QuerySet[Provider] = (
            super().get_queryset(request).annotate(deployed=Count("deployments")).order_by("name")
        )
        return found

    @method_decorator(sensitive_post_parameters())
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().changeform_view(request, *args, **kwargs)

    @display(description="Address")  # type: ignore[untyped-decorator]
    def address(self, provider: Provider) -> str:
        if provider.base_url or provider.adapter not in adapter_names():
            return provider.base_url
        return get_adapter(provider.adapter).base_url

    @display(description="Deployments")  # type: ignore[untyped-decorator]
    def deployment_count(self, provider: Any) -> int:
        count: int = provider.deployed
        return count
