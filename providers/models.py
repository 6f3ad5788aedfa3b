"""Where requests go: providers, credentials, deployments and the aliases that applications call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from billing.money import MAX_LIMIT_USD, PICO_PER_USD
from llmgateway.models import Named
from llmgateway.validators import validate_finite, validate_name
from providers.alias_models import AliasFallback, AliasRule, AliasTarget, ModelAlias
from providers.secret_values import decrypt, encrypt, resolve_reference
from providers.validators import (
    validate_adapter,
    validate_base_url,
    validate_credential_secret,
    validate_modalities,
    validate_probe_path,
)

if TYPE_CHECKING:
    from django.db.models.fields.related_descriptors import RelatedManager

    from billing.models import Budget
    from llmgateway.models import RateLimit


class Provider(Named):
    """A vendor API, or a server of our own that speaks one."""

    adapter = models.CharField(
        max_length=64,
        validators=[validate_adapter],
        help_text="How to talk to it. Servers that speak OpenAI's protocol use `openai_compatible`.",
    )
    base_url = models.CharField(
        max_length=500,
        blank=True,
        default="",
        help_text="Up to and with the version, such as https://api.openai.com/v1. Empty: the adapter's own.",
    )
    allow_private_network = models.BooleanField(
        default=False, help_text="Needed for addresses on this machine or a private network."
    )
    enabled = models.BooleanField(default=True)

    if TYPE_CHECKING:
        credentials: RelatedManager[Credential]
        deployments: RelatedManager[Deployment]
        catalogue: RelatedManager[CatalogueEntry]
        limits: RelatedManager[RateLimit]
        budgets: RelatedManager[Budget]

    class Meta:
        ordering = ("name",)

    def clean(self) -> None:
        validate_base_url(self.adapter, self.base_url, allow_private=self.allow_private_network)


class Credential(models.Model):
    """A provider's secret: encrypted here, or a reference (`env:NAME`, `file:PATH`) to where it is kept."""

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="credentials")
    name = models.CharField(max_length=100, validators=[validate_name], default="main")
    encrypted_secret = models.TextField(editable=False)
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ("provider", "name")
        constraints = (models.UniqueConstraint(fields=("provider", "name"), name="one_credential_per_name"),)

    def __str__(self) -> str:
        return f"{self.provider}/{self.name}"

    def set_secret(self, secret: str) -> None:
        """Store `secret` (the key itself or a reference) encrypted; the caller saves.

        Raises:
            ValidationError: it cannot be a key or a reference.
        """
        validate_credential_secret(secret)
        self.encrypted_secret = encrypt(secret)

    def stored_secret(self) -> str:
        """What was stored: the key itself, or the reference. Never show the former."""
        return decrypt(self.encrypted_secret)

    def resolve_secret(self) -> str:
        """The key to send, read from where a reference points.

        Raises:
            ImproperlyConfigured: it cannot be decrypted, or the reference leads nowhere.
        """
        return resolve_reference(self.stored_secret())


def _seconds(default: float) -> models.FloatField[float, float]:
    return models.FloatField(default=default, validators=[MinValueValidator(0.001), MaxValueValidator(86_400)])


def _tokens(label: str, help_text: str) -> models.PositiveIntegerField[int | None, int | None]:
    validators = [MinValueValidator(1)]
    return models.PositiveIntegerField(label, null=True, blank=True, validators=validators, help_text=help_text)


class Deployment(Named):
    """A model at a provider, reached with one credential."""

    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="deployments")
    credential = models.ForeignKey(
        Credential, on_delete=models.PROTECT, null=True, blank=True, related_name="deployments"
    )
    model = models.CharField(max_length=200, validators=[validate_name], help_text="The provider's name for the model.")
    inject_usage = models.BooleanField(
        default=True,
        help_text="Ask for usage in streams whose caller did not. Switch off for servers that reject `stream_options`.",
    )
    connect_timeout_s = _seconds(5)
    first_token_timeout_s = _seconds(60)
    idle_timeout_s = _seconds(120)
    total_timeout_s = _seconds(600)
    drain_s = models.FloatField(
        "read on for",
        default=0,
        validators=[MinValueValidator(0), MaxValueValidator(3_600)],
        help_text="Seconds for which a stream is read to its end after its client has left, to bill what the provider "
        "reports in place of an estimate. The provider works on meanwhile. 0: the stream ends at once.",
    )
    max_output_tokens = models.PositiveIntegerField(
        "most output tokens of the model",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="The largest cap that the model takes. A strict budget adds no larger one to requests without a cap. "
        "Empty: what the catalogue says, else 8,192.",
    )
    max_request_pico_usd = models.BigIntegerField(
        "most a request can cost",
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(MAX_LIMIT_USD * PICO_PER_USD)],
        help_text="What a strict budget holds for requests whose cost has no other bound, such as those with images by "
        "address. Empty: strict budgets refuse them.",
    )
    probe_enabled = models.BooleanField(
        "asked whether it is well",
        default=False,
        help_text="From time to time, whether or not there are requests. One that is not well gets none.",
    )
    probe_path = models.CharField(
        "address of the probe",
        max_length=200,
        default="/models",
        validators=[validate_probe_path],
        help_text="Below the provider's base URL. Any answer but an error counts.",
    )
    probe_interval_s = models.FloatField(
        "every", default=10, validators=[validate_finite, MinValueValidator(1), MaxValueValidator(86_400)]
    )
    probe_timeout_s = models.FloatField(
        "patience", default=5, validators=[validate_finite, MinValueValidator(0.1), MaxValueValidator(600)]
    )
    probe_unhealthy_after = models.PositiveSmallIntegerField(
        "out after",
        default=3,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text="Failures in a row that take it out.",
    )
    probe_healthy_after = models.PositiveSmallIntegerField(
        "back after",
        default=2,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text="Successes in a row that put it back.",
    )
    draining = models.BooleanField(
        default=False,
        help_text="What runs goes on, nothing new is sent here. Unlike a switched off one it stays in sight.",
    )
    health_generation = models.PositiveIntegerField(
        default=0, editable=False, help_text="Raised to forget what is known of its health."
    )
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ("name",)

    def clean(self) -> None:
        if self.credential is not None and self.credential.provider_id != self.provider_id:
            raise ValidationError({"credential": f"Choose a credential of {self.provider}."})


class CatalogueEntry(models.Model):
    """What a model of a provider can do. Those that come from the installed catalogue say so in `source`."""

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="catalogue")
    model = models.CharField(max_length=200, validators=[validate_name], help_text="The provider's name for the model.")
    context_window = _tokens("context window", "Tokens that question and answer may have together.")
    max_output_tokens = _tokens(
        "most output tokens", "Holds for deployments that do not say it themselves; strict budgets cap output by it."
    )
    input_modalities = models.JSONField(
        default=list, blank=True, validators=[validate_modalities], help_text="Such as text, image, audio, file."
    )
    output_modalities = models.JSONField(
        default=list, blank=True, validators=[validate_modalities], help_text="Such as text, image, audio."
    )
    tools = models.BooleanField(null=True, blank=True, help_text="Whether it calls tools.")
    reasoning = models.BooleanField(null=True, blank=True, help_text="Whether it thinks before it answers.")
    deprecated_on = models.DateField(null=True, blank=True, help_text="From when on the provider advises against it.")
    source = models.CharField(
        max_length=100,
        blank=True,
        default="",
        help_text="Empty: somebody's own. `update-prices` keeps those of the catalogue up to date, and leaves own ones.",
    )

    class Meta:
        ordering = ("provider__name", "model")
        verbose_name_plural = "catalogue entries"
        constraints = (models.UniqueConstraint(fields=("provider", "model"), name="one_entry_per_model"),)

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    def clean(self) -> None:
        if self.context_window and self.max_output_tokens and self.max_output_tokens > self.context_window:
            raise ValidationError({"max_output_tokens": "It cannot say more than its context window holds."})


__all__ = [
    "AliasFallback",
    "AliasRule",
    "AliasTarget",
    "CatalogueEntry",
    "Credential",
    "Deployment",
    "ModelAlias",
    "Provider",
]
