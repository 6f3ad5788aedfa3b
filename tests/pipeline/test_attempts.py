"""Which targets are asked how often, after which waits, and when it is over."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from msgspec import structs

from llmgateway.http import httpx
from llmgateway.pipeline.failures import retry_after_s
from llmgateway.pipeline.route_rules import CircuitRules, Patience
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Limit, Retries
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, House, alias, deployment, key, snapshot
from tests.pipeline.attempt_scenes import COMMENT, DONE, ROLE, USAGE, Visit, check_returned, error, error_event, said

A, B, C = deployment("a"), deployment("b", 2), deployment("c", 3)
QUICK = Retries(attempts=2, initial_ms=1, max_ms=50, jitter=0.0)
PER_DAY = Limit("limit:9", "two", "key", 2, 2, per="day", owner="key:1")
DAILY = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC")


def house(
    *replies: Reply | Exception, to: Alias | None = None, retries: Retries = QUICK, circuits: str = "off"
) -> House:
    return House(
        ScriptedUpstream(*replies),
        snapshot(
            to or alias("gpt", A),
            who=key(budgets=(DAILY,)),
            retries=retries,
            circuit=CircuitRules(mode=circuits, wait_s=0.0),
        ),
    )


def tried(place: House) -> list[tuple[str, str, int]]:
    return [(each["deployment"], each["cause"], each.get("retry", 0)) for each in place.row["attempts"]]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_these_are_tried_again(status: int) -> None:
    place = house(Reply.json(error(), status), Reply.json(CHAT))

    response = await place.chat()

    assert (response.status_code, response.headers["x-gateway-attempts"]) == (200, "2")
    assert [each["status"] for each in place.row["attempts"]] == [status, 200]
    assert [each.get("retry", 0) for each in place.row["attempts"]] == [0, 1]
    check_returned(place, A)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
async def test_these_are_not(status: int) -> None:
    place = house(Reply.json(error(), status))

    assert (await place.chat()).status_code == status


TOO_LARGE = error(
    "rate_limit_exceeded", "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000."
)


@pytest.mark.parametrize(
    "reply", [Reply.json(TOO_LARGE, 429, retry_after="1"), Reply.events(error_event(**TOO_LARGE["error"]))]
)
async def test_what_is_larger_than_a_whole_limit_is_for_others_and_says_nothing_of_the_target(reply: Reply) -> None:
    place = house(reply, Reply.json(error(), 503), Reply.json(CHAT), to=alias("gpt", A, B), circuits="enforce")

    assert (await place.chat()).status_code == 200

    assert tried(place) == [("a", "request_exceeds_limit", 0), ("b", "overloaded", 0), ("b", "completed", 1)]
    assert place.gateway.health.state_of(A).state == "healthy"
    check_returned(place, A, B)


async def test_if_it_is_too_large_for_all_the_client_is_told_so() -> None:
    place = house(Reply.json(TOO_LARGE, 429), circuits="enforce")

    response = await place.chat()

    assert (response.status_code, response.json()) == (429, TOO_LARGE)
    assert len(place.upstream.requests) == 1


async def test_first_all_targets_then_all_that_are_worth_it_again() -> None:
    place = house(
        Reply.json(error(), 503),
        Reply.json(error(), 401),
        httpx.ConnectError("refused"),
        Reply.json(error(), 503),
        Reply.json(CHAT),
        to=alias("gpt", A, B, C),
    )

    await place.chat()

    assert tried(place) == [
        ("a", "overloaded", 0),
        ("b", "authentication", 0),
        ("c", "not_connected", 0),
        ("a", "overloaded", 1),
        ("c", "completed", 1),
    ]
    check_returned(place, A, B, C)


@pytest.mark.parametrize(("own", "attempts"), [(None, 3), (0, 1), (1, 2), (4, 5)])
async def test_an_alias_may_have_its_own_number_of_retries(own: int | None, attempts: int) -> None:
    place = house(*[Reply.json(error(), 503)] * 5, to=replace(alias("gpt", A), retries=own))

    response = await place.chat()

    assert (response.status_code, len(place.upstream.requests)) == (503, attempts)
    assert response.headers["x-gateway-attempts"] == str(attempts)


async def test_a_wait_is_as_long_as_the_provider_asks() -> None:
    place = house(Reply.json(error(), 429, retry_after="0.2"), Reply.json(CHAT), retries=replace(QUICK, max_ms=300))
    began = time.monotonic()

    await place.chat()

    assert time.monotonic() - began >= 0.2


async def test_a_target_that_asks_for_time_is_left_alone_while_others_are_asked_again() -> None:
    place = house(
        Reply.json(error(), 429, retry_after="0.15"),
        Reply.json(error(), 503),
        Reply.json(error(), 503),
        Reply.json(CHAT),
        to=alias("gpt", A, B),
        retries=replace(QUICK, max_ms=300),
    )

    await place.chat()

    assert tried(place) == [
        ("a", "rate_limited", 0),
        ("b", "overloaded", 0),
        ("b", "overloaded", 1),
        ("b", "completed", 2),
    ]


class TestRetryAfter:
    NOW = 1_773_489_600.0

    @staticmethod
    def date(seconds: float) -> bytes:
        return format_datetime(datetime.fromtimestamp(TestRetryAfter.NOW + seconds, UTC), usegmt=True).encode()

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [(b"7", 7.0), (b" 0.5 ", 0.5), (b"-3", 0.0), (b"soon", None), (b"nan", None), (b"inf", None), (b"", None)],
    )
    def test_seconds(self, value: bytes, seconds: float | None) -> None:
        assert retry_after_s([(b"Retry-After", value)], now=self.NOW) == seconds

    def test_no_such_header(self) -> None:
        assert retry_after_s([(b"date", self.date(0))], now=self.NOW) is None

    def test_a_date(self) -> None:
        assert retry_after_s([(b"retry-after", self.date(30))], now=self.NOW) == 30.0
        assert retry_after_s([(b"retry-after", self.date(-30))], now=self.NOW) == 0.0

    def test_a_date_counts_from_the_providers_own_clock(self) -> None:
        headers = [(b"date", self.date(-500)), (b"retry-after", self.date(-490))]

        assert retry_after_s(headers, now=self.NOW) == 10.0


class TestDeadline:
    async def test_a_wait_longer_than_what_is_left_is_not_begun(self) -> None:
        slow = Retries(attempts=5, initial_ms=8000, max_ms=8000, jitter=0.0)
        place = house(Reply.json(error(), 503), retries=slow)

        response = await Visit(place, x_request_timeout_ms="5000").answer()

        assert (response.status_code, len(place.upstream.requests)) == (503, 1)

    async def test_a_caller_may_wait_for_less_than_the_gateway_would(self) -> None:
        place = house(Reply(delay_s=60.0))
        visit = Visit(place, x_request_timeout_ms="1500")

        await visit.pass_time(1.4)
        assert not visit.task.done()
        await visit.pass_time(0.2)
        response = await visit.answer()

        assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
        assert len(place.upstream.requests) == 1
        check_returned(place, A)

    async def test_who_waits_for_less_pays_for_what_the_provider_began(self) -> None:
        place = house(Reply(pieces=(60.0,)), Reply.json(CHAT))
        place.gateway.use(
            snapshot(alias("gpt", A), who=key(budgets=(DAILY,), limits=(PER_DAY,)), retries=QUICK),
            place.gateway.budget_index,
        )
        visit = Visit(place, x_request_timeout_ms="1500")

        await visit.pass_time(1.6)
        await visit.answer()

        row = place.row
        assert (row["status"], row["http_status"], row["usage_source"], row["counted"]) == (
            "failed",
            504,
            "estimated",
            True,
        )
        assert row["cost_pico_usd"] == row["attempts"][0]["cost_pico_usd"] == row["input"] * PRICE.input > 0
        assert row["attempts"][0]["estimated"] is True
        check_returned(place, A)
        assert (await place.chat()).headers["x-ratelimit-remaining-requests"] == "0"

    async def test_who_would_have_waited_longer_pays_nothing_for_the_gateways_own_deadline(self) -> None:
        place = house(Reply(pieces=(601.0,)))
        visit = Visit(place, x_request_timeout_ms="99999999")

        await visit.pass_time(601)
        await visit.answer()

        assert (place.row["cost_pico_usd"], place.row["counted"]) == (0, False)

    async def test_a_caller_cannot_wait_for_more(self) -> None:
        place = house(Reply(delay_s=60.0))
        visit = Visit(place, x_request_timeout_ms="99999999")

        await visit.pass_time(601)

        assert (await visit.answer()).status_code == 504

    async def test_after_it_no_other_target_is_asked(self) -> None:
        place = house(Reply(delay_s=60.0), to=alias("gpt", A, B))
        visit = Visit(place, x_request_timeout_ms="1000")

        await visit.pass_time(1.1)

        assert (await visit.answer()).status_code == 504
        assert tried(place) == [("a", "timeout", 0)]

    async def test_it_is_one_for_all_attempts(self) -> None:
        place = house(Reply(delay_s=60.0), Reply(delay_s=60.0), to=alias("gpt", A, B))
        visit = Visit(place, {"stream": True}, x_request_timeout_ms="100000")
        await visit.pass_time(61)
        await visit.asked(2)

        await visit.pass_time(40)

        assert (await visit.answer()).status_code == 504
        assert tried(place) == [("a", "timeout", 0), ("b", "timeout", 0)]
        check_returned(place, A, B)

    @pytest.mark.parametrize("value", ["0", "-5", "1.5", "soon", "\u0663"])
    async def test_what_is_no_time_is_refused(self, value: str) -> None:
        place = house()

        response = await place.chat(x_request_timeout_ms=value.encode().decode("latin-1"))

        assert (response.status_code, response.json()["error"]["param"]) == (400, "x-request-timeout-ms")
        assert place.ledger.opened == []


class TestPatience:
    async def test_an_alias_may_have_its_own_time_to_first_token(self) -> None:
        brief = replace(alias("gpt", A, B), patience=Patience(first_token_s=5.0))
        place = house(Reply(delay_s=60.0), Reply.events(ROLE, said("Hi"), USAGE, DONE), to=brief)
        visit = Visit(place, {"stream": True})

        await visit.pass_time(6)

        assert (await visit.answer()).headers["x-gateway-deployment"] == "b"

    async def test_an_alias_may_have_its_own_idle_time(self) -> None:
        place = house(Reply.events(said("Hi"), 60.0), to=replace(alias("gpt", A), patience=Patience(idle_s=3.0)))
        visit = Visit(place, {"stream": True})

        await visit.pass_time(2.5)
        assert not visit.task.done()
        await visit.pass_time(1)

        assert b"upstream_timeout" in (await visit.answer()).content

    @pytest.mark.parametrize("total_s", [30.0, 2000.0])
    async def test_an_alias_may_have_its_own_total_time(self, total_s: float) -> None:
        place = house(Reply(delay_s=60.0), to=replace(alias("gpt", A), patience=Patience(total_s=total_s)))
        visit = Visit(place)

        await visit.pass_time(total_s - 1)
        assert not visit.task.done()
        await visit.pass_time(2)

        assert (await visit.answer()).status_code == 504


class TestClientLeaves:
    async def test_in_the_wait_between_two_attempts(self) -> None:
        slow = Retries(attempts=5, initial_ms=8000, max_ms=8000, jitter=0.0)
        place = house(Reply.json(error(), 503), retries=slow)
        visit = Visit(place)
        await visit.asked(1)
        await asyncio.sleep(0.01)

        await visit.leave()

        assert (place.row["status"], place.row["cost_pico_usd"], place.row["usage_source"]) == ("cancelled", 0, "none")
        assert tried(place) == [("a", "overloaded", 0)]
        assert (await place.store.state(DAILY)).held_pico_usd == 0
        check_returned(place, A)

    async def test_while_the_second_target_is_asked(self) -> None:
        place = house(httpx.ConnectError("refused"), Reply(delay_s=60.0), to=alias("gpt", A, B))
        visit = Visit(place)
        await visit.asked(2)

        await visit.leave()

        assert tried(place) == [("a", "not_connected", 0), ("b", "client_left", 0)]
        assert place.row["cost_pico_usd"] == place.row["attempts"][1]["cost_pico_usd"]
        check_returned(place, A, B)


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_fails_every_attempt_is_in_the_row_once_and_everything_returns(seed: int) -> None:
    chance = random.Random(seed)
    slots = Limit("limit:9", "3 at once", "deployment", 3, 3, metric="concurrency", per="")
    targets = tuple(replace(each, limits=(of_deployment(slots, each.id),)) for each in (A, B, C))

    def reply(streamed: bool) -> Reply | Exception:
        broken: list[Reply | Exception] = [
            httpx.ConnectError("refused"),
            httpx.ReadError("reset"),
            Reply.json(error(), chance.choice([401, 408, 429, 500, 503])),
            Reply.json(error(), 429, retry_after=chance.choice(["0", "0.01", "60"])),
            Reply.events(COMMENT, error_event(code="overloaded")),
            Reply.events(COMMENT, httpx.ReadError("reset")),
            Reply.events(),
        ]
        good = Reply.events(ROLE, said("Hi"), USAGE, DONE) if streamed else Reply.json(CHAT)
        return chance.choice([*broken, good])

    mode = chance.choice(["off", "enforce"])
    place = house(to=alias("gpt", *targets), retries=replace(QUICK, attempts=chance.randrange(3)), circuits=mode)
    for _ in range(8):
        streamed = chance.random() < 0.5
        place.upstream._script.clear()
        place.upstream.then(*[reply(streamed) for _ in range(9)])
        await Visit(place, {"stream": streamed}).answer()

    assert len(place.ledger.closed) == 8 or mode == "enforce"
    check_returned(place, *targets)
    state = await place.store.state(DAILY)
    assert (state.held_pico_usd, state.settled_pico_usd) == (
        0,
        sum(row["cost_pico_usd"] for row in place.ledger.closed),
    )
    for target in targets:
        assert await place.store.limit_used(target.limits[0]) == 0


def of_deployment(limit: Limit, number: int) -> Limit:
    return structs.replace(limit, counter=f"limit:{number}", owner=f"deployment:{number}")
