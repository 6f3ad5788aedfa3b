"""A second target for slow requests: who says a word first wins, and what the other cost stays in the row."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from llmgateway.http import httpx
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.protocols import Record
from llmgateway.pipeline.route_rules import CircuitRules, HedgeRule
from llmgateway.pipeline.snapshot import BudgetRule, Deployment, Limit, Retries
from llmgateway.pipeline.traffic import FEWEST
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, House, alias, deployment, key, snapshot
from tests.pipeline.attempt_scenes import COMMENT, DONE, ROLE, USAGE, Visit, check_returned, error, said

A, B, C = deployment("a"), deployment("b", 2), deployment("c", 3)
DAILY = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC")
RULE = HedgeRule(max_pico_usd=10**9, after_s=0.02)
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
ANSWER = (ROLE, said("Hel"), said("lo"), USAGE, DONE)
COST = 11 * 2 + 5 * 10


def house(
    *replies: Reply | Exception,
    rule: HedgeRule = RULE,
    to: tuple[Deployment, ...] = (A, B),
    budget: BudgetRule = DAILY,
    **who: Any,
) -> House:
    return House(
        ScriptedUpstream(*replies),
        snapshot(
            replace(alias("gpt", *to), hedge=rule),
            who=key(**{"budgets": (budget,), **who}),
            retries=Retries(attempts=0),
            circuit=CircuitRules(mode="off"),
        ),
    )


def tried(place: House) -> list[tuple[str, str, bool]]:
    return [(each["deployment"], each["cause"], each.get("hedge", False)) for each in place.row["attempts"]]


async def check_money(place: House, budget: BudgetRule = DAILY) -> None:
    state = await place.store.state(budget)
    assert (state.held_pico_usd, state.settled_pico_usd) == (
        0,
        sum(row["cost_pico_usd"] for row in place.ledger.closed),
    )


async def test_a_slow_target_is_outpaced_by_the_next() -> None:
    place = house(Reply.events(COMMENT, 60.0), Reply.events(*ANSWER))
    began = time.monotonic()

    response = await Visit(place, STREAM).answer()

    assert time.monotonic() - began < 0.2
    assert response.content == b"".join(ANSWER)
    assert (response.headers["x-gateway-deployment"], response.headers["x-gateway-attempts"]) == ("b", "2")
    assert tried(place) == [("a", "outpaced", False), ("b", "completed", True)]
    assert place.upstream.streams[0].closed
    check_returned(place, A, B)
    await check_money(place)


async def test_what_the_loser_cost_is_estimated_and_stays_in_the_row() -> None:
    place = house(Reply.events(COMMENT, 60.0), Reply.events(*ANSWER))

    await Visit(place, STREAM).answer()

    lost, won = place.row["attempts"]
    assert (lost["estimated"], lost["cost_pico_usd"]) == (True, 2 * place.row["input_estimate"])
    assert (won["cost_pico_usd"], place.row["cost_pico_usd"]) == (COST, COST + lost["cost_pico_usd"])
    assert (place.row["input"], place.row["output"], place.row["usage_source"]) == (11, 5, "provider")
    assert place.telemetry.figures.hedges == {"begun": 1, "won": 1}
    assert place.telemetry.figures.hedge_cost_pico_usd == lost["cost_pico_usd"]


async def test_whoever_was_not_reached_cost_nothing() -> None:
    place = house(Reply(delay_s=60.0), Reply.events(*ANSWER))

    await Visit(place, STREAM).answer()

    assert [each["cost_pico_usd"] for each in place.row["attempts"]] == [0, COST]


async def test_the_first_target_may_still_win() -> None:
    place = house(Reply.events(COMMENT, 0.06, *ANSWER), Reply.events(COMMENT, 60.0))

    response = await Visit(place, STREAM).answer()

    assert response.content == COMMENT + b"".join(ANSWER)
    assert sorted(tried(place)) == [("a", "completed", False), ("b", "outpaced", True)]
    assert place.upstream.streams[1].closed
    assert place.telemetry.figures.hedges == {"begun": 1, "lost": 1}
    check_returned(place, A, B)
    await check_money(place)


async def test_a_quick_target_is_left_alone() -> None:
    place = house(Reply.events(*ANSWER))

    await Visit(place, STREAM).answer()

    assert (len(place.upstream.requests), place.telemetry.figures.hedges) == (1, {})
    check_returned(place, A, B)


async def test_whole_answers_race_too_where_a_time_is_set() -> None:
    place = house(Reply(delay_s=60.0), Reply.json(CHAT))

    response = await Visit(place).answer()

    assert (response.json(), response.headers["x-gateway-deployment"]) == (CHAT, "b")
    assert response.headers["x-gateway-cost-usd"] == "0.000000000072"


class TestObservedPercentile:
    RULE = replace(RULE, after_s=None)

    async def test_without_enough_samples_nobody_else_is_asked(self) -> None:
        place = house(Reply.events(COMMENT, 0.05, *ANSWER), rule=self.RULE)

        await Visit(place, STREAM).answer()

        assert len(place.upstream.requests) == 1

    async def test_after_the_95th_percentile_somebody_is(self) -> None:
        place = house(Reply.events(COMMENT, 60.0), Reply.events(*ANSWER), rule=self.RULE)
        for number in range(FEWEST):
            place.gateway.traffic.first_token(A, 0.02 + number / 1000)

        await Visit(place, STREAM).answer()

        assert tried(place) == [("a", "outpaced", False), ("b", "completed", True)]

    async def test_of_a_whole_answer_no_first_token_is_seen(self) -> None:
        place = house(Reply(delay_s=0.05, pieces=(json.dumps(CHAT).encode(),)), rule=self.RULE)
        for _ in range(FEWEST):
            place.gateway.traffic.first_token(A, 0.01)

        await Visit(place).answer()

        assert len(place.upstream.requests) == 1


class TestNobodyElseIsAsked:
    @staticmethod
    async def check(place: House, path: str = "/v1/chat/completions", **body: Any) -> None:
        asked = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], **STREAM, **body}
        await place.post(path, asked)
        assert len(place.upstream.requests) == 1
        assert place.telemetry.figures.hedges.get("begun", 0) == 0
        check_returned(place, A, B)

    SLOW = Reply.events(COMMENT, 0.06, *ANSWER)

    @pytest.mark.parametrize("most", [0, 1])
    async def test_if_it_is_expected_to_cost_more_than_the_cap(self, most: int) -> None:
        await self.check(house(self.SLOW, rule=replace(RULE, max_pico_usd=most)))

    async def test_if_its_cost_is_not_known(self) -> None:
        await self.check(house(self.SLOW, to=(A, replace(B, prices=())), budgets=()))

    async def test_if_there_is_no_other(self) -> None:
        await self.check(house(self.SLOW, to=(A,)))

    async def test_if_its_limit_has_no_room(self) -> None:
        full = Limit("limit:5", "no request", "deployment", 0, 0, per="day", owner="deployment:2")
        place = house(self.SLOW, to=(A, replace(B, limits=(full,))))
        await self.check(place)
        assert place.telemetry.figures.hedges == {"refused": 1}

    async def test_if_a_strict_budget_cannot_pay_for_two(self) -> None:
        tight = structs.replace(DAILY, strict=True, limit_pico_usd=8000)
        place = house(self.SLOW, budget=tight)
        await self.check(place, max_tokens=600)
        assert place.telemetry.figures.hedges == {"refused": 1}
        await check_money(place, tight)

    async def test_if_a_strict_budget_is_the_targets_own(self) -> None:
        own = BudgetRule(6, "b", "deployment", "b", "day", 10**12, "UTC", strict=True)
        await self.check(house(self.SLOW, to=(A, replace(B, budgets=(own,)))))

    async def test_if_it_cannot_be_written_down(self) -> None:
        place = house(self.SLOW)

        def refuse(request_id: str, record: Record) -> None:
            raise LedgerUnavailableError("The usage journal cannot be written. Free disk space.")

        place.ledger.attempt = refuse  # type: ignore[method-assign]
        await self.check(place)
        await check_money(place)

    async def test_for_what_is_no_text(self) -> None:
        image = Reply(200, {"content-type": "application/json"}, (0.06, b'{"data":[]}'))
        place = house(image)
        await place.post("/v1/images/generations", {"model": "gpt", "prompt": "a cat"})
        assert len(place.upstream.requests) == 1


class TestFailures:
    async def test_the_second_answers_although_the_first_has_failed(self) -> None:
        place = house(Reply(503, delay_s=0.05), Reply.events(COMMENT, 0.1, *ANSWER))

        response = await Visit(place, STREAM).answer()

        assert response.content == COMMENT + b"".join(ANSWER)
        assert tried(place) == [("a", "overloaded", False), ("b", "completed", True)]
        check_returned(place, A, B)
        await check_money(place)

    async def test_the_first_answers_although_the_second_has_failed(self) -> None:
        place = house(Reply.events(COMMENT, 0.1, *ANSWER), httpx.ConnectError("refused"))

        await Visit(place, STREAM).answer()

        assert sorted(tried(place)) == [("a", "completed", False), ("b", "not_connected", True)]
        check_returned(place, A, B)
        await check_money(place)

    async def test_if_both_fail_the_next_is_asked_and_neither_again_in_this_round(self) -> None:
        place = house(Reply(503, delay_s=0.05), Reply.json(error(), 500), Reply.events(*ANSWER), to=(A, B, C))

        response = await Visit(place, STREAM).answer()

        assert response.headers["x-gateway-attempts"] == "3"
        assert sorted(tried(place)) == [
            ("a", "overloaded", False),
            ("b", "server_error", True),
            ("c", "completed", False),
        ]
        check_returned(place, A, B, C)
        await check_money(place)

    async def test_time_ends_both(self) -> None:
        place = house(Reply.events(COMMENT, 60.0), Reply.events(COMMENT, 60.0))
        visit = Visit(place, STREAM)
        await visit.asked(2)

        await visit.pass_time(61)
        response = await visit.answer()

        assert response.status_code == 504
        assert sorted(tried(place)) == [("a", "timeout", False), ("b", "timeout", True)]
        assert all(stream.closed for stream in place.upstream.streams)
        check_returned(place, A, B)
        await check_money(place)


async def test_both_are_written_down_before_they_are_sent() -> None:
    place = house(Reply.events(COMMENT, 60.0), Reply.events(*ANSWER))

    await Visit(place, STREAM).answer()

    (_, second), (_, won) = place.ledger.attempts
    assert place.ledger.opened[0]["deployment"] == "a"
    assert (second["deployment"], second["hedge"]) == ("b", True)
    assert (won["deployment"], won["won"]) == ("b", True)
    assert won["lost_pico_usd"] == place.row["attempts"][0]["cost_pico_usd"] > 0


@pytest.mark.parametrize("strict", [True, False])
async def test_a_client_that_leaves_ends_both_at_once(strict: bool) -> None:
    budget = structs.replace(DAILY, strict=strict)
    place = house(Reply.events(COMMENT, 60.0), Reply.events(COMMENT, 60.0), budget=budget)
    visit = Visit(place, STREAM)
    await visit.asked(2)
    await asyncio.sleep(0.01)

    await visit.leave()

    assert all(stream.closed for stream in place.upstream.streams)
    assert sorted(tried(place)) == [("a", "client_left", False), ("b", "client_left", True)]
    assert [each["estimated"] for each in place.row["attempts"]] == [True, True]
    assert place.row["held_pico_usd"] >= place.row["cost_pico_usd"] > 0
    check_returned(place, A, B)
    await check_money(place, budget)


async def test_a_client_that_leaves_the_winners_stream_is_settled_with_both() -> None:
    place = house(Reply.events(COMMENT, 60.0), Reply.events(said("Hel"), 60.0))
    visit = Visit(place, STREAM)
    await asyncio.wait_for(visit.caller.got(1), 1)

    await visit.leave()

    assert tried(place) == [("a", "outpaced", False), ("b", "client_left", True)]
    assert place.row["status"] == "cancelled"
    check_returned(place, A, B)
    await check_money(place)


async def test_while_the_answer_comes_the_loser_holds_what_it_cost_and_no_limit_of_its_target() -> None:
    strict = structs.replace(DAILY, strict=True)
    slot = Limit("limit:1", "5 at once", "deployment", 5, 5, metric="concurrency", per="", owner="deployment:1")
    place = house(
        Reply.events(COMMENT, 60.0), Reply.events(said("Hel"), 60.0), to=(replace(A, limits=(slot,)), B), budget=strict
    )
    visit = Visit(place, {**STREAM, "max_tokens": 400})
    await asyncio.wait_for(visit.caller.got(1), 1)

    (_, second), (_, won) = place.ledger.attempts
    held = (await place.store.state(strict)).held_pico_usd
    slots = await place.store.limit_used(slot)
    await visit.leave()

    assert held == second["strict_pico_usd"] + won["lost_pico_usd"]
    assert won["lost_pico_usd"] > 0
    assert slots == 0


async def test_limits_of_targets_return_and_limits_of_callers_count_once() -> None:
    per_day = Limit("limit:7", "100 requests per day", "key", 100, 100, per="day", owner="key:1")
    slots = tuple(
        Limit(
            f"limit:{number}",
            "5 at once",
            "deployment",
            5,
            5,
            metric="concurrency",
            per="",
            owner=f"deployment:{number}",
        )
        for number in (1, 2)
    )
    targets = (replace(A, limits=slots[:1]), replace(B, limits=slots[1:]))
    place = house(Reply.events(COMMENT, 60.0), Reply.events(*ANSWER), to=targets, limits=(per_day,))

    response = await Visit(place, STREAM).answer()

    assert response.headers["x-ratelimit-remaining-requests"] == "99"
    assert await place.store.limit_used(per_day) == 1
    assert [await place.store.limit_used(each) for each in slots] == [0, 0]


async def test_a_budget_of_the_target_is_booked_where_the_row_says() -> None:
    own = [BudgetRule(number, name, "deployment", name, "day", 10**12, "UTC") for number, name in ((5, "a"), (6, "b"))]
    targets = (replace(A, budgets=(own[0],)), replace(B, budgets=(own[1],)))
    place = house(Reply.events(COMMENT, 60.0), Reply.events(*ANSWER), to=targets)

    await Visit(place, STREAM).answer()

    states = [await place.store.state(each) for each in own]
    assert [(each.held_pico_usd, each.settled_pico_usd) for each in states] == [(0, 0), (0, place.row["cost_pico_usd"])]
    await check_money(place)


class Hosts:
    """Answers by host, as slowly as a coin says, and uses all that it was allowed to."""

    def __init__(self, seed: int, after: Callable[[], None]) -> None:
        self._chance = random.Random(seed)
        self._after = after

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self._after()
        await asyncio.sleep(self._chance.choice([0.0, 0.005, 0.03, 0.06]))
        self._after()
        body = json.loads(request.content)
        used = {"prompt_tokens": len(request.content) // 4, "completion_tokens": body["max_tokens"], "total_tokens": 0}
        return httpx.Response(200, json={**CHAT, "usage": used})


@pytest.mark.parametrize("seed", range(3))
async def test_a_strict_budget_is_never_overspent_by_two_hundred_that_race(seed: int) -> None:
    strict = structs.replace(DAILY, strict=True, limit_pico_usd=800_000)
    place = house(
        rule=replace(RULE, after_s=0.01), to=(A, replace(B, prices=(replace(PRICE, output=12),))), budget=strict
    )
    most = 0

    def look() -> None:
        nonlocal most
        (window,) = place.store._windows.values()  # type: ignore[attr-defined]
        most = max(most, window.settled + window.held)
        assert window.settled + window.held <= strict.limit_pico_usd

    place.upstream.transport.handler = Hosts(seed, look)
    answers = await asyncio.gather(*[place.chat({"max_tokens": 300}) for _ in range(200)])

    statuses = {response.status_code for response in answers}
    assert statuses <= {200, 402}
    assert 200 in statuses
    assert place.telemetry.figures.hedges["begun"] > 5
    assert most > strict.limit_pico_usd * 0.9
    for row in place.ledger.closed:
        assert not row["over_hold"]
    assert sum(row["cost_pico_usd"] for row in place.ledger.closed) <= strict.limit_pico_usd
    check_returned(place, A, B)
    await check_money(place, strict)


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_happens_in_a_race_everything_returns(seed: int) -> None:
    chance = random.Random(seed)

    def reply() -> Reply | Exception:
        found: list[Reply | Exception] = [
            Reply.events(COMMENT, 0.04, *ANSWER),
            Reply.events(*ANSWER),
            Reply.events(COMMENT, 60.0),
            Reply(503, delay_s=0.03),
            Reply.events(COMMENT, 0.03, httpx.ReadError("reset")),
            httpx.ConnectError("refused"),
            Reply.json(error("context_length_exceeded"), 400),
        ]
        return chance.choice(found)

    budget = structs.replace(DAILY, strict=chance.random() < 0.5)
    place = house(*[reply() for _ in range(60)], to=(A, B, C), budget=budget)
    visits = [Visit(place, STREAM) for _ in range(12)]
    for visit in visits:
        if chance.random() < 0.4:
            await asyncio.sleep(chance.random() * 0.02)
            await visit.leave()
    await asyncio.sleep(0.1)
    for _ in range(4):
        place.clock.advance(61)
        place.gateway.exchanges.tick()
        await asyncio.sleep(0.05)
    await asyncio.wait_for(asyncio.gather(*[visit.task for visit in visits]), 5)

    assert len(place.ledger.closed) == 12
    check_returned(place, A, B, C)
    await check_money(place, budget)
