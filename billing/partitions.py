"""Day partitions of the ledger on PostgreSQL, so that retention drops a table instead of deleting rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import date, datetime, timedelta

from django.db import DatabaseError, connections, transaction

log = logging.getLogger(__name__)

TABLE = "billing_usagerecord"
_ADVISORY_LOCK = 0x6C6C6D67_75736167
"""One number for all drains that create partitions: `llmgusag`."""


def partition_name(day: date) -> str:
    return f"{TABLE}_{day:%Y%m%d}"


def ensure_partitions(using: str, days: Iterable[date]) -> None:
    """Makes the partitions of `days` that are missing. Does nothing on other databases.

    A day whose partition cannot be made stays in the default partition: its rows are as safe there, only slower to
    remove.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    for day in sorted(days):
        try:
            with transaction.atomic(using=using), connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
                cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [partition_name(day)])
                if cursor.fetchone() == (True,):
                    continue
                for statement in _statements(day):
                    cursor.execute(statement)
        except DatabaseError as error:
            if not connection.is_usable():
                raise
            log.warning("No partition for %s (%s); its usage goes to the default partition", day, error)


def partition_days(using: str) -> list[date]:
    """The days that have a partition, the oldest first; none on other databases."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
            "WHERE inhparent = to_regclass(%s)",
            [TABLE],
        )
        names = [name.removeprefix(f"{TABLE}_") for (name,) in cursor.fetchall()]
    return sorted(datetime.strptime(name, "%Y%m%d").date() for name in names if name.isdecimal())  # noqa: DTZ007


def drop_partition(using: str, day: date) -> bool:
    """Removes a day with all its rows. False: it has rows that wait for review, or is in use; ask again another time.

    Readers and the drain wait while it happens, for two seconds at most.
    """
    connection, name = connections[using], partition_name(day)
    try:
        with transaction.atomic(using=using), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            cursor.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
            cursor.execute(f"SELECT EXISTS (SELECT FROM {name} WHERE needs_review)")  # noqa: S608  # our own name
            if cursor.fetchone() == (True,):
                return False
            cursor.execute(f"DROP TABLE {name}")
    except DatabaseError as error:
        if not connection.is_usable():
            raise
        log.warning("The partition of %s cannot be dropped now (%s); the next run tries again", day, error)
        return False
    return True


def _statements(day: date) -> tuple[str, ...]:
    name = partition_name(day)
    # Attaching blocks nobody who reads or writes other days; creating it as a partition at once would.
    return (
        "SET LOCAL lock_timeout = '2s'",
        f"CREATE TABLE {name} (LIKE {TABLE} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
        f"ALTER TABLE {TABLE} ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')",
    )
