"""Keeps the outbox bounded: what was delivered goes after days, what was given up or belongs to nobody after months."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q

from billing.reporters.models import Delivery, UsageReporter

ROWS_AT_ONCE = 1000
UNDELIVERED_DAYS = 90
"""How long dead letters can be replayed, and how long what a switched-off reporter did not get is kept."""


def delete_old_deliveries(now: datetime, *, delivered_days: int) -> int:
    """In small transactions, so that nobody waits for it. Returns how many rows were deleted."""
    waiting = Exists(UsageReporter.objects.filter(pk=OuterRef("reporter_id"), enabled=True))
    state = Delivery.State
    old = Delivery.objects.filter(
        Q(state=state.DELIVERED, settled_at__lt=now - timedelta(days=delivered_days))
        | Q(state=state.DEAD, settled_at__lt=now - timedelta(days=UNDELIVERED_DAYS))
        | (Q(state=state.PENDING, created_at__lt=now - timedelta(days=UNDELIVERED_DAYS)) & ~waiting)
    )
    deleted = 0
    while ids := list(old.order_by().values_list("pk", flat=True)[:ROWS_AT_ONCE]):
        deleted += Delivery.objects.filter(pk__in=ids).delete()[0]
    return deleted
