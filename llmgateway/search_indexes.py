"""Indexes of PostgreSQL for searches in large tables: parts of names, and what is compared without regard to case.

They are made after migrations and at each start, and not by migrations, for those of parts of names need the extension
`pg_trgm`. Without it every search reads all names, which takes some tenths of a second with hundreds of thousands.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger(__name__)

EXTENSION = "pg_trgm"


@dataclass(frozen=True, slots=True)
class SearchIndex:
    name: str
    table: str
    column: str
    parts: bool = False
    """Of parts of what the column holds; otherwise of the whole."""
    condition: str = ""

    def statement(self, extension_schema: str) -> str:
        # As Django compares without regard to case: an index of any other expression would not be used.
        upper = f"UPPER({self.column}::text)"
        where = f" WHERE {self.condition}" if self.condition else ""
        if not self.parts:
            return f"CREATE INDEX IF NOT EXISTS {self.name} ON {self.table} ({upper}){where}"
        # Changes are rare and searches are to take equally long, so nothing waits in a list to be merged.
        terms = f'gin ({upper} "{extension_schema}".gin_trgm_ops) WITH (fastupdate = off)'
        return f"CREATE INDEX IF NOT EXISTS {self.name} ON {self.table} USING {terms}{where}"


INDEXES = (
    SearchIndex("search_key_name", "llmgateway_apikey", "name", parts=True),
    SearchIndex("search_key_public_id", "llmgateway_apikey", "public_id"),
    SearchIndex("search_key_owner", "llmgateway_apikey", "user_id"),
    SearchIndex("search_limit_model", "llmgateway_ratelimit", "model", condition="model <> ''"),
    SearchIndex("search_budget_name", "billing_budget", "name", parts=True),
    SearchIndex("search_alert_subject", "billing_alert", "subject"),
    SearchIndex("search_change_name", "auditlog_logentry", "object_repr", parts=True),
    SearchIndex("search_change_id", "auditlog_logentry", "object_pk"),
)


def ensure_indexes(using: str = "default") -> list[str]:
    """Make those that are missing and possible, and name them."""
    connection = connections[using]
    missing = missing_indexes(connection)
    schema = _extension_schema(connection) if any(index.parts for index in missing) else None
    made = []
    for index in missing:
        if index.parts and schema is None:
            continue
        try:
            with transaction.atomic(using=using), connection.cursor() as cursor:
                # Of gateways that start together, one makes it and the others wait.
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [index.name])
                cursor.execute(index.statement(schema or ""))
        except DatabaseError as error:
            logger.warning("The index %s cannot be made, so searches stay slower: %s", index.name, error)
        else:
            made.append(index.name)
    return made


def missing_indexes(connection: BaseDatabaseWrapper) -> list[SearchIndex]:
    """Those of tables that are there. None on SQLite, which has no use for them."""
    if connection.vendor != "postgresql":
        return []
    names = [name for index in INDEXES for name in (index.table, index.name)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NOT NULL", [names])
        present = {name for (name,) in cursor.fetchall()}
    return [index for index in INDEXES if index.table in present and index.name not in present]


def _extension_schema(connection: BaseDatabaseWrapper) -> str | None:
    """Where `pg_trgm` is, which is created if it can be. None: it cannot be used."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", [EXTENSION])
        if cursor.fetchone() is None:
            return None
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute(f"CREATE EXTENSION IF NOT EXISTS {EXTENSION}")
            cursor.execute(
                "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = %s",
                [EXTENSION],
            )
            return str(cursor.fetchone()[0])
    except DatabaseError as error:
        logger.warning(
            "Searches stay slower with very many keys: create the extension `%s` as an admin of the database; the next "
            "start makes the indexes. %s",
            EXTENSION,
            error,
        )
        return None


def make_indexes(*, using: str, **_: object) -> None:
    """Receiver of `post_migrate`, when those who may change the schema are at work."""
    ensure_indexes(using)


__all__ = ["EXTENSION", "INDEXES", "SearchIndex", "ensure_indexes", "make_indexes", "missing_indexes"]
