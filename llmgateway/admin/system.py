"""Where keys are looked up, and the settings that may change while the gateway runs."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from billing.money import pico_from_usd, pico_per_token, plain, usd, usd_per_million
from llmgateway import conf as conf_module
from llmgateway.admin_base import AmountField, GatewayAdmin
from llmgateway.models import AuthSource, BannedKey, GatewaySettings


@admin.register(AuthSource)
class AuthSourceAdmin(GatewayAdmin):
    empty_text = "Without sources keys are looked up in the database."
    list_display = ("name", "kind", "position", "enabled")
    search_fields = ("name",)
    fields = ("name", "kind", "path", "position", "enabled")


@admin.register(BannedKey)
class BannedKeyAdmin(GatewayAdmin):
    empty_text = "Keys that callers bring themselves are banned here, by the digest that usage rows show."
    list_display = ("digest", "note", "created_at")
    search_fields = ("digest", "note")
    fields = ("digest", "note")


def _default_price(kind: str) -> AmountField:
    return AmountField(
        label=f"{kind}, in USD per million tokens",
        read=pico_per_token,
        show=lambda pico: plain(usd_per_million(pico)),
        required=False,
    )


class SettingsForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    default_input_price = _default_price("Input")
    default_output_price = _default_price("Output")
    default_request_price = AmountField(
        label="Per request, in USD", read=pico_from_usd, show=lambda pico: plain(usd(pico)), required=False
    )

    class Meta:
        model = GatewaySettings
        fields = ("default_input_price", "default_output_price", "default_request_price")


@admin.register(GatewaySettings)
class GatewaySettingsAdmin(GatewayAdmin):
    """One row, opened at once: there is nothing to choose from a list of one."""

    form = SettingsForm
    fieldsets = (
        ("Requests", {"fields": ("request_body_limit_mb", "foreign_keys")}),
        ("Retries", {"fields": ("retry_attempts", "retry_initial_ms", "retry_max_ms", "retry_factor", "retry_jitter")}),
        (
            "Limits and budgets",
            {"fields": ("quota_status", "hold_wait_ms", "strict_min_output_tokens", "absent_cap_share")},
        ),
        (
            "Models without a price",
            {
                "fields": (("default_input_price", "default_output_price", "default_request_price"),),
                "description": (
                    "A model without a price is unpriced, not free: keys with a budget may not call it. With a default "
                    "price they may, and its requests are charged that and marked. Clear all three to have none."
                ),
            },
        ),
        (
            "Estimation of tokens",
            {
                "fields": (
                    "max_sample_bytes",
                    "bytes_per_token",
                    "chars_per_token",
                    "chars_per_token_by_provider",
                )
            },
        ),
    )
    # The environment wins over the row; who edits it should see that it has no effect.
    VARIABLES = {
        "request_body_limit_mb": "REQUEST_BODY_LIMIT_MB",
        "retry_attempts": "MAX_RETRIES",
        "retry_initial_ms": "INITIAL_BACKOFF",
        "retry_max_ms": "MAX_BACKOFF",
        "retry_factor": "BACKOFF_FACTOR",
        "retry_jitter": "JITTER",
    }

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        row, _ = GatewaySettings.objects.get_or_create(pk=1)
        return redirect(reverse("admin:llmgateway_gatewaysettings_change", args=[row.pk]))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        variables = {name: text for name, text in self.VARIABLES.items() if conf_module.conf.values.get(text, "")}
        kwargs["help_texts"] = {
            name: f"{variable} is set in the environment to {conf_module.conf.values[variable]} and wins over this."
            for name, variable in variables.items()
        }
        return super().get_form(request, obj, change, **kwargs)
