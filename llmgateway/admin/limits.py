"""Rate limits in the admin: beside their key or team, and all together."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display

from llmgateway.admin_base import DistinctFormSet, GatewayAdmin, GatewayInline
from llmgateway.models import RateLimit


class LimitFormSet(DistinctFormSet):
    distinct_fields = ("metric", "per")


class LimitInline(GatewayInline):
    model = RateLimit
    formset = LimitFormSet
    fields = ("metric", "per", "amount", "burst", "enabled")
    verbose_name_plural = "rate limits"


class KeyLimitInline(LimitInline):
    fk_name = "key"


class TeamLimitInline(LimitInline):
    fk_name = "team"


class RateLimitForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned and cleaned.get("key") and cleaned.get("team"):
            raise ValidationError({"team": "A limit is of one key or one team; leave one of them empty."})
        return cleaned


@admin.register(RateLimit)
class RateLimitAdmin(GatewayAdmin):
    form = RateLimitForm
    empty_text = "Without limits keys may send as many requests as the providers take. Limits of one key or team stand on its page, too."
    list_display = ("limit", "scope", "burst", "enabled")
    list_select_related = ("key", "team")
    list_filter = (("key", AutocompleteSelectFilter), ("team", AutocompleteSelectFilter), "enabled")
    search_fields = ("=key__name", "=team__name")
    autocomplete_fields = ("key", "team")
    fields = ("key", "team", "metric", "per", "amount", "burst", "enabled")

    @display(description="Limit")  # type: ignore[untyped-decorator]
    def limit(self, limit: RateLimit) -> str:
        return str(limit)

    @display(description="Applies to")  # type: ignore[untyped-decorator]
    def scope(self, limit: RateLimit) -> str:
        if limit.key:
            return f"key {limit.key}"
        return f"team {limit.team}" if limit.team else "everyone together"
