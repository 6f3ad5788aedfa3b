"""Alerts in the admin: which budget reached which threshold when, and who was told."""

from __future__ import annotations

from datetime import datetime

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import formats, timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display

from billing.models import Alert, Budget
from billing.money import format_usd
from llmgateway.admin_base import ReadOnlyAdmin
from llmgateway.searches import PART_OF_NAME, of_found, through, words_of

SHOWN = 10


class ReachedDisplay:
    """The thresholds that a budget has reached lately, for its page."""

    @display(description="Thresholds reached")  # type: ignore[untyped-decorator]
    def reached_thresholds(self, budget: Budget) -> SafeString | str:
        alerts = budget.alert_rows.order_by("-at", "-threshold")[:SHOWN] if budget.pk else ()
        if not alerts:
            return "none"
        lines = (
            (alert.threshold, f" of {alert.subject}" if alert.subject else "", moment(alert.at)) for alert in alerts
        )
        return format_html_join(", ", "{} %{} on {}", lines)


def moment(at: datetime) -> str:
    """A moment as the admin writes it, for fields that Django does not format."""
    return formats.date_format(timezone.localtime(at), "DATETIME_FORMAT")


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """None can be deleted: a threshold whose alert is gone would fire again."""

    empty_text = "Once a budget reaches one of the percents at which it alerts, that stands here. Nothing is refused."
    list_display = ("at", "budget", "subject", "reached", "settled", "limit", "window_start", "notified_at")
    list_display_links = ("at",)
    list_select_related = ("budget",)
    list_filter = (("budget", AutocompleteSelectFilter), "threshold")
    search_fields = ("budget__name", "=subject")
    sortable_by = ()
    # They are written as they happen, and their ids have an index.
    ordering = ("-pk",)
    fields = (
        "at", "budget", "subject", "reached", "settled", "limit", "window_start", "notified_at", "notice_error",
    )  # fmt: skip
    readonly_fields = fields

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Alert], search_term: str
    ) -> tuple[QuerySet[Alert], bool]:
        found = queryset
        for word in words_of(search_term):
            found = found.filter(through("budget", Budget.objects.all(), PART_OF_NAME, word) | Q(subject__iexact=word))
        return (queryset if found is queryset else of_found(found, queryset)), False

    @display(description="Reached")  # type: ignore[untyped-decorator]
    def reached(self, alert: Alert) -> str:
        return f"{alert.threshold} %"

    @display(description="Settled then")  # type: ignore[untyped-decorator]
    def settled(self, alert: Alert) -> str:
        return format_usd(alert.settled_pico_usd)

    @display(description="Limit then")  # type: ignore[untyped-decorator]
    def limit(self, alert: Alert) -> str:
        return format_usd(alert.limit_pico_usd)
