"""Databases that are thrown away: SQLite in a folder, or a PostgreSQL of the run's own from a package."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.gateway_target import environment
from bench.processes import free_port
from bench.services import postgres

# Nothing here is worth surviving a crash, and filling the tables is no part of what is measured.
_TUNING = ("fsync = off", "full_page_writes = off", "max_wal_size = '1GB'")


@contextmanager
def scratch(*, postgres: bool, folder: Path | None) -> Iterator[dict[str, str]]:
    """The environment of a gateway with an empty database; all of it is removed in the end."""
    made = Path(tempfile.mkdtemp(prefix="gateway-scale-", dir=folder))
    try:
        env = environment(made / "data", free_port())
        if not postgres:
            yield env
            return
        with _server(folder) as url:
            yield env | {"DATABASE_URL": url}
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _server(folder: Path | None) -> Iterator[str]:
    """The URL of an empty database in a server that is started for the run."""
    with postgres(folder) as server:
        server.set_up(_TUNING)
        yield server.create("gateway")
