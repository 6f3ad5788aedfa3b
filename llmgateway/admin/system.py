"""Where keys are looked up, and the settings that may change while the gateway runs."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import action
from unfold.widgets import UnfoldAdminPasswordToggleWidget

from billing.money import pico_from_usd, pico_per_token, plain, usd, usd_per_million
from llmgateway import conf as conf_module
from llmgateway import services
from llmgateway.admin_base import AmountField, GatewayAdmin, ObjectField
from llmgateway.models import AuthSource, BannedKey, GatewaySettings
from llmgateway.settings_model import overriding_variables


@admin.register(AuthSource)
class AuthSourceAdmin(GatewayAdmin):
    empty_text = "Without sources keys are looked up in the database. It stays the first of them when you add another."
    list_display = ("name", "kind", "position", "enabled")
    search_fields = ("name",)
    fields = ("name", "kind", "path", "position", "enabled")

    def save_model(self, request: HttpRequest, obj: AuthSource, form: Any, change: bool) -> None:
        database = services.source_save(obj)
        if database is not None:
            messages.info(
                request,
                f"The database stays the first place where keys are looked up: it is the source “{database}” now. "
                "Delete that if the keys made here should not work any more.",
            )
        _warn_of_database_keys(request)

    def delete_model(self, request: HttpRequest, obj: AuthSource) -> None:
        super().delete_model(request, obj)
        _warn_of_database_keys(request)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[AuthSource]) -> None:
        super().delete_queryset(request, queryset)
        _warn_of_database_keys(request)


def _warn_of_database_keys(request: HttpRequest) -> None:
    """Whoever takes the database out of the sources is told what that means."""
    sources = AuthSource.objects.all()
    if sources.exists() and not sources.filter(kind=AuthSource.Kind.DATABASE, enabled=True).exists():
        messages.warning(
            request,
            "No source looks in the database, so the keys made here are unknown to the gateway and get 401. "
            "If they should work too, add a source of the kind Database.",
        )


class BannedKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    """Takes the key itself too, for whoever has found one that leaked; it is not kept."""

    key = forms.CharField(
        label="Or the key itself",
        required=False,
        max_length=8192,
        widget=UnfoldAdminPasswordToggleWidget({"autocomplete": "off"}),
        help_text="A provider's key that leaked, for one. Its digest alone is kept.",
    )

    class Meta:
        model = BannedKey
        fields = ("digest", "note")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "digest" in self.fields:
            self.fields["digest"].required = False

    def clean(self) -> dict[str, Any]:
        said = super().clean() or self.cleaned_data
        key = (said.get("key") or "").strip()
        if bool(key) == bool(said.get("digest")) and "digest" not in self.errors:
            raise forms.ValidationError("Give either the digest or the key itself.")
        if key:
            said["digest"] = services.own_key_digest(key)
        return said


@admin.register(BannedKey)
class BannedKeyAdmin(GatewayAdmin):
    form = BannedKeyForm
    empty_text = "Keys that callers bring themselves are banned here, by the digest that usage rows show."
    list_display = ("digest", "note", "created_at")
    search_fields = ("digest", "note")
    fields = ("digest", "key", "note")


def _default_price(kind: str) -> AmountField:
    return AmountField(
        label=f"{kind}, in USD per million tokens",
        read=pico_per_token,
        show=lambda pico: plain(usd_per_million(pico)),
        required=False,
    )


class SettingsForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    chars_per_token_by_provider = ObjectField(
        label="Characters per token by adapter",
        placeholder='{"openai": 4.2}',
        help_text="In place of what is usual for an adapter's models, by the adapter's name.",
    )
    vendor_models = ObjectField(
        label="Models of vendors",
        placeholder='{"openai": "gpt-4o-mini"}',
        help_text="The alias that a vendor's name stands for in the simple API. Those that are not named here: the first "
        "alias that leads to the provider.",
    )
    default_input_price = _default_price("Input")
    default_output_price = _default_price("Output")
    default_request_price = AmountField(
        label="Per request, in USD", read=pico_from_usd, show=lambda pico: plain(usd(pico)), required=False
    )

    class Meta:
        model = GatewaySettings
        fields = (
            "default_input_price", "default_output_price", "default_request_price", "chars_per_token_by_provider",
            "vendor_models",
        )  # fmt: skip


@admin.register(GatewaySettings)
class GatewaySettingsAdmin(GatewayAdmin):
    """One row, opened at once: there is nothing to choose from a list of one."""

    form = SettingsForm
    fieldsets = (
        ("Requests", {"fields": ("request_body_limit_mb", "foreign_keys")}),
        ("Retries", {"fields": ("retry_attempts", "retry_initial_ms", "retry_max_ms", "retry_factor", "retry_jitter")}),
        (
            "Circuits",
            {
                "fields": (
                    "circuit_mode",
                    ("circuit_failures", "circuit_window_s"),
                    ("circuit_open_s", "circuit_wait_s"),
                )
            },
        ),
        ("Load", {"fields": (("max_in_flight", "max_queued"), "queue_wait_s")}),
        ("Kept answers", {"fields": ("cache_enabled", ("cache_ttl_s", "cache_max_mb"))}),
        ("Simple API", {"fields": ("vendor_models",)}),
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
    actions_detail = ("forget_answers",)

    @action(  # type: ignore[untyped-decorator]
        description="Forget kept answers", url_path="forget-answers", permissions=["change"], icon="delete_sweep"
    )
    def forget_answers(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if not self.has_change_permission(request):
            raise PermissionDenied
        back = reverse("admin:llmgateway_gatewaysettings_change", args=[1])
        if request.method == "POST":
            services.forget_all_answers()
            messages.success(request, "Every kept answer is forgotten; within a second no request gets one any more.")
            return redirect(back)
        question = "Forget every kept answer?"
        context = {
            **self.admin_site.each_context(request),
            "title": question,
            "question": question,
            "explanation": "Of all aliases, on all workers, in memory and in Redis. The next question of each kind is "
            "asked of a provider again.",
            "opts": self.opts,
            "confirm": "Forget them",
            "variant": "danger",
            "back": back,
        }
        return TemplateResponse(request, "gateway_admin/action.html", context)

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
        kwargs["help_texts"] = {
            name: f"{variable} is set in the environment to {conf_module.conf.values[variable]} and wins over this."
            for name, variable in overriding_variables().items()
        }
        return super().get_form(request, obj, change, **kwargs)
