"""Who may call: teams, their members and keys, where keys may be used from, and how often.

Rows here are configuration. Nothing observed (last use, health, learned sizes) is ever written to them, for a
change of any of these tables makes every worker read it again within a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from llmgateway.rate_limits import RateLimit
from llmgateway.validators import (
    validate_name,
    validate_names,
    validate_networks,
    validate_shares,
    validate_time_zone,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.db.models.fields.related_descriptors import RelatedManager


class Named(models.Model):
    """A row with a unique name that the configuration file and the API use."""

    name = models.CharField(max_length=200, unique=True, validators=[validate_name])

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.name


class TeamQuerySet(models.QuerySet["Team"]):
    def for_user(self, user: User) -> TeamQuerySet:
        """The teams whose cost and requests `user` may see."""
        if user.is_superuser or user.has_perm("llmgateway.view_all_teams"):
            return self
        return self.filter(memberships__user_id=user.pk)


class Team(Named):
    """A group of people and keys that shares budgets and a dashboard."""

    time_zone = models.CharField(
        max_length=64,
        default="UTC",
        validators=[validate_time_zone],
        help_text="Days, weeks and months of this team's budgets begin at midnight here.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TeamQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        permissions = (("view_all_teams", "Can see every team's dashboard"),)


class Membership(models.Model):
    """What a person may do in a team."""

    class Role(models.TextChoices):
        MANAGER = "manager", "Manager"
        MEMBER = "member", "Member"
        AUDITOR = "auditor", "Auditor (reads only)"

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.MEMBER)

    class Meta:
        ordering = ("team", "user")
        constraints = (models.UniqueConstraint(fields=("team", "user"), name="one_membership_per_team"),)

    def __str__(self) -> str:
        return f"{self.user} in {self.team}"


class NetworkList(Named):
    """Addresses and networks that several keys may share."""

    networks = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_networks],
        help_text="IPv4 and IPv6 addresses or networks, one a line. An empty list lets nobody in.",
    )

    class Meta:
        ordering = ("name",)


class ApiKey(Named):
    """A key that an application presents. Only the digest of its secret is kept.

    `digest` is HMAC-SHA256(pepper, SHA-256(secret)) in hex, under the pepper whose fingerprint is `pepper_id`.
    """

    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="keys")
    public_id = models.CharField(
        max_length=16, unique=True, editable=False, help_text="The part of the key that may be shown and logged."
    )
    digest = models.CharField(max_length=64, unique=True, editable=False)
    pepper_id = models.CharField(max_length=16, editable=False)
    previous_digest = models.CharField(max_length=64, blank=True, default="", db_index=True, editable=False)
    previous_valid_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Until when the secret before the last rotation still works."
    )
    user_id = models.CharField(
        "owner id",
        max_length=200,
        blank=True,
        default="",
        help_text="Stands in usage rows when a request names no end user.",
    )
    allowed_models = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_names],
        help_text="Model aliases this key may call. None chosen: all of them.",
    )
    networks = models.ManyToManyField(NetworkList, through="KeyNetwork", related_name="keys", blank=True)
    allowed_ips = models.JSONField(
        "allowed addresses",
        default=list,
        blank=True,
        validators=[validate_networks],
        help_text="Addresses and networks of this key alone. With neither these nor network lists: from anywhere.",
    )
    enabled = models.BooleanField(
        default=True, help_text="A disabled key answers 403 `key_disabled` and can be enabled again."
    )
    revoked_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="A revoked key answers 401 as if it had never existed."
    )
    starts_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    if TYPE_CHECKING:
        limits: RelatedManager[RateLimit]

    class Meta:
        ordering = ("name",)
        verbose_name = "API key"
        verbose_name_plural = "API keys"

    def clean(self) -> None:
        if self.starts_at and self.expires_at and self.starts_at >= self.expires_at:
            raise ValidationError({"expires_at": "A key must expire after it starts."})

    @property
    def masked(self) -> str:
        """How the key may be shown: its public part."""
        return f"sk-gw-{self.public_id}…"


class KeyNetwork(models.Model):
    """Ties a key to a network list. A list in use cannot be deleted: that would open its keys to everyone."""

    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="key_networks")
    network_list = models.ForeignKey(NetworkList, on_delete=models.PROTECT, related_name="key_networks")

    class Meta:
        constraints = (models.UniqueConstraint(fields=("key", "network_list"), name="one_network_list_per_key"),)
        verbose_name = "network list"

    def __str__(self) -> str:
        return str(self.network_list)


class AuthSource(models.Model):
    """A place where keys are looked up. Sources are asked in order of `position`; the first that knows the key decides."""

    class Kind(models.TextChoices):
        DATABASE = "database", "Database"
        STATIC_FILE = "static_file", "Static file"

    name = models.CharField(max_length=100, unique=True, validators=[validate_name])
    kind = models.CharField(max_length=32, choices=Kind.choices)
    position = models.PositiveSmallIntegerField(default=0)
    enabled = models.BooleanField(default=True)
    path = models.CharField(
        max_length=500,
        blank=True,
        default="",
        help_text="The YAML file of a static file source, on the gateway's host.",
    )

    class Meta:
        ordering = ("position", "id")

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.kind == self.Kind.STATIC_FILE and not self.path:
            raise ValidationError({"path": "A static file source needs the path of its file."})


_PER_TOKEN = (MinValueValidator(0.1), MaxValueValidator(1000))


def _default_price(label: str, *, at_most: int, too_much: str) -> models.BigIntegerField[int | None, int | None]:
    """In pico-dollars, bounded like a price of a model's own."""
    validators = [MinValueValidator(0), MaxValueValidator(at_most, too_much)]
    return models.BigIntegerField(label, null=True, blank=True, validators=validators)


class GatewaySettings(models.Model):
    """The one row of settings that may change while the gateway runs. Environment variables win over it."""

    class QuotaStatus(models.IntegerChoices):
        PAYMENT_REQUIRED = 402, "402 Payment Required"
        FORBIDDEN = 403, "403 Forbidden"
        TOO_MANY_REQUESTS = 429, "429 Too Many Requests"

    request_body_limit_mb = models.PositiveIntegerField("request body limit (MB)", default=32)
    foreign_keys = models.BooleanField(
        "callers may bring their own keys",
        default=False,
        help_text="Below the names of providers, a key that is not the gateway's is sent on as the provider's. Such calls "
        "count for everyone's limits, are recorded by the key's digest, and cost nothing here.",
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


class BannedKey(models.Model):
    """A key of somebody's own at a provider that is not sent on any more."""

    digest = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(r"^[0-9a-f]{64}$", "Copy all 64 characters of the digest.")],
        help_text="As usage rows have it in place of a key's id.",
    )
    note = models.CharField(max_length=200, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-created_at", "-id")

    def __str__(self) -> str:
        return f"{self.digest[:12]}…"


class ConfigChange(models.Model):
    """A row of configuration that changed, written by database triggers alone and read by every worker.

    `row_id` is empty when the whole table must be read again. `owner` says whose rules the row belongs to, for once
    it is deleted nobody could tell: `key:5`, `team:3`, or empty. `transaction_id` is PostgreSQL's, for a reader must go
    by what is visible and not by the largest id, which commits out of order; on SQLite it is 0.
    """

    table_name = models.CharField(max_length=64)
    row_id = models.CharField(max_length=64, blank=True, default="")
    owner = models.CharField(max_length=64, blank=True, default="")
    transaction_id = models.BigIntegerField(default=0, db_index=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.table_name} {self.row_id or '(all)'}"


__all__ = [
    "ApiKey",
    "AuthSource",
    "BannedKey",
    "ConfigChange",
    "GatewaySettings",
    "KeyNetwork",
    "Membership",
    "NetworkList",
    "RateLimit",
    "Team",
]
