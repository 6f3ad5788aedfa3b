"""The database is away for a while under load: no request fails, the backlog shows, and every row arrives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, Provider, running_product, running_provider, wait_for
from tests.postgres import PostgresServer

CALLERS = 6
AWAY_S = 3.0
CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}


class Load:
    """Callers that ask again and again until told to stop. Any answer but 200 is kept as a failure."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self.completed: dict[str, dict[str, int]] = {}
        self.failures: list[str] = []
        self._stopped = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=self._product.url, timeout=10) as client:
            callers = [asyncio.ensure_future(self._call(client)) for _ in range(CALLERS)]
            try:
                yield
            finally:
                self._stopped = True
                await asyncio.gather(*callers)

    async def _call(self, client: httpx.AsyncClient) -> None:
        while not self._stopped:
            answer = await client.post("/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {KEY}"})
            if answer.status_code == 200:
                self.completed[answer.headers["x-request-id"]] = answer.json()["usage"]
            else:
                self.failures.append(answer.text)
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Somebody else holds SQLite's file: nobody can write."""
    connection = sqlite3.connect(file, isolation_level=None, timeout=20)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


@contextlib.contextmanager
def shut(server: PostgresServer, url: str) -> Iterator[None]:
    """PostgreSQL ends every connection to the database and lets nobody in."""
    with psycopg.connect(url) as connection:
        name = connection.info.dbname
    server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        yield
    finally:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def health(product: Product) -> dict[str, Any]:
    facts: dict[str, Any] = httpx.get(f"{product.url}/health", timeout=5).json()
    return facts


def gauge(product: Product, name: str) -> float:
    lines = httpx.get(f"{product.url}/metrics", timeout=5).text.splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
    return float(value)


async def outlast(
    product: Product, provider: Provider, away: Callable[[], contextlib.AbstractContextManager[None]]
) -> dict[str, Any]:
    """Runs load before, while and after the database is away; returns what `/health` said at the end of that time."""
    load = Load(product)
    async with load.running():
        await asyncio.sleep(0.5)
        with away():
            before = len(load.completed)
            await asyncio.sleep(AWAY_S)
            answered = len(load.completed) - before
            facts = await asyncio.to_thread(health, product)
            waited = await asyncio.to_thread(gauge, product, "llmgateway_journal_undrained_seconds")
            backlog = await asyncio.to_thread(gauge, product, "llmgateway_journal_backlog_bytes")
        await asyncio.sleep(0.5)
    assert load.failures == []
    assert answered > CALLERS, "nothing was asked while the database was away"
    # An answered request leaves some 700 bytes.
    assert min(facts["journal_backlog_bytes"], backlog) > answered * 300
    assert waited > AWAY_S / 2
    await asyncio.to_thread(wait_for, lambda: health(product)["ledger"] == "ok", "the ledger's return", within_s=15)
    rows = {row["request_id"]: row for row in await asyncio.to_thread(product.usage)}
    assert rows.keys() == load.completed.keys()
    assert len(rows) == len(provider.sent)
    for request_id, usage in load.completed.items():
        row = rows[request_id]
        assert (row["status"], row["usage_source"]) == ("completed", "provider")
        assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    await asyncio.to_thread(wait_for, lambda: health(product)["journal_backlog_bytes"] == 0, "an empty backlog")
    return facts


async def test_while_another_process_locks_sqlite(tmp_path: Path) -> None:
    with running_provider(tmp_path) as provider, running_product(tmp_path, provider) as product:
        await outlast(product, provider, lambda: locked(product.data / "gateway.sqlite3"))


@pytest.mark.postgres
async def test_while_postgresql_lets_nobody_in(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    with (
        running_provider(tmp_path) as provider,
        running_product(tmp_path, provider, DATABASE_URL=postgres_url) as product,
    ):
        facts = await outlast(product, provider, lambda: shut(postgres_server, postgres_url))

        assert (facts["status"], facts["ledger"], facts["database"]) == ("degraded", "behind", "unreachable")
        assert json.dumps(facts).find("postgres") == -1, "no address is told"
