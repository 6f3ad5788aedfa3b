"""What the admin pages of limits and of budgets share: whose a rule is, and where its weeks and months begin."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminSelectWidget

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
