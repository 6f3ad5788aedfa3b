"""Writes and look-ups of management tokens: `gw-mgmt-<public id>-<256 random bits>`, kept as a peppered digest."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.db import transaction
from django.utils import timezone

from llmgateway.key_secrets import digest, new_public_id, pepper_fingerprint
from llmgateway.management_api.models import ManagementToken, TokenUse
from llmgateway.models import Team
from llmgateway.services import newest_pepper, peppers

if TYPE_CHECKING:
    from django.contrib.auth.models import User

PREFIX = "gw-mgmt-"
NOTED_EVERY = timedelta(minutes=1)
"""How exact the time of the last use is: so seldom is it written."""


@transaction.atomic
def token_create(
    *,
    name: str,
    scopes: Iterable[str],
    team: Team | None = None,
    expires_at: datetime | None = None,
    created_by: User | None = None,
) -> tuple[ManagementToken, str]:
    """A new token and its secret, which is kept nowhere.

    Raises:
        ValidationError: by field, with what to write instead.
    """
    token = ManagementToken(name=name, scopes=list(scopes), team=team, expires_at=expires_at, created_by=created_by)
    secret = token_assign_secret(token)
    token.full_clean()
    token.save()
    return token, secret


def token_assign_secret(token: ManagementToken) -> str:
    """Give a new token its secret and return it; the caller saves."""
    pepper = newest_pepper()
    token.public_id = new_public_id()
    secret = f"{PREFIX}{token.public_id}-{secrets.token_urlsafe(32)}"
    token.digest, token.pepper_id = digest(secret.encode(), pepper).hex(), pepper_fingerprint(pepper)
    return secret


def token_revoke(token: ManagementToken) -> None:
    """End `token` for good. Revoking it again changes nothing."""
    if token.revoked_at is None:
        token.revoked_at = timezone.now()
        token.save(update_fields=["revoked_at"])


def token_of(secret: str) -> ManagementToken | None:
    """The token with this secret, revoked and expired ones included; None: there is none."""
    if not secret.startswith(PREFIX):
        return None
    digests = [digest(secret.encode(), pepper).hex() for pepper in peppers()]
    return ManagementToken.objects.filter(digest__in=digests).select_related("team", "use").first()


def token_used(token: ManagementToken, remote_address: str) -> None:
    """Note the use of `token`, unless one was noted a moment ago."""
    now = timezone.now()
    use = getattr(token, "use", None)
    if use is not None and now - use.at < NOTED_EVERY:
        return
    if not TokenUse.objects.filter(token=token).update(at=now, remote_address=remote_address):
        TokenUse.objects.bulk_create(
            [TokenUse(token=token, at=now, remote_address=remote_address)], ignore_conflicts=True
        )
