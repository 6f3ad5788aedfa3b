"""Vectors of questions in PostgreSQL, where its extension `vector` is there. Shared by all workers and hosts.

Every call takes one of a few threads, and no longer than `WAIT_S`: what the database cannot say by then is a miss.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError, close_old_connections, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from llmgateway.pipeline.cached_answers import Nearest

logger = logging.getLogger(__name__)

T = TypeVar("T")

THREADS = 2
MOST_WAITING = 32
"""Calls that wait for a thread; beyond it they are misses at once."""
WAIT_S = 0.3
SWEEP_EVERY = 200
"""Additions after which some of what has expired is deleted."""
SWEPT_ROWS = 2_000

TABLE = "llmgateway_questionvector"
_CREATE_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} ("
    "group_digest bytea NOT NULL, digest bytea NOT NULL, vector vector NOT NULL, expires_at timestamptz NOT NULL, "
    "PRIMARY KEY (group_digest, digest))"
)
_CREATE_INDEX = f"CREATE INDEX IF NOT EXISTS {TABLE}_expires ON {TABLE} (expires_at)"
# A group is one conversation up to its last question, so few rows are compared and no index on vectors is needed.
_NEAREST = (
    f"SELECT digest, 1 - (vector <=> %s::vector) FROM {TABLE} "  # noqa: S608  # Its name is ours.
    "WHERE group_digest = %s AND expires_at > now() AND vector_dims(vector) = %s ORDER BY vector <=> %s::vector LIMIT 1"
)
_ADD = (
    f"INSERT INTO {TABLE} (group_digest, digest, vector, expires_at) "  # noqa: S608
    "VALUES (%s, %s, %s::vector, now() + make_interval(secs => %s)) ON CONFLICT (group_digest, digest) "
    "DO UPDATE SET vector = excluded.vector, expires_at = excluded.expires_at"
)
_SWEEP = f"DELETE FROM {TABLE} WHERE ctid IN (SELECT ctid FROM {TABLE} WHERE expires_at < now() LIMIT {SWEPT_ROWS})"  # noqa: S608


class DatabaseVectors:
    """Implements `VectorStore`."""

    def __init__(self, using: str = "default", *, wait_s: float = WAIT_S) -> None:
        self._using = using
        self._wait_s = wait_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="question-vectors")
        self._waiting = 0
        self._added = itertools.count(1)

    async def nearest(self, group: bytes, vector: Sequence[float], *, similarity: float) -> Nearest | None:
        said = _text(vector)
        found = await self._in_time(lambda: self._ask(_NEAREST, [said, group, len(vector), said]))
        if not found:
            return None
        digest, cosine = found[0]
        return Nearest(bytes(digest), float(cosine)) if cosine >= similarity else None

    def add(self, group: bytes, vector: Sequence[float], digest: bytes, ttl_s: float) -> None:
        said = _text(vector)
        self._begin(lambda: self._ask(_ADD, [group, digest, said, ttl_s]))
        if next(self._added) % SWEEP_EVERY == 0:
            self._begin(lambda: self._ask(_SWEEP, []))

    def stop(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _in_time(self, work: Callable[[], T]) -> T | None:
        future = self._begin(work)
        if future is None:
            return None
        try:
            return await asyncio.wait_for(future, self._wait_s)
        except TimeoutError:
            return None

    def _begin(self, work: Callable[[], T]) -> asyncio.Future[T | None] | None:
        """None: too many wait already."""
        if self._waiting >= MOST_WAITING:
            return None
        self._waiting += 1
        future = self._threads.submit(_carefully, work)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _tell(loop, self._ended))
        return asyncio.wrap_future(future)

    def _ended(self) -> None:
        self._waiting -= 1

    def _ask(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """In a thread. The database ends what takes too long, so that no thread waits for it."""
        with transaction.atomic(using=self._using), connections[self._using].cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = %s", [int(self._wait_s * 1000)])
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def ensure_table(using: str = "default") -> bool:
    """Whether vectors can be kept there. Makes the extension and the table, where that is possible and allowed."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", [TABLE])
        if cursor.fetchone() != (None,):
            return True  # Those who may use it need not be allowed to make it.
    if not _has_extension(connection):
        return False
    try:
        with transaction.atomic(using=using), connection.cursor() as cursor:
            for statement in (_CREATE_TABLE, _CREATE_INDEX):
                cursor.execute(statement)
    except DatabaseError as error:
        logger.warning("The table of question vectors cannot be made, so each worker keeps its own: %s", error)
        return False
    return True


def _has_extension(connection: BaseDatabaseWrapper) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT installed_version FROM pg_available_extensions WHERE name = 'vector'")
        row = cursor.fetchone()
    if row is None:
        return False
    if row[0] is not None:
        return True
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except DatabaseError as error:
        logger.warning("PostgreSQL has the extension `vector`, and an admin must create it: %s", error)
        return False
    return True


def make_table(*, using: str, **_: object) -> None:
    """After migrations, when those who may change the schema are at work."""
    ensure_table(using)


def _carefully(work: Callable[[], T]) -> T | None:
    close_old_connections()
    try:
        return work()
    except (DatabaseError, InterfaceError) as error:
        logger.info("Question vectors: %s", error)
        return None
    finally:
        close_old_connections()


def _tell(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(work)


def _text(vector: Sequence[float]) -> str:
    """As PostgreSQL reads it."""
    return "[" + ",".join([f"{number:.7g}" for number in vector]) + "]"
