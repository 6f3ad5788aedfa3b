"""How much may pass in a period. A row of configuration, as those of `llmgateway.models`, where it is to be imported from."""

from __future__ import annotations

from collections.abc import Collection

from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from llmgateway.limit_terms import LONGEST_RESET_S, MOST, OWNERS, SHORTEST_RESET_S, limit_name, start_number
from llmgateway.rule_owners import is_of_callers, is_of_everyone, of_one_owner, owner_errors
from llmgateway.validators import validate_name

PERIODLESS = ("concurrency", "request_bytes")
"""Metrics of one moment: what runs, and what one request is."""
TOKEN_METRICS = ("tokens", "input_tokens", "output_tokens")
DISTINCT_LIMITS = ("each", "model", "metric", "per", "shadow")
"""What tells the limits of one owner apart. A trial in shadow may stand beside the limit that it is to replace."""
LIMIT_STANDS_TWICE = (
    "There is a limit of the same metric, period, model and subject already; change that one, or try this in shadow."
)

SHOWN_MODELS = 10
"""How many models a message lists."""


class RateLimit(models.Model):
    """How much of a metric may pass in a period, for one key, team, provider, deployment or alias, or for everyone."""

    class Metric(models.TextChoices):
        REQUESTS = "requests", "Requests"
        TOKENS = "tokens", "Tokens"
        INPUT_TOKENS = "input_tokens", "Input tokens"
        OUTPUT_TOKENS = "output_tokens", "Output tokens"
        CONCURRENCY = "concurrency", "Concurrent requests"
        REQUEST_BYTES = "request_bytes", "Bytes of a request"

    class Period(models.TextChoices):
        MINUTE = "minute", "per minute"
        HOUR = "hour", "per hour"
        DAY = "day", "per day"
        WEEK = "week", "per week"
        MONTH = "month", "per month"
        TOTAL = "total", "in total"

    class Each(models.TextChoices):
        IP = "ip", "each address"
        END_USER = "end_user", "each end user"
        MODEL = "model", "each model"

    class Oversize(models.TextChoices):
        REFUSE = "refuse", "Refuse it"
        FIRST_IN_WINDOW = "first_in_window", "Let it pass as the first of a window"

    key = models.ForeignKey("llmgateway.ApiKey", on_delete=models.CASCADE, null=True, blank=True, related_name="limits")
    team = models.ForeignKey("llmgateway.Team", on_delete=models.CASCADE, null=True, blank=True, related_name="limits")
    provider = models.ForeignKey(
        "providers.Provider", on_delete=models.CASCADE, null=True, blank=True, related_name="limits"
    )
    deployment = models.ForeignKey(
        "providers.Deployment", on_delete=models.CASCADE, null=True, blank=True, related_name="limits"
    )
    alias = models.ForeignKey(
        "providers.ModelAlias", on_delete=models.CASCADE, null=True, blank=True, related_name="limits"
    )
    each = models.CharField(
        "counts for",
        max_length=16,
        choices=Each.choices,
        blank=True,
        default="",
        help_text="Every address, end user or model has this much for itself. Empty: all of them together.",
    )
    model = models.CharField(
        max_length=200,
        blank=True,
        default="",
        validators=[validate_name],
        help_text="Counts for this alias alone, and stands there in place of the same limit without a model.",
    )
    metric = models.CharField(max_length=16, choices=Metric.choices, default=Metric.REQUESTS)
    per = models.CharField(
        "period",
        max_length=8,
        choices=Period.choices,
        blank=True,
        default=Period.MINUTE,
        help_text="Concurrent requests and the bytes of a request have none.",
    )
    amount = models.PositiveBigIntegerField(
        validators=[MaxValueValidator(MOST)], help_text="0 means that nothing is allowed."
    )
    burst = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(MOST)],
        help_text="How many may come at once, of a limit per minute. Empty: the amount.",
    )
    starts_on = models.CharField(
        max_length=9,
        blank=True,
        default="",
        help_text="The weekday (monday) or day of the month (1 to 28) on which a week or month begins.",
    )
    reset_seconds = models.PositiveIntegerField(
        "reset after",
        null=True,
        blank=True,
        validators=[MinValueValidator(SHORTEST_RESET_S), MaxValueValidator(LONGEST_RESET_S)],
        help_text="When a total starts anew, such as 12h or 30d. Empty: never.",
    )
    reset_anchor = models.DateTimeField(
        "first reset counted from", null=True, blank=True, help_text="Empty: from when the limit was made."
    )
    oversize = models.CharField(
        "larger than the limit",
        max_length=16,
        choices=Oversize.choices,
        default=Oversize.REFUSE,
        help_text="What happens to a request with more tokens than the whole limit.",
    )
    shadow = models.BooleanField(default=False, help_text="Counted and reported, but nobody is refused.")
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("key", "team", "provider", "deployment", "alias", "metric", "per")
        verbose_name = "rate limit"
        constraints = (
            models.CheckConstraint(condition=of_one_owner(), name="limit_of_one_scope"),
            models.CheckConstraint(
                condition=Q(metric__in=PERIODLESS, per="") | (~Q(metric__in=PERIODLESS) & ~Q(per="")),
                name="limit_has_its_period",
            ),
            models.CheckConstraint(
                condition=Q(burst__isnull=True) | Q(per="minute"), name="limit_bursts_per_minute_alone"
            ),
            models.CheckConstraint(
                condition=Q(reset_seconds__isnull=True, reset_anchor__isnull=True) | Q(per="total"),
                name="limit_resets_in_total_alone",
            ),
            models.CheckConstraint(
                condition=Q(starts_on="") | Q(per__in=("week", "month")), name="limit_starts_on_a_day"
            ),
            models.CheckConstraint(condition=Q(each="", model="") | is_of_callers(), name="limit_of_callers"),
            *(
                models.UniqueConstraint(
                    fields=(owner, *DISTINCT_LIMITS),
                    condition=Q(**{f"{owner}__isnull": False}),
                    name=f"one_limit_per_{owner}_and_metric",
                    violation_error_message=LIMIT_STANDS_TWICE,
                )
                for owner in OWNERS
            ),
            models.UniqueConstraint(
                fields=DISTINCT_LIMITS,
                condition=is_of_everyone(),
                name="one_global_limit_per_metric",
                violation_error_message=LIMIT_STANDS_TWICE,
            ),
        )

    def __str__(self) -> str:
        return f"{self.terms} (shadow)" if self.shadow else self.terms

    @property
    def terms(self) -> str:
        """What people call it: `60 requests per minute`."""
        return limit_name(
            self.metric, self.per, self.amount, model=self.model, each=self.each, reset_s=self.reset_seconds or 0
        )

    def clean(self) -> None:
        errors = owner_errors(self) or self._scope_errors()
        errors |= self._period_errors()
        if errors:
            raise ValidationError(errors)

    def validate_constraints(self, exclude: Collection[str] | None = None) -> None:
        """Besides those of the database: a limit for one model is for one that there is.

        A row that outlived its model can still be changed or switched off.
        """
        super().validate_constraints(exclude)
        if not self.model or "model" in (exclude or ()):
            return
        if type(self).objects.filter(pk=self.pk, model=self.model).exists():
            return
        aliases = apps.get_model("providers", "ModelAlias").objects.order_by("name").values_list("name", flat=True)
        if not aliases.filter(name=self.model).exists():
            raise ValidationError({"model": _no_such_model(self.model, list(aliases[: SHOWN_MODELS + 1]))})

    def _scope_errors(self) -> dict[str, str]:
        if self.model and any((self.provider_id, self.deployment_id, self.alias_id)):
            return {"model": "Only limits of a key, a team or everyone together are for one model; leave it empty."}
        if self.model and self.each == self.Each.MODEL:
            return {"model": "It already counts for each model; leave one of the two empty."}
        return {}

    def _period_errors(self) -> dict[str, str]:
        errors = {}
        if self.metric in PERIODLESS and self.per:
            errors["per"] = f"{self.get_metric_display()} have no period; leave it empty."
        elif self.metric not in PERIODLESS and not self.per:
            errors["per"] = f"Choose a period: {', '.join(self.Period.values)}."
        if self.each and self.metric == self.Metric.REQUEST_BYTES:
            errors["each"] = "The bytes of a request are the same for everyone; leave it empty."
        if self.burst is not None and self.per != self.Period.MINUTE:
            errors["burst"] = "Only a limit per minute has a burst; leave it empty."
        if self.reset_seconds is not None and self.per != self.Period.TOTAL:
            errors["reset_seconds"] = "Only a limit in total is reset after a time; leave it empty."
        elif self.reset_anchor is not None and self.reset_seconds is None:
            errors["reset_anchor"] = "Say after which time it is reset, or leave this empty."
        if self.oversize == self.Oversize.FIRST_IN_WINDOW and self.metric not in TOKEN_METRICS:
            errors["oversize"] = "Only a limit of tokens can be smaller than one request; choose to refuse."
        try:
            start_number(self.per, self.starts_on)
        except ValueError as error:
            errors["starts_on"] = str(error)
        return errors


def _no_such_model(name: str, known: list[str]) -> str:
    if not known:
        return f"There is no model alias {name}, nor any other. Create the alias first, or leave this empty."
    more = " and more" if len(known) > SHOWN_MODELS else ""
    return (
        f"There is no model alias {name}. There are {', '.join(known[:SHOWN_MODELS])}{more}. "
        "Choose one of them, create the alias first, or leave this empty."
    )
