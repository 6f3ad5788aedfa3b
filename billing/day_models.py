"""Rows of `billing.day_sums`: what each day that is over came to, and up to where days are summed."""

from __future__ import annotations

from django.db import models


class DaySums(models.Model):
    """Sums of one whole day that is over, in UTC. See `billing.day_sums`, which alone writes them."""

    day = models.DateTimeField(help_text="Its midnight.")
    team_id = models.BigIntegerField(default=0)
    alias = models.CharField(max_length=200)
    provider = models.CharField(max_length=200, blank=True, default="")
    deployment = models.CharField(max_length=200, blank=True, default="")
    model = models.CharField(max_length=200, blank=True, default="")
    status = models.CharField(max_length=16)
    code = models.CharField(max_length=64, blank=True, default="")
    team_name = models.CharField(max_length=200, blank=True, default="")
    requests = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_pico_usd = models.BigIntegerField(default=0)
    estimated_requests = models.BigIntegerField(default=0)
    unpriced_requests = models.BigIntegerField(default=0)
    counted_requests = models.BigIntegerField(default=0)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.day:%Y-%m-%d} {self.alias}"


class KeyDay(DaySums):
    """A day's sums for one combination of team, key, alias, deployment, model, status and refusal."""

    key_id = models.CharField(max_length=64)
    key_name = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("day", "team_id", "key_id", "alias", "provider", "deployment", "model", "status", "code"),
                name="one_row_per_key_and_day",
            ),
        )
        indexes = (
            models.Index(fields=("key_id", "day"), name="key_day_by_key"),
            models.Index(fields=("team_id", "day"), name="key_day_by_team"),
        )


class TeamDay(DaySums):
    """The same over all keys."""

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("day", "team_id", "alias", "provider", "deployment", "model", "status", "code"),
                name="one_row_per_team_and_day",
            ),
        )


class DayMark(models.Model):
    """Up to where days are summed: one row, or none at the very beginning."""

    summed_until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.summed_until:%Y-%m-%d}"


__all__ = ["DayMark", "KeyDay", "TeamDay"]
