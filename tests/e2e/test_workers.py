"""Four workers behind one port, on a real PostgreSQL and a real Redis."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from llmgateway.http import httpx
from tests.e2e.harness import (
    CONFIGURATION,
    INPUT_PRICE,
    KEY,
    LIMITED_KEY,
    OUTPUT_PRICE,
    PROVIDER_SECRET,
    Provider,
    running_provider,
    wait_for,
)
from tests.e2e.launched import LaunchedGateway, command, descendants, environment
from tests.postgres import TEMPLATE, PostgresServer
from tests.stores.redis_server import RedisServer

pytestmark = pytest.mark.postgres

WORKERS = 4
CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
STRICT_LIMIT = 1_000_000_000
"""Pico-dollars: 0.001 dollars."""
OUTAGE_LIMIT = 8_000_000_000
RULES = {
    "many": "limits: [{metric: requests, per: minute, amount: 300}]",
    "slots": "limits: [{metric: concurrency, amount: 4}]",
    "strict": 'budgets: [{name: month, window: month, limit_usd: "0.001", mode: strict}]',
    "outage": 'budgets: [{name: outage, window: month, limit_usd: "0.008", mode: strict}]',
    "edited": "limits: [{metric: requests, per: day, amount: 100000}]",
}


def secret(name: str) -> str:
    return f"sk-gw-{name:0<10}-0123456789abcdefghij"


class Host:
    """The product as an operator with several workers runs it."""

    def __init__(self, folder: Path, provider: Provider, database: str, redis: RedisServer) -> None:
        more = "".join(
            f"  {name}: {{team: platform, secret: {secret(name)}, {rules}}}\n" for name, rules in RULES.items()
        )
        file = folder / "gateway.yaml"
        file.write_text(
            CONFIGURATION.format(
                port=provider.port, secret=PROVIDER_SECRET, key=KEY, limited_key=LIMITED_KEY, more=more
            )
        )
        self.redis = redis
        self.settings = {
            "DATABASE_URL": database,
            "REDIS_URL": redis.url,
            # A busy machine is not what a Redis that is away means; tests of the store take Redis away.
            "REDIS_TIMEOUT_MS": "5000",
            "SHUTDOWN_GRACE_S": "10",
        }
        self.data = folder / "data"
        self.gateway = LaunchedGateway(
            self.data,
            "--workers",
            str(WORKERS),
            "--config",
            str(file),
            DJANGO_SUPERUSER_PASSWORD="x" * 20,
            **self.settings,
        )
        self.url = f"http://127.0.0.1:{self.gateway.port}"

    def servers(self) -> list[int]:
        """The process ids of the workers."""
        return [
            pid
            for pid in descendants(self.gateway.process.pid)
            if re.search(rb"\0serve\0", Path(f"/proc/{pid}/cmdline").read_bytes())
        ]

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            command(*arguments, "--data", str(self.data)),
            capture_output=True, text=True, timeout=90, env=environment(**self.settings), check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def usage(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.manage("usage", "--json").splitlines()]

    def caller(self, name: str) -> httpx.AsyncClient:
        key = KEY if name == "app" else secret(name)
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
            limits=httpx.Limits(max_connections=500),
        )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("workers")
    database = postgres_server.create_database(template=TEMPLATE)
    redis = RedisServer(str(folder))
    redis.start()
    try:
        with running_provider(folder) as provider:
            made = Host(folder, provider, postgres_server.url(database), redis)
            with made.gateway:
                wait_for(lambda: len(made.servers()) == WORKERS, "the start of all workers", within_s=60)
                wait_for(lambda: len(asked_workers(made)) == WORKERS, "answers of all workers", within_s=60)
                yield made
    finally:
        redis.kill()


def asked_workers(host: Host) -> list[Path]:
    return list((host.data / "run").glob("*.sock"))


async def ask_all(client: httpx.AsyncClient, count: int, workers: int, **changes: Any) -> list[httpx.Response]:
    turns = asyncio.Semaphore(workers)

    async def one() -> httpx.Response:
        async with turns:
            return await client.post("/v1/chat/completions", json={**CHAT, **changes})

    return await asyncio.gather(*[one() for _ in range(count)])


async def test_600_requests_of_96_callers_never_exceed_the_bound(host: Host) -> None:
    began = time.monotonic()
    async with host.caller("many") as client:
        statuses = Counter(answer.status_code for answer in await ask_all(client, 600, 96))
    lasted = time.monotonic() - began

    assert set(statuses) == {200, 429}
    assert 300 <= statuses[200] <= 300 + 300 * lasted / 60 + 1


async def test_a_strict_budget_is_shared_and_not_overspent(host: Host) -> None:
    async with host.caller("strict") as client:
        answers = await ask_all(client, 400, 100, max_tokens=300)

    spent = sum(cost(answer.json()["usage"]) for answer in answers if answer.status_code == 200)
    assert {answer.status_code for answer in answers} == {200, 402}
    assert 0 < spent <= STRICT_LIMIT
    budget = wait_for(lambda: settled(host, "month", spent), "the ledger's sum", within_s=20)
    assert (int(budget["settled_pico_usd"]), int(budget["held_pico_usd"])) == (spent, 0)


def cost(usage: dict[str, Any]) -> int:
    return int(usage["prompt_tokens"]) * INPUT_PRICE + int(usage["completion_tokens"]) * OUTPUT_PRICE


def settled(host: Host, name: str, spent: int) -> dict[str, Any] | None:
    [budget] = [each for each in map(json.loads, host.manage("budgets", "--json").splitlines()) if each["name"] == name]
    return budget if int(budget["settled_pico_usd"]) >= spent else None


async def test_slots_are_shared(host: Host) -> None:
    slow = {"stream": True, "x_fake": {"chunk_delay_ms": 100, "tokens": 20}}
    async with host.caller("slots") as client:
        answers = await ask_all(client, 12, 12, **slow)

        assert Counter(answer.status_code for answer in answers) == {200: 4, 429: 8}
        assert (await ask_all(client, 1, 1))[0].status_code == 200


OWN = {"x-gateway-provider": "fake", "x-gateway-provider-key": PROVIDER_SECRET}
SAY = "from llmgateway.models import *; Team.objects.filter(name='platform').update(own_keys='{}')"
BAN = "from llmgateway.models import *; BannedKey.objects.create(digest='{}')"


async def test_a_team_s_own_keys_and_bans_are_the_same_in_every_worker(host: Host) -> None:
    async with host.caller("edited") as client:
        client.headers.update(OWN)
        assert {answer.status_code for answer in await ask_all(client, 40, 20)} == {403}
        await asyncio.to_thread(host.manage, "shell", "-c", SAY.format("allow"))
        await asyncio.sleep(1)
        answers = await ask_all(client, 40, 20)
        assert {(answer.status_code, answer.headers["x-gateway-cost-usd"]) for answer in answers} == {(200, "0")}
        ids = {answer.headers["x-request-id"] for answer in answers}
        rows = wait_for(lambda: len(found := own_rows(host, ids)) == 40 and found, "the rows", within_s=20)
        [digest] = {row["own_key"] for row in rows}
        await asyncio.to_thread(host.manage, "shell", "-c", BAN.format(digest))
        await asyncio.sleep(1)
        refused = await ask_all(client, 40, 20)
        await asyncio.to_thread(host.manage, "shell", "-c", SAY.format("inherit"))

    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(403, "key_banned")}


def own_rows(host: Host, ids: set[str]) -> list[dict[str, Any]]:
    return [row for row in host.usage() if row["request_id"] in ids]


async def test_an_edit_holds_in_every_worker_within_a_second(host: Host) -> None:
    edit = "from llmgateway.models import RateLimit as R; R.objects.filter(key__name='edited').update(amount=0)"
    async with host.caller("edited") as client:
        assert {answer.status_code for answer in await ask_all(client, 40, 20)} == {200}
        await asyncio.to_thread(host.manage, "shell", "-c", edit)
        await asyncio.sleep(1)
        # Twenty connections at once reach every worker.
        assert {answer.status_code for answer in await ask_all(client, 40, 20)} == {429}


CIRCUITS = (
    "from llmgateway.models import GatewaySettings as S; "
    "S.objects.update(circuit_mode='{}', circuit_failures=2, circuit_open_s=300, circuit_wait_s=0)"
)
RESET = "from providers.models import Deployment as D; from django.db.models import F; D.objects.update(health_generation=F('health_generation') + 1)"


async def test_a_circuit_that_one_worker_opens_is_open_in_all_until_it_is_reset(host: Host) -> None:
    await asyncio.to_thread(host.manage, "shell", "-c", CIRCUITS.format("enforce"))
    await asyncio.sleep(1)
    try:
        async with host.caller("app") as client:
            failed = [await client.post("/v1/chat/completions", json={**CHAT, "x_fake": {"status": 500}}) for _ in "12"]
            assert [answer.status_code for answer in failed] == [500, 500]  # On one connection, so by one worker.
            await asyncio.sleep(1)
            assert {answer.status_code for answer in await ask_all(client, 40, 20)} == {503}

            await asyncio.to_thread(host.manage, "shell", "-c", RESET)
            await asyncio.sleep(1)
            assert {answer.status_code for answer in await ask_all(client, 40, 20)} == {200}
    finally:
        await asyncio.to_thread(host.manage, "shell", "-c", CIRCUITS.format("log"))


async def test_metrics_are_those_of_all_workers(host: Host) -> None:
    async with host.caller("app") as client:
        await ask_all(client, 40, 20)
        await asyncio.sleep(0.2)
        pages = [(await client.get("/metrics")).text for _ in range(8)]

    counted = [
        sum(map(float, re.findall(r"^llmproxy_requests_total\{.*chat.*\} (\S+)$", page, re.MULTILINE)))
        for page in pages
    ]
    assert len(set(counted)) == 1
    assert counted[0] >= 40
    assert 'llmgateway_store_mode{mode="ok"} 4.0' in pages[0]
    assert "llmgateway_store_workers 4.0" in pages[0]
    assert re.search(r"^llmgateway_store_round_trip_seconds_count [1-9]", pages[0], re.MULTILINE)


async def test_a_killed_worker_loses_nothing_and_comes_back(host: Host) -> None:
    before = {row["request_id"] for row in host.usage()}
    received: dict[str, dict[str, Any]] = {}
    async with host.caller("app") as client:

        async def keep_asking() -> None:
            for _ in range(60):
                try:
                    answer = await client.post("/v1/chat/completions", json=CHAT)
                except httpx.TransportError:
                    continue
                received[answer.headers["x-request-id"]] = answer.json()["usage"]

        callers = [asyncio.create_task(keep_asking()) for _ in range(12)]
        await asyncio.sleep(0.5)
        victim = host.servers()[-1]
        os.kill(victim, signal.SIGKILL)
        await asyncio.gather(*callers)

    await asyncio.to_thread(
        wait_for, lambda: len(set(host.servers()) - {victim}) == WORKERS, "its successor", within_s=30
    )
    rows = await asyncio.to_thread(adopted, host, before, received)
    assert {request_id: rows[request_id]["cost_pico_usd"] for request_id in received} == {
        request_id: cost(usage) for request_id, usage in received.items()
    }
    assert {row["status"] for request_id, row in rows.items() if request_id not in received} <= {
        "interrupted",
        "completed",
        "cancelled",
    }


def adopted(host: Host, before: set[str], received: dict[str, Any]) -> dict[str, dict[str, Any]]:
    def rows() -> dict[str, dict[str, Any]] | None:
        found = {row["request_id"]: row for row in host.usage() if row["request_id"] not in before}
        return found if received.keys() <= found.keys() else None

    found: dict[str, dict[str, Any]] = wait_for(rows, "the dead worker's rows", within_s=40)
    return found


ALLOW = "from llmgateway.models import RateLimit as R; R.objects.filter(key__name='edited').update(amount=10**6)\n"
NEW_LIMIT = 7_654_000_000_000
NEW_BUDGET = f"""
from billing.models import Budget
from llmgateway.models import ApiKey
key = ApiKey.objects.get(name="edited")
Budget.objects.create(name="late", key=key, window="month", mode="strict", limit_pico_usd={NEW_LIMIT})
"""


async def test_a_new_budget_under_load_begins_with_what_all_workers_used(host: Host) -> None:
    statuses: Counter[int] = Counter()
    earlier = len(await asyncio.to_thread(edited_rows, host))
    making = asyncio.create_task(asyncio.to_thread(host.manage, "shell", "-c", ALLOW + NEW_BUDGET))
    async with host.caller("edited") as client:

        async def keep_asking() -> None:
            while not counted(host, NEW_LIMIT) or making_since is None or time.monotonic() < making_since + 1:
                statuses.update(answer.status_code for answer in await ask_all(client, 20, 20))

        making_since: float | None = None
        asking = asyncio.create_task(keep_asking())
        await making
        making_since = time.monotonic()
        await asyncio.wait_for(asking, 60)

    assert set(statuses) <= {200, 429}  # Until the limit is lifted; 503 never.
    spent = sum(row["cost_pico_usd"] for row in await asyncio.to_thread(drained, host, earlier + statuses[200]))
    assert spent
    assert counted(host, NEW_LIMIT) == [(spent, 0)]


def drained(host: Host, count: int) -> list[dict[str, Any]]:
    """The rows of the key `edited`, once there are so many."""

    def rows() -> list[dict[str, Any]] | None:
        found = edited_rows(host)
        return found if len(found) >= count else None

    found: list[dict[str, Any]] = wait_for(rows, "all rows", within_s=20)
    return found


def edited_rows(host: Host) -> list[dict[str, Any]]:
    return [row for row in host.usage() if row["key"] == "edited"]


async def test_redis_killed_and_back_empty_under_load(host: Host) -> None:
    answers: list[httpx.Response] = []
    back_at = 0
    async with host.caller("outage") as client:

        async def keep_asking() -> None:
            # Until the budget is used up, well after the counters were lost.
            while not (back_at and any(answer.status_code == 402 for answer in answers[back_at:])):
                async with asyncio.timeout(10):  # Nothing hangs.
                    answers.append(await client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 300}))
                await asyncio.sleep(0 if answers[-1].status_code == 200 else 0.05)

        async with asyncio.TaskGroup() as callers, asyncio.timeout(60):
            for _ in range(12):
                callers.create_task(keep_asking())
            await asyncio.sleep(0.5)
            host.redis.kill()
            before = len(answers)
            await asyncio.sleep(1)
            away = [answer.status_code for answer in answers[before:]]
            await asyncio.to_thread(host.redis.start)
            back_at = len(answers)

    assert {answer.status_code for answer in answers[:before]} == {200}
    # Nobody knows what is left of a strict budget; what was admitted before is answered.
    assert set(away) <= {200, 503}
    assert away.count(200) <= 12 < away.count(503)
    assert 200 in {answer.status_code for answer in answers[back_at:]}
    spent = sum(cost(answer.json()["usage"]) for answer in answers if answer.status_code == 200)
    assert spent <= OUTAGE_LIMIT
    budget = await asyncio.to_thread(wait_for, lambda: settled(host, "outage", spent), "the ledger's sum", within_s=20)
    assert (int(budget["settled_pico_usd"]), int(budget["held_pico_usd"])) == (spent, 0)
    assert counted(host, OUTAGE_LIMIT) == [(spent, 0)]


def counted(host: Host, limit: int) -> list[tuple[int, int]]:
    """What Redis says is settled and held of budgets with this limit."""
    found = []
    with redis.Redis(port=host.redis.port) as client:
        for name in client.scan_iter("{gateway}:????????:budget:*"):
            remaining, held, known = map(int, client.hmget(name, "remaining", "held", "limit"))
            if known == limit:
                found.append((known - remaining - held, held))
    return found


async def test_one_process_makes_the_pages_of_all_workers(host: Host) -> None:
    made = wait_for(lambda: makers(host), "the same process behind every worker", within_s=30, pause_s=0.1)
    asking = [pid for pid in descendants(host.gateway.process.pid) if b"llmgateway.pages" in command_of(pid)]

    assert asking == made


async def test_a_stop_lets_every_worker_finish_its_streams(host: Host) -> None:
    slow = {**CHAT, "stream": True, "x_fake": {"chunk_delay_ms": 100, "tokens": 20}}
    async with host.caller("app") as client:
        streams = [asyncio.create_task(client.post("/v1/chat/completions", json=slow)) for _ in range(16)]
        await asyncio.sleep(0.8)
        stopping = asyncio.create_task(asyncio.to_thread(host.gateway.send, signal.SIGTERM))
        answers = await asyncio.gather(*streams)

    assert [answer.content.endswith(b"data: [DONE]\n\n") for answer in answers] == [True] * 16
    assert await stopping == 0
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert {row["status"] for row in host.usage() if row["request_id"] in ids} == {"completed"}


def makers(host: Host) -> list[int]:
    """The process that made a page for each of so many connections that every worker had some; none while they differ."""
    found = set()
    for _ in range(20):
        with httpx.Client(base_url=host.url, timeout=20) as client:
            assert client.get("/login/").status_code == 200
            found.add(client.get("/health").json()["pages"]["pid"])
    return list(found) if len(found) == 1 and 0 not in found else []


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
