"""What it costs: prices, budgets, and the ledger with its rollups.

Money is pico-dollars (10⁻¹² USD) in 64-bit integers; see `billing.money`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing.alerts.models import Alert
from billing.day_models import DayMark, KeyDay, TeamDay
from billing.money import MAX_LIMIT_USD, PICO_PER_USD, format_usd
from billing.object_models import KeptObject
from billing.price_models import TOKEN_BUCKETS, Price
from billing.reporters.models import Delivery, ReporterState, UsageReporter
from billing.response_models import KeptTurn
from llmgateway.limit_terms import OWNERS, start_number
from llmgateway.rule_owners import is_of_callers, is_of_everyone, of_one_owner, owner_errors
from llmgateway.validators import validate_name, validate_percents

if TYPE_CHECKING:
    from django.db.models.fields.related_descriptors import RelatedManager

BUDGET_STANDS_TWICE = "There is a budget of this name already; change that one, or choose another name."

MAX_LIMIT = MAX_LIMIT_USD * PICO_PER_USD


class Budget(models.Model):
    """How much may be spent in a window by one key, team, provider, deployment or alias, or by everyone (none set)."""

    class Window(models.TextChoices):
        HOUR = "hour", "Hour"
        DAY = "day", "Day"
        WEEK = "week", "Week"
        MONTH = "month", "Month"
        TOTAL = "total", "Total (never resets)"

    class Mode(models.TextChoices):
        EXPECTED = "expected", "Expected cost"
        STRICT = "strict", "Strict (worst case)"

    class Each(models.TextChoices):
        IP = "ip", "each address"
        END_USER = "end_user", "each end user"

    name = models.CharField(max_length=100, validators=[validate_name])
    key = models.ForeignKey(
        "llmgateway.ApiKey", on_delete=models.CASCADE, null=True, blank=True, related_name="budgets"
    )
    team = models.ForeignKey("llmgateway.Team", on_delete=models.CASCADE, null=True, blank=True, related_name="budgets")
    provider = models.ForeignKey(
        "providers.Provider", on_delete=models.CASCADE, null=True, blank=True, related_name="budgets"
    )
    deployment = models.ForeignKey(
        "providers.Deployment", on_delete=models.CASCADE, null=True, blank=True, related_name="budgets"
    )
    alias = models.ForeignKey(
        "providers.ModelAlias", on_delete=models.CASCADE, null=True, blank=True, related_name="budgets"
    )
    each = models.CharField(
        "counts for",
        max_length=16,
        choices=Each.choices,
        blank=True,
        default="",
        help_text="Every address or end user has this budget for itself. Empty: all of them together.",
    )
    window = models.CharField(max_length=8, choices=Window.choices, default=Window.MONTH)
    starts_on = models.CharField(
        max_length=9,
        blank=True,
        default="",
        help_text="The weekday (monday) or day of the month (1 to 28) on which a week or month begins.",
    )
    limit_pico_usd = models.BigIntegerField("limit", validators=[MinValueValidator(0), MaxValueValidator(MAX_LIMIT)])
    mode = models.CharField(
        max_length=16,
        choices=Mode.choices,
        default=Mode.EXPECTED,
        help_text="Strict holds the most a request can cost and lowers its output cap, so that nothing is overspent.",
    )
    alerts = models.JSONField(
        "alert at",
        default=list,
        blank=True,
        validators=[validate_percents],
        help_text="Percents of the limit at which somebody is told, and nothing is refused.",
    )
    increase_pico_usd = models.BigIntegerField(
        "temporary increase", default=0, validators=[MinValueValidator(0), MaxValueValidator(MAX_LIMIT)]
    )
    increase_until = models.DateTimeField("until", null=True, blank=True)
    increase_reason = models.CharField("because", max_length=200, blank=True, default="")
    enabled = models.BooleanField(default=True)

    if TYPE_CHECKING:
        credits: RelatedManager[BudgetCredit]

    class Meta:
        ordering = ("team", "key", "provider", "deployment", "alias", "name")
        constraints = (
            models.CheckConstraint(condition=of_one_owner(), name="budget_of_one_scope"),
            models.CheckConstraint(condition=Q(each="") | is_of_callers(), name="budget_of_callers"),
            models.CheckConstraint(
                condition=Q(starts_on="") | Q(window__in=("week", "month")), name="budget_starts_on_a_day"
            ),
            models.CheckConstraint(
                condition=Q(increase_pico_usd=0) | Q(increase_until__isnull=False), name="budget_increase_ends"
            ),
            *(
                models.UniqueConstraint(
                    fields=(owner, "name"),
                    condition=Q(**{f"{owner}__isnull": False}),
                    name=f"one_budget_per_{owner}_and_name",
                    violation_error_message=BUDGET_STANDS_TWICE,
                )
                for owner in OWNERS
            ),
            models.UniqueConstraint(
                fields=("name",),
                condition=is_of_everyone(),
                name="one_global_budget_per_name",
                violation_error_message=BUDGET_STANDS_TWICE,
            ),
        )

    def __str__(self) -> str:
        when = "in total" if self.window == self.Window.TOTAL else f"per {self.window}"
        return f"{self.name}: {format_usd(self.limit_pico_usd)} {when}"

    def clean(self) -> None:
        errors = owner_errors(self)
        if self.increase_pico_usd and self.increase_until is None:
            errors["increase_until"] = "An increase is for a time; say until when."
        credit = self.credit_pico_usd() if self.pk else 0
        if credit and self.window != self.Window.TOTAL:
            errors["window"] = "It has prepaid credit, which only a budget in total can have; remove the credit first."
        if (self.limit_pico_usd or 0) + credit + (self.increase_pico_usd or 0) > MAX_LIMIT:
            field = "increase_pico_usd" if self.increase_pico_usd else "limit_pico_usd"
            errors[field] = f"With its credit and increase a budget may be {MAX_LIMIT_USD:,} USD at most."
        try:
            start_number(self.window, self.starts_on)
        except ValueError as error:
            errors["starts_on"] = str(error)
        if errors:
            raise ValidationError(errors)

    def credit_pico_usd(self, at: datetime | None = None) -> int:
        """What prepaid credit adds to the limit at a moment (now, unless one is given)."""
        at = at or timezone.now()
        return sum(credit.adds_pico_usd(at) for credit in self.credits.all())

    def whole_limit_pico_usd(self, at: datetime | None = None) -> int:
        """What may be spent in the window at a moment: the limit, its credit, and the increase while it lasts."""
        at = at or timezone.now()
        increased = self.increase_until is not None and at < self.increase_until
        return self.limit_pico_usd + self.credit_pico_usd(at) + (self.increase_pico_usd if increased else 0)


class BudgetCredit(models.Model):
    """Money paid in advance: it adds to the limit of a budget in total, until it expires."""

    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="credits")
    amount_pico_usd = models.BigIntegerField("amount", validators=[MinValueValidator(1), MaxValueValidator(MAX_LIMIT)])
    note = models.CharField(max_length=200, blank=True, default="", help_text="Such as the number of an invoice.")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=200, blank=True, default="", editable=False)
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="From then on what was not spent no longer adds to the limit. Empty: never."
    )
    used_pico_usd = models.BigIntegerField(
        "used",
        null=True,
        blank=True,
        editable=False,
        help_text="What of it was spent when it expired, and stays part of the limit. Empty: not known yet.",
    )

    class Meta:
        ordering = ("created_at", "id")
        verbose_name = "prepaid credit"

    def __str__(self) -> str:
        return f"{format_usd(self.amount_pico_usd)} for {self.budget.name}"

    def adds_pico_usd(self, at: datetime) -> int:
        """To the limit, at a moment: all of it until it expires, then what was spent of it."""
        if self.expires_at is None or self.expires_at > at:
            return self.amount_pico_usd
        return self.used_pico_usd or 0

    def save(self, *args: Any, **options: Any) -> None:
        if self.used_pico_usd is not None and (self.expires_at is None or self.expires_at > timezone.now()):
            self.used_pico_usd = None  # It goes on after all.
        super().save(*args, **options)

    def clean(self) -> None:
        if not self.budget_id or not self.amount_pico_usd:
            return
        if self.budget.window != Budget.Window.TOTAL:
            raise ValidationError({"budget": "Only a budget in total takes prepaid credit; this one begins anew."})
        now = timezone.now()
        others = sum(credit.adds_pico_usd(now) for credit in self.budget.credits.all() if credit.pk != self.pk)
        if self.budget.limit_pico_usd + self.budget.increase_pico_usd + others + self.amount_pico_usd > MAX_LIMIT:
            message = f"With this credit the budget would be larger than {MAX_LIMIT_USD:,} USD."
            raise ValidationError({"amount_pico_usd": message})


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
        COUNTED = "counted", "Counted in the request"
        NONE = "none", "Nothing used"

    class Cache(models.TextChoices):
        HIT = "hit", "Kept answer"
        SEMANTIC = "semantic", "Kept answer of a similar question"
        MISS = "miss", "No kept answer"

    id = models.CharField(primary_key=True, max_length=40)
    day = models.DateField()
    started_at = models.DateTimeField()
    admitted_at = models.DateTimeField(
        null=True, blank=True, help_text="When it counted for limits and budgets. Empty: when it started."
    )
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
    path = models.CharField(max_length=128, blank=True, default="", help_text="Where it was called.")
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
    units = models.JSONField(
        null=True,
        blank=True,
        help_text="What is not counted in tokens, by name: milliseconds of sound, characters, images, searches.",
    )
    cost_pico_usd = models.BigIntegerField("cost", default=0)
    reported_cost_pico_usd = models.BigIntegerField(
        "cost as reported", null=True, blank=True, help_text="What the provider says that it cost. Empty: it does not."
    )
    held_pico_usd = models.BigIntegerField("held", default=0)
    price_id = models.BigIntegerField(null=True, blank=True)
    priced = models.BooleanField(
        default=True, help_text="Whether a price of the model was in force; unpriced is not free."
    )
    default_price = models.BooleanField(
        "at the default price",
        default=False,
        help_text="No price of the model was in force, and it was charged at the default price of the settings.",
    )
    duration_us = models.BigIntegerField(default=0)
    ttft_us = models.BigIntegerField(null=True, blank=True)
    overhead_us = models.BigIntegerField(default=0, help_text="Time in the gateway itself, up to the upstream request.")
    attempts = models.JSONField(
        default=list, help_text="Each upstream call: deployment, status, cause, duration, cost."
    )
    over_hold = models.BooleanField(default=False, help_text="It cost more than strict budgets held for it.")
    needs_review = models.BooleanField(
        default=False, help_text="What it cost is a guess, because the process died during an upstream call."
    )
    reserved_pico_usd = models.BigIntegerField(
        "reserved", default=0, help_text="Besides its cost, strict budgets are charged this until it is reviewed."
    )
    reviewed_at = models.DateTimeField(null=True, blank=True)
    reviewed_by = models.CharField(max_length=200, blank=True, default="")
    counted = models.BooleanField(
        default=True, help_text="Whether it counts for limits of requests: not where no provider did anything for it."
    )
    input_estimate = models.BigIntegerField(
        default=0, help_text="Input tokens as they were estimated before the request was sent; 0: not known."
    )
    input_bytes = models.BigIntegerField(default=0, help_text="Size of the body; 0: not known.")
    cache = models.CharField(
        max_length=8,
        choices=Cache.choices,
        blank=True,
        default="",
        help_text="Whether a kept answer served. Empty: none was looked for.",
    )
    saved_pico_usd = models.BigIntegerField(
        "saved", default=0, help_text="What it would have cost without the kept answer."
    )
    mirror_of = models.CharField(
        max_length=64,
        blank=True,
        default="",
        help_text="The request that this mirrors. Its answer went to nobody.",
    )
    via = models.CharField(
        max_length=2010,
        blank=True,
        default="",
        help_text="The aliases between the one asked for and the target, in order.",
    )
    own_key = models.CharField(
        max_length=64,
        blank=True,
        default="",
        help_text="Digest of the caller's own key at the provider, whose account paid. Empty: the gateway's did.",
    )

    class Meta:
        ordering = ("-started_at", "-id")
        verbose_name = "usage record"
        indexes = (
            models.Index(fields=("key_id", "started_at"), name="usage_by_key"),
            models.Index(fields=("team_id", "started_at"), name="usage_by_team"),
            models.Index(fields=("started_at",), name="usage_by_start"),
            # Few rows: what dead processes left. Rows that need no review cost this index nothing.
            models.Index(fields=("started_at",), condition=Q(needs_review=True), name="usage_for_review"),
            # Rows of clients that name neither cost these nothing.
            models.Index(fields=("end_user", "started_at"), condition=~Q(end_user=""), name="usage_by_end_user"),
            models.Index(
                fields=("client_request_id", "started_at"),
                condition=~Q(client_request_id=""),
                name="usage_by_client_request",
            ),
            models.Index(fields=("started_at",), condition=~Q(via=""), name="usage_by_way"),
        )

    def __str__(self) -> str:
        return self.id


class UsageRollup(models.Model):
    """Sums of one hour for one combination of team, key, alias, deployment, model, status and refusal.

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
    code = models.CharField(
        max_length=64, blank=True, default="", help_text="Why requests were refused: the error code."
    )
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
    counted_requests = models.BigIntegerField(default=0, help_text="Those that count for limits of requests.")
    ttft_histogram = models.JSONField(default=dict)
    duration_histogram = models.JSONField(default=dict)
    overhead_histogram = models.JSONField(default=dict)

    class Meta:
        ordering = ("-hour",)
        constraints = (
            models.UniqueConstraint(
                fields=("hour", "team_id", "key_id", "alias", "provider", "deployment", "model", "status", "code"),
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


class Reconciliation(models.Model):
    """What one comparison of rollups with the ledger found. The newest says whether they agree."""

    finished_at = models.DateTimeField()
    since = models.DateTimeField(help_text="The first hour that was compared.")
    hours = models.PositiveIntegerField(help_text="Hours that were compared.")
    drifted = models.PositiveIntegerField(help_text="Rows of sums that differ from the ledger and were not repaired.")
    repaired = models.PositiveIntegerField(help_text="Rows of sums that differed and were repaired.")

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.finished_at:%Y-%m-%d %H:%M}: {self.drifted} drifted, {self.repaired} repaired"


class JournalOffset(models.Model):
    """How far a worker's journal has been moved into the ledger. Compare-and-set of `offset` makes it exactly once."""

    journal = models.CharField(primary_key=True, max_length=64)
    segment = models.BigIntegerField(default=1)
    offset = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.journal}/{self.segment}@{self.offset}"


__all__ = [
    "TOKEN_BUCKETS",
    "Alert",
    "Budget",
    "BudgetCredit",
    "DayMark",
    "Delivery",
    "JournalOffset",
    "KeptObject",
    "KeptTurn",
    "KeyDay",
    "Price",
    "Reconciliation",
    "ReporterState",
    "TeamDay",
    "TeamHour",
    "UsageRecord",
    "UsageReporter",
    "UsageRollup",
]
