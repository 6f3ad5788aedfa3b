"""Tokens of the management API, when each was last used, and which keys were created under an idempotency key.

None of these tables is configuration that requests depend on, so no worker reads anything again when they change.
"""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from llmgateway.management_api.scopes import SCOPES, validate_scopes
from llmgateway.validators import validate_name


class ManagementToken(models.Model):
    """A secret with which programs manage the gateway. Only its digest is kept, made as those of API keys are."""

    name = models.CharField(
        max_length=100, unique=True, validators=[validate_name], help_text="What it is for; changes are recorded by it."
    )
    public_id = models.CharField(max_length=16, unique=True, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    pepper_id = models.CharField(max_length=16, editable=False)
    scopes = models.JSONField(default=list, validators=[validate_scopes], help_text="What it may do.")
    # A token must not outlive its team: without one it would reach every team.
    team = models.ForeignKey(
        "llmgateway.Team",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text="It sees and changes what belongs to this team alone. Empty: every team.",
    )
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: it works until it is revoked.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )

    class Meta:
        ordering = ("name",)
        verbose_name = "management token"

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        unbound = [name for name in self.scopes if name in SCOPES and not SCOPES[name].in_one_team]
        if self.team_id and unbound:
            raise ValidationError(
                {"scopes": f"{', '.join(unbound)} concerns every team; leave it out or leave the team empty."}
            )

    @property
    def masked(self) -> str:
        """How the token may be shown: its public part."""
        return f"gw-mgmt-{self.public_id}…"

    @property
    def state(self) -> str:
        """One word for people: `active`, `expired` or `revoked`."""
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at and self.expires_at <= timezone.now() else "active"


class TokenUse(models.Model):
    """When and from where a token was last used; observed, so it stands apart from what was decided."""

    token = models.OneToOneField(ManagementToken, on_delete=models.CASCADE, primary_key=True, related_name="use")
    at = models.DateTimeField()
    remote_address = models.CharField(max_length=45, blank=True, default="")

    def __str__(self) -> str:
        return f"{self.token} at {self.at:%Y-%m-%d %H:%M}"


class KeyCreation(models.Model):
    """A key that was created with an `Idempotency-Key`, so that a repeated request finds it. Secrets are not kept."""

    principal = models.CharField(max_length=64)
    idempotency_key = models.CharField(max_length=255)
    request_digest = models.CharField(max_length=64)
    key = models.ForeignKey("llmgateway.ApiKey", on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("principal", "idempotency_key"), name="one_creation_per_idempotency_key"),
        )

    def __str__(self) -> str:
        return f"{self.principal} {self.idempotency_key}"


__all__ = ["KeyCreation", "ManagementToken", "TokenUse"]
