"""The database's `ResponseShelf`: all workers and hosts know the same conversations, until nobody goes on with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from billing.object_book import in_thread
from billing.response_models import KeptTurn
from llmgateway.pipeline.errors import RequestTooLargeError
from llmgateway.pipeline.protocols import KeptResponse, Owner

ROWS_AT_ONCE = 500
"""Removed in a transaction of their own, so that nobody waits long for the database."""


class DatabaseShelf:
    """Each call takes one thread and one connection. `keep_hours` is more than 0."""

    def __init__(self, keep_hours: int) -> None:
        self._keep = timedelta(hours=keep_hours)

    async def put(self, kept: KeptResponse) -> None:
        await in_thread(lambda: put(kept))

    async def last(self, response_id: str, *, with_content: bool = False) -> KeptResponse | None:
        since = timezone.now() - self._keep
        return await in_thread(lambda: last(response_id, since=since, with_content=with_content))

    async def conversation(self, response_id: str, *, most_bytes: int) -> Sequence[KeptResponse]:
        since = timezone.now() - self._keep
        return await in_thread(lambda: conversation(response_id, since=since, most_bytes=most_bytes))

    async def remove(self, response_id: str) -> None:
        await in_thread(lambda: KeptTurn.objects.filter(response_id=response_id).delete())


def put(kept: KeptResponse, *, using: str = "default") -> None:
    """Writes one response, and that its conversation is in use."""
    turns, now = KeptTurn.objects.using(using), timezone.now()
    with transaction.atomic(using=using):
        before = turns.filter(response_id=kept.previous_id).values_list("thread_id", flat=True).first()
        thread_id = before or kept.id
        turn = KeptTurn(
            response_id=kept.id,
            thread_id=thread_id,
            previous_id=kept.previous_id,
            team_id=kept.owner.team_id,
            key_id=kept.owner.key_id,
            used_at=now,
            packed=kept.packed,
            size=kept.size,
        )
        turns.bulk_create([turn], ignore_conflicts=True)
        turns.filter(thread_id=thread_id, used_at__lt=now).update(used_at=now)


def last(
    response_id: str, *, since: datetime, with_content: bool = False, using: str = "default"
) -> KeptResponse | None:
    found = _kept(since, using).filter(response_id=response_id)
    turn = (found if with_content else found.defer("packed")).first()
    return None if turn is None else _read(turn, bytes(turn.packed) if with_content else b"")


def conversation(
    response_id: str, *, since: datetime, most_bytes: int, using: str = "default"
) -> tuple[KeptResponse, ...]:
    """See `ResponseShelf`. Conversations branch, so the way back to the beginning is found before anything is read."""
    turns = _kept(since, using)
    thread_id = turns.filter(response_id=response_id).values_list("thread_id", flat=True).first()
    if thread_id is None:
        return ()
    known = {
        row[0]: row[1:]
        for row in turns.filter(thread_id=thread_id).order_by().values_list("response_id", "previous_id", "size")
    }
    way: list[str] = []
    total, each = 0, response_id
    while each:
        if each not in known:
            return ()
        previous_id, size = known.pop(each)  # Once only: no conversation leads back to itself.
        way.append(each)
        total += size
        each = previous_id
    if total > most_bytes:
        raise RequestTooLargeError(f"The conversation has {total} bytes.")
    found = {turn.response_id: turn for turn in turns.filter(response_id__in=way)}
    if len(found) < len(way):
        return ()
    return tuple(_read(found[each], bytes(found[each].packed)) for each in reversed(way))


def delete_old_responses(now: datetime, *, keep_hours: int, using: str = "default") -> int:
    """Removes conversations that nobody has gone on with for so long; 0 keeps none. How many responses that were."""
    old = KeptTurn.objects.using(using).filter(used_at__lt=now - timedelta(hours=keep_hours))
    deleted = 0
    while ids := list(old.order_by("used_at").values_list("pk", flat=True)[:ROWS_AT_ONCE]):
        deleted += KeptTurn.objects.using(using).filter(pk__in=ids).delete()[0]
    return deleted


def _kept(since: datetime, using: str) -> QuerySet[KeptTurn]:
    return KeptTurn.objects.using(using).filter(used_at__gte=since)


def _read(turn: KeptTurn, packed: bytes) -> KeptResponse:
    owner = Owner("", turn.team_id, turn.key_id)
    return KeptResponse(turn.response_id, owner, turn.previous_id, packed, turn.size)
