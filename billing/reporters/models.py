"""Who is told of usage, and what there is to tell: reporters, and the outbox of their deliveries.

A reporter is configuration. What is seen of its receiver (failures, pauses, counts) stands in `ReporterState`.
"""

from __future__ import annotations

from datetime import datetime

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing.reporters.addresses import validate_database_url, validate_webhook_url
from billing.reporters.secrets import (
    new_signing_secret,
    read_headers,
    validate_headers,
    validate_secret,
    write_headers,
)
from llmgateway.validators import validate_name
from providers.secret_values import decrypt, encrypt, resolve_reference

STATUSES = ("completed", "cancelled", "failed", "interrupted")


def validate_statuses(value: object) -> None:
    """Some of the ledger's statuses; none means all of them."""
    unknown = set(value) - set(STATUSES) if isinstance(value, list) else {str(value)}
    if unknown:
        raise ValidationError(f"{', '.join(sorted(map(str, unknown)))}: choose among {', '.join(STATUSES)}.")


class UsageReporter(models.Model):
    """A receiver that is told of each request: a webhook, or a table in another SQL database."""

    class Kind(models.TextChoices):
        WEBHOOK = "webhook", "Webhook"
        DATABASE = "database", "SQL database"

    class ApiKeyField(models.TextChoices):
        ID = "id", "Its id"
        NAME = "name", "Its name"
        MASKED = "masked", "Its public part (sk-gw-ab12…)"

    name = models.CharField(max_length=100, unique=True, validators=[validate_name])
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.WEBHOOK)
    url = models.CharField(
        max_length=1000,
        help_text="https://…, or for a database postgres://user@host:5432/name or sqlite:////path/to/file. "
        "Without a password; that is the secret.",
    )
    encrypted_secret = models.TextField(editable=False, blank=True, default="")
    encrypted_headers = models.TextField(editable=False, blank=True, default="")
    enabled = models.BooleanField(default=True, help_text="While it is off, nothing new is recorded for it.")
    reports_usage = models.BooleanField(default=True, help_text="One event for each request in the ledger.")
    reports_budgets = models.BooleanField(
        default=False, help_text="One event for each threshold that a budget reaches. Webhooks only."
    )
    statuses = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_statuses],
        help_text="Only requests that ended so. None chosen: all of them.",
    )
    teams = models.ManyToManyField(
        "llmgateway.Team", blank=True, related_name="reporters", help_text="Only of these teams. None chosen: all."
    )
    api_key_field = models.CharField(
        "api_key holds",
        max_length=8,
        choices=ApiKeyField.choices,
        default=ApiKeyField.ID,
        help_text="What stands in the field api_key. Never the secret.",
    )
    includes_cost = models.BooleanField(default=True)
    batch_size = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(500)],
        help_text="1: each event is a request of its own. More: a JSON list of up to so many.",
    )
    allow_private_network = models.BooleanField(
        default=False, help_text="Needed for addresses on this machine or a private network, and for SQLite files."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def is_webhook(self) -> bool:
        return self.kind == self.Kind.WEBHOOK

    def clean(self) -> None:
        if self.is_webhook:
            validate_webhook_url(self.url, allow_private=self.allow_private_network)
            return
        validate_database_url(self.url, allow_private=self.allow_private_network)
        if self.reports_budgets:
            raise ValidationError({"reports_budgets": "A database takes usage only; budgets are told to webhooks."})

    def set_secret(self, secret: str) -> None:
        """Store the signing secret or the database's password, or a reference to it; the caller saves.

        Raises:
            ValidationError: it is none.
        """
        validate_secret(secret, signs=self.is_webhook)
        self.encrypted_secret = encrypt(secret)

    def make_secret(self) -> str:
        """Store a new signing secret; the caller saves, and shows it once."""
        secret = new_signing_secret()
        self.encrypted_secret = encrypt(secret)
        return secret

    def stored_secret(self) -> str:
        """What was stored: the secret itself, or a reference. Never show the former. Empty: none."""
        return decrypt(self.encrypted_secret) if self.encrypted_secret else ""

    def resolve_secret(self) -> str:
        """The secret to use. Raises ImproperlyConfigured if it cannot be read."""
        return resolve_reference(self.stored_secret())

    def set_headers(self, headers: dict[str, str]) -> None:
        """Store headers that go with every request; their values may be references."""
        validate_headers(headers)
        self.encrypted_headers = write_headers(headers)

    def stored_headers(self) -> dict[str, str]:
        """As they were stored. Names may be shown, values never."""
        return read_headers(self.encrypted_headers)

    def encrypt_again(self) -> None:
        """The same secrets under the newest field key; the caller saves."""
        if self.encrypted_secret:
            self.encrypted_secret = encrypt(self.stored_secret())
        self.encrypted_headers = write_headers(self.stored_headers())

    def resolve_headers(self) -> dict[str, str]:
        """Raises ImproperlyConfigured if one cannot be read."""
        return {name: resolve_reference(value) for name, value in self.stored_headers().items()}


class ReporterState(models.Model):
    """What deliveries have shown of a receiver. Observed, never configured."""

    reporter = models.OneToOneField(UsageReporter, on_delete=models.CASCADE, primary_key=True, related_name="state")
    failures = models.PositiveIntegerField(default=0, help_text="Rounds in a row in which nothing was delivered.")
    paused_until = models.DateTimeField(null=True, blank=True)
    delivered = models.BigIntegerField(default=0, help_text="Events, since the reporter was made.")
    failed = models.BigIntegerField(default=0, help_text="Attempts that failed, since the reporter was made.")
    last_delivered_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True, default="")

    def __str__(self) -> str:
        return f"state of {self.reporter_id}"


class Delivery(models.Model):
    """One event for one reporter: a row of the outbox. It is due when `next_attempt_at` has come.

    Whoever takes it moves that moment on by a lease and signs with `claim`; if the worker dies, the lease runs out and
    the row is due again. The drain writes these rows with those of the ledger, in one transaction. The reporter is no
    database constraint, for a reporter that is deleted in the middle of that must not cost a row of the ledger.
    """

    class State(models.TextChoices):
        PENDING = "pending", "Pending"
        DELIVERED = "delivered", "Delivered"
        DEAD = "dead", "Given up"

    event_id = models.CharField(
        max_length=80, help_text="The same however often the event is sent: receivers tell repetitions by it."
    )
    type = models.CharField(max_length=32)
    reporter = models.ForeignKey(
        UsageReporter, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="deliveries"
    )
    payload = models.TextField(help_text="JSON, as it is sent.")
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(default=timezone.now)
    claim = models.CharField(max_length=32, blank=True, default="", editable=False)
    last_error = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)
    settled_at = models.DateTimeField(null=True, blank=True, help_text="When it was delivered or given up.")

    class Meta:
        ordering = ("-id",)
        verbose_name = "delivery"
        verbose_name_plural = "deliveries"
        constraints = (models.UniqueConstraint(fields=("reporter", "event_id"), name="one_delivery_per_event"),)
        indexes = (
            models.Index(
                fields=("reporter", "next_attempt_at"), condition=Q(state="pending"), name="deliveries_that_are_due"
            ),
            models.Index(fields=("state", "settled_at"), name="deliveries_by_state"),
            models.Index(fields=("claim",), condition=~Q(claim=""), name="deliveries_by_claim"),
        )

    def __str__(self) -> str:
        return self.event_id

    def age_s(self, now: datetime) -> float:
        return (now - self.created_at).total_seconds()


__all__ = ["STATUSES", "Delivery", "ReporterState", "UsageReporter"]
