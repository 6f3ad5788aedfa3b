"""A real receiver, and journals to fill the outbox from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections
from pytest_django import DjangoDbBlocker

from tests.billing.reporters.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook receiver on this machine, up and willing."""
    running = Receiver()
    running.start()
    yield running
    running.stop()


@pytest.fixture
def sqlite_file(transactional_db: None, django_db_blocker: DjangoDbBlocker, tmp_path: Path) -> Iterator[Path]:
    """A database file as a gateway has it: migrated, and the alias `sqlite_file` of this process.

    The tests' own database lies in memory, where writers of several threads do not wait for each other.
    """
    file = tmp_path / "gateway.sqlite3"
    connections["default"].ensure_connection()
    with closing(sqlite3.connect(file)) as copy:
        connections["default"].connection.backup(copy)
        copy.execute("PRAGMA journal_mode=WAL")
    defaults = connections["default"].settings_dict
    connections.databases["sqlite_file"] = {
        **defaults, "NAME": str(file), "OPTIONS": settings.SQLITE_OPTIONS, "TEST": {},
    }  # fmt: skip
    connections.configure_settings(connections.databases)
    with django_db_blocker.unblock():
        yield file
        connections["sqlite_file"].close()
        del connections["sqlite_file"]
    del connections.databases["sqlite_file"]
