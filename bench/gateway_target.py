"""The gateway as an operator runs it, with every feature on, in a folder that is thrown away."""

from __future__ import annotations

import os
import secrets
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import yaml

from bench import wire
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
from bench.targets import Target

INPUT_USD, OUTPUT_USD = "0.15", "0.60"
"""Per million tokens."""
COST_PICO_USD = wire.INPUT_TOKENS * 150_000 + wire.OUTPUT_TOKENS * 600_000
"""Of one request at those prices."""
GATEWAY = (PYTHON, "-m", "llmgateway.cli")
"""What the launcher script runs once the environment is there."""
_FOREIGN = ("DATABASE_URL", "REDIS_URL", "GATEWAY_FIELD_KEYS", "GATEWAY_KEY_PEPPERS", "SECRET_KEY", "DJANGO_SUPERUSER_")


def configuration(upstream_port: int, secret: str) -> dict[str, object]:
    """Everything that a request can meet: address and model list, every kind of limit, budgets, alias and price."""
    plenty = [
        {"metric": "requests", "per": "minute", "amount": 1_000_000_000},
        {"metric": "tokens", "per": "minute", "amount": 1_000_000_000},
        {"metric": "concurrency", "amount": 1_000_000},
    ]
    return {
        "version": 1,
        "providers": {
            "bench-mock": {
                "adapter": "openai_compatible",
                "base_url": f"http://127.0.0.1:{upstream_port}/v1",
                "allow_private_network": True,
                "credentials": [{"name": "main", "api_key": "sk-bench-upstream"}],
            }
        },
        "deployments": {"bench-mock": {"provider": "bench-mock", "credential": "main", "model": "bench-upstream"}},
        "aliases": {wire.MODEL: {"targets": [{"deployment": "bench-mock"}]}},
        "prices": [
            {
                "provider": "bench-mock",
                "model": "bench-upstream",
                "input": INPUT_USD,
                "output": OUTPUT_USD,
                "effective_from": "2026-01-01",
            }
        ],
        "networks": {"bench-loopback": ["127.0.0.0/8", "::1"]},
        "teams": {"bench": {"budgets": [{"name": "month", "window": "month", "limit_usd": "4000000"}]}},
        "keys": {
            "bench": {
                "team": "bench",
                "secret": secret,
                "models": [wire.MODEL],
                "networks": ["bench-loopback"],
                "limits": plenty,
                "budgets": [{"name": "day", "window": "day", "limit_usd": "4000000", "mode": "strict"}],
            }
        },
    }


class Gateway(Target):
    """One `serve` process on SQLite: key, lists, limits, a strict budget, journal, ledger, log line and metrics."""

    name = "gateway"
    title = "gateway, all on"

    def __init__(self, server: Child, port: int, *, folder: Path, key: str) -> None:
        super().__init__(server, port)
        self.folder = folder
        self.key = key
        self.pids = self._server_processes()

    @classmethod
    def start(cls, *, folder: Path, upstream_port: int) -> Gateway:
        folder.mkdir(parents=True)
        port, key = free_port(), f"sk-gw-bench-{secrets.token_urlsafe(24)}"
        env = environment(folder, port)
        file = folder / "bench.yaml"
        file.write_text(yaml.safe_dump(configuration(upstream_port, key)))
        command(env, "import", str(file))
        server = Child([*GATEWAY, "serve"], env=env, output=folder / "gateway.log")
        server.wait_until(lambda: accepts(port), what="its port is open", timeout_s=60)
        return cls(server, port, folder=folder, key=key)

    def _server_processes(self) -> list[int]:
        """The server itself and its helpers, without the Celery worker, which no request waits for."""
        everything = [self.server.pid, *descendants(self.server.pid)]
        return [pid for pid in everything if "celery" not in command_line(pid)]

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, self.pids))

    def rss_mb(self) -> float:
        return max(map(rss_mb, self.pids))

    def pin(self, cpus: frozenset[int]) -> None:
        for pid in self.pids:
            pin(pid, cpus)

    def settle(self, requests: int) -> None:
        self.server.wait_until(lambda: self._drained(requests), what=f"{requests} ledger rows")

    def _drained(self, requests: int) -> bool:
        # The largest row id is found at once where counting reads the whole index; nothing deletes rows here.
        return self._query("SELECT coalesce(max(rowid), 0) FROM billing_usagerecord")[0] >= requests

    def ledger(self) -> dict[str, int]:
        """What the ledger holds: rows, rows with the provider's usage, and their cost."""
        rows, exact, cost = self._query(
            "SELECT count(*), coalesce(sum(usage_source = 'provider' AND status = 'completed'), 0),"
            " coalesce(sum(cost_pico_usd), 0) FROM billing_usagerecord"
        )
        return {"rows": rows, "with_provider_usage": exact, "cost_pico_usd": cost}

    def _query(self, sql: str) -> tuple[int, ...]:
        [database] = self.folder.glob("*.sqlite3")
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            row: tuple[int, ...] = connection.execute(sql).fetchone()
        return row


def environment(folder: Path, port: int) -> dict[str, str]:
    """The run's own data folder and port, and nothing of the caller's gateway."""
    emptied = {name: "" for name in os.environ if name.startswith(_FOREIGN) or name.endswith("_API_KEY")}
    return {**emptied, "GATEWAY_DATA_DIR": str(folder), "HOST": "127.0.0.1", "PORT": str(port)}


def command(env: Mapping[str, str], *arguments: str) -> None:
    """Run `./gateway` with `arguments` to its end."""
    done = subprocess.run(
        [*GATEWAY, *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"./gateway {arguments[0]} failed:\n{(done.stdout + done.stderr)[-3000:].strip()}")
