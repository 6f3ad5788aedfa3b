"""Thresholds that budgets have reached: each once per window, whatever happens to the limit afterwards."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from billing.money import format_usd


class Alert(models.Model):
    """A budget's spending reached so many percent of its limit. Nothing is refused because of it."""

    budget = models.ForeignKey("billing.Budget", on_delete=models.CASCADE, related_name="alert_rows")
    subject = models.CharField(
        max_length=200, blank=True, default="", help_text="Which address or end user, of a budget for each of them."
    )
    window_start = models.DateTimeField()
    threshold = models.PositiveSmallIntegerField("percent")
    settled_pico_usd = models.BigIntegerField("settled", help_text="When it was noticed.")
    limit_pico_usd = models.BigIntegerField("limit", help_text="When it was noticed, with credit and increase.")
    at = models.DateTimeField(default=timezone.now)
    notified_at = models.DateTimeField(null=True, blank=True, help_text="When the people concerned were written to.")
    notify_at = models.DateTimeField(
        default=timezone.now, editable=False, help_text="When to write to them, or to try again."
    )
    notice_error = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ("-at", "-id")
        constraints = (
            models.UniqueConstraint(
                fields=("budget", "subject", "window_start", "threshold"), name="one_alert_per_window_and_threshold"
            ),
        )
        indexes = (
            models.Index(fields=("notify_at",), condition=models.Q(notified_at=None), name="alerts_to_tell_people_of"),
        )

    def __str__(self) -> str:
        who = f" of {self.subject}" if self.subject else ""
        return f"{self.threshold} % of {self.budget.name}{who}"

    @property
    def sentence(self) -> str:
        """What happened, for a log line or a letter."""
        of = f" for {self.subject}" if self.subject else ""
        return (
            f"The budget {self.budget.name}{of} has used {format_usd(self.settled_pico_usd)} "
            f"of {format_usd(self.limit_pico_usd)}: {self.threshold} % are reached."
        )
