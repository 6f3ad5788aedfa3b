"""Reads of the rows that decide who may call, each bounded by what the asking person may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Q
from django.utils import timezone

from llmgateway.models import ApiKey, Membership, Team, TeamQuerySet

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.db.models import QuerySet


def teams_of(user: User) -> TeamQuerySet:
    """The teams whose cost and requests `user` may see."""
    return Team.objects.for_user(user)


def keys_of(user: User) -> QuerySet[ApiKey]:
    """The keys of those teams, with the team at hand."""
    return ApiKey.objects.filter(team__in=teams_of(user)).select_related("team")


def role_in(team: Team, user: User) -> str | None:
    """What `user` may do in `team`; None: is not in it."""
    return Membership.objects.filter(team=team, user=user).values_list("role", flat=True).first()


def usable_keys() -> QuerySet[ApiKey]:
    """The keys that would be let in at this moment, wherever from."""
    now = timezone.now()
    return ApiKey.objects.filter(
        Q(starts_at=None) | Q(starts_at__lte=now),
        Q(expires_at=None) | Q(expires_at__gt=now),
        enabled=True,
        revoked_at=None,
    )


def key_state(key: ApiKey) -> str:
    """One word for people: `active`, `disabled`, `revoked`, `expired` or `not yet valid`."""
    now = timezone.now()
    if key.revoked_at:
        return "revoked"
    if not key.enabled:
        return "disabled"
    if key.expires_at and key.expires_at <= now:
        return "expired"
    if key.starts_at and key.starts_at > now:
        return "not yet valid"
    return "active"
