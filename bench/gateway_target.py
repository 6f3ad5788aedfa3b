"""The gateway as an operator runs it, with every feature on, in a folder that is thrown away."""

from __future__ import annotations

import os
import secrets
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
import yaml

from bench.gateway_configuration import COST_PICO_USD, PROVIDER, USUAL_LIMITS, configuration, models
from bench.processes import (
    PYTHON,
    ROOT,
    BenchError,
    Child,
    accepts,
    command_line,
    cpu_seconds,
    descendants,
    free_port,
    pin,
    rss_mb,
)
from bench.scale_keys import spread_secrets
from bench.targets import Target

GATEWAY = (PYTHON, "-m", "llmgateway.cli")
"""What the launcher script runs once the environment is there."""
MOST_CALLERS = 1_000
"""So many keys, or aliases, of those there are take turns."""
_FOREIGN = ("DATABASE_URL", "REDIS_URL", "GATEWAY_FIELD_KEYS", "GATEWAY_KEY_PEPPERS", "SECRET_KEY", "DJANGO_SUPERUSER_")
_DAPHNE = "-v 0 --application-close-timeout 30 llmgateway.asgi:application -b 127.0.0.1 -p"
_SLOW_START_S = 120
_ROLLUPS = f"SELECT coalesce(sum(requests), 0) FROM billing_usagerollup WHERE provider = '{PROVIDER}'"
_LEDGER = (
    "SELECT count(*), coalesce(sum(CASE WHEN usage_source = 'provider' AND status = 'completed' THEN 1 ELSE 0 END), 0),"
    f" coalesce(sum(cost_pico_usd), 0) FROM billing_usagerecord WHERE provider = '{PROVIDER}'"
)


@dataclass(frozen=True, slots=True)
class Setup:
    """How one gateway differs from the usual one: a `serve` process on SQLite, counters in memory."""

    server: Literal["serve", "up", "daphne"] = "serve"
    workers: int = 1
    postgres: bool = False
    redis: bool = False
    keys: int = 0
    """Instead of the one key: so many, with two limits and a budget each, which take turns."""
    limits: int = USUAL_LIMITS
    aliases: int = 1
    rows: int = 0
    """Of others, over 30 days, in its ledger beforehand; on PostgreSQL only."""
    in_flight: int = 0
    """Turns for so many requests at once; 0: the usual number."""
    settings: tuple[tuple[str, str], ...] = ()

    def described(self) -> dict[str, object]:
        """For the result: what makes these figures what they are."""
        return {
            "server": self.server,
            "workers": self.workers,
            "database": "PostgreSQL" if self.postgres else "SQLite",
            "counters": "Redis" if self.redis else "memory",
            "keys": self.keys or 1,
            "limits per request": self.limits,
            "aliases": self.aliases,
            "rows beforehand": self.rows,
            "max_in_flight": self.in_flight or "as usual",
            "settings": dict(self.settings),
        }


class Gateway(Target):
    """A running gateway: key, lists, limits, a strict budget, journal, ledger, log line and metrics."""

    def __init__(self, server: Child, port: int, *, setup: Setup, env: Mapping[str, str], keys: Sequence[str]) -> None:
        super().__init__(server, port)
        self.setup = setup
        self.env = env
        self.folder = Path(env["GATEWAY_DATA_DIR"])
        self.keys = tuple(keys)
        self.models = tuple(models(setup.aliases)[:MOST_CALLERS])
        self.pids = self._server_processes()

    @classmethod
    def start(cls, setup: Setup, *, folder: Path, upstream_port: int, urls: Mapping[str, str]) -> Gateway:
        """`urls`: DATABASE_URL and REDIS_URL, where `setup` wants them."""
        folder.mkdir(parents=True)
        port, key = free_port(), f"sk-gw-bench-{secrets.token_urlsafe(24)}"
        env = {**environment(folder, port), **urls, **dict(setup.settings), "WORKERS": str(setup.workers)}
        configured = configuration(
            upstream_port, key, limits=setup.limits, aliases=setup.aliases, in_flight=setup.in_flight
        )
        file = folder / "bench.yaml"
        file.write_text(yaml.safe_dump(configured))
        command(env, "import", str(file))
        if setup.keys or setup.rows:
            _fill(env, setup)
        server = Child(_words(setup, port), env=env, output=folder / "gateway.log")
        server.wait_until(lambda: accepts(port), what="its port is open", timeout_s=_SLOW_START_S)
        if setup.workers > 1:
            server.wait_until(
                lambda: len(_serving(server.pid)) >= setup.workers, what="all workers", timeout_s=_SLOW_START_S
            )
        keys = spread_secrets(setup.keys, MOST_CALLERS) if setup.keys else [key]
        return cls(server, port, setup=setup, env=env, keys=keys)

    def described(self) -> dict[str, object]:
        return self.setup.described()

    def _server_processes(self) -> list[int]:
        """The server itself and its helpers, without the Celery worker, which no request waits for."""
        everything = [self.server.pid, *descendants(self.server.pid)]
        return [pid for pid in everything if "celery" not in command_line(pid)]

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, [*self.pids, *self._pages_processes()]))

    def rss_mb(self) -> float:
        return max(map(rss_mb, self.pids))

    def pages_mb(self) -> float:
        """What the process that makes pages takes besides, while there is one."""
        return sum(map(rss_mb, self._pages_processes()))

    def _pages_processes(self) -> list[int]:
        """Looked for anew: the first who asks for a page has one started."""
        return [pid for pid in descendants(self.server.pid) if "llmgateway.pages" in command_line(pid).split()]

    def pin(self, cpus: frozenset[int]) -> None:
        for pid in self.pids:
            pin(pid, cpus)

    def settle(self, requests: int) -> None:
        self.server.wait_until(lambda: self.drained() >= requests, what=f"{requests} ledger rows", timeout_s=60)

    def drained(self) -> int:
        """Requests in the database so far. Sums of hours are written with the rows, and are quick to read."""
        return int(self._query(_ROLLUPS)[0])

    def ledger(self) -> dict[str, int]:
        """What the ledger holds: rows, rows with the provider's usage, and their cost; and the rows that sums tell of."""
        rows, exact, cost = self._query(_LEDGER)
        figures = {"rows": rows, "with_provider_usage": exact, "cost_pico_usd": cost, "in_sums": self.drained()}
        return {name: int(figure) for name, figure in figures.items()}

    @staticmethod
    def expected_ledger(requests: int) -> dict[str, int]:
        return {
            "rows": requests,
            "with_provider_usage": requests,
            "cost_pico_usd": requests * COST_PICO_USD,
            "in_sums": requests,
        }

    def statuses(self) -> dict[str, int]:
        """Rows of the ledger by status."""
        counts = self._query(
            "SELECT coalesce(sum(CASE WHEN status = 'completed' THEN 1 ELSE 0 END), 0),"
            " coalesce(sum(CASE WHEN status = 'cancelled' THEN 1 ELSE 0 END), 0), count(*) FROM billing_usagerecord"
        )
        completed, cancelled, rows = map(int, counts)
        found = {"completed": completed, "cancelled": cancelled, "other": rows - completed - cancelled}
        return {status: count for status, count in found.items() if count}

    def completed_cost(self) -> int:
        """Pico-dollars of all completed rows."""
        sql = "SELECT coalesce(sum(cost_pico_usd), 0) FROM billing_usagerecord WHERE status = 'completed'"
        return int(self._query(sql)[0])

    def _query(self, sql: str) -> tuple[int, ...]:
        if url := self.env.get("DATABASE_URL"):
            with psycopg.connect(url) as connection:
                found = connection.execute(sql.encode()).fetchone()
                assert found is not None
                return found
        [database] = self.folder.glob("*.sqlite3")
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            row: tuple[int, ...] = connection.execute(sql).fetchone()
        return row


def _words(setup: Setup, port: int) -> list[str]:
    if setup.server == "daphne":
        return [PYTHON, "-m", "daphne", *_DAPHNE.split(), str(port)]
    return [*GATEWAY, setup.server]


def _serving(pid: int) -> list[int]:
    return [child for child in descendants(pid) if "serve" in command_line(child).split()]


def _fill(env: Mapping[str, str], setup: Setup) -> None:
    """In a process of its own: Django can be set up for one database only."""
    _run([PYTHON, "-m", "bench.filling", "--keys", str(setup.keys), "--rows", str(setup.rows)], env, "filling")


def environment(folder: Path, port: int) -> dict[str, str]:
    """The run's own data folder and port, and nothing of the caller's gateway."""
    emptied = {name: "" for name in os.environ if name.startswith(_FOREIGN) or name.endswith("_API_KEY")}
    return {**emptied, "GATEWAY_DATA_DIR": str(folder), "HOST": "127.0.0.1", "PORT": str(port)}


def command(env: Mapping[str, str], *arguments: str) -> str:
    """Run `./gateway` with `arguments` to its end; what it printed."""
    return _run([*GATEWAY, *arguments], env, f"./gateway {arguments[0]}")


def _run(words: Sequence[str], env: Mapping[str, str], name: str) -> str:
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{name} failed:\n{(done.stdout + done.stderr)[-3000:].strip()}")
    return done.stdout


__all__ = ["COST_PICO_USD", "Gateway", "Setup", "command", "configuration", "environment"]
