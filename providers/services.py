"""Writes to where requests go that more than one place offers: the admin, the API and the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Model

from providers.adapters.registry import adapter_names, get_adapter
from providers.alias_models import refuse_canaries_beyond_all
from providers.models import (
    AliasFallback,
    AliasRule,
    AliasTarget,
    CatalogueEntry,
    Credential,
    Deployment,
    ModelAlias,
    Provider,
)

_PARTS: dict[str, tuple[type[Model], tuple[str, ...]]] = {
    "targets": (AliasTarget, ("deployment_id", "target_alias_id")),
    "rules": (AliasRule, ("name",)),
    "fallbacks": (AliasFallback, ("cause", "use_id")),
}
"""What hangs on an alias: the rows, and what tells those of one alias apart."""


@transaction.atomic
def deployment_drain(deployment: Deployment, *, draining: bool) -> bool:
    """Take a deployment out, or put it back. What runs there goes on. Whether that changed anything."""
    row = Deployment.objects.select_for_update().get(pk=deployment.pk)
    changed = row.draining != draining
    if changed:
        row.draining = draining
        row.save(update_fields=["draining"])
    deployment.draining = draining
    return changed


@transaction.atomic
def deployment_forget_health(deployment: Deployment) -> None:
    """Close its circuit and forget what probes have found, in every worker: what they know is of a generation."""
    row = Deployment.objects.select_for_update().get(pk=deployment.pk)
    row.health_generation += 1
    row.save(update_fields=["health_generation"])
    deployment.health_generation = row.health_generation


@transaction.atomic
def alias_forget_answers(alias: ModelAlias) -> None:
    """Forget every answer that was kept for an alias: they are found under its generation, which is raised."""
    row = ModelAlias.objects.select_for_update().get(pk=alias.pk)
    row.cache_generation += 1
    row.save(update_fields=["cache_generation"])
    alias.cache_generation = row.cache_generation


@transaction.atomic
def provider_save(provider: Provider, changes: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
    """Set the columns that `changes` names, of a new provider or of one that is there. `secrets` are keys by the names
    of credentials, which are made where there are none yet.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    for name, value in changes.items():
        setattr(provider, name, value)
    provider.full_clean()
    provider.save()
    for name, secret in secrets.items():
        credential = Credential.objects.filter(provider=provider, name=name).first()
        try:
            credential_save(credential or Credential(provider=provider, name=name), {}, secret)
        except ValidationError as error:
            raise ValidationError({"secrets": [f"{name}: {message}" for message in error.messages]}) from error


def place_of(provider: Provider) -> tuple[str, str]:
    """Scheme and host, to which the provider's secrets are sent."""
    own = get_adapter(provider.adapter).base_url if provider.adapter in adapter_names() else ""
    parts = urlsplit(provider.base_url or own)
    return parts.scheme, parts.netloc.lower()


@transaction.atomic
def credential_save(credential: Credential, changes: Mapping[str, Any], secret: str | None = None) -> None:
    """Set the columns that `changes` names, and the secret if there is a new one.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    for name, value in changes.items():
        setattr(credential, name, value)
    if secret is not None:
        credential.set_secret(secret)
    credential.full_clean()
    credential.save()


@transaction.atomic
def deployment_save(deployment: Deployment, changes: Mapping[str, Any]) -> None:
    """Set the columns that `changes` names, of a new deployment or of one that is there.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    for name, value in changes.items():
        setattr(deployment, name, value)
    deployment.full_clean()
    deployment.save()


def catalogue_entry_save(entry: CatalogueEntry, changes: Mapping[str, Any]) -> None:
    """Set the columns that `changes` names, of a new entry or of one that is there.

    What somebody has written is theirs: no update of the catalogue goes over it.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    for name, value in changes.items():
        setattr(entry, name, value)
    entry.source = ""
    entry.full_clean()
    entry.save()


@transaction.atomic
def alias_create(columns: Mapping[str, Any]) -> ModelAlias:
    """A new alias with its targets, rules and fallbacks, as `alias_update` takes them.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    alias = ModelAlias()
    _set_columns(alias, columns)
    alias.save()
    for field in _PARTS:
        _replace(alias, field, columns.get(field, ()))
    return alias


@transaction.atomic
def alias_update(alias: ModelAlias, changes: Mapping[str, Any]) -> None:
    """Set the columns of an alias that `changes` names. Its `targets`, `rules` and `fallbacks`, lists of columns each,
    take the place of those that are there, in this order.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    changed = _set_columns(alias, changes)
    if changed:
        alias.save(update_fields=changed)
    for field in _PARTS:
        if field in changes:
            _replace(alias, field, changes[field])


def _set_columns(alias: ModelAlias, changes: Mapping[str, Any]) -> list[str]:
    """Set and check the columns of the alias itself; returns which they are."""
    columns = [name for name in changes if name not in _PARTS]
    for name in columns:
        setattr(alias, name, changes[name])
    alias.full_clean()
    return columns


def _replace(alias: ModelAlias, field: str, wanted: Sequence[Mapping[str, Any]]) -> None:
    model, identity = _PARTS[field]
    existing = {tuple(getattr(row, name) for name in identity): row for row in getattr(alias, field).all()}
    rows = []
    for position, columns in enumerate(wanted):
        draft = model(alias=alias, **columns)
        row = existing.pop(tuple(getattr(draft, name) for name in identity), None) or draft
        for name, value in {**columns, "position": position}.items():
            setattr(row, name, value)
        rows.append(row)
    for row in existing.values():
        row.delete()
    try:
        for number, row in enumerate(rows):
            _save(row, number)
        if field == "targets":
            refuse_canaries_beyond_all([row.canary_percent for row in rows if isinstance(row, AliasTarget)])
    except ValidationError as error:
        raise ValidationError({field: error.messages}) from error


def _save(row: Model, number: int) -> None:
    try:
        row.full_clean()
    except ValidationError as error:
        raise ValidationError([f"{number}: {message}" for message in error.messages]) from error
    row.save()
