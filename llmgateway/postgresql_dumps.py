"""Dumps of a PostgreSQL database, made and put back with its own client tools. No Django.

A dump is put back in one transaction that ends well or leaves no trace. `pg_restore --clean` is no use for it: it
would drop the constraints of partitions one by one, which PostgreSQL refuses, and leave partitions that are newer than
the dump. So its script goes through `psql`, after a block that drops whole tables.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

LEFT_TO_STARTS = re.compile(
    r"^.* (?:EXTENSION - (?:pg_trgm|vector)|COMMENT - EXTENSION \S+)(?: .*)?$"
    r"|^.* INDEX \S+ search_\w+ .*$"
    r"|^.* llmgateway_questionvector(?:_\w+)? .*$",
    re.MULTILINE,
)
"""In the list of what a dump holds: what each start makes if it can, see `llmgateway.search_indexes` and
`llmgateway.question_vectors`. Not every server has the extensions, and not everybody may create or comment them."""

_SCHEMA = re.compile(r"^\d+; \d+ \d+ (?:SCHEMA -|COMMENT - SCHEMA|ACL - SCHEMA) (\S+) .*$", re.MULTILINE)
_RELATION = re.compile(
    r"^\d+; \d+ \d+ (?:TABLE(?! DATA| ATTACH)|FOREIGN TABLE|VIEW|MATERIALIZED VIEW|SEQUENCE(?! SET| OWNED)) (\S+) (.+) \S+$",
    re.MULTILINE,
)
_ROUTINE = re.compile(r"^\d+; \d+ \d+ (?:FUNCTION|PROCEDURE|AGGREGATE) (\S+) (.+) \S+$", re.MULTILINE)
_MIGRATIONS = "django_migrations"

OUR_APPS = ("billing", "dashboard", "llmgateway", "management_api", "providers")
"""Whose tables go although the dump knows nothing of them: a later version made them, and would make them again."""

# Without CASCADE: what is not ours and depends on what is ours stops the whole, and PostgreSQL names it.
_MAKE_ROOM = """
DO $make_room$
DECLARE
    relations text[] := {relations};
    routines CONSTANT text[] := {routines};
    later text[];
    named text;
    kind text;
    routine text;
BEGIN
    IF to_regclass({content_types}) IS NOT NULL THEN
        EXECUTE {later_query} INTO later;
        relations := relations || later;
    END IF;
    FOREACH kind IN ARRAY ARRAY['m MATERIALIZED VIEW', 'v VIEW', 'rp TABLE', 'f FOREIGN TABLE', 'S SEQUENCE'] LOOP
        SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY c.relname) INTO named
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE strpos(split_part(kind, ' ', 1), c.relkind::text) > 0 AND n.nspname || '.' || c.relname = ANY (relations);
        IF named IS NOT NULL THEN
            IF NOT {replace} THEN
                RAISE EXCEPTION 'the database holds data already, such as %, and nothing says --force',
                    split_part(named, ',', 1);
            END IF;
            EXECUTE format('DROP %s %s', substr(kind, strpos(kind, ' ') + 1), named);
        END IF;
    END LOOP;
    FOREACH routine IN ARRAY routines LOOP
        IF to_regprocedure(routine) IS NOT NULL THEN
            EXECUTE format('DROP ROUTINE %s', to_regprocedure(routine));
        END IF;
    END LOOP;
END $make_room$;
"""
# What joins two models has no content type of its own; it is named after the first and refers to it.
_LATER = """
WITH models AS (
    SELECT c.oid, n.nspname, c.relname
    FROM {content_types} t
    JOIN pg_class c ON c.relname = t.app_label || '_' || t.model
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = {schema}
    WHERE t.app_label = ANY ({apps})
)
SELECT coalesce(array_agg(name), '{{}}') FROM (
    SELECT nspname || '.' || relname AS name FROM models
    UNION
    SELECT m.nspname || '.' || j.relname
    FROM models m
    JOIN pg_constraint r ON r.confrelid = m.oid AND r.contype = 'f'
    JOIN pg_class j ON j.oid = r.conrelid AND starts_with(j.relname, m.relname || '_')
) AS found
"""


class DumpError(Exception):
    """It cannot be made or put back; the message is one line that says what to do."""


def save_dump(url: str, file: Path) -> None:
    """Write what the database `url` holds to `file`.

    Raises:
        DumpError: the tools are missing, or the database refuses.
    """
    _run("pg_dump", "--format=custom", "--no-owner", f"--file={file}", f"--dbname={url}")


def restore_dump(url: str, file: Path, *, replace: bool) -> None:
    """Put the dump `file` into the database `url`, wholly or not at all.

    With `replace`, tables, views and functions of the same names go first, and so do tables that a later version of
    the gateway made. Whatever else is there stays.

    Raises:
        DumpError: the tools are missing, the database refuses, or it holds data and `replace` is not set.
    """
    present = _run("psql", *_PSQL, f"--dbname={url}", "--tuples-only", "--no-align", f"--command={_SCHEMAS}")
    wanted = LEFT_TO_STARTS.sub("", _run("pg_restore", "--list", str(file)))
    # A schema that is there belongs to whoever made it, with its rights.
    schemas = set(present.split())
    wanted = _SCHEMA.sub(lambda entry: "" if entry[1] in schemas else entry[0], wanted)
    with tempfile.NamedTemporaryFile("w", prefix="wanted-", dir=file.parent) as listed:
        listed.write(wanted)
        listed.flush()
        _replay(url, _make_room(wanted, replace=replace), f"--use-list={listed.name}", str(file))


_PSQL = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--set=SHOW_CONTEXT=never")
_SCHEMAS = "SELECT nspname FROM pg_namespace"
_PATIENCE = "SET LOCAL client_min_messages = error; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s';"
"""Whoever still uses the tables is waited for, and not for ever."""


def _make_room(wanted: str, *, replace: bool) -> str:
    relations = [f"{schema}.{name}" for schema, name in _RELATION.findall(wanted)]
    homes = [schema for schema, name in _RELATION.findall(wanted) if name == _MIGRATIONS]
    home = homes[0] if homes else "public"
    content_types = f"{home}.django_content_type"
    later = _LATER.format(content_types=content_types, schema=_quoted(home), apps=_array(OUR_APPS))
    return _MAKE_ROOM.format(
        relations=_array(relations),
        routines=_array(f"{schema}.{signature}" for schema, signature in _ROUTINE.findall(wanted)),
        content_types=_quoted(content_types),
        later_query=_quoted(later),
        replace="true" if replace else "false",
    )


def _replay(url: str, before: str, *arguments: str) -> None:
    """Run `before` and the dump's script in one transaction."""
    psql = [_tool("psql"), *_PSQL, f"--dbname={url}", "--file=-"]
    pg_restore = [_tool("pg_restore"), "--no-owner", "--file=-", *arguments]
    committed = False
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as read:
        with subprocess.Popen(psql, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said) as writer:
            assert writer.stdin is not None  # A pipe was asked for.
            try:
                writer.stdin.write(f"BEGIN;\n{_PATIENCE}\n{before}\n".encode())
                reading = subprocess.run(pg_restore, check=False, stdout=writer.stdin, stderr=read).returncode
                # Without this line, as of a dump that cannot be read to its end, all is as it was.
                if reading == 0:
                    writer.stdin.write(b"\nCOMMIT;\n")
                    committed = True
            except BrokenPipeError:
                committed = False  # psql has said why it left.
        if writer.returncode:
            raise DumpError(f"{_reason('psql', said)}; put that right, or name an empty database in DATABASE_URL")
        if not committed:
            raise DumpError(_reason("pg_restore", read))


def _run(name: str, *arguments: str) -> str:
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run([_tool(name), *arguments], check=False, stdout=subprocess.PIPE, stderr=said, text=True)
        if done.returncode:
            raise DumpError(_reason(name, said))
    return done.stdout


def _tool(name: str) -> str:
    tool = shutil.which(name)
    if tool is None:
        raise DumpError(f"{name} is needed and not installed (for example: apt install postgresql-client).")
    return tool


def _reason(name: str, said: IO[str]) -> str:
    """What a tool wrote when it failed, in one line."""
    said.seek(0)
    lines = [re.sub(rf"^{name}:(?:<stdin>:\d+:)?", "", line).strip() for line in said if line.strip()]
    # The second line often says what the first is about: the versions that do not fit, or what depends on a table.
    return f"{name} failed: {' '.join(lines[:2]) or 'no reason was given'}"


def _array(texts: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(map(_quoted, texts))}]::text[]"


def _quoted(text: str) -> str:
    """As a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
