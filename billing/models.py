"""What it costs: prices, budgets, and the ledger with its rollups.

Money is pico-dollars (10⁻¹² USD) in 64-bit integers; see `billing.money`.
"""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from billing.money import MAX_LIMIT_USD, PICO_PER_USD, format_usd
from llmgateway.validators import validate_name

TOKEN_BUCKETS = (
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "audio_input",
    "image_input",
    "output",
    "reasoning",
    "audio_output",
)
"""The disjoint kinds of tokens, in the order in which they are shown."""


DEAREST_TOKEN = 10**9
"""Pico-dollars, $1,000 per million tokens: with as many tokens as a provider may report, still a 64-bit number."""
DEAREST_REQUEST = 1_000 * PICO_PER_USD

_NOT_TOO_DEAR = MaxValueValidator(
    DEAREST_TOKEN, "More than $1,000 per million tokens is surely a slip; check the unit."
)


def _price(help_text: str = "") -> models.BigIntegerField[int | None, int | None]:
    return models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(0), _NOT_TOO_DEAR], help_text=help_text
    )


class Price(models.Model):
    """What a provider's model costs from a moment on, in pico-dollars per token. Never edited: a new row supersedes it."""

    provider = models.ForeignKey("providers.Provider", on_delete=models.CASCADE, related_name="prices")
    model = models.CharField(max_length=200, validators=[validate_name], help_text="The provider's name for the model.")
    effective_from = models.DateTimeField()
    input = models.BigIntegerField(validators=[MinValueValidator(0), _NOT_TOO_DEAR])
    output = models.BigIntegerField(default=0, validators=[MinValueValidator(0), _NOT_TOO_DEAR])
    cache_read = _price()
    cache_write_5m = _price()
    cache_write_1h = _price()
    audio_input = _price()
    image_input = _price()
    reasoning = _price()
    audio_output = _price()
    request = models.BigIntegerField(
        default=0,
        validators=[
            MinValueValidator(0),
            MaxValueValidator(DEAREST_REQUEST, "More than $1,000 per request is surely a slip."),
        ],
        help_text="Pico-dollars per request.",
    )
    source = models.CharField(max_length=100, blank=True, default="", help_text="Where the figures come from.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("provider", "model", "-effective_from")
        constraints = (
            models.UniqueConstraint(fields=("provider", "model", "effective_from"), name="one_price_per_moment"),
        )

    def __str__(self) -> str:
        return f"{self.provider}/{self.model} from {self.effective_from:%Y-%m-%d}"


class Budget(models.Model):
    """How much may be spent in a window by one key, one team, or everyone (neither set)."""

    class Window(models.TextChoices):
        HOUR = "hour", "Hour"
        DAY = "day", "Day"
        WEEK = "week", "Week"
        MONTH = "month", "Month"
        TOTAL = "total", "Total (never resets)"

    class Mode(models.TextChoices):
        EXPECTED = "expected", "Expected cost"

    name = models.CharField(max_length=100, validators=[validate_name])
    key = models.ForeignKey(
        "llmgateway.ApiKey", on_delete=models.CASCADE, null=True, blank=True, related_name="budgets"
    )
    team = models.ForeignKey("llmgateway.Team", on_delete=models.CASCADE, null=True, blank=True, related_name="budgets")
    window = models.CharField(max_length=8, choices=Window.choices, default=Window.MONTH)
    limit_pico_usd = models.BigIntegerField(
        "limit", validators=[MinValueValidator(0), MaxValueValidator(MAX_LIMIT_USD * PICO_PER_USD)]
    )
    mode = models.CharField(max_length=16, choices=Mode.choices, default=Mode.EXPECTED)
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ("team", "key", "name")
        constraints = (
            models.CheckConstraint(condition=Q(key__isnull=True) | Q(team__isnull=True), name="budget_of_one_scope"),
            models.UniqueConstraint(
                fields=("key", "name"), condition=Q(key__isnull=False), name="one_budget_per_key_and_name"
            ),
            models.UniqueConstraint(
                fields=("team", "name"), condition=Q(team__isnull=False), name="one_budget_per_team_and_name"
            ),
            models.UniqueConstraint(
                fields=("name",), condition=Q(key__isnull=True, team__isnull=True), name="one_global_budget_per_name"
            ),
        )

    def __str__(self) -> str:
        return f"{self.name}: {format_usd(self.limit_pico_usd)} per {self.window}"

    def clean(self) -> None:
        if self.key_id and self.team_id:
            raise ValidationError({"team": "A budget is of one key or one team; leave one of them empty."})


class UsageRecord(models.Model):
    """One request that was admitted: what it used, what it cost, and how it ended. Written by the drain alone.

    Columns follow the journal's `close` record. Token columns are disjoint and add up to what the provider reported.
    On PostgreSQL the table is partitioned by `day`; no other table may refer to it with a database constraint.
    """

    class Status(models.TextChoices):
        COMPLETED = "completed", "Completed"
        CANCELLED = "cancelled", "Cancelled by the client"
        FAILED = "failed", "Failed"
        INTERRUPTED = "interrupted", "Interrupted"

    class UsageSource(models.TextChoices):
        PROVIDER = "provider", "Reported by the provider"
        ESTIMATED = "estimated", "Estimated"
        NONE = "none", "Nothing used"

    id = models.CharField(primary_key=True, max_length=40)
    day = models.DateField()
    started_at = models.DateTimeField()
    status = models.CharField(max_length=16, choices=Status.choices)
    http_status = models.PositiveSmallIntegerField(default=0, help_text="What the client saw; 0 if it left before.")
    error_type = models.CharField(max_length=64, blank=True, default="")
    key_id = models.CharField(max_length=64, help_text="The key's row id, or `file:` and a name.")
    key_name = models.CharField(max_length=200)
    team_id = models.BigIntegerField(default=0)
    team_name = models.CharField(max_length=200, blank=True, default="")
    end_user = models.CharField(max_length=200, blank=True, default="")
    client_request_id = models.CharField(max_length=128, blank=True, default="")
    client_ip = models.CharField(max_length=45, blank=True, default="")
    operation = models.CharField(max_length=32)
    alias = models.CharField(max_length=200)
    provider = models.CharField(max_length=200, blank=True, default="")
    deployment = models.CharField(max_length=200, blank=True, default="")
    model = models.CharField(
        max_length=200, blank=True, default="", help_text="The model that was asked of the provider."
    )
    response_model = models.CharField(max_length=200, blank=True, default="")
    stream = models.BooleanField(default=False)
    input = models.BigIntegerField("input tokens", default=0)
    cache_read = models.BigIntegerField(default=0)
    cache_write_5m = models.BigIntegerField(default=0)
    cache_write_1h = models.BigIntegerField(default=0)
    audio_input = models.BigIntegerField(default=0)
    image_input = models.BigIntegerField(default=0)
    output = models.BigIntegerField("output tokens", default=0)
    reasoning = models.BigIntegerField(default=0)
    audio_output = models.BigIntegerField(default=0)
    usage_source = models.CharField(max_length=16, choices=UsageSource.choices, default=UsageSource.NONE)
    usage_raw = models.JSONField(null=True, blank=True, help_text="The provider's usage as it came.")
    cost_pico_usd = models.BigIntegerField("cost", default=0)
    held_pico_usd = models.BigIntegerField("held", default=0)
    price_id = models.BigIntegerField(null=True, blank=True)
    priced = models.BooleanField(default=True, help_text="Whether a price was in force; unpriced is not free.")
    duration_us = models.BigIntegerField(default=0)
    ttft_us = models.BigIntegerField(null=True, blank=True)
    overhead_us = models.BigIntegerField(default=0, help_text="Time in the gateway itself, up to the upstream request.")
    attempts = models.JSONField(
        default=list, help_text="Each upstream call: deployment, status, cause, duration, cost."
    )

    class Meta:
        ordering = ("-started_at", "-id")
        verbose_name = "usage record"
        indexes = (
            models.Index(fields=("key_id", "started_at"), name="usage_by_key"),
            models.Index(fields=("team_id", "started_at"), name="usage_by_team"),
            models.Index(fields=("started_at",), name="usage_by_start"),
        )

    def __str__(self) -> str:
        return self.id


class UsageRollup(models.Model):
    """Sums of one hour for one combination of team, key, alias, deployment, model and status.

    Histograms map a bucket number to a count (see `billing.histogram`) and are merged by adding. Requests refused
    before any upstream call are counted here with status `refused` and stand in no ledger row.
    """

    hour = models.DateTimeField()
    team_id = models.BigIntegerField(default=0)
    key_id = models.CharField(max_length=64)
    alias = models.CharField(max_length=200)
    provider = models.CharField(max_length=200, blank=True, default="")
    deployment = models.CharField(max_length=200, blank=True, default="")
    model = models.CharField(max_length=200, blank=True, default="")
    status = models.CharField(max_length=16)
    team_name = models.CharField(max_length=200, blank=True, default="")
    key_name = models.CharField(max_length=200, blank=True, default="")
    requests = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0, help_text="All input buckets.")
    output_tokens = models.BigIntegerField(default=0, help_text="All output buckets.")
    cache_read_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    cost_pico_usd = models.BigIntegerField(default=0)
    estimated_requests = models.BigIntegerField(default=0)
    unpriced_requests = models.BigIntegerField(default=0)
    ttft_histogram = models.JSONField(default=dict)
    duration_histogram = models.JSONField(default=dict)
    overhead_histogram = models.JSONField(default=dict)

    class Meta:
        ordering = ("-hour",)
        constraints = (
            models.UniqueConstraint(
                fields=("hour", "team_id", "key_id", "alias", "provider", "deployment", "model", "status"),
                name="one_rollup_per_hour",
            ),
        )
        indexes = (
            # The keys of a team's page are summed from this index alone, for rows carry wide histograms.
            models.Index(
                fields=("team_id", "hour", "key_id", "status", "requests", "cost_pico_usd", "key_name"),
                name="rollup_by_team",
            ),
            models.Index(fields=("key_id", "hour"), name="rollup_by_key"),
        )

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.alias}"


class TeamHour(models.Model):
    """Sums of one hour of one team over all its keys: what the team's page reads. Written with the rollups.

    `by_model` maps a model and a status to sums (see `billing.team_hours`), refused requests included.
    """

    hour = models.DateTimeField()
    team_id = models.BigIntegerField()
    by_model = models.JSONField(default=dict)
    ttft_histogram = models.JSONField(default=dict)
    duration_histogram = models.JSONField(default=dict)
    overhead_histogram = models.JSONField(default=dict)

    class Meta:
        ordering = ("-hour",)
        constraints = (models.UniqueConstraint(fields=("team_id", "hour"), name="one_row_per_team_and_hour"),)

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h team {self.team_id}"


class JournalOffset(models.Model):
    """How far a worker's journal has been moved into the ledger. Compare-and-set of `offset` makes it exactly once."""

    journal = models.CharField(primary_key=True, max_length=64)
    segment = models.BigIntegerField(default=1)
    offset = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.journal}/{self.segment}@{self.offset}"


__all__ = ["TOKEN_BUCKETS", "Budget", "JournalOffset", "Price", "TeamHour", "UsageRecord", "UsageRollup"]
