"""Removes rows of the ledger that are older than they are to be kept. The sums of hours stay, and count on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from billing.models import UsageRecord
from billing.partitions import drop_partition, partition_days

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 1000
"""In a transaction of their own, so that the drain never waits long for the database."""


@dataclass(frozen=True, slots=True)
class Removed:
    days: int = 0
    """Partitions that were dropped whole."""
    rows: int = 0
    """Rows that were deleted one by one besides."""


def delete_old_usage(now: datetime, *, keep_days: int, using: str = "default") -> Removed:
    """Removes the days that ended more than `keep_days` days ago; 0 keeps everything.

    Rows that wait for review stay: strict budgets are charged what these have reserved.

    Raises:
        DatabaseError: the database is away; the next run goes on.
    """
    if not keep_days:
        return Removed()
    first_kept = now.astimezone(UTC).date() - timedelta(days=keep_days)
    days = [day for day in partition_days(using) if day < first_kept]
    removed = Removed(days=sum(drop_partition(using, day) for day in days), rows=_delete_rows(using, first_kept))
    if removed.days or removed.rows:
        log.info("Usage before %s was removed: %d partitions and %d rows", first_kept, removed.days, removed.rows)
    return removed


def _delete_rows(using: str, first_kept: date) -> int:
    """What lies in no partition of its own, and what a partition keeps beside rows that wait for review."""
    midnight = datetime.combine(first_kept, time(), UTC)
    # By the start there is an index; the day leaves other partitions alone.
    old = UsageRecord.objects.using(using).filter(started_at__lt=midnight, day__lt=first_kept, needs_review=False)
    deleted = 0
    while ids := list(old.order_by("started_at").values_list("pk", flat=True)[:ROWS_AT_ONCE]):
        # _raw_delete: no table refers to the ledger, and looking for such rows would read each of these first.
        deleted += old.filter(pk__in=ids).order_by()._raw_delete(using)  # noqa: SLF001
    return deleted


__all__ = ["Removed", "delete_old_usage"]
