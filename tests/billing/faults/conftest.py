"""A database that processes can share, on SQLite and on PostgreSQL, and the process that forks workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from environ import Env
from pytest_django import DjangoDbBlocker

from billing.ledger import drain_orphans
from tests.billing.faults.books import Books
from tests.postgres import TEMPLATE, PostgresServer
from tests.prepared import DATABASE, ROOT, with_tables

KILLED = -9
ALIAS = "faults"


class Forks:
    """Runs roles of `worker` in processes of their own."""

    def __init__(self, log: Path) -> None:
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "llmgateway.settings", "PYTHONWARNINGS": "ignore"}
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.billing.faults.worker"],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", log.read_text()
        self.log = log

    def run(self, *orders: dict[str, Any]) -> list[int]:
        """Their exit statuses; -9 is what a kill leaves."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(orders) + "\n")
        self._process.stdin.flush()
        statuses: list[int] = json.loads(self._process.stdout.readline())
        return statuses

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)
        self._log.close()


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks(tmp_path_factory.mktemp("forks") / "workers.log")
    yield forks
    forks.close()


@dataclass
class Scene:
    """Journals in a folder, a diary of what really happened, and a database that processes share."""

    folder: Path
    forks: Forks
    using: str

    @property
    def root(self) -> Path:
        return self.folder / "journal"

    @property
    def diary(self) -> Path:
        return self.folder / "diary"

    def order(self, role: str, point: str = "", nth: int = 1) -> dict[str, Any]:
        shared = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
        database = {
            name: str(value) if name == "NAME" else value for name, value in self._settings.items() if name in shared
        }
        return {
            "role": role, "point": point, "nth": nth, "root": str(self.root), "diary": str(self.diary),
            "database": database,
        }  # fmt: skip

    @property
    def _settings(self) -> dict[str, Any]:
        return connections.databases[self.using]

    def killed(self, role: str, point: str = "", nth: int = 1) -> None:
        """A process of this role dies at the point."""
        [status] = self.forks.run(self.order(role, point, nth))
        assert status == KILLED, (
            f"{role} never came to {point} for the {nth}. time: {self.forks.log.read_text()[-3000:]}"
        )

    def adopt(self) -> None:
        """What the next worker does when it starts."""
        drain_orphans(self.root, using=self.using)

    def books(self) -> Books:
        return Books(self.diary, self.root, self.using)


@pytest.fixture
def sqlite(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a fresh database file in this process."""
    file = with_tables(tmp_path) / DATABASE
    with _connected({"NAME": str(file)}, django_db_blocker):
        yield ALIAS


@pytest.fixture(scope="session")
def shared_url(postgres_server: PostgresServer) -> str:
    """Of one database for all tests here: to copy one for each would take longer than the tests."""
    return postgres_server.url(postgres_server.create_database(template=TEMPLATE))


@pytest.fixture
def postgres(shared_url: str, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of an empty ledger on PostgreSQL."""
    with _connected({"OPTIONS": {}, **Env.db_url_config(shared_url)}, django_db_blocker):
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("TRUNCATE billing_usagerecord, billing_usagerollup, billing_teamhour, billing_journaloffset")
        yield ALIAS


@contextmanager
def _connected(database: dict[str, Any], blocker: DjangoDbBlocker) -> Iterator[None]:
    connections.databases[ALIAS] = {**settings.DATABASES["default"], **database, "TEST": {}}
    connections.configure_settings(connections.databases)
    try:
        with blocker.unblock():
            yield
            connections[ALIAS].close()
            del connections[ALIAS]
    finally:
        del connections.databases[ALIAS]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def scene(request: pytest.FixtureRequest, tmp_path: Path, forks: Forks) -> Scene:
    using: str = request.getfixturevalue(request.param)
    return Scene(tmp_path, forks, using)
