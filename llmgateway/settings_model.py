"""The settings that may change while the gateway runs. Its row is to be imported from `llmgateway.models`."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from llmgateway import conf as conf_module
from llmgateway.validators import validate_alias_names, validate_finite, validate_shares

OVERRIDING_VARIABLES = {
    "request_body_limit_mb": "REQUEST_BODY_LIMIT_MB",
    "retry_attempts": "MAX_RETRIES",
    "retry_initial_ms": "INITIAL_BACKOFF",
    "retry_max_ms": "MAX_BACKOFF",
    "retry_factor": "BACKOFF_FACTOR",
    "retry_jitter": "JITTER",
    "cache_enabled": "CACHE_ENABLED",
    "cache_ttl_s": "CACHE_TTL",
}
"""The environment variables that win over fields of the row."""


def overriding_variables() -> dict[str, str]:
    """Those that are set: who edits such a field should see that it has no effect."""
    values = conf_module.conf.values
    return {field: variable for field, variable in OVERRIDING_VARIABLES.items() if values.get(variable, "")}


_PER_TOKEN = (MinValueValidator(0.1), MaxValueValidator(1000))


def _default_price(label: str, *, at_most: int, too_much: str) -> models.BigIntegerField[int | None, int | None]:
    """In pico-dollars, bounded like a price of a model's own."""
    validators = [MinValueValidator(0), MaxValueValidator(at_most, too_much)]
    return models.BigIntegerField(label, null=True, blank=True, validators=validators)


def _seconds(
    label: str, default: float, *, at_least: float = 0, at_most: float = 86_400, help_text: str = ""
) -> models.FloatField[float, float]:
    return models.FloatField(
        label,
        default=default,
        validators=[validate_finite, MinValueValidator(at_least), MaxValueValidator(at_most)],
        help_text=help_text,
    )


class GatewaySettings(models.Model):
    """The one row of settings that may change while the gateway runs. Environment variables win over it."""

    class QuotaStatus(models.IntegerChoices):
        PAYMENT_REQUIRED = 402, "402 Payment Required"
        FORBIDDEN = 403, "403 Forbidden"
        TOO_MANY_REQUESTS = 429, "429 Too Many Requests"

    class CircuitMode(models.TextChoices):
        ENFORCE = "enforce", "Open"
        LOG = "log", "Only note what they would do"
        OFF = "off", "Off"

    request_body_limit_mb = models.PositiveIntegerField("request body limit (MB)", default=32)
    foreign_keys = models.BooleanField(
        "callers may bring their own keys",
        default=False,
        help_text="Below the names of providers, a key that is not the gateway's is sent on as the provider's. Beside a "
        "gateway key, a key may come for a provider that the caller names, unless the team says otherwise. Such calls "
        "count for limits, are recorded by the key's digest, and cost nothing here.",
    )
    retry_attempts = models.PositiveSmallIntegerField("retries", default=2, help_text="0 switches retries off.")
    retry_initial_ms = models.PositiveIntegerField("first wait (ms)", default=250)
    retry_max_ms = models.PositiveIntegerField("longest wait (ms)", default=8000)
    retry_factor = models.FloatField(
        "factor of waits",
        default=2,
        validators=[MinValueValidator(1), MaxValueValidator(10)],
        help_text="How many times longer each wait is than the one before.",
    )
    retry_jitter = models.FloatField(
        "jitter of waits",
        default=1,
        validators=[MinValueValidator(0), MaxValueValidator(1)],
        help_text="The share of a wait that is left to chance, so that callers do not come back all at once: 1 is full jitter, 0 none.",
    )
    hold_wait_ms = models.PositiveIntegerField(
        "wait for holds (ms)",
        default=200,
        validators=[MaxValueValidator(60_000)],
        help_text="How long a request that does not fit a strict budget waits for others to return what they hold.",
    )
    strict_min_output_tokens = models.PositiveIntegerField(
        "smallest lowered output cap",
        default=256,
        validators=[MinValueValidator(1)],
        help_text="A strict budget never lowers a request's output cap below this many tokens; it refuses instead.",
    )
    absent_cap_share = models.PositiveIntegerField(
        "share of a request without a cap",
        default=16,
        validators=[MinValueValidator(1), MaxValueValidator(1_000_000)],
        help_text="It holds at most this part of what remains of a strict budget: 16 means one sixteenth.",
    )
    quota_status = models.PositiveSmallIntegerField(
        "status of an exhausted quota",
        choices=QuotaStatus.choices,
        default=QuotaStatus.PAYMENT_REQUIRED,
        help_text="What a request gets whose budget or token quota is used up.",
    )
    default_input_price = _default_price(
        "default price of input",
        at_most=10**9,
        too_much="More than $1,000 per million tokens is surely a slip; check the unit.",
    )
    default_output_price = _default_price(
        "default price of output",
        at_most=10**9,
        too_much="More than $1,000 per million tokens is surely a slip; check the unit.",
    )
    default_request_price = _default_price(
        "default price of a request", at_most=1_000 * 10**12, too_much="More than $1,000 per request is surely a slip."
    )
    max_sample_bytes = models.PositiveIntegerField(
        "text counted in characters (bytes)",
        default=20_000,
        help_text="Tokens of this much text are estimated from characters; of what is above, from bytes.",
    )
    bytes_per_token = models.FloatField(default=4, validators=_PER_TOKEN)
    chars_per_token = models.FloatField("characters per token", default=4, validators=_PER_TOKEN)
    chars_per_token_by_provider = models.JSONField(
        "characters per token by adapter",
        default=dict,
        blank=True,
        validators=[validate_shares],
        help_text="In place of what is usual for an adapter's models, by the adapter's name.",
    )

    circuit_mode = models.CharField(
        "circuits",
        max_length=8,
        choices=CircuitMode.choices,
        default=CircuitMode.ENFORCE,
        help_text="A deployment that fails again and again is left alone for a while.",
    )
    circuit_failures = models.PositiveSmallIntegerField(
        "failures that open a circuit", default=5, validators=[MinValueValidator(1), MaxValueValidator(1000)]
    )
    circuit_window_s = _seconds("within (s)", 120, at_least=1)
    circuit_open_s = _seconds(
        "open for (s)", 30, at_least=0.1, help_text="Then one request tries whether it is well again."
    )
    circuit_wait_s = _seconds(
        "wait when all are out (s)", 2, at_most=600, help_text="Then the answer is 503 with `Retry-After`."
    )
    max_in_flight = models.PositiveIntegerField(
        "requests at once", default=2000, help_text="Of one worker; further ones wait for their turn. 0: any number."
    )
    max_queued = models.PositiveIntegerField(
        "requests that wait", default=1000, help_text="Of one worker; further ones are answered 503 at once."
    )
    queue_wait_s = _seconds("longest wait for a turn (s)", 10, at_most=3_600)
    cache_enabled = models.BooleanField(
        "keep answers",
        default=False,
        help_text="The one switch of all caches. Which answers are kept, and for how long, aliases and requests say.",
    )
    cache_ttl_s = _seconds(
        "answers are kept for (s)",
        300,
        at_least=1,
        at_most=31_536_000,
        help_text="Where a request asks for it and the alias does not say.",
    )
    cache_max_mb = models.PositiveIntegerField(
        "memory for answers (MB)",
        default=64,
        validators=[MinValueValidator(1), MaxValueValidator(1_048_576)],
        help_text="Of one worker, where they are kept in memory.",
    )
    cache_generation = models.PositiveIntegerField(
        default=0, editable=False, help_text="Raised to forget every answer that was kept."
    )
    vendor_models = models.JSONField(
        "models of vendors",
        default=dict,
        blank=True,
        validators=[validate_alias_names],
        help_text='The alias that a vendor\'s name stands for in the simple API: {"openai": "gpt-4o-mini"}. '
        "Those that are not named here: the first alias that leads to the provider.",
    )

    class Meta:
        verbose_name = verbose_name_plural = "settings"
        constraints = (models.CheckConstraint(condition=Q(id=1), name="one_settings_row"),)

    def __str__(self) -> str:
        return "Settings"

    def clean(self) -> None:
        """A default price is whole: what was left out of it would be free."""
        names = ("default_input_price", "default_output_price")
        if any(getattr(self, name) is not None for name in (*names, "default_request_price")):
            missing = [name for name in names if getattr(self, name) is None]
            if missing:
                message = (
                    "A default price says what input and output cost: write both (0 is possible), or clear all three."
                )
                raise ValidationError(dict.fromkeys(missing, message))
