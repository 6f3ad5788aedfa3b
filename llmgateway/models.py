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

from llmgateway.rate_limits import RateLimit
from llmgateway.settings_model import GatewaySettings
from llmgateway.validators import validate_name, validate_names, validate_networks, validate_time_zone

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

    class OwnKeys(models.TextChoices):
        INHERIT = "inherit", "As the settings say"
        ALLOW = "allow", "Allowed"
        REFUSE = "refuse", "Refused"

    time_zone = models.CharField(
        max_length=64,
        default="UTC",
        validators=[validate_time_zone],
        help_text="Days, weeks and months of this team's budgets begin at midnight here.",
    )
    own_keys = models.CharField(
        "own keys at providers",
        max_length=8,
        choices=OwnKeys.choices,
        default=OwnKeys.INHERIT,
        help_text="Whether requests with this team's keys may bring a key of their own at a provider, which pays for them.",
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
    priority = models.SmallIntegerField(
        default=0,
        validators=[MinValueValidator(-100), MaxValueValidator(100)],
        help_text="When requests must wait for their turn, those of higher priority go first. From -100 to 100.",
    )
    may_bypass_health = models.BooleanField(
        "may bypass health",
        default=False,
        help_text="Its requests may ask to be sent to deployments that are left alone because they fail; for staff.",
    )
    tenants = models.ManyToManyField(
        Team,
        through="KeyTenant",
        related_name="tenant_keys",
        blank=True,
        help_text="Other teams that it may act for. Their limits and budgets then count in place of its own team's; "
        "those of the key itself always do.",
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


class KeyTenant(models.Model):
    """Lets a key act for a team besides its own."""

    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="key_tenants")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="key_tenants")

    class Meta:
        constraints = (models.UniqueConstraint(fields=("key", "team"), name="one_tenant_per_key"),)
        verbose_name = "tenant"

    def __str__(self) -> str:
        return str(self.team)


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


class BannedKey(models.Model):
    """A key of somebody's own at a provider that is not sent on any more, whoever brings it."""

    digest = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(r"^[0-9a-f]{64}$", "Copy all 64 characters of the digest.")],
        help_text="As usage rows have it under Own key.",
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
    "KeyTenant",
    "Membership",
    "NetworkList",
    "RateLimit",
    "Team",
]
