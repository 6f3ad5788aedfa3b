"""What must not happen on the short way: each of these did, or nearly."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from llmgateway.api.http_exchange import answer_head
from llmgateway.api.http_protocol import GatewayProtocol
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.snapshot import Timeouts
from providers.adapters.openai_compatible import GenericOpenAICompatible
from tests.api.express_scene import EVENTS, HANG, OK, ROLE, Scene, answer, chunked, opened, until
from tests.api.test_express import long_way, settled, strict_budget, timeless
from tests.gateways import CHAT, key


def half_open(scene: Scene) -> Any:
    """The only deployment of the scene, whose circuit's pause is just over."""
    (main,) = scene.house.gateway.snapshot.aliases["gpt"].deployments
    health = scene.house.gateway.health
    for _ in range(5):
        health.record(main, ok=False, kind="server_error")
    scene.house.clock.now += 10_000
    assert health.state_of(main).state == "half_open"
    return main


async def test_a_half_open_deployment_gets_one_request_at_a_time() -> None:
    async with opened(HANG) as scene:
        main = half_open(scene)
        before = len(scene.upstream.bodies)
        asking = asyncio.create_task(scene.ask())
        await until(lambda: len(scene.upstream.bodies) > before)

        assert not scene.house.gateway.health.usable((main,)), "somebody is trying it"
        asking.cancel()


async def test_a_half_open_deployment_that_fails_is_left_alone_again() -> None:
    async with opened(*[answer(b"{}", status=503)] * 3) as scene:
        main = half_open(scene)
        before = len(scene.upstream.bodies)

        for _ in range(3):
            assert (await scene.ask()).status_code == 503

        assert len(scene.upstream.bodies) == before + 1, "one tried it; the others were told that it is out"
        assert scene.house.gateway.health.state_of(main).state == "open"


async def test_a_request_is_handed_over_once() -> None:
    """uvloop runs timers before tasks that are ready: the tick finds the request before its task has begun."""
    async with opened(HANG, HANG) as scene:
        before = len(scene.upstream.bodies)
        asking = asyncio.create_task(scene.ask())
        await until(lambda: len(scene.upstream.bodies) > before)
        (server,) = [each for each in scene.state.connections if isinstance(each, GatewayProtocol) and each.express]
        assert server.express is not None
        (exchange,) = scene.house.gateway.exchanges._running.values()

        server.express.hand_over()  # As by bytes that come, an answer that is not ordinary, or a client that leaves.
        exchange.deadline = 0.0
        scene.house.gateway.exchanges.tick()

        assert (await asking).status_code == 504
        await asyncio.sleep(0.02)
        assert len(scene.upstream.bodies) == before + 1, "the provider was asked again"
        assert scene.house.gateway.turns.taken == 0
        assert len(scene.house.ledger.closed) == 1


async def test_a_stream_that_breaks_in_the_piece_with_its_first_words_ends_at_once() -> None:
    said = [*chunked(ROLE, ends=False), b"%x\r\n%b\r\nzz\r\n" % (60, EVENTS[:60])]
    async with opened(said, said, timeouts=Timeouts(idle_s=1)) as scene:
        before = asyncio.get_running_loop().time()
        ours = await scene.ask(stream=True)
        took = asyncio.get_running_loop().time() - before
        theirs = await long_way(scene, stream=True)

        assert scene.express == ["taken"]
        assert ours.content == theirs.content
        one, other = await settled(scene, 2)
        assert timeless(one) == timeless(other)
        assert took < 0.5


async def test_a_journal_with_a_fault_of_its_own_leaves_nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = strict_budget(10**12)
    async with opened(who=key(budgets=(budget,))) as scene:
        monkeypatch.setattr(scene.house.ledger, "open", lambda record: 1 / 0)

        told = await scene.ask()  # On the long way: 500, and nothing is left.

        assert told.status_code == 500
        assert (await scene.house.store.state(budget)).held_pico_usd == 0
        assert scene.house.gateway.turns.taken == 0
        assert not len(scene.house.gateway.exchanges)


async def test_a_request_that_cannot_be_written_is_answered_and_keeps_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened() as scene:
        pool = cast("LeanTransport", scene.house.gateway.upstream._lean)._pool
        monkeypatch.setattr(GenericOpenAICompatible, "adapted", lambda self, dialect, body: 1 / 0, raising=False)

        told = await scene.ask()

        assert told.status_code == 500
        await settled(scene)
        monkeypatch.undo()
        idle = sum(len(origin.idle) for origin in pool._origins.values())
        assert pool._open == idle, "nobody uses one, and none is lost"
        assert OK


async def test_a_second_fault_while_a_first_is_settled_leaves_nothing_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as scene:
        monkeypatch.setattr("llmgateway.pipeline.express.headers_for_client", lambda headers: 1 / 0)
        monkeypatch.setattr(scene.house.ledger, "close", lambda row: 1 / 0)

        async with asyncio.timeout(1):
            told = await scene.ask()

        assert told.status_code == 500
        assert scene.house.gateway.turns.taken == 0
        assert not len(scene.house.gateway.exchanges)


async def test_what_fails_after_the_answer_has_left_is_no_second_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as scene:

        def fails(*_: Any) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as broken:
            broken.setattr(scene.house.telemetry, "finished", fails)
            assert (await scene.ask()).status_code == 200
        assert (await scene.ask()).json() == CHAT

        assert len(scene.express) == 2, "the connection is as good as ever"
        assert len(await settled(scene, 2)) == 2


async def test_an_answer_whose_head_cannot_be_said_is_an_error_and_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as scene:

        def refused(status: int, headers: Any) -> bytes:
            if status == 200:
                raise RuntimeError("a header of the answer holds a line break or a NUL")
            return answer_head(status, headers)

        with monkeypatch.context() as broken:
            broken.setattr("llmgateway.api.http_protocol.answer_head", refused)
            async with asyncio.timeout(2):
                assert (await scene.ask()).status_code == 500
        assert (await scene.ask()).json() == CHAT

        assert len(scene.express) == 2
        assert scene.house.gateway.turns.taken == 0
