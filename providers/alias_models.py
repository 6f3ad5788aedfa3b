"""Names that applications call and where they lead. Rows of configuration, to be imported from `providers.models`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from billing.money import MAX_LIMIT_USD, PICO_PER_USD
from llmgateway.models import Named
from llmgateway.rule_conditions import validate_condition
from llmgateway.validators import validate_finite, validate_name
from providers.alias_graph import refuse_circle
from providers.validators import validate_parameters

if TYPE_CHECKING:
    from django.db.models.fields.related_descriptors import RelatedManager

    from billing.models import Budget
    from llmgateway.models import RateLimit

_PERCENT = (validate_finite, MinValueValidator(0), MaxValueValidator(100))
_LONGEST_KEPT_S = 31_536_000


def _own_seconds(label: str) -> models.FloatField[float | None, float | None]:
    """In place of the deployments' own."""
    return models.FloatField(
        label,
        null=True,
        blank=True,
        validators=[validate_finite, MinValueValidator(0.001), MaxValueValidator(86_400)],
        help_text="Seconds. Empty: what each deployment says.",
    )


def _parameters(label: str, help_text: str) -> models.JSONField[dict[str, object], dict[str, object]]:
    return models.JSONField(label, default=dict, blank=True, validators=[validate_parameters], help_text=help_text)


class ModelAlias(Named):
    """A model name that applications call, what may answer, and how long and how often it is tried."""

    class Strategy(models.TextChoices):
        WEIGHTED = "weighted", "Weighted"
        ROUND_ROBIN = "round_robin", "Round robin (in turn)"
        LEAST_IN_FLIGHT = "least_in_flight", "Least in flight"
        LOWEST_LATENCY = "lowest_latency", "Lowest latency (to the first token)"
        LOWEST_COST = "lowest_cost", "Lowest cost"
        PRIORITY = "priority", "Priority (in order)"

    class Sticky(models.TextChoices):
        NOBODY = "", "Nobody"
        KEY = "key", "Each API key"
        SESSION = "session", "Each session"

    class CacheMode(models.TextChoices):
        EXACT = "exact", "The same question"
        SEMANTIC = "semantic", "A question that means the same"

    strategy = models.CharField(
        max_length=16,
        choices=Strategy.choices,
        default=Strategy.WEIGHTED,
        help_text="Which target is tried first; the others follow when it fails.",
    )
    sticky = models.CharField(
        "stays with one target",
        max_length=16,
        choices=Sticky.choices,
        blank=True,
        default=Sticky.NOBODY,
        help_text="Whose requests go to the same target as long as it can answer, so that the provider's prompt cache "
        "is of use.",
    )
    enabled = models.BooleanField(default=True)
    retires_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="From then on calls are answered 404 `model_retired`. Until then answers announce it in their headers.",
    )
    replacement = models.CharField(
        max_length=200,
        blank=True,
        default="",
        validators=[validate_name],
        help_text="The model that applications should call in its place; named in those answers.",
    )
    parameter_defaults = _parameters(
        "defaults",
        'For requests that do not say, in OpenAI\'s words: {"temperature": 0.2}.',
    )
    parameter_overrides = _parameters(
        "overrides",
        'Whatever requests say: {"max_tokens": 1000}. null removes a field.',
    )
    first_token_timeout_s = _own_seconds("time to the first token")
    idle_timeout_s = _own_seconds("time between tokens")
    total_timeout_s = _own_seconds("time in all")
    retry_attempts = models.PositiveSmallIntegerField(
        "retries",
        null=True,
        blank=True,
        validators=[MaxValueValidator(20)],
        help_text="Of one target, after its first attempt. 0: none. Empty: what the settings say.",
    )
    cache_ttl_s = models.FloatField(
        "answers are kept for",
        null=True,
        blank=True,
        validators=[validate_finite, MinValueValidator(1), MaxValueValidator(_LONGEST_KEPT_S)],
        help_text="Seconds. Empty: answers are not kept. The settings have the one switch for all caches.",
    )
    cache_mode = models.CharField(
        "answers serve",
        max_length=16,
        choices=CacheMode.choices,
        default=CacheMode.EXACT,
        help_text="Questions that mean the same are found by their embeddings, best in PostgreSQL with pgvector.",
    )
    cache_similarity = models.FloatField(
        "least similarity",
        default=0.95,
        validators=[validate_finite, MinValueValidator(0.5), MaxValueValidator(1)],
        help_text="Cosine similarity from which on two questions mean the same.",
    )
    cache_embeddings = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="embeds_for",
        verbose_name="embeddings from",
        help_text="The alias whose model turns questions into vectors. What it costs is charged to the caller.",
    )
    cache_generation = models.PositiveIntegerField(
        default=0, editable=False, help_text="Raised to forget every answer that was kept."
    )
    hedge_max_pico_usd = models.BigIntegerField(
        "a second attempt may cost",
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(MAX_LIMIT_USD * PICO_PER_USD)],
        help_text="USD. A second target is asked when the first is slow, if that is not expected to cost more. "
        "Empty or 0: it is not.",
    )
    hedge_after_s = models.FloatField(
        "after",
        null=True,
        blank=True,
        validators=[validate_finite, MinValueValidator(0.001), MaxValueValidator(86_400)],
        help_text="Seconds without a first token. Empty: longer than 95 of 100 first tokens of that target took.",
    )
    mirror_alias = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="mirrors",
        verbose_name="mirror to",
        help_text="Requests are asked of this alias too. Nobody gets its answers, and it is accounted for separately.",
    )
    mirror_percent = models.FloatField(
        "share of requests",
        default=0,
        validators=_PERCENT,
        help_text="Percent of the requests that are mirrored.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    if TYPE_CHECKING:
        targets: RelatedManager[AliasTarget]
        fallbacks: RelatedManager[AliasFallback]
        rules: RelatedManager[AliasRule]
        limits: RelatedManager[RateLimit]
        budgets: RelatedManager[Budget]

    class Meta:
        ordering = ("name",)
        verbose_name = "model alias"
        verbose_name_plural = "model aliases"

    def clean(self) -> None:
        errors: dict[str, str] = {}
        if self.replacement and self.replacement == self.name:
            errors["replacement"] = "A model cannot replace itself; name another one."
        if self.replacement and self.retires_at is None:
            errors["retires_at"] = "Say when the model retires, or clear its replacement."
        if self.cache_mode == self.CacheMode.SEMANTIC and self.cache_ttl_s and self.cache_embeddings_id is None:
            errors["cache_embeddings"] = "Choose the alias that turns questions into vectors."
        if self.mirror_alias_id is not None and not self.mirror_percent:
            errors["mirror_percent"] = "Say how many percent of the requests are mirrored, or clear the alias."
        if errors:
            raise ValidationError(errors)
        refuse_circle(self.pk, self.mirror_alias_id, "mirror_alias")
        refuse_circle(self.pk, self.cache_embeddings_id, "cache_embeddings")


class AliasTarget(models.Model):
    """A deployment that may answer for an alias, or another alias that decides further."""

    alias = models.ForeignKey(ModelAlias, on_delete=models.CASCADE, related_name="targets")
    deployment = models.ForeignKey(
        "providers.Deployment", on_delete=models.PROTECT, null=True, blank=True, related_name="alias_targets"
    )
    target_alias = models.ForeignKey(
        ModelAlias,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="nested_in",
        verbose_name="or alias",
        help_text="In place of a deployment: another alias, whose targets answer.",
    )
    weight = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1), MaxValueValidator(10_000)])
    canary_percent = models.FloatField(
        "canary",
        default=0,
        validators=_PERCENT,
        help_text="Percent of the requests that try this target first; the others are balanced without it. 0: no canary.",
    )
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ("position", "id")
        constraints = (
            models.UniqueConstraint(fields=("alias", "deployment"), name="one_target_per_deployment"),
            models.UniqueConstraint(fields=("alias", "target_alias"), name="one_target_per_nested_alias"),
            models.CheckConstraint(
                condition=Q(deployment__isnull=False, target_alias__isnull=True)
                | Q(deployment__isnull=True, target_alias__isnull=False),
                name="target_is_deployment_or_alias",
                violation_error_message="Choose a deployment or an alias, one of the two.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.leads_to} × {self.weight}"

    @property
    def leads_to(self) -> str:
        """The name of its deployment or alias."""
        return str(self.deployment or self.target_alias)

    def clean(self) -> None:
        refuse_circle(self.alias_id, self.target_alias_id, "target_alias")


def refuse_canaries_beyond_all(percents: list[float]) -> None:
    """Raises ValidationError if the canaries of one alias get more than all requests."""
    total = math.fsum(percents)
    if round(total, 6) > 100:
        raise ValidationError(
            "The canaries get %(total)g percent of the requests together; 100 is all there are.",
            code="too_many_canaries",
            params={"total": total},
        )


class AliasFallback(models.Model):
    """Another alias that is asked in an alias's place when something went wrong."""

    class Cause(models.TextChoices):
        ERROR = "error", "Errors"
        RATE_LIMIT = "rate_limit", "Rate limits"
        CONTEXT_TOO_LONG = "context_too_long", "Context too long"
        CONTENT_POLICY = "content_policy", "Content policy"
        BUDGET_EXHAUSTED = "budget_exhausted", "Budget exhausted"

    alias = models.ForeignKey(ModelAlias, on_delete=models.CASCADE, related_name="fallbacks")
    cause = models.CharField("when", max_length=20, choices=Cause.choices, default=Cause.ERROR)
    use = models.ForeignKey(ModelAlias, on_delete=models.PROTECT, related_name="falls_back_for")
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ("position", "id")
        constraints = (models.UniqueConstraint(fields=("alias", "cause", "use"), name="one_fallback_per_cause"),)
        verbose_name = "fallback"

    def __str__(self) -> str:
        return f"{self.get_cause_display()}: {self.use}"

    def clean(self) -> None:
        refuse_circle(self.alias_id, self.use_id, "use")


class AliasRule(models.Model):
    """Where requests for an alias go instead, if an expression holds. The first rule that holds decides."""

    alias = models.ForeignKey(ModelAlias, on_delete=models.CASCADE, related_name="rules")
    name = models.CharField(max_length=200, validators=[validate_name])
    when = models.TextField(
        validators=[validate_condition],
        help_text='An expression (CEL), such as request.task_type == "summarization".',
    )
    use = models.ForeignKey(ModelAlias, on_delete=models.PROTECT, related_name="used_by_rules")
    position = models.PositiveSmallIntegerField(default=0)
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ("position", "id")
        constraints = (models.UniqueConstraint(fields=("alias", "name"), name="one_rule_per_name"),)
        verbose_name = "rule"

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        refuse_circle(self.alias_id, self.use_id, "use")
