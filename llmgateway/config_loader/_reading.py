"""One consistent view of the database for as long as a load takes, without holding up writers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction


@contextmanager
def one_view() -> Iterator[None]:
    """Every query inside sees the same moment. Inside a transaction of the caller's, that one decides."""
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
