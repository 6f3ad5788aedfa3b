"""The database's `ObjectBook`: all workers and hosts know the same objects, and one of them charges for each batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from django.db import DatabaseError, close_old_connections, transaction
from django.utils import timezone

from billing.models import UsageRecord
from billing.object_models import LONGEST_MODEL, KeptObject
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.protocols import Owner

T = TypeVar("T")

LOST_AFTER = timedelta(hours=1)
"""A claim whose request is in no ledger by then was made by a process that died before it could write its row."""
FORGOTTEN_AFTER = timedelta(hours=12)
"""Later the row may be gone because old ones are removed."""


class DatabaseBook:
    """Each call takes one thread and one connection. While the database is away nothing is handed out."""

    async def owners(self, ids: Collection[str]) -> Mapping[str, Owner]:
        wanted = {each for each in ids if each}
        return await in_thread(lambda: _owners(wanted)) if wanted else {}

    async def remember(self, ids: Collection[str], owner: Owner, *, model: str = "") -> None:
        if ids:
            await in_thread(lambda: _remember(ids, owner, model))

    async def models(self, ids: Collection[str]) -> Mapping[str, str]:
        wanted = {each for each in ids if each}
        return await in_thread(lambda: _models(wanted)) if wanted else {}

    async def claim(self, object_id: str, owner: Owner, *, request_id: str, now: float) -> bool:
        return await in_thread(lambda: _claim(object_id, owner, request_id, datetime.fromtimestamp(now, UTC)))


async def in_thread(work: Callable[[], T]) -> T:
    """Raises LedgerUnavailableError: the database is away."""

    def run() -> T:
        close_old_connections()
        try:
            return work()
        finally:
            close_old_connections()

    try:
        return await asyncio.to_thread(run)
    except DatabaseError as error:
        raise LedgerUnavailableError(
            "What is kept for callers cannot be looked up, for the database is away. Try again in a moment.",
            headers=((b"retry-after", b"5"),),
        ) from error


def _owners(ids: set[str]) -> dict[str, Owner]:
    rows = KeptObject.objects.filter(object_id__in=ids).values_list("object_id", "provider", "team_id", "key_id")
    return {object_id: Owner(provider, team_id, key_id) for object_id, provider, team_id, key_id in rows}


def _models(ids: set[str]) -> dict[str, str]:
    rows = KeptObject.objects.filter(object_id__in=ids).exclude(model="")
    return dict(rows.values_list("object_id", "model"))


def _remember(ids: Collection[str], owner: Owner, model: str = "") -> None:
    now, who = timezone.now(), {"provider": owner.provider, "team_id": owner.team_id, "key_id": owner.key_id}
    model = model[:LONGEST_MODEL]
    rows = [KeptObject(object_id=each, **who, model=model, created_at=now) for each in dict.fromkeys(ids)]
    KeptObject.objects.bulk_create(rows, ignore_conflicts=True)
    if model:
        # Those that were known before their batch told its model.
        KeptObject.objects.filter(object_id__in=ids, model="").update(model=model)


def _claim(object_id: str, owner: Owner, request_id: str, now: datetime) -> bool:
    """One update decides, so that of several workers one alone succeeds."""
    _remember([object_id], owner)
    with transaction.atomic():
        row = KeptObject.objects.get(object_id=object_id)
        if row.charged_by and not _is_lost(row, now):
            return row.charged_by == request_id
        same = KeptObject.objects.filter(pk=row.pk, charged_by=row.charged_by)
        return same.update(charged_by=request_id, charged_at=now) == 1


def _is_lost(row: KeptObject, now: datetime) -> bool:
    if row.charged_at is None or not LOST_AFTER < now - row.charged_at < FORGOTTEN_AFTER:
        return False
    return not UsageRecord.objects.filter(pk=row.charged_by).exists()
