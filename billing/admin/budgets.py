"""Budgets in the admin: limits are typed and shown in dollars, beside what the present window has cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from billing.admin.alerts import ReachedDisplay
from billing.admin.spending import Spending, spendings
from billing.models import Budget, BudgetCredit
from billing.money import MAX_LIMIT_USD, PICO_PER_USD, format_usd, pico_from_usd, plain, usd
from llmgateway.admin_base import AmountField, DistinctFormSet, GatewayAdmin, GatewayInline, badge
from llmgateway.admin_rules import ScopeFilter, StartField, applies_to
from llmgateway.limit_terms import OWNERS
from llmgateway.searches import WHOLE_NAME, of_found, owned_by_named, part_of, words_of
from llmgateway.validators import validate_percents


def read_limit(amount: Any) -> int:
    """Dollars that somebody typed, in pico-dollars."""
    pico = pico_from_usd(amount)
    if pico < 0:
        raise ValueError("A limit cannot be negative; 0 means that nothing may be spent.")
    if pico > MAX_LIMIT_USD * PICO_PER_USD:
        raise ValueError(f"The largest limit is {MAX_LIMIT_USD:,} USD.")
    return pico


def _show_usd(pico: int) -> str:
    return plain(usd(pico))


class PercentsField(forms.CharField):
    """Whole percents with commas between them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=UnfoldAdminTextInputWidget({"placeholder": "50, 80, 100"}), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(str(percent) for percent in value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        texts = [text for text in str(value or "").replace(",", " ").replace("%", " ").split() if text]
        try:
            percents = [int(text) for text in texts]
        except ValueError:
            raise ValidationError("Write whole percents, such as 50, 80, 100.") from None
        validate_percents(percents)
        return percents

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool((initial or []) != self.to_python(data))
        except ValidationError:
            return True


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    limit_pico_usd = AmountField(
        label="Limit in USD", read=read_limit, show=_show_usd, help_text="0 means that nothing may be spent."
    )
    starts_on = StartField(label="Begins on", help_text="Of a week or a month.")
    alerts = PercentsField(
        label="Alert at %", required=False, help_text="Percents of the limit at which somebody is told."
    )
    increase_pico_usd = AmountField(
        label="Increase in USD",
        required=False,
        read=read_limit,
        show=lambda pico: _show_usd(pico) if pico else "",
        help_text="Added to the limit until the moment below, and then no longer.",
    )

    class Meta:
        model = Budget
        fields = ("name", "window", "limit_pico_usd", "mode", "alerts", "starts_on", "enabled", "increase_pico_usd")

    def clean_increase_pico_usd(self) -> int:
        return self.cleaned_data["increase_pico_usd"] or 0


class BudgetFormSet(DistinctFormSet):
    distinct_fields = ("name",)


def _spending_of(budget: Any) -> Spending:
    # Several columns show it; the row is asked for it once.
    if not hasattr(budget, "present_spending"):
        _note_spendings([budget])
    found: Spending = budget.present_spending
    return found


def _note_spendings(budgets: Sequence[Any]) -> None:
    for budget, now in zip(budgets, spendings(budgets), strict=True):
        budget.present_spending = now


class SpendingDisplay:
    """What a budget's present window has cost (settled) and holds for requests under way (held)."""

    @display(description="Limit now")  # type: ignore[untyped-decorator]
    def limit_now(self, budget: Budget) -> str:
        """With prepaid credit and increase."""
        return format_usd(_spending_of(budget).limit_pico_usd) if budget.pk else "–"

    @display(description="Settled")  # type: ignore[untyped-decorator]
    def settled(self, budget: Budget) -> str:
        return format_usd(_spending_of(budget).settled_pico_usd) if budget.pk else "–"

    @display(description="Held")  # type: ignore[untyped-decorator]
    def held(self, budget: Budget) -> str:
        return format_usd(_spending_of(budget).held_pico_usd) if budget.pk and not budget.each else "–"

    @display(description="Remaining")  # type: ignore[untyped-decorator]
    def remaining(self, budget: Budget) -> str:
        return format_usd(_spending_of(budget).remaining_pico_usd) if budget.pk else "–"

    @display(description="Used")  # type: ignore[untyped-decorator]
    def used(self, budget: Budget) -> SafeString:
        now = _spending_of(budget)
        share = now.share
        tone = "bad" if share >= 100 else "warning" if share >= 80 else "good"
        # Of a budget for each end user, the one that has spent most.
        return badge(f"{share} % by {now.subject}" if now.subject else f"{share} %", tone)


class BudgetInline(SpendingDisplay, GatewayInline):
    """The terms that are asked for most; a budget's own page has all of them."""

    model = Budget
    form = BudgetForm
    formset = BudgetFormSet
    show_change_link = True
    fields = ("name", "window", "limit_pico_usd", "mode", "enabled", "settled", "held")
    readonly_fields = ("settled", "held")


class KeyBudgetInline(BudgetInline):
    fk_name = "key"


class TeamBudgetInline(BudgetInline):
    fk_name = "team"


class ProviderBudgetInline(BudgetInline):
    fk_name = "provider"


class DeploymentBudgetInline(BudgetInline):
    fk_name = "deployment"


class AliasBudgetInline(BudgetInline):
    fk_name = "alias"


class CreditForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    amount_pico_usd = AmountField(label="Amount in USD", read=read_limit, show=_show_usd)

    class Meta:
        model = BudgetCredit
        fields = ("amount_pico_usd", "note", "expires_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.disabled = field.disabled or self.instance.pk is not None


class CreditInline(GatewayInline):
    """Money paid in advance is history: it is added, and not edited."""

    model = BudgetCredit
    form = CreditForm
    fields = ("amount_pico_usd", "note", "expires_at", "kept", "created_at", "created_by")
    readonly_fields = ("kept", "created_at", "created_by")
    verbose_name_plural = "prepaid credit"

    @admin.display(description="stays", empty_value="")
    def kept(self, row: BudgetCredit) -> str | None:
        """Of one that has expired, what was spent of it."""
        return None if row.used_pico_usd is None else format_usd(row.used_pico_usd)


@admin.register(Budget)
class BudgetAdmin(ReachedDisplay, SpendingDisplay, GatewayAdmin):
    form = BudgetForm
    empty_text = (
        "Without budgets keys may spend as much as they like. Budgets also stand on the page of what they belong to."
    )
    list_display = ("name", "scope", "window", "limit_now", "settled", "held", "remaining", "used", "enabled")
    list_display_links = ("name",)
    list_select_related = ("key__team", "team", "provider", "deployment", "alias")
    list_filter = (
        ScopeFilter,
        "window",
        "mode",
        "each",
        "enabled",
        ("key", AutocompleteSelectFilter),
        ("team", AutocompleteSelectFilter),
    )
    # The newest first: by the names of their owners, all of them would be sorted for each page.
    ordering = ("-pk",)
    search_fields = ("name", *(f"={owner}__name" for owner in OWNERS))
    search_help_text = "Part of a budget's name, or the whole name of what it belongs to."
    autocomplete_fields = OWNERS
    fieldsets = (
        ("Budget", {"fields": ("name", "window", "limit_pico_usd", "mode", "alerts", "starts_on", "enabled")}),
        ("Now", {"fields": ("limit_now", "settled", "held", "remaining", "reached_thresholds")}),
        ("Temporary increase", {"fields": ("increase_pico_usd", "increase_until", "increase_reason")}),
        ("Applies to", {"fields": (*OWNERS, "each"), "description": "Of one owner; with none it is for everyone."}),
    )
    readonly_fields = ("limit_now", "settled", "held", "remaining", "reached_thresholds")
    inlines = (CreditInline,)
    list_per_page = 25

    def get_queryset(self, request: HttpRequest) -> QuerySet[Budget]:
        found: QuerySet[Budget] = super().get_queryset(request).prefetch_related("credits")
        return found

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Budget], search_term: str
    ) -> tuple[QuerySet[Budget], bool]:
        found = queryset
        for word in words_of(search_term):
            found = found.filter(part_of("name", word) | owned_by_named(Budget, WHOLE_NAME, word))
        return (queryset if found is queryset else of_found(found, queryset)), False

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """With what all budgets of the page stand at."""
        page: ChangeList = super().get_changelist_instance(request)
        page.result_list = list(page.result_list)
        _note_spendings(page.result_list)
        return page

    def get_inlines(self, request: HttpRequest, obj: Budget | None = None) -> Any:
        """Only a budget in total takes credit, and what begins anew need not say so."""
        return self.inlines if obj is not None and obj.window == Budget.Window.TOTAL else ()

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        for credit in formset.save(commit=False):
            credit.created_by = request.user.get_username()
            credit.save()
        for credit in formset.deleted_objects:
            credit.delete()

    @display(description="Applies to")  # type: ignore[untyped-decorator]
    def scope(self, budget: Budget) -> str:
        return applies_to(budget)
