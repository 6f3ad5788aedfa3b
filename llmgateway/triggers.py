"""Database triggers that note every change of configuration in `ConfigChange`, whoever makes it and however.

They are put back after every `migrate`, for SQLite drops a table's triggers when it rebuilds the table. An entry is
only ever appended, so that writers neither wait for each other nor deadlock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Tags, register
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

CHANNEL = "llmgateway_config"
"""PostgreSQL's NOTIFY channel."""
LOG_TABLE = "llmgateway_configchange"
PREFIX = "note_config_change"


@dataclass(frozen=True, slots=True)
class ConfigTable:
    """A table whose changes are noted, and which of its columns tell whose rules a row belongs to."""

    name: str
    owners: tuple[str, ...] = ()
    """Kinds of owners, such as `key` of the column `key_id`. The first that is set is the row's."""


RULE_OWNERS = ("key", "team", "provider", "deployment", "alias")
TABLES = (
    ConfigTable("llmgateway_team"),
    ConfigTable("llmgateway_apikey"),
    ConfigTable("llmgateway_keynetwork", ("key",)),
    ConfigTable("llmgateway_keytenant", ("key",)),
    ConfigTable("llmgateway_networklist"),
    ConfigTable("llmgateway_ratelimit", RULE_OWNERS),
    ConfigTable("llmgateway_authsource"),
    ConfigTable("llmgateway_bannedkey"),
    ConfigTable("llmgateway_gatewaysettings"),
    ConfigTable("providers_provider"),
    ConfigTable("providers_credential"),
    ConfigTable("providers_deployment"),
    ConfigTable("providers_modelalias"),
    ConfigTable("providers_aliastarget"),
    ConfigTable("providers_aliasfallback"),
    ConfigTable("providers_aliasrule"),
    ConfigTable("providers_catalogueentry"),
    ConfigTable("billing_price"),
    ConfigTable("billing_budget", RULE_OWNERS),
    ConfigTable("billing_budgetcredit", ("budget",)),
)


def ensure_triggers(using: str = "default") -> list[str]:
    """Create what is missing or differs, and name it. Tables that do not exist yet are passed over.

    What changed while a trigger was missing nobody noted, so that whatever was put back makes followers read everything.
    """
    connection = connections[using]
    if not missing_triggers(connection):
        return []
    with transaction.atomic(using), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [PREFIX])
            cursor.execute(_FUNCTION)
        missing = missing_triggers(connection)
        wanted = _wanted(connection)
        for name in missing:
            for statement in wanted[name].statements:
                cursor.execute(statement)
        cursor.execute(_NOTE_EVERYTHING[connection.vendor])
    return missing


def drop_triggers(using: str = "default") -> None:
    connection = connections[using]
    present = _present(connection)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"DROP FUNCTION IF EXISTS {PREFIX} CASCADE")
            return
        for name in present:
            cursor.execute(f"DROP TRIGGER {name}")


def missing_triggers(connection: BaseDatabaseWrapper) -> list[str]:
    """Names of triggers that are not there as they should be."""
    present = _present(connection)
    return [name for name, trigger in _wanted(connection).items() if present.get(name) != trigger.definition]


def before_migrate(*, using: str, plan: list[tuple[Any, bool]], **_: Any) -> None:
    """Receiver of `pre_migrate`. A trigger must not refer to a log that is being altered; SQLite refuses to rename it."""
    if any(migration.app_label == "llmgateway" for migration, backwards in plan):
        drop_triggers(using)


def after_migrate(*, using: str, **_: Any) -> None:
    """Receiver of `post_migrate`."""
    ensure_triggers(using)


@dataclass(frozen=True, slots=True)
class _Trigger:
    statements: tuple[str, ...]
    """Drop and create."""
    definition: str
    """What the database says of it once it exists as it should."""


def _tables(connection: BaseDatabaseWrapper) -> list[ConfigTable]:
    """Those that exist; none without the log itself, with all its columns."""
    with connection.cursor() as cursor:
        existing = set(connection.introspection.table_names(cursor))
        if LOG_TABLE not in existing:
            return []
        columns = {column.name for column in connection.introspection.get_table_description(cursor, LOG_TABLE)}
    return [table for table in TABLES if table.name in existing] if "owner" in columns else []


def _wanted(connection: BaseDatabaseWrapper) -> dict[str, _Trigger]:
    tables = _tables(connection)
    if not tables:
        return {}
    return dict(_postgresql(tables) if connection.vendor == "postgresql" else _sqlite(tables))


def _present(connection: BaseDatabaseWrapper) -> dict[str, str]:
    """Name to definition."""
    query = _POSTGRESQL_PRESENT if connection.vendor == "postgresql" else _SQLITE_PRESENT
    with connection.cursor() as cursor:
        cursor.execute(query)
        return dict(cursor.fetchall())


_NOTE_EVERYTHING = {
    "sqlite": """
INSERT INTO llmgateway_configchange (table_name, row_id, owner, transaction_id, created_at)
VALUES ('', '', '', 0, strftime('%Y-%m-%d %H:%M:%f', 'now'))
""",
    "postgresql": """
INSERT INTO llmgateway_configchange (table_name, row_id, owner, transaction_id, created_at)
SELECT '', '', '', pg_current_xact_id()::text::bigint, clock_timestamp() FROM pg_notify('llmgateway_config', '')
""",
}
_SQLITE_PRESENT = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'note_config_change%'"


def _sqlite(tables: list[ConfigTable]) -> Iterator[tuple[str, _Trigger]]:
    for table in tables:
        for operation, rows in (("insert", ("NEW",)), ("update", ("OLD", "NEW")), ("delete", ("OLD",))):
            name = f"{PREFIX}_{table.name}_{operation}"
            entries = " ".join(_sqlite_entry(table, row, rows) for row in rows)
            create = f"CREATE TRIGGER {name} AFTER {operation.upper()} ON {table.name} BEGIN {entries} END"
            yield name, _Trigger((f"DROP TRIGGER IF EXISTS {name}", create), create)


def _sqlite_entry(table: ConfigTable, row: str, rows: tuple[str, ...]) -> str:
    # An update is one entry, and two where the row changed its id or owner.
    moved = ""
    if row == "OLD" and len(rows) > 1:
        columns = ["id", *(f"{kind}_id" for kind in table.owners)]
        moved = " WHERE " + " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in columns)
    return (
        f"INSERT INTO {LOG_TABLE} (table_name, row_id, owner, transaction_id, created_at) "
        f"SELECT '{table.name}', {row}.id, {_sqlite_owner(table, row)}, 0, strftime('%Y-%m-%d %H:%M:%f', 'now'){moved};"
    )


def _sqlite_owner(table: ConfigTable, row: str) -> str:
    cases = [f"WHEN {row}.{kind}_id IS NOT NULL THEN '{kind}:' || {row}.{kind}_id" for kind in table.owners]
    return f"CASE {' '.join(cases)} ELSE '' END" if cases else "''"


# One function serves all tables; a trigger's arguments name the kinds of owners. The path is fixed when it is
# created, so that a writer with another search path is noted too. The comment carries the version that is compared.
_FUNCTION = """
CREATE OR REPLACE FUNCTION note_config_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    entry jsonb;
    entries jsonb[] := '{}';
    kinds text[] := '{}';
    kind text;
    whose text;
    moved boolean := false;
BEGIN
    IF TG_NARGS > 0 THEN
        kinds := TG_ARGV;
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        entries := ARRAY[jsonb_build_object('id', '')];
    ELSE
        IF TG_OP <> 'DELETE' THEN
            entries := entries || to_jsonb(NEW);
        END IF;
        IF TG_OP = 'UPDATE' THEN
            moved := OLD.id <> NEW.id;
            FOREACH kind IN ARRAY kinds LOOP
                moved := moved OR to_jsonb(OLD)->(kind || '_id') IS DISTINCT FROM to_jsonb(NEW)->(kind || '_id');
            END LOOP;
        END IF;
        IF TG_OP = 'DELETE' OR moved THEN
            entries := entries || to_jsonb(OLD);
        END IF;
    END IF;
    FOREACH entry IN ARRAY entries LOOP
        whose := '';
        FOREACH kind IN ARRAY kinds LOOP
            IF whose = '' THEN
                whose := coalesce(kind || ':' || (entry->>(kind || '_id')), '');
            END IF;
        END LOOP;
        INSERT INTO llmgateway_configchange (table_name, row_id, owner, transaction_id, created_at) VALUES (
            TG_TABLE_NAME, entry->>'id', whose, pg_current_xact_id()::text::bigint, clock_timestamp()
        );
    END LOOP;
    PERFORM pg_notify('llmgateway_config', '');
    RETURN NULL;
END $$
"""

_POSTGRESQL_PRESENT = """
SELECT t.tgname, coalesce(obj_description(t.oid, 'pg_trigger'), '')
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgname LIKE 'note_config_change%'
  AND pg_table_is_visible(c.oid) AND to_regproc('note_config_change') IS NOT NULL
"""


def _postgresql(tables: list[ConfigTable]) -> Iterator[tuple[str, _Trigger]]:
    for table in tables:
        arguments = ", ".join(f"'{kind}'" for kind in table.owners)
        for suffix, event, each in (
            ("row", "INSERT OR UPDATE OR DELETE", "ROW"),
            ("truncate", "TRUNCATE", "STATEMENT"),
        ):
            name = f"{PREFIX}_{table.name}_{suffix}"
            create = (
                f"CREATE OR REPLACE TRIGGER {name} AFTER {event} ON {table.name} "
                f"FOR EACH {each} EXECUTE FUNCTION {PREFIX}({arguments})"
            )
            version = f"{VERSION} {', '.join(table.owners)}"
            comment = f"COMMENT ON TRIGGER {name} ON {table.name} IS '{version}'"
            yield name, _Trigger((create, comment), version)


VERSION = "2"
"""Raise it when the PostgreSQL function changes: triggers that carry another are put in anew."""


@register(Tags.database)
def check_triggers(
    app_configs: Any,  # noqa: ARG001  # Django passes it by this name.
    databases: Sequence[str] | None = None,
    **_: Any,
) -> list[CheckMessage]:
    """With `check --database default`: whether changes of configuration are noticed."""
    messages: list[CheckMessage] = []
    for using in databases or []:
        missing = missing_triggers(connections[using])
        if missing:
            messages.append(
                checks.Warning(
                    f"{len(missing)} triggers that note changes of configuration are missing, such as {missing[0]}.",
                    hint="Run `manage.py migrate`; it puts them back.",
                    id="llmgateway.W010",
                )
            )
    return messages
