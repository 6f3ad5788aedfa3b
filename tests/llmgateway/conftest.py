"""Workers that share one database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connections
from environ import Env
from pytest_django import DjangoDbBlocker


@pytest.fixture
def _on_postgres(postgres_url: str, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """All threads of this process use it, as several workers do."""
    before, kept = connections.databases["default"], connections["default"]
    connections.databases["default"] = {**before, "OPTIONS": {}, **Env.db_url_config(postgres_url), "TEST": {}}
    connections.configure_settings(connections.databases)
    del connections["default"]
    with django_db_blocker.unblock():
        yield
        connections["default"].close()
    connections.databases["default"] = before
    connections["default"] = kept
