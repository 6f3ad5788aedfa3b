"""Rate limits in the admin: beside what they belong to, and all together."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from llmgateway.admin_base import DistinctFormSet, GatewayAdmin, GatewayInline, badge
from llmgateway.admin_rules import ScopeFilter, StartField, applies_to
from llmgateway.limit_terms import OWNERS, reset_seconds, reset_text
from llmgateway.models import RateLimit
from llmgateway.searches import WHOLE_NAME, of_found, owned_by_named
from providers.models import ModelAlias


class ResetField(forms.CharField):
    """A time span such as `30d`, kept in seconds."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=UnfoldAdminTextInputWidget({"placeholder": "30d"}), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return reset_text(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> Any:
        if not (text := str(value or "").strip()):
            return None
        try:
            return reset_seconds(text)
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(initial != self.to_python(data))
        except ValidationError:
            return True


class LimitForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    starts_on = StartField(label="Begins on", help_text="Of a week or a month.")
    reset_seconds = ResetField(
        label="Reset after", required=False, help_text="When a total starts anew, such as 12h or 30d. Empty: never."
    )


class LimitFormSet(DistinctFormSet):
    distinct_fields = ("metric", "per", "each", "model", "shadow")


class LimitInline(GatewayInline):
    """The terms that are asked for most; a limit's own page has all of them."""

    model = RateLimit
    form = LimitForm
    formset = LimitFormSet
    show_change_link = True
    fields: ClassVar[tuple[str, ...]] = ("metric", "per", "amount", "burst", "shadow", "enabled")
    verbose_name_plural = "rate limits"


class CallerLimitInline(LimitInline):
    """Those who ask may have limits for one model, and for each address or end user."""

    fields: ClassVar[tuple[str, ...]] = ("metric", "per", "amount", "burst", "each", "model", "shadow", "enabled")


class KeyLimitInline(CallerLimitInline):
    fk_name = "key"


class TeamLimitInline(CallerLimitInline):
    fk_name = "team"


class ProviderLimitInline(LimitInline):
    fk_name = "provider"


class DeploymentLimitInline(LimitInline):
    fk_name = "deployment"


class AliasLimitInline(LimitInline):
    fk_name = "alias"


@admin.register(RateLimit)
class RateLimitAdmin(GatewayAdmin):
    form = LimitForm
    empty_text = (
        "Without limits keys may send as many requests as the providers take. Limits also stand on the page of what they "
        "belong to."
    )
    list_display = ("limit", "scope", "burst", "state")
    list_select_related = OWNERS
    # The newest first: by the names of their owners, all of a million would be sorted for each page.
    ordering = ("-pk",)
    list_filter = (
        ScopeFilter,
        "metric",
        "per",
        "each",
        "shadow",
        "enabled",
        ("key", AutocompleteSelectFilter),
        ("team", AutocompleteSelectFilter),
    )
    search_fields = (*(f"={owner}__name" for owner in OWNERS), "=model")
    search_help_text = "The whole name of a key, team, provider, deployment or model."
    autocomplete_fields = OWNERS
    fieldsets = (
        ("Limit", {"fields": ("metric", "per", "amount", "burst", "shadow", "enabled")}),
        (
            "Applies to",
            {"fields": (*OWNERS, "each", "model"), "description": "Of one owner; with none it is for everyone."},
        ),
        ("Particulars", {"fields": ("starts_on", "reset_seconds", "reset_anchor", "oversize")}),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[RateLimit], search_term: str
    ) -> tuple[QuerySet[RateLimit], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        # Of keys there may be hundreds of thousands, with an index of names as they are written.
        found = owned_by_named(RateLimit, WHOLE_NAME, term, key="name")
        if ModelAlias.objects.filter(name__iexact=term).exists():
            found |= Q(model__iexact=term) & ~Q(model="")
        return of_found(queryset.filter(found), queryset), False

    @display(description="Limit")  # type: ignore[untyped-decorator]
    def limit(self, limit: RateLimit) -> str:
        return limit.terms

    @display(description="Applies to")  # type: ignore[untyped-decorator]
    def scope(self, limit: RateLimit) -> str:
        return applies_to(limit)

    @display(description="State")  # type: ignore[untyped-decorator]
    def state(self, limit: RateLimit) -> SafeString:
        if not limit.enabled:
            return badge("off", "neutral")
        return badge("shadow", "warning") if limit.shadow else badge("enforced", "good")
