"""Writes to the rows that decide who may call. The admin, the API, the import and the commands all go through here.

Functions that make a secret return it, once. It is kept nowhere: only its digest is stored, so whoever calls must show
it in the answer at hand and must not log it or put it into a session or a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from llmgateway import conf as conf_module
from llmgateway.key_secrets import MIN_CHOSEN_LENGTH, digest, new_public_id, new_secret, pepper_fingerprint
from llmgateway.models import (
    ApiKey,
    AuthSource,
    BannedKey,
    GatewaySettings,
    KeyNetwork,
    KeyTenant,
    Membership,
    NetworkList,
    RateLimit,
    Team,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

DEFAULT_GRACE = timedelta(hours=24)
"""How long the old secret works after a rotation, unless said otherwise."""
MAX_GRACE = timedelta(days=90)


@transaction.atomic
def key_create(
    *,
    team: Team,
    name: str,
    secret: str = "",
    user_id: str = "",
    allowed_models: Iterable[str] = (),
    networks: Iterable[NetworkList] = (),
    allowed_ips: Iterable[str] = (),
    enabled: bool = True,
    starts_at: datetime | None = None,
    expires_at: datetime | None = None,
    priority: int = 0,
    may_bypass_health: bool = False,
    tenants: Iterable[Team] = (),
) -> tuple[ApiKey, str]:
    """A new key and its secret: `secret` if it was chosen, otherwise a fresh one.

    Raises:
        ValidationError: by field, with what to write instead.
    """
    key = ApiKey(
        team=team,
        name=name,
        user_id=user_id,
        allowed_models=list(allowed_models),
        allowed_ips=list(allowed_ips),
        enabled=enabled,
        starts_at=starts_at,
        expires_at=expires_at,
        priority=priority,
        may_bypass_health=may_bypass_health,
    )
    secret = key_assign_secret(key, secret)
    key.full_clean()
    key.save()
    key_set_networks(key, networks)
    key_set_tenants(key, tenants)
    return key, secret


def key_assign_secret(key: ApiKey, secret: str = "") -> str:
    """Give `key` a chosen or a fresh secret and return it; the caller saves. The old secret stops at once.

    Raises:
        ValidationError: the chosen secret is too short, cannot stand in a header, or belongs to another key.
    """
    if not key.public_id:
        key.public_id = _unused_public_id()
    if secret:
        validate_chosen_secret(secret, key=key)
    else:
        secret = new_secret(key.public_id)
    pepper = newest_pepper()
    key.digest = digest(secret.encode(), pepper).hex()
    key.pepper_id = pepper_fingerprint(pepper)
    key.previous_digest, key.previous_valid_until = "", None
    return secret


def validate_chosen_secret(secret: str, *, key: ApiKey | None = None) -> None:
    """Raises ValidationError for a secret that is too short, cannot stand in a header, or belongs to a key but `key`."""
    if len(secret) < MIN_CHOSEN_LENGTH:
        raise ValidationError(
            {"secret": f"A chosen secret needs at least {MIN_CHOSEN_LENGTH} characters; this one has {len(secret)}."}
        )
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise ValidationError({"secret": "Use letters, digits and signs without spaces; others do not fit a header."})
    digests = [digest(secret.encode(), pepper).hex() for pepper in peppers()]
    others = ApiKey.objects.exclude(pk=key.pk) if key is not None and key.pk else ApiKey.objects.all()
    if others.filter(Q(digest__in=digests) | Q(previous_digest__in=digests)).exists():
        raise ValidationError({"secret": "Another key has this secret; choose another one."})


@transaction.atomic
def key_update(
    key: ApiKey,
    *,
    networks: Iterable[NetworkList] | None = None,
    tenants: Iterable[Team] | None = None,
    **changes: Any,
) -> None:
    """Set the columns of `key` that `changes` names, and tie it to `networks` and `tenants` if they are given.

    Raises:
        ValidationError: by field; a revoked key stays what it was.
    """
    if key.revoked_at:
        raise ValidationError(f"{key.name} is revoked and cannot be changed; create a new key.")
    for name, value in changes.items():
        setattr(key, name, value)
    key.full_clean()
    if changes:
        key.save(update_fields=list(changes))
    if networks is not None:
        key_set_networks(key, networks)
    if tenants is not None:
        key_set_tenants(key, tenants)


@transaction.atomic
def key_rotate(key: ApiKey, grace: timedelta = DEFAULT_GRACE) -> str:
    """Give `key` a fresh secret and return it. The old one works on for `grace`; zero ends it at once.

    Raises:
        ValidationError: the key is revoked, or `grace` is negative or too long.
    """
    if not timedelta(0) <= grace <= MAX_GRACE:
        raise ValidationError({"grace": f"Choose a grace period between 0 and {MAX_GRACE.days} days."})
    # The row is read again under a lock: two people who rotate at once must not both believe in their secret.
    current = ApiKey.objects.select_for_update().get(pk=key.pk)
    if current.revoked_at:
        raise ValidationError(f"{key.name} is revoked and cannot be rotated; create a new key.")
    previous = current.digest
    secret = key_assign_secret(current)
    if grace:
        current.previous_digest, current.previous_valid_until = previous, timezone.now() + grace
    current.save(update_fields=["digest", "pepper_id", "previous_digest", "previous_valid_until"])
    key.refresh_from_db()
    return secret


def key_revoke(key: ApiKey) -> None:
    """End `key` for good, with all its secrets. Revoking it again changes nothing."""
    if key.revoked_at:
        return
    key.revoked_at = timezone.now()
    key.previous_digest, key.previous_valid_until = "", None
    key.save(update_fields=["revoked_at", "previous_digest", "previous_valid_until"])


def key_disable(key: ApiKey) -> None:
    """Stop `key` until it is enabled again."""
    _set_enabled(key, enabled=False)


def key_enable(key: ApiKey) -> None:
    """Let a disabled key work again.

    Raises:
        ValidationError: it is revoked, which is for good.
    """
    if key.revoked_at:
        raise ValidationError(f"{key.name} is revoked and cannot be enabled; create a new key.")
    _set_enabled(key, enabled=True)


def _set_enabled(key: ApiKey, *, enabled: bool) -> None:
    if key.enabled != enabled:
        key.enabled = enabled
        key.save(update_fields=["enabled"])


@transaction.atomic
def key_set_networks(key: ApiKey, networks: Iterable[NetworkList]) -> None:
    """Tie `key` to exactly these network lists. Rows are written one by one, so that each is on record."""
    wanted = {network.pk: network for network in networks}
    for tie in KeyNetwork.objects.filter(key=key):
        if wanted.pop(tie.network_list_id, None) is None:
            tie.delete()
    for network in wanted.values():
        KeyNetwork.objects.create(key=key, network_list=network)


@transaction.atomic
def key_set_tenants(key: ApiKey, teams: Iterable[Team]) -> None:
    """Let `key` act for exactly these teams beside its own, which needs no saying."""
    wanted = {team.pk: team for team in teams if team.pk != key.team_id}
    for tie in KeyTenant.objects.filter(key=key):
        if wanted.pop(tie.team_id, None) is None:
            tie.delete()
    for team in wanted.values():
        KeyTenant.objects.create(key=key, team=team)


def limit_create(**columns: Any) -> RateLimit:
    """A new limit from columns of `RateLimit`: at most one of `key`, `team`, `provider`, `deployment` and `alias`.

    Raises:
        ValidationError: by field, with what to write instead.

    Example:
        limit_create(key=key, metric="tokens", per="day", amount=100_000)
        limit_create(team=team, metric="concurrency", per="", amount=3, shadow=True)
    """
    limit = RateLimit(**columns)
    limit.full_clean()
    limit.save()
    return limit


def limit_update(limit: RateLimit, **changes: Any) -> None:
    """Set the columns of `limit` that `changes` names. What was counted stays, and the next request meets the new figures.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    for name, value in changes.items():
        setattr(limit, name, value)
    limit.full_clean()
    if changes:
        limit.save(update_fields=list(changes))


def network_list_save(networks: NetworkList, changes: Mapping[str, Any]) -> None:
    """Set the columns that `changes` names, of a new list or of one that is there.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    for name, value in changes.items():
        setattr(networks, name, value)
    networks.full_clean()
    networks.save()


def team_create(*, name: str, time_zone: str = "UTC") -> Team:
    """A new team.

    Raises:
        ValidationError: by field.
    """
    team = Team(name=name, time_zone=time_zone)
    team.full_clean()
    team.save()
    return team


def team_save(team: Team, changes: Mapping[str, Any]) -> None:
    """Set the columns that `changes` names, of a new team or of one that is there.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    for name, value in changes.items():
        setattr(team, name, value)
    team.full_clean()
    team.save()


def own_key_digest(key: str) -> str:
    """By which a caller's own key at a provider is banned, and known in usage rows."""
    return digest(key.encode(), bytes.fromhex(conf_module.conf.key_peppers[0])).hex()


def ban_save(ban: BannedKey, changes: Mapping[str, Any]) -> None:
    """Set the columns that `changes` names; `key` stands for its digest, and is not kept.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    columns = dict(changes)
    key = columns.pop("key", "").strip()
    if key and "digest" in columns:
        raise ValidationError({"key": "Give either the digest or the key itself."})
    if key:
        columns["digest"] = own_key_digest(key)
    for name, value in columns.items():
        setattr(ban, name, value)
    ban.full_clean()
    ban.save()


def membership_set(team: Team, user: User, role: str = Membership.Role.MEMBER) -> Membership:
    """Make `user` a member of `team` with `role`, or change the role of a member.

    Raises:
        ValidationError: there is no such role.
    """
    membership = Membership.objects.filter(team=team, user=user).first() or Membership(team=team, user=user)
    membership.role = role
    membership.full_clean()
    membership.save()
    return membership


def membership_remove(team: Team, user: User) -> None:
    """Take `user` out of `team`; nothing happens to one who is not in it."""
    for membership in Membership.objects.filter(team=team, user=user):
        membership.delete()


@transaction.atomic
def source_save(source: AuthSource) -> AuthSource | None:
    """Save a key source. Without any, keys are looked up in the database; before the first other one this becomes a
    source of its own, which is returned then: nobody who adds a file means to lock every key out that was made here.
    """
    database = None
    if source.kind != AuthSource.Kind.DATABASE and not AuthSource.objects.exists():
        database = AuthSource(name="database" if source.name != "database" else "the-database")
        database.kind = AuthSource.Kind.DATABASE
        database.save()
    source.save()
    return database


def settings_update(**changes: Any) -> GatewaySettings:
    """Changes the settings that apply while the gateway runs, by field. Makes their row where there is none.

    Raises:
        ValidationError: by field.
    """
    row = GatewaySettings.objects.filter(pk=1).first() or GatewaySettings(pk=1)
    for name, value in changes.items():
        setattr(row, name, value)
    row.full_clean()
    row.save()
    return row


@transaction.atomic
def forget_all_answers() -> None:
    """Forget every answer that was kept, of all aliases."""
    GatewaySettings.objects.get_or_create(pk=1)
    row = GatewaySettings.objects.select_for_update().get(pk=1)
    row.cache_generation += 1
    row.save(update_fields=["cache_generation"])


def peppers() -> list[bytes]:
    """The peppers of key digests, newest first.

    Raises:
        ImproperlyConfigured: there is none, or one is not hexadecimal.
    """
    try:
        found = [bytes.fromhex(text) for text in conf_module.conf.key_peppers]
    except ValueError as error:
        raise ImproperlyConfigured("GATEWAY_KEY_PEPPERS must hold hexadecimal numbers.") from error
    if not found:
        raise ImproperlyConfigured("GATEWAY_KEY_PEPPERS is empty; restore secrets.env or set the variable.")
    return found


def newest_pepper() -> bytes:
    return peppers()[0]


def _unused_public_id() -> str:
    while True:
        public_id = new_public_id()
        if not ApiKey.objects.filter(public_id=public_id).exists():
            return public_id
