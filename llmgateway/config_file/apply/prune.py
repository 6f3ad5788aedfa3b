"""Rows that the file does not name: left alone and mentioned, or removed where the file prunes.

Prices and revoked keys are history and stay in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from django.db.models import Model, ProtectedError, QuerySet

from billing.models import UsageReporter
from llmgateway.config_file.apply.session import Session
from llmgateway.config_file.problems import Place
from llmgateway.models import ApiKey, KeyNetwork, NetworkList, Team
from providers.models import AliasFallback, AliasRule, AliasTarget, Deployment, ModelAlias, Provider


class NamedEntry(Protocol):
    name: str


def handle_unnamed(session: Session) -> None:
    """In the order in which they refer to each other, users first, so that what goes together can go."""
    document = session.document
    _handle(session, "reporters", "reporter", UsageReporter.objects.all(), document.reporters)
    _handle(session, "keys", "key", ApiKey.objects.filter(revoked_at=None), document.keys)
    if session.prune:
        _unlink_aliases([entry.name for entry in document.aliases])
    _handle(session, "aliases", "alias", ModelAlias.objects.all(), document.aliases)
    _handle(session, "deployments", "deployment", Deployment.objects.all(), document.deployments)
    for credential in session.unnamed_credentials:
        _remove(session, credential, "credential", str(credential), f"providers.{credential.provider.name}.credentials")
    _handle(session, "providers", "provider", Provider.objects.all(), document.providers)
    _handle(session, "networks", "network list", NetworkList.objects.all(), document.networks)
    _handle(session, "teams", "team", Team.objects.all(), document.teams)


def _handle(session: Session, section: str, kind: str, rows: QuerySet[Model], entries: Sequence[NamedEntry]) -> None:
    named = {entry.name for entry in entries} | {name for place, name in session.document.unusable if place == section}
    unnamed = [(pk, name) for pk, name in rows.order_by("name").values_list("pk", "name") if name not in named]
    if not session.prune:
        session.report.kept.extend(f"{kind} {name}" for _, name in unnamed)
        return
    for pk, name in unnamed:
        _remove(session, rows.get(pk=pk), kind, name, f"{section}.{name}")


def _unlink_aliases(named: Sequence[str]) -> None:
    """What is to go may lead to one another, and none could go first."""
    elsewhere = AliasTarget.objects.filter(target_alias__isnull=False)
    for links in (elsewhere, AliasRule.objects.all(), AliasFallback.objects.all()):
        for row in links.exclude(alias__name__in=named):
            row.delete()
    for alias in ModelAlias.objects.exclude(name__in=named).exclude(mirror_alias=None, cache_embeddings=None):
        alias.mirror_alias = alias.cache_embeddings = None
        alias.save(update_fields=["mirror_alias", "cache_embeddings"])


def _remove(session: Session, row: Model, kind: str, label: str, path: str) -> None:
    try:
        session.remove(row, kind, label)
    except ProtectedError as error:
        users = sorted(_named(user) for user in error.protected_objects)
        shown = ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")
        session.problems.add(
            Place(path, 1, 1),
            f"The file does not name the {kind} {label}, but it cannot be removed: {shown} needs it. "
            "Add it to the file, or take what uses it out.",
        )


def _named(row: Model) -> str:
    """`API key dev-001`: the row, or the one it is a part of."""
    owner = (
        row.alias
        if isinstance(row, (AliasTarget, AliasRule, AliasFallback))
        else row.key
        if isinstance(row, KeyNetwork)
        else row
    )
    return f"{owner._meta.verbose_name} {owner}"  # noqa: SLF001  # Django documents it.
