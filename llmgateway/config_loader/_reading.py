"""One consistent view of the database for as long as a load takes, and where the log of changes stood then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction
from django.db.models import Max

from llmgateway.models import ConfigChange
from llmgateway.pipeline.snapshot import LogPosition


def log_position() -> LogPosition:
    """Up to where the log is seen by the queries around it."""
    if connection.vendor != "postgresql":
        return LogPosition(ConfigChange.objects.aggregate(last=Max("id"))["last"] or 0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        (watermark,) = cursor.fetchone()
    later = ConfigChange.objects.filter(transaction_id__gte=watermark).values_list("id", flat=True)
    return LogPosition(watermark, frozenset(later))


@contextmanager
def one_view() -> Iterator[None]:
    """Every query inside sees the same moment, and no writer waits for it. Inside a transaction of the caller's, that one decides."""
    if connection.in_atomic_block:
        yield
    elif connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SET LOCAL DateStyle TO 'ISO'")
            yield
    else:
        yield from _deferred()


def _deferred() -> Iterator[None]:
    # Not atomic(): its BEGIN IMMEDIATE would wait for writers and hold them up.
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")
