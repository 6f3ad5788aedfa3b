"""Budgets in the admin: limits are typed and shown in dollars, beside what the present window has cost."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display

from billing.admin.alerts import ReachedDisplay
from billing.admin.spending import Spending, spending
from billing.models import Budget
from billing.money import MAX_LIMIT_USD, PICO_PER_USD, format_usd, pico_from_usd, plain, usd
from llmgateway.admin_base import AmountField, DistinctFormSet, GatewayAdmin, GatewayInline, badge


def _limit(amount: Any) -> int:
    pico = pico_from_usd(amount)
    if pico < 0:
        raise ValueError("A limit cannot be negative; 0 means that nothing may be spent.")
    if pico > MAX_LIMIT_USD * PICO_PER_USD:
        raise ValueError(f"The largest limit is {MAX_LIMIT_USD:,} USD.")
    return pico


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    limit_pico_usd = AmountField(
        label="Limit in USD",
        read=_limit,
        show=lambda pico: plain(usd(pico)),
        help_text="0 means that nothing may be spent.",
    )

    class Meta:
        model = Budget
        fields = ("name", "key", "team", "window", "limit_pico_usd", "mode", "enabled")


class BudgetFormSet(DistinctFormSet):
    distinct_fields = ("name",)


def _spending_of(budget: Any) -> Spending:
    # Three columns show it; the row is asked for it once.
    if not hasattr(budget, "present_spending"):
        budget.present_spending = spending(budget)
    found: Spending = budget.present_spending
    return found


class SpendingDisplay:
    """What a budget's present window has cost (settled) and holds for requests under way (held)."""

    @display(description="Settled")  # type: ignore[untyped-decorator]
    def settled(self, budget: Budget) -> str:
        return format_usd(_spending_of(budget).settled_pico_usd) if budget.pk else "–"

    @display(description="Held")  # type: ignore[untyped-decorator]
    def held(self, budget: Budget) -> str:
        return format_usd(_spending_of(budget).held_pico_usd) if budget.pk else "–"

    @display(description="Used")  # type: ignore[untyped-decorator]
    def used(self, budget: Budget) -> SafeString:
        now = _spending_of(budget)
        share = now.share_of(budget.limit_pico_usd)
        tone = "bad" if share >= 100 else "warning" if share >= 80 else "good"
        return badge(f"{share} %", tone)


class BudgetInline(SpendingDisplay, GatewayInline):
    model = Budget
    form = BudgetForm
    formset = BudgetFormSet
    fields = ("name", "window", "limit_pico_usd", "mode", "enabled", "settled", "held")
    readonly_fields = ("settled", "held")


class KeyBudgetInline(BudgetInline):
    fk_name = "key"


class TeamBudgetInline(BudgetInline):
    fk_name = "team"


@admin.register(Budget)
class BudgetAdmin(ReachedDisplay, SpendingDisplay, GatewayAdmin):
    form = BudgetForm
    empty_text = (
        "Without budgets keys may spend as much as they like. Budgets of one key or team stand on its page, too."
    )
    list_display = ("name", "scope", "window", "limit", "settled", "held", "used", "enabled")
    list_display_links = ("name",)
    list_select_related = ("key__team", "team")
    list_filter = (("key", AutocompleteSelectFilter), ("team", AutocompleteSelectFilter), "window", "enabled")
    search_fields = ("name", "=key__name", "=team__name")
    search_help_text = "Part of a budget's name, or the whole name of a key or team."
    autocomplete_fields = ("key", "team")
    fields = (
        "name",
        "key",
        "team",
        "window",
        "limit_pico_usd",
        "mode",
        "enabled",
        "settled",
        "held",
        "reached_thresholds",
    )
    readonly_fields = ("settled", "held", "reached_thresholds")
    list_per_page = 25

    @display(description="Applies to")  # type: ignore[untyped-decorator]
    def scope(self, budget: Budget) -> str:
        if budget.key:
            return f"key {budget.key}"
        return f"team {budget.team}" if budget.team else "everyone together"

    @display(description="Limit", ordering="limit_pico_usd")  # type: ignore[untyped-decorator]
    def limit(self, budget: Budget) -> str:
        return format_usd(budget.limit_pico_usd)
