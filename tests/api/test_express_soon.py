"""What may happen while counters that are kept elsewhere are asked for a request that has no task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from llmgateway.api.http_protocol import GatewayProtocol
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.rules import BudgetIndex
from llmgateway.pipeline.snapshot import Limit
from tests.api.express_scene import QUESTION, Elsewhere, Scene, opened, until
from tests.api.test_express import PER_MINUTE, long_way, settled, strict_budget
from tests.gateways import CHAT, SECRET, key

SLOTS = Limit("limit:2", "slots", "key", 5, 5, "concurrency", "")
ONE_MORE = Limit("limit:1", "5 requests per minute", "key", 5, 5, "requests", "minute")
"""Four are taken by the requests that make two connections known."""


@asynccontextmanager
async def asking(**who: Any) -> AsyncIterator[tuple[Scene, Elsewhere, asyncio.Task[Any]]]:
    """A request whose counters have been asked and have not answered."""
    async with opened(who=key(**who), counters=Elsewhere) as scene:
        store = cast("Elsewhere", scene.house.store)
        store.is_held = True
        before = len(store.asked)
        task = asyncio.create_task(scene.ask())
        await until(lambda: len(store.asked) > before)
        scene.upstream.bodies.clear()
        yield scene, store, task
        task.cancel()


def server_of(scene: Scene) -> GatewayProtocol:
    (server,) = [each for each in scene.state.connections if isinstance(each, GatewayProtocol) and each.express]
    return server


async def nothing_is_held(scene: Scene, budget: Any = None) -> None:
    await until(lambda: scene.house.gateway.turns.taken == 0)
    assert await scene.house.store.limit_used(SLOTS) == 0
    if budget is not None:
        assert (await scene.house.store.state(budget)).held_pico_usd == 0


async def test_no_task_waits_and_the_answer_goes_on_with_it() -> None:
    async with asking(limits=(SLOTS,)) as (scene, store, task):
        assert not scene.house.gateway.exchanges._running
        assert not scene.state.tasks
        assert not scene.upstream.bodies

        store.go_on()

        assert (await task).json() == CHAT
        assert scene.express == ["taken"]
        await nothing_is_held(scene)


async def test_a_client_that_leaves_meanwhile_costs_nothing() -> None:
    budget = strict_budget(10**12)
    async with asking(limits=(SLOTS, PER_MINUTE), budgets=(budget,)) as (scene, store, task):
        used = await scene.house.store.limit_used(PER_MINUTE)
        server = server_of(scene)
        task.cancel()
        await until(lambda: server.express is None)
        store.go_on()

        (row,) = await settled(scene)
        assert row["status"] == "cancelled"
        assert row["error_type"] == "client_left"
        assert row["cost_pico_usd"] == 0
        assert not scene.upstream.bodies, "the provider was asked for a client that had left"
        assert await scene.house.store.limit_used(PER_MINUTE) == used - 1
        await nothing_is_held(scene, budget)


async def test_what_comes_meanwhile_on_the_connection_is_answered_behind_it_and_takes_once() -> None:
    """Were the first asked for again, it would take the last of the limit from itself."""
    async with opened(who=key(limits=(ONE_MORE, SLOTS)), counters=Elsewhere) as scene:
        store = cast("Elsewhere", scene.house.store)
        reader, writer = await asyncio.open_connection(*scene.address)
        request = raw_request(scene)
        for _ in range(2):
            writer.write(request)
            assert b" 200 " in await read_answer(reader)
        store.is_held = True
        before = len(store.asked)
        writer.write(request)
        await until(lambda: len(store.asked) > before)
        writer.write(request)
        await until(lambda: not any(getattr(each, "express", None) for each in scene.state.connections))
        store.is_held = False
        store.go_on()

        assert b" 200 " in await read_answer(reader)
        assert b" 429 " in await read_answer(reader)
        assert len(store.asked) == before + 1
        await nothing_is_held(scene)
        writer.close()


def raw_request(scene: Scene) -> bytes:
    body = json.dumps(QUESTION).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {scene.address[0]}\r\nauthorization: Bearer {SECRET}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head + await reader.readexactly(int(length))


async def test_a_server_that_stops_meanwhile_still_answers() -> None:
    async with asking(limits=(SLOTS,)) as (scene, store, task):
        server = server_of(scene)
        server.shutdown()
        store.go_on()

        answer = await task
        assert answer.json() == CHAT
        assert answer.headers["connection"] == "close"
        assert len(await settled(scene)) == 1
        await nothing_is_held(scene)


async def test_what_is_taken_for_a_task_that_was_stopped_is_given_back() -> None:
    budget = strict_budget(10**12)
    async with asking(limits=(SLOTS,), budgets=(budget,)) as (scene, store, _):
        server = server_of(scene)
        assert server.express is not None
        server.express.hand_over()
        await asyncio.sleep(0)
        (task,) = scene.state.tasks
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await scene.house.store.limit_used(SLOTS) == 1

        store.go_on()

        await nothing_is_held(scene, budget)
        assert not scene.house.ledger.opened


@pytest.mark.parametrize("when", ["before_it_begins", "as_the_counters_answer"])
async def test_a_task_that_is_stopped_at_a_bad_moment_leaves_nothing_taken(when: str) -> None:
    budget = strict_budget(10**12)
    async with asking(limits=(SLOTS,), budgets=(budget,)) as (scene, store, _):
        server = server_of(scene)
        assert server.express is not None
        server.express.hand_over()
        (task,) = scene.state.tasks
        if when == "as_the_counters_answer":
            await asyncio.sleep(0)
            store.go_on()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if when == "before_it_begins":
            store.go_on()

        await nothing_is_held(scene, budget)
        assert not scene.house.ledger.opened


async def test_counters_with_a_fault_of_their_own_keep_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(counters=Elsewhere) as scene:
        monkeypatch.setattr(scene.house.store, "admit_soon", lambda *_, **__: 1 / 0)

        assert (await scene.ask()).status_code == 200

        assert not scene.express
        await nothing_is_held(scene)


async def test_a_refusal_is_told_by_the_long_way() -> None:
    async with opened(who=key(limits=(PER_MINUTE,)), counters=Elsewhere) as scene:
        assert (await scene.ask()).status_code == 200
        refused = await scene.ask()

        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-scope"] == "key"
        assert scene.express == ["taken"]
        await nothing_is_held(scene)


async def test_counters_that_do_not_answer_are_asked_again_by_the_long_way() -> None:
    async with asking(limits=(SLOTS,)) as (scene, store, task):
        store.lose()

        assert (await task).json() == CHAT
        assert not scene.express
        assert len(await settled(scene)) == 1
        await nothing_is_held(scene)


async def test_a_ledger_that_cannot_be_written_is_told_and_nothing_stays_held(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = strict_budget(10**12)
    async with asking(limits=(SLOTS,), budgets=(budget,)) as (scene, store, task):

        def full(record: Any) -> None:
            raise LedgerUnavailableError("The disk is full.")

        monkeypatch.setattr(scene.house.ledger, "open", full)
        store.go_on()

        assert (await task).status_code == 503
        assert not scene.upstream.bodies
        await nothing_is_held(scene, budget)


async def test_a_budget_that_is_made_meanwhile_is_booked() -> None:
    async with asking(limits=(SLOTS,)) as (scene, store, task):
        gateway, budget = scene.house.gateway, strict_budget(10**12)
        gateway.use(gateway.snapshot, BudgetIndex({budget.id: budget}))
        store.go_on()

        assert (await task).json() == CHAT
        assert scene.express == ["taken"]
        (row,) = await settled(scene)
        assert (await store.state(budget)).settled_pico_usd == row["cost_pico_usd"] > 0


async def test_counters_that_cannot_be_asked_close_the_short_way() -> None:
    async with opened(counters=Elsewhere) as scene:
        store = cast("Elsewhere", scene.house.store)
        store.can_ask = False
        before = len(store.asked)

        assert (await scene.ask()).status_code == 200

        assert len(store.asked) == before
        assert not scene.express
        assert (await long_way(scene)).status_code == 200
