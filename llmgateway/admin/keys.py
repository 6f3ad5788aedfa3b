"""API keys in the admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import pluralize
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_post_parameters
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display

from billing.admin.budgets import KeyBudgetInline
from llmgateway import selectors, services
from llmgateway.admin.key_forms import KeyForm, NewKeyForm
from llmgateway.admin.key_pages import KeyPages, apply_to_key
from llmgateway.admin.key_usage import recent_usage
from llmgateway.admin.limits import KeyLimitInline
from llmgateway.admin_base import GatewayAdmin, badge, errors_of
from llmgateway.key_secrets import shown_id
from llmgateway.models import ApiKey, Team
from llmgateway.searches import of_found, part_of, words_of

STATE_TONES = {
    "active": "good",
    "disabled": "warning",
    "expired": "warning",
    "not yet valid": "neutral",
    "revoked": "bad",
}


RANK = ("priority", "may_bypass_health", "tenant_teams")


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("usable", "Usable now"), ("disabled", "Disabled"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        if self.value() == "usable":
            return queryset & selectors.usable_keys()
        if self.value() == "disabled":
            return queryset.filter(enabled=False, revoked_at=None)
        if self.value() == "revoked":
            return queryset.filter(revoked_at__isnull=False)
        return queryset


@admin.register(ApiKey)
class ApiKeyAdmin(KeyPages, GatewayAdmin):
    empty_text = "An application sends a key with each request. A new key's secret is shown once."
    list_display = ("name", "masked_key", "state", "team", "models", "expires_at", "created_at")
    list_select_related = ("team",)
    list_filter = (StateFilter, ("team", AutocompleteSelectFilter))
    search_fields = ("name", "=public_id", "=user_id", "=team__name")
    search_help_text = "Part of a name, or a whole public id (sk-gw-…), owner id or team."
    autocomplete_fields = ("team",)
    readonly_fields = ("masked_key", "state", "previous_valid_until", "revoked_at", "created_at")
    inlines = (KeyLimitInline, KeyBudgetInline)
    actions = ("enable_selected", "disable_selected", "revoke_selected")
    actions_row = ("rotate_key", "disable_key", "enable_key", "revoke_key")
    actions_detail = ("rotate_key", "disable_key", "enable_key", "revoke_key")
    change_form_outer_before_template = "gateway_admin/key_usage.html"
    add_fieldsets = (
        (None, {"fields": ("name", "team", "secret")}),
        ("What it may call, and from where", {"fields": ("allowed_models", "network_lists", "allowed_ips")}),
        ("When", {"fields": ("enabled", "starts_at", "expires_at", "user_id")}),
        ("Rank and reach", {"fields": RANK}),
    )
    fieldsets = (
        (None, {"fields": ("name", "team", "masked_key", "state", "previous_valid_until")}),
        ("What it may call, and from where", {"fields": ("allowed_models", "network_lists", "allowed_ips")}),
        ("When", {"fields": ("starts_at", "expires_at", "user_id", "created_at", "revoked_at")}),
        ("Rank and reach", {"fields": RANK}),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[ApiKey], search_term: str
    ) -> tuple[QuerySet[ApiKey], bool]:
        found = queryset
        for word in words_of(search_term):
            # Joined, the names of teams would keep indexes of keys from being used.
            teams = list(Team.objects.filter(name__iexact=word))
            named = part_of("name", word) | Q(user_id__iexact=word) | Q(team__in=teams)
            found = found.filter(named | Q(public_id__iexact=shown_id(word)))
        return (queryset if found is queryset else of_found(found, queryset)), False

    @display(description="Key")  # type: ignore[untyped-decorator]
    def masked_key(self, key: ApiKey) -> str:
        return key.masked

    @display(description="State")  # type: ignore[untyped-decorator]
    def state(self, key: ApiKey) -> SafeString:
        state = selectors.key_state(key)
        return badge(state, STATE_TONES[state])

    @display(description="Models")  # type: ignore[untyped-decorator]
    def models(self, key: ApiKey) -> str:
        names = key.allowed_models
        if not names:
            return "all"
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Only what the key's state allows."""
        possible = super().get_actions_detail(request, object_id)
        key = self.get_object(request, object_id) if possible else None
        if key is None or key.revoked_at:
            return []
        impossible = "enable_key" if key.enabled else "disable_key"
        return [action for action in possible if not action.action_name.endswith(impossible)]

    def get_form(self, request: HttpRequest, obj: ApiKey | None = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = KeyForm if obj else NewKeyForm
        return super().get_form(request, obj, change, **kwargs)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Revoking ends a key and keeps its name in the record; only keys that never worked may vanish altogether.
        return super().has_delete_permission(request, obj) and (obj is None or bool(getattr(obj, "revoked_at", None)))

    def get_actions(self, request: HttpRequest) -> Any:
        found = super().get_actions(request)
        found.pop("delete_selected", None)
        return found

    @method_decorator(sensitive_post_parameters("secret"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().changeform_view(request, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if not change:
            request.fresh_secret = services.key_assign_secret(  # type: ignore[attr-defined]  # for `response_add` alone
                obj, form.cleaned_data["secret"]
            )
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        services.key_set_networks(form.instance, form.cleaned_data["network_lists"])
        services.key_set_tenants(form.instance, form.cleaned_data["tenant_teams"])

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        secret: str = request.fresh_secret  # type: ignore[attr-defined]  # set by `save_model`
        return self.secret_page(request, obj, secret, f"{obj.name} is ready")

    def page_context(self, request: HttpRequest, object_id: str | None) -> dict[str, Any]:
        context = super().page_context(request, object_id)
        if object_id and context:
            context["usage"] = recent_usage(object_id)
        return context

    @admin.action(description="Enable selected keys", permissions=["change"])
    def enable_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        self._apply(request, "enable", queryset)

    @admin.action(description="Disable selected keys", permissions=["change"])
    def disable_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        self._apply(request, "disable", queryset)

    @admin.action(description="Revoke selected keys…", permissions=["change"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        if "confirmed" in request.POST:
            self._apply(request, "revoke", queryset)
            return None
        count = queryset.count()
        question = f"Revoke {count} key{pluralize(count)} for good?"
        context = {
            **self.admin_site.each_context(request),
            "title": question,
            "question": question,
            "explanation": self.CONFIRMATIONS["revoke"][1],
            "opts": self.opts,
            "listed": list(queryset[:100]),
            "hidden": [
                ("action", "revoke_selected"),
                ("confirmed", "yes"),
                *(("_selected_action", key.pk) for key in queryset),
            ],
            "confirm": "Revoke for good",
            "variant": "danger",
            "back": reverse("admin:llmgateway_apikey_changelist"),
        }
        return TemplateResponse(request, "gateway_admin/action.html", context)

    def _apply(self, request: HttpRequest, name: str, keys: QuerySet[ApiKey]) -> None:
        done = 0
        for key in keys:
            try:
                apply_to_key(name, key)
            except ValidationError as error:
                messages.error(request, errors_of(error))
            else:
                done += 1
        if done:
            messages.success(request, f"{done} key{pluralize(done)}: {name} done.")
