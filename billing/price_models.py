"""What models cost: rows that hold from a moment on. Money is pico-dollars in 64-bit integers."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from billing.money import PICO_PER_USD
from billing.unit_prices import validate_units
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
    units = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_units],
        help_text="Pico-dollars of what is not counted in tokens, by unit: second, character, image, search.",
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
