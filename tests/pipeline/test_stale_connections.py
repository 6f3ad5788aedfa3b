"""A kept connection that was dead: the target is asked once more, and journal, row and answer count that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs

from llmgateway.http import httpx
from llmgateway.pipeline.call import STALE_WITHIN_S
from llmgateway.pipeline.departure import StaleConnectionError, was_sent
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.protocols import Record
from llmgateway.pipeline.route_rules import CircuitRules, HedgeRule
from llmgateway.pipeline.snapshot import BudgetRule, Retries
from llmgateway.pipeline.upstream import Upstream
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, House, alias, deployment, key, snapshot
from tests.pipeline.attempt_scenes import DONE, ROLE, USAGE, Visit, check_returned, error, said

A, B = deployment("a"), deployment("b", 2)
DAILY = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC")
STALE = StaleConnectionError("closed without an answer")
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
ANSWER = (ROLE, said("Hello"), USAGE, DONE)


def house(
    *replies: Reply | Exception, retries: int = 0, budget: BudgetRule = DAILY, hedge: float | None = None
) -> House:
    to = alias("gpt", A, B)
    if hedge is not None:
        to = replace(to, hedge=HedgeRule(max_pico_usd=10**9, after_s=hedge))
    return House(
        ScriptedUpstream(*replies),
        snapshot(
            to,
            who=key(budgets=(budget,)),
            retries=Retries(attempts=retries, initial_ms=1, max_ms=50, jitter=0.0),
            circuit=CircuitRules(mode="enforce"),
        ),
    )


def tried(place: House) -> list[tuple[str, str, int]]:
    return [(each["deployment"], each["cause"], each["status"]) for each in place.row["attempts"]]


@pytest.mark.parametrize("asked", [{}, STREAM], ids=["json", "stream"])
async def test_the_same_target_is_asked_again_and_every_book_says_so(asked: Record) -> None:
    place = house(STALE, Reply.events(*ANSWER) if asked else Reply.json(CHAT))

    response = await place.chat(asked)

    assert (response.status_code, response.headers["x-gateway-attempts"]) == (200, "2")
    assert tried(place) == [("a", "stale_connection", 0), ("a", "completed", 200)]
    assert [record["deployment"] for _, record in place.ledger.attempts] == ["a"]  # The first stands in its `open`.
    assert place.log.lines[0]["attempts"] == 2
    check_returned(place, A, B)


async def test_the_second_is_written_down_before_it_leaves() -> None:
    place = house()
    written: list[int] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        written.append(len(place.ledger.attempts))
        if len(written) == 1:
            raise STALE
        return httpx.Response(200, json=CHAT)

    place.gateway.upstream = Upstream(httpx.MockTransport(answer))
    await place.chat()

    assert written == [0, 1]


async def test_it_happens_once() -> None:
    place = house(STALE, STALE, Reply.json(CHAT))

    response = await place.chat()

    assert response.headers["x-gateway-attempts"] == "3"
    assert tried(place) == [("a", "stale_connection", 0), ("a", "connection_broken", 0), ("b", "completed", 200)]
    check_returned(place, A, B)


async def test_but_for_every_target_anew_and_in_every_round() -> None:
    place = house(STALE, Reply.json(error(), 503), STALE, Reply.json(error(), 503), STALE, Reply.json(CHAT), retries=1)

    await place.chat()

    assert [cause for _, cause, _ in tried(place)] == [
        "stale_connection", "overloaded", "stale_connection", "overloaded", "stale_connection", "completed",
    ]  # fmt: skip
    check_returned(place, A, B)


async def test_it_says_nothing_of_the_target() -> None:
    """Ten dead connections are no reason to leave it alone."""
    replies: list[Reply | Exception] = [STALE, Reply.json(CHAT)]
    place = house(*replies * 10)

    for _ in range(10):
        assert (await place.chat()).status_code == 200

    assert place.gateway.health.state_of(A).state == "healthy"


async def test_a_strict_budget_pays_for_it_once() -> None:
    budget = structs.replace(DAILY, strict=True)
    place = house(STALE, Reply.json(CHAT), budget=budget)

    assert (await place.chat()).status_code == 200

    state = await place.store.state(budget)
    assert (state.held_pico_usd, state.settled_pico_usd) == (0, place.row["cost_pico_usd"])
    assert [each["cost_pico_usd"] for each in place.row["attempts"]] == [0, place.row["cost_pico_usd"]]


def dying(place: House, seconds: float) -> Callable[[httpx.Request], httpx.Response]:
    """A first answer that breaks off after some time, before any byte of it."""
    count = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        was_sent.set(True)
        if count > 1:
            return httpx.Response(200, json=CHAT)
        place.clock.advance(seconds)
        raise STALE

    return answer


@pytest.mark.parametrize(
    ("seconds", "causes"),
    [
        (STALE_WITHIN_S - 0.1, [("a", "stale_connection"), ("a", "completed")]),
        (STALE_WITHIN_S + 0.1, [("a", "connection_broken"), ("b", "completed")]),
    ],
)
async def test_one_that_ends_late_may_have_had_its_provider_at_work(
    seconds: float, causes: list[tuple[str, str]]
) -> None:
    place = house()
    place.gateway.upstream = Upstream(httpx.MockTransport(dying(place, seconds)))

    await place.chat()

    assert [(name, cause) for name, cause, _ in tried(place)] == causes


async def test_what_cannot_be_written_down_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    place = house(STALE)

    def full(*record: object) -> None:
        raise LedgerUnavailableError("The usage journal cannot be written. Free disk space.")

    monkeypatch.setattr(place.ledger, "attempt", full)
    response = await place.chat()

    assert response.status_code == 503
    assert len(place.upstream.requests) == 1
    assert tried(place)[0] == ("a", "connection_broken", 0)


async def test_the_first_of_a_race_is_asked_again_while_it_runs_alone() -> None:
    place = house(STALE, Reply.events(*ANSWER), hedge=5.0)

    response = await Visit(place, STREAM).answer()

    assert response.status_code == 200
    assert tried(place) == [("a", "stale_connection", 0), ("a", "completed", 200)]
    check_returned(place, A, B)


async def test_who_has_a_rival_is_not_asked_again() -> None:
    place = house(Reply.events(0.05, *ANSWER), STALE, hedge=0.005)

    response = await Visit(place, STREAM).answer()

    assert response.status_code == 200
    assert tried(place) == [("b", "connection_broken", 0), ("a", "completed", 200)]
    assert len(place.upstream.requests) == 2
    check_returned(place, A, B)


async def test_a_probe_is_asked_again_without_a_word() -> None:
    scripted = ScriptedUpstream(STALE, Reply.json({}))

    assert await Upstream(scripted.transport).probe(A, "/models") == 200
    assert len(scripted.requests) == 2
