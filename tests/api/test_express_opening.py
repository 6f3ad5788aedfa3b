"""Without a connection at hand the short way opens one, and whatever happens meanwhile nothing is sent twice or lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from llmgateway.api.http_protocol import GatewayProtocol
from llmgateway.http import httpx
from llmgateway.pipeline.express import Unsent
from llmgateway.pipeline.lean_connection import Connection
from llmgateway.pipeline.lean_pool import ConnectionPool
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.snapshot import Limit, Timeouts
from tests.api.express_scene import OK, QUESTION, STREAM, Scene, opened, until
from tests.api.test_express import left_behind, long_way, settled, strict_budget, timeless
from tests.api.test_express_soon import raw_request, read_answer
from tests.gateways import CHAT, key

SLOTS = Limit("limit:2", "slots", "key", 5, 5, "concurrency", "")


def pool_of(scene: Scene) -> ConnectionPool:
    return cast("LeanTransport", scene.house.gateway.upstream._lean)._pool


def let_go(scene: Scene) -> None:
    """From now on there is no connection at hand."""
    pool = pool_of(scene)
    for origin in pool._origins.values():
        pool.drop_idle(origin)
    assert pool._open == 0


class Gate:
    """Connections are opened as ever, as soon as it is open itself."""

    def __init__(self, open_connection: Callable[..., Awaitable[Connection]]) -> None:
        self._open_connection = open_connection
        self.may_pass = asyncio.Event()
        self.asked = self.waiting = 0
        self.error: BaseException | None = None

    async def __call__(self, *asked: Any) -> Connection:
        self.asked += 1
        self.waiting += 1
        try:
            await self.may_pass.wait()
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error
        return await self._open_connection(*asked)


@asynccontextmanager
async def opening(*script: Any, **of_scene: Any) -> AsyncIterator[tuple[Scene, Gate, asyncio.Task[httpx.Response]]]:
    """A request whose connection is being opened."""
    async with opened(*script, **of_scene) as scene:
        let_go(scene)
        pool = pool_of(scene)
        gate = Gate(pool._open_connection)
        cast("Any", pool)._open_connection = gate
        scene.upstream.bodies.clear()
        task = asyncio.create_task(scene.ask())
        await until(lambda: gate.waiting)
        yield scene, gate, task
        task.cancel()


def server_of(scene: Scene) -> GatewayProtocol:
    (server,) = [each for each in scene.state.connections if isinstance(each, GatewayProtocol) and each.express]
    return server


@pytest.mark.parametrize(("said", "asked"), [(OK, {}), (STREAM, {"stream": True})], ids=["whole", "stream"])
async def test_it_goes_on_as_soon_as_the_connection_is_open_and_books_what_the_long_way_books(
    said: Any, asked: dict[str, Any]
) -> None:
    async with opened(said, said, said) as scene:
        let_go(scene)
        ours = await scene.ask(**asked)
        theirs = await long_way(scene, **asked)
        again = await scene.ask(**asked)

        assert ours.content == theirs.content == again.content
        assert scene.express == ["taken"] * 2
        assert len(scene.upstream.gone) == 2, "that of before, and one that all three used"
        one, other, _ = await settled(scene, 3)
        assert timeless(one) == timeless(other)


async def test_no_task_of_the_request_waits() -> None:
    async with opening() as (scene, gate, task):
        assert scene.express == ["taken"]
        assert not scene.state.tasks
        gate.may_pass.set()

        assert (await task).json() == CHAT
        assert len(scene.upstream.bodies) == 1
        assert (await settled(scene))[0]["status"] == "completed"


async def test_a_provider_that_cannot_be_reached_is_told_as_on_the_long_way() -> None:
    async with opening() as (scene, gate, task):
        gate.error = ConnectionRefusedError("refused")
        gate.may_pass.set()
        ours = await task
        theirs = await long_way(scene)

        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
        assert ours.status_code == 502
        one, other = await settled(scene, 2)
        assert timeless(one) == timeless(other)
        assert [each["cause"] for each in one["attempts"]] == ["not_connected"], "it was tried once"
        assert pool_of(scene)._open == 0


async def test_a_provider_that_takes_no_connection_in_time_is_waited_for_once() -> None:
    async with opening(timeouts=Timeouts(connect_s=0.1)) as (scene, gate, task):
        told = await task

        assert gate.asked == 1
        assert told.status_code in {502, 504}
        (row,) = await settled(scene)
        assert row["status"] == "failed"
        assert row["cost_pico_usd"] == 0
        assert pool_of(scene)._open == 0


async def test_a_deadline_that_passes_meanwhile_ends_it_and_costs_nothing() -> None:
    budget = strict_budget(10**12)
    async with opening(timeouts=Timeouts(total_s=0.2), who=key(budgets=(budget,))) as (scene, gate, task):
        told = await task

        assert told.status_code == 504
        (row,) = await settled(scene)
        assert (row["status"], row["cost_pico_usd"]) == ("failed", 0)
        assert not gate.waiting
        assert pool_of(scene)._open == 0
        assert not scene.upstream.bodies
        assert (await scene.house.store.state(budget)).held_pico_usd == 0


async def test_a_client_that_leaves_meanwhile_costs_nothing_and_keeps_no_connection() -> None:
    async with opening(who=key(limits=(SLOTS,))) as (scene, gate, task):
        server = server_of(scene)
        task.cancel()
        await until(lambda: server.express is None)

        (row,) = await settled(scene)
        assert (row["status"], row["error_type"], row["cost_pico_usd"]) == ("cancelled", "client_left", 0)
        assert not scene.upstream.bodies
        await until(lambda: pool_of(scene)._open == 0)
        assert not gate.waiting
        assert await scene.house.store.limit_used(SLOTS) == 0


@pytest.mark.parametrize("is_open", [False, True], ids=["before", "after"])
async def test_a_task_that_is_stopped_before_it_begins_keeps_no_connection(is_open: bool) -> None:
    async with opening() as (scene, gate, _):
        server = server_of(scene)
        assert server.express is not None
        call = server.express.call
        assert isinstance(call.sent, Unsent)
        if is_open:
            call.sent.opening.remove_done_callback(server.express._send_on)
            gate.may_pass.set()
            await until(call.sent.opening.done)
            assert pool_of(scene)._open == 1
        server.express.hand_over()
        (task,) = scene.state.tasks
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        await until(lambda: pool_of(scene)._open == 0)
        assert not scene.upstream.bodies


async def test_a_task_that_is_stopped_just_as_its_connection_opens_keeps_none() -> None:
    async with opening() as (scene, gate, _):
        express = server_of(scene).express
        assert express is not None
        assert isinstance(express.call.sent, Unsent)
        waiting = express.call.sent.opening
        waiting.add_done_callback(lambda _: task.cancel())
        express.hand_over()  # From now on its task waits for the connection, and hears of it after that.
        (task,) = scene.state.tasks
        await until(lambda: express.call.sent is None)
        gate.may_pass.set()
        await asyncio.gather(task, return_exceptions=True)

        assert not waiting.cancelled()
        await until(lambda: pool_of(scene)._open == 0)
        assert not scene.upstream.bodies


@pytest.mark.parametrize("is_short", [True, False], ids=["short", "handed-over"])
async def test_a_connection_that_ends_as_soon_as_it_is_open_is_no_silence(is_short: bool) -> None:
    async with opening() as (scene, gate, task):
        express = server_of(scene).express
        assert express is not None
        assert isinstance(express.call.sent, Unsent)
        waiting = express.call.sent.opening
        waiting.remove_done_callback(express._send_on)
        waiting.add_done_callback(lambda opened: opened.result().connection_lost(None))
        waiting.add_done_callback(express._send_on)
        if not is_short:
            express.hand_over()
        gate.may_pass.set()

        async with asyncio.timeout(1):
            assert (await task).status_code == 502


async def test_what_comes_meanwhile_on_the_connection_is_answered_behind_it_and_nothing_is_sent_twice() -> None:
    async with opened() as scene:
        reader, writer = await asyncio.open_connection(*scene.address)
        request = raw_request(scene)
        writer.write(request)
        assert b" 200 " in await read_answer(reader)
        let_go(scene)
        pool = pool_of(scene)
        gate = Gate(pool._open_connection)
        cast("Any", pool)._open_connection = gate
        scene.upstream.bodies.clear()
        writer.write(request)
        await until(lambda: gate.waiting)
        writer.write(request)
        await until(lambda: not any(getattr(each, "express", None) for each in scene.state.connections))
        gate.may_pass.set()

        assert [b" 200 " in await read_answer(reader) for _ in range(2)] == [True, True]
        assert len(scene.upstream.bodies) == 2
        assert len(await settled(scene, 3)) == 3
        writer.close()


async def test_one_that_is_handed_over_as_its_connection_opens_is_sent_once() -> None:
    """It is open, and the request has not been told yet."""
    async with opening() as (scene, gate, task):
        express = server_of(scene).express
        assert express is not None
        assert isinstance(express.call.sent, Unsent)
        waiting = express.call.sent.opening
        waiting.remove_done_callback(express._send_on)
        waiting.add_done_callback(lambda _: express.hand_over())
        waiting.add_done_callback(express._send_on)
        gate.may_pass.set()

        assert (await task).json() == CHAT
        assert len(scene.upstream.bodies) == 1
        assert (await settled(scene))[0]["status"] == "completed"


async def test_a_server_that_stops_meanwhile_still_answers() -> None:
    async with opening() as (scene, gate, task):
        server_of(scene).shutdown()
        gate.may_pass.set()

        told = await task
        assert told.json() == CHAT
        assert told.headers["connection"] == "close"
        assert len(await settled(scene)) == 1


async def test_a_pool_that_is_full_is_waited_for_in_turn() -> None:
    async with opened([OK[:30], b"", b"", OK[30:]]) as scene:
        let_go(scene)
        pool_of(scene)._max = 1
        same: dict[str, Any] = {"base_url": scene.client.base_url, "headers": scene.client.headers}
        clients = [httpx.AsyncClient(**same) for _ in range(4)]
        order: list[int] = []

        async def ask(number: int) -> int:
            told = await clients[number].post("/v1/chat/completions", json={**QUESTION, "user": str(number)})
            order.append(number)
            return told.status_code

        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(ask(number)))
            await until(lambda: len(scene.express) == len(tasks))

        assert await asyncio.gather(*tasks) == [200] * 4
        assert [body["user"] for body in scene.upstream.bodies[-4:]] == ["0", "1", "2", "3"]
        assert not scene.state.tasks
        assert len(await settled(scene, 4)) == 4
        for client in clients:
            await client.aclose()


async def test_a_fault_of_the_gateway_while_it_sends_is_told_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opening(who=key(limits=(SLOTS,))) as (scene, gate, task):
        monkeypatch.setattr(scene.house.app.express.lane, "send_on", lambda *_: 1 / 0)
        gate.may_pass.set()

        async with asyncio.timeout(1):
            told = await task

        assert told.status_code == 500
        assert [row["status"] for row in await settled(scene)] == ["failed"]
        assert not scene.upstream.bodies
        assert await scene.house.store.limit_used(SLOTS) == 0
        await until(lambda: pool_of(scene)._open == sum(len(each.idle) for each in pool_of(scene)._origins.values()))


async def test_nothing_of_it_is_left_in_a_cycle() -> None:
    async with opened() as scene:
        let_go(scene)
        await scene.ask()
        await settled(scene)
        let_go(scene)

        found = await left_behind(scene.ask)

        assert len(scene.express) == 2
        assert not {name for name in found if name.startswith(("llmgateway.", "providers."))}
