"""What the admin pages of limits and of budgets share: whose a rule is, and where its weeks and months begin."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminSelectWidget

from llmgateway.admin_base import DistinctFormSet
from llmgateway.limit_terms import LAST_START_DAY, OWNERS, WEEKDAYS
from llmgateway.rule_owners import is_of_everyone

START_CHOICES = [
    ("", "By itself"),
    ("Week", [(day, day.capitalize()) for day in WEEKDAYS]),
    ("Month", [(str(day), f"Day {day}") for day in range(1, LAST_START_DAY + 1)]),
]


class StartField(forms.ChoiceField):
    """Where a week or month begins: a weekday or a day of the month."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(choices=START_CHOICES, required=False, widget=UnfoldAdminSelectWidget(), **kwargs)


class RuleForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    """A limit or budget. Beside an owner who is being added it is nobody's yet, and must not be taken for everyone's."""

    owner_is_new = False

    def _get_validation_exclusions(self) -> set[str]:
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]  # Django's own, and not in the stubs
        return excluded | set(OWNERS) if self.owner_is_new else excluded


class RuleFormSet(DistinctFormSet):
    """The rules of one owner."""

    def _construct_form(self, i: int, **kwargs: Any) -> Any:
        form = super()._construct_form(i, **kwargs)
        form.owner_is_new = self.instance.pk is None
        return form


class ScopeFilter(admin.SimpleListFilter):
    """Whose a rule is; of limits and budgets alike."""

    title = "scope"
    parameter_name = "scope"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("everyone", "Everyone"), *((owner, owner.capitalize()) for owner in OWNERS)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "everyone":
            return queryset.filter(is_of_everyone())
        return queryset.filter(**{f"{self.value()}__isnull": False}) if self.value() in OWNERS else queryset


def applies_to(rule: Any) -> str:
    """Whose a limit or budget is, for people."""
    owner = next((name for name in OWNERS if getattr(rule, f"{name}_id") is not None), None)
    whose = f"{owner} {getattr(rule, owner)}" if owner else "everyone"
    if rule.each:
        return f"{rule.get_each_display()} of {whose}" if owner else rule.get_each_display()
    return whose if owner else "everyone together"
