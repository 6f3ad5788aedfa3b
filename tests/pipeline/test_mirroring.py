"""Copies of requests for another alias: counted apart, answered to nobody, and never in the way."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from llmgateway.http import httpx
from llmgateway.pipeline.mirroring import MOST_AT_ONCE
from llmgateway.pipeline.protocols import Record
from llmgateway.pipeline.route_rules import CircuitRules, MirrorRule
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Limit, Retries
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, House, alias, deployment, key, snapshot
from tests.pipeline.attempt_scenes import DONE, ROLE, USAGE, Visit, error, said

A, B = deployment("a"), deployment("b", 2, model="other-model", prices=(replace(PRICE, output=20),))
MINE = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC", owner="key:1")
EVERYBODYS = BudgetRule(2, "all", "global", "", "day", 10**12, "UTC")
OTHERS = BudgetRule(3, "other", "model", "other", "day", 10**12, "UTC", owner="alias:2")
MY_REQUESTS = Limit("limit:1", "9 requests per day", "key", 9, 9, per="day", owner="key:1")
EACH_ADDRESS = Limit("limit:2", "9 requests per day", "global", 9, 9, per="day", each="ip")


def other(**changes: Any) -> Alias:
    return replace(alias("other", B), id=2, budgets=(OTHERS,), **changes)


def house(*replies: Reply | Exception, share: float = 1.0, to: Alias | None = None, **who: Any) -> House:
    return House(
        ScriptedUpstream(*replies),
        snapshot(
            replace(alias("gpt", A), mirror=MirrorRule("other", share)),
            to or other(),
            who=key(**{"budgets": (MINE, EVERYBODYS), "limits": (MY_REQUESTS, EACH_ADDRESS), **who}),
            retries=Retries(attempts=0),
            circuit=CircuitRules(mode="off"),
        ),
    )


async def rows(place: House) -> tuple[Record, Record]:
    """Of the request, and of its copy once that has ended."""
    async with asyncio.timeout(2):
        while len(place.gateway.mirroring) or len(place.ledger.closed) < 2:  # noqa: ASYNC110  # Nobody tells.
            await asyncio.sleep(0.002)
    mine, copy = sorted(place.ledger.closed, key=lambda row: "mirror_of" in row)
    return mine, copy


async def test_the_other_alias_is_asked_the_same() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT))

    response = await place.chat({"temperature": 0.5})
    mine, copy = await rows(place)

    assert response.headers["x-gateway-deployment"] == "a"
    first, second = place.upstream.bodies
    assert second == {**first, "model": "other-model"}
    assert (copy["mirror_of"], copy["alias"], copy["deployment"]) == (mine["id"], "other", "b")
    assert copy["id"] != mine["id"]
    assert (copy["status"], copy["cost_pico_usd"]) == ("completed", 11 * 2 + 5 * 20)
    assert "mirror_of" not in mine
    assert place.telemetry.figures.mirrors == {"asked": 1}


async def test_what_its_caller_gives_up_is_not_copied() -> None:
    # Else a short time that is over before anything is sent would have copies made for nothing.
    place = house(Reply(delay_s=60.0))
    visit = Visit(place, x_request_timeout_ms="1000")

    await visit.pass_time(1.1)

    assert (await visit.answer()).status_code == 504
    assert (len(place.upstream.requests), place.telemetry.figures.mirrors) == (1, {})


async def test_it_counts_for_everybodys_and_the_other_aliass_budgets_and_never_for_the_callers() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT))

    await place.chat()
    mine, copy = await rows(place)

    async def settled(budget: BudgetRule) -> int:
        state = await place.store.state(budget)
        assert state.held_pico_usd == 0
        return state.settled_pico_usd

    assert await settled(MINE) == mine["cost_pico_usd"]
    assert await settled(OTHERS) == copy["cost_pico_usd"]
    assert await settled(EVERYBODYS) == mine["cost_pico_usd"] + copy["cost_pico_usd"]
    assert await place.store.limit_used(MY_REQUESTS) == 1


async def test_its_row_names_nobody() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT))

    await place.chat(x_end_user_id="ana", x_request_id="mine-1")
    _, copy = await rows(place)

    assert (copy["key_id"], copy["key_name"], copy["team_id"]) == ("mirror", "mirror", 0)
    assert (copy["client_ip"], copy["end_user"], copy["client_request_id"]) == ("", "", "")


@pytest.mark.parametrize(("share", "copies"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.5, 5), (0.3, 3), (1.0, 10)])
async def test_the_share_is_kept_by_counting(share: float, copies: int) -> None:
    place = house(*[Reply.json(CHAT)] * 20, share=share, limits=())

    for _ in range(10):
        await place.chat()
    await asyncio.sleep(0.02)

    assert len(place.ledger.closed) == 10 + copies


async def test_a_key_need_not_be_allowed_the_other_alias() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT), models=frozenset({"gpt"}))

    await place.chat()

    assert (await rows(place))[1]["alias"] == "other"


async def test_a_stream_is_read_to_its_end() -> None:
    pieces = (ROLE, said("Hel"), 0.02, said("lo"), USAGE, DONE)
    place = house(Reply.events(*pieces), Reply.events(*pieces))

    await Visit(place, {"stream": True}).answer()
    _, copy = await rows(place)

    assert (copy["stream"], copy["output"], copy["usage_source"]) == (True, 5, "provider")
    assert all(stream.exhausted for stream in place.upstream.streams)


async def test_the_other_may_speak_another_dialect() -> None:
    claude = replace(B, adapter=get_adapter("anthropic"))
    answer = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Hello"}], "usage": {"input_tokens": 7, "output_tokens": 3},
    }  # fmt: skip
    place = house(Reply.json(CHAT), Reply.json(answer), to=replace(other(), targets=alias("x", claude).targets))

    await place.chat()
    _, copy = await rows(place)

    assert (copy["input"], copy["output"]) == (7, 3)
    assert json.loads(place.upstream.requests[1].content)["model"] == "other-model"


class TestNeverInTheWay:
    async def test_a_slow_copy_delays_nobody(self) -> None:
        place = house(Reply.json(CHAT), Reply(delay_s=60.0))

        response = await asyncio.wait_for(place.chat(), 0.5)

        assert response.status_code == 200
        assert len(place.gateway.mirroring) == 1
        await place.gateway.mirroring.stop()

    @pytest.mark.parametrize("reply", [Reply.json(error(), 500), httpx.ConnectError("refused"), RuntimeError("a bug")])
    async def test_a_copy_that_fails_is_nobodys_failure(self, reply: Reply | Exception) -> None:
        place = house(Reply.json(CHAT), reply)

        response = await place.chat()
        _, copy = await rows(place)

        assert response.status_code == 200
        assert copy["status"] == "failed"

    async def test_a_copy_that_is_refused_has_no_row(self) -> None:
        spent = structs.replace(OTHERS, limit_pico_usd=0)
        place = house(Reply.json(CHAT), to=replace(other(), budgets=(spent,)))

        response = await place.chat()
        await asyncio.sleep(0.01)

        assert (response.status_code, len(place.ledger.closed)) == (200, 1)
        assert place.telemetry.figures.mirrors == {"asked": 1, "refused": 1}

    async def test_an_alias_that_is_gone_stops_copies_alone(self) -> None:
        place = house(Reply.json(CHAT), to=alias("unrelated", B))

        assert (await place.chat()).status_code == 200
        await asyncio.sleep(0.01)
        assert place.telemetry.figures.mirrors == {"asked": 1, "refused": 1}

    async def test_only_so_many_run_at_once(self) -> None:
        place = house(limits=())
        slow = asyncio.Event()

        async def answer(request: httpx.Request) -> httpx.Response:
            if request.url.host == "b.test":
                await slow.wait()
            return httpx.Response(200, json=CHAT)

        place.upstream.transport.handler = answer
        for _ in range(MOST_AT_ONCE + 6):
            await place.chat()

        assert (len(place.gateway.mirroring), place.telemetry.figures.mirrors["dropped"]) == (MOST_AT_ONCE, 6)
        slow.set()
        await asyncio.sleep(0.05)
        assert len(place.ledger.closed) == 2 * MOST_AT_ONCE + 6


async def test_copies_are_not_copied() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT), to=other(mirror=MirrorRule("gpt", 1.0)))

    await place.chat()
    await rows(place)
    await asyncio.sleep(0.01)

    assert len(place.upstream.requests) == 2


async def test_what_leaves_something_behind_is_not_copied() -> None:
    place = house(Reply.json({"data": []}))

    await place.post("/v1/images/generations", {"model": "gpt", "prompt": "a cat"})
    await asyncio.sleep(0.01)

    assert place.telemetry.figures.mirrors == {}


async def test_when_the_process_ends_copies_are_settled() -> None:
    place = house(Reply.json(CHAT), Reply.events(said("Hel"), 60.0))
    await place.chat({"stream": False})
    await asyncio.sleep(0.01)

    await place.gateway.mirroring.stop()

    _, copy = await rows(place)
    assert (copy["status"], copy["error_type"]) == ("cancelled", "shutdown")
    assert len(place.gateway.exchanges) == 0
    assert (await place.store.state(OTHERS)).held_pico_usd == 0
