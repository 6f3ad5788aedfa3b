"""What is asked when an alias's own targets cannot help: other aliases, each cause its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from llmgateway.pipeline.route_rules import CircuitRules, Fallback, FallbackCause
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Deployment, Limit, Retries
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, House, alias, deployment, key, snapshot
from tests.pipeline.attempt_scenes import Visit, check_returned, error, error_event

A, B, C, D = (deployment(name, number) for number, name in enumerate("abcd", 1))
DEAR = replace(A, prices=(replace(PRICE, output=10_000_000),))
DAILY = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC")


def to(name: str, cause: FallbackCause = FallbackCause.ERROR) -> Fallback:
    return Fallback(name, cause)


def named(name: str, number: int, *targets: Deployment, **changes: Any) -> Alias:
    return replace(alias(name, *targets), id=number, **changes)


def house(*replies: Reply | Exception, aliases: tuple[Alias, ...], **who: Any) -> House:
    return House(
        ScriptedUpstream(*replies),
        snapshot(
            *aliases,
            who=key(**{"budgets": (DAILY,), **who}),
            retries=Retries(attempts=0),
            circuit=CircuitRules(mode="off"),
        ),
    )


def tried(place: House) -> list[tuple[str, str, str]]:
    return [(each["deployment"], each["cause"], each.get("alias", "")) for each in place.row["attempts"]]


async def test_other_aliases_are_asked_in_order_when_all_targets_failed() -> None:
    place = house(
        Reply.json(error(), 500),
        Reply.json(error(), 500),
        Reply.json(error(), 500),
        Reply.json(CHAT),
        aliases=(
            named("gpt", 1, A, B, fallbacks=(to("second"), to("third"))),
            named("second", 2, C),
            named("third", 3, D),
        ),
    )

    response = await place.chat()

    assert tried(place) == [
        ("a", "server_error", ""),
        ("b", "server_error", ""),
        ("c", "server_error", "second"),
        ("d", "completed", "third"),
    ]
    headers = response.headers
    assert (headers["x-gateway-model"], headers["x-gateway-fallback"]) == ("gpt", "third")
    assert (headers["x-gateway-attempts"], place.row["alias"], place.row["deployment"]) == ("4", "gpt", "d")
    assert place.telemetry.figures.fallbacks == {"error": 1}
    check_returned(place, A, B, C, D)


async def test_if_no_own_target_may_be_asked_others_are_at_once_and_the_answer_says_so() -> None:
    place = house(
        Reply.json(CHAT),
        aliases=(
            named("gpt", 1, replace(A, draining=True), fallbacks=(to("second"),)),
            named("second", 2, B),
        ),
    )

    response = await place.chat()

    headers = response.headers
    assert (headers["x-gateway-model"], headers["x-gateway-fallback"]) == ("gpt", "second")
    assert (headers["x-gateway-attempts"], place.row["alias"], place.row["deployment"]) == ("1", "gpt", "b")
    assert tried(place) == [("b", "completed", "second")]
    assert place.telemetry.figures.fallbacks == {"error": 1}
    check_returned(place, A, B)


async def test_own_retries_come_first_and_fallbacks_have_their_own() -> None:
    place = house(
        *[Reply.json(error(), 503)] * 3,
        Reply.json(CHAT),
        aliases=(named("gpt", 1, A, retries=1, fallbacks=(to("second"),)), named("second", 2, C, retries=1)),
    )
    place.gateway.snapshot = replace(place.snapshot, retries=Retries(attempts=0, initial_ms=1, max_ms=2))

    await place.chat()

    assert tried(place) == [
        ("a", "overloaded", ""),
        ("a", "overloaded", ""),
        ("c", "overloaded", "second"),
        ("c", "completed", "second"),
    ]
    assert [each.get("retry", 0) for each in place.row["attempts"]] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (Reply.json(error("context_length_exceeded"), 400), FallbackCause.CONTEXT_TOO_LONG),
        (Reply.json(error("content_policy_violation"), 400), FallbackCause.CONTENT_POLICY),
        (Reply.json(error(), 429), FallbackCause.RATE_LIMIT),
        (Reply.json(error("insufficient_quota"), 429), FallbackCause.RATE_LIMIT),
        (Reply.json(error(message="Request too large"), 429), FallbackCause.RATE_LIMIT),
        (Reply.json(error(), 401), FallbackCause.ERROR),
        (Reply.events(error_event(code="context_length_exceeded")), FallbackCause.CONTEXT_TOO_LONG),
    ],
)
@pytest.mark.parametrize("own", [True, False])
async def test_a_cause_leads_to_its_own_fallbacks_alone(reply: Reply, cause: FallbackCause, own: bool) -> None:
    others = [each for each in FallbackCause if each is not cause and each is not FallbackCause.ERROR]
    fallbacks = (to("second", cause),) if own else tuple(to("second", each) for each in others)
    place = house(reply, Reply.json(CHAT), aliases=(named("gpt", 1, A, fallbacks=fallbacks), named("second", 2, C)))

    response = await place.chat()

    assert (len(place.upstream.requests), response.headers.get("x-gateway-fallback")) == (
        (2, "second") if own else (1, None)
    )


async def test_what_blames_the_request_is_told_at_once_to_a_fallback_and_to_no_other_target() -> None:
    fallback = to("large", FallbackCause.CONTEXT_TOO_LONG)
    place = house(
        Reply.json(error("context_length_exceeded"), 400),
        Reply.json(CHAT),
        aliases=(named("gpt", 1, A, B, fallbacks=(fallback,)), named("large", 2, C)),
    )

    await place.chat()

    assert [name for name, *_ in tried(place)] == ["a", "c"]


async def test_errors_fallbacks_serve_for_rate_limits_too() -> None:
    place = house(
        Reply.json(error(), 429),
        Reply.json(CHAT),
        aliases=(named("gpt", 1, A, fallbacks=(to("second"),)), named("second", 2, C)),
    )

    assert (await place.chat()).headers["x-gateway-fallback"] == "second"


async def test_if_the_fallbacks_fail_too_the_client_is_told_why_the_first_did() -> None:
    place = house(
        Reply.json(error(message="slow down"), 429, retry_after="30"),
        Reply.json(error(), 500),
        aliases=(named("gpt", 1, A, fallbacks=(to("second"),)), named("second", 2, C)),
    )

    response = await place.chat()

    assert (response.status_code, response.headers["retry-after"]) == (429, "30")
    assert response.json()["error"]["message"] == "slow down"
    assert "x-gateway-fallback" not in response.headers
    assert (place.row["status"], place.row["error_type"]) == ("failed", "rate_limited")
    check_returned(place, A, C)


async def test_a_fallback_that_fails_for_another_cause_leads_on() -> None:
    place = house(
        Reply.json(error(), 500),
        Reply.json(error("context_length_exceeded"), 400),
        Reply.json(CHAT),
        aliases=(
            named("gpt", 1, A, fallbacks=(to("second"), to("large", FallbackCause.CONTEXT_TOO_LONG))),
            named("second", 2, C),
            named("large", 3, D),
        ),
    )

    assert (await place.chat()).headers["x-gateway-fallback"] == "large"


async def test_a_fallback_that_the_key_may_not_use_is_none() -> None:
    place = house(
        Reply.json(error(), 500),
        aliases=(named("gpt", 1, A, fallbacks=(to("second"),)), named("second", 2, C)),
        models=frozenset({"gpt"}),
    )

    assert (await place.chat()).status_code == 500
    assert len(place.upstream.requests) == 1


async def test_after_the_deadline_no_fallback_is_asked() -> None:
    place = house(Reply(delay_s=60.0), aliases=(named("gpt", 1, A, fallbacks=(to("second"),)), named("second", 2, C)))
    visit = Visit(place, x_request_timeout_ms="1000")

    await visit.pass_time(2)

    assert (await visit.answer()).status_code == 504
    assert len(place.upstream.requests) == 1


class TestAtAdmission:
    FULL = Limit("limit:5", "no request", "deployment", 0, 0, per="day", owner="deployment:1")

    async def test_a_target_without_room_leads_to_the_fallbacks_of_rate_limits(self) -> None:
        full = replace(A, limits=(self.FULL,))
        fallback = to("second", FallbackCause.RATE_LIMIT)
        place = house(Reply.json(CHAT), aliases=(named("gpt", 1, full, fallbacks=(fallback,)), named("second", 2, C)))

        response = await place.chat()

        assert (response.headers["x-gateway-model"], response.headers["x-gateway-fallback"]) == ("gpt", "second")
        assert (place.row["alias"], tried(place)) == ("second", [("c", "completed", "second")])
        assert place.telemetry.figures.fallbacks == {"rate_limit": 1}
        check_returned(place, full, C)

    async def test_a_limit_of_the_caller_does_not(self) -> None:
        mine = structs.replace(self.FULL, scope="key", owner="key:1")
        place = house(
            aliases=(named("gpt", 1, A, fallbacks=(to("second", FallbackCause.RATE_LIMIT),)), named("second", 2, C)),
            limits=(mine,),
        )

        assert (await place.chat()).status_code == 429
        assert place.telemetry.figures.fallbacks == {}

    @pytest.mark.parametrize("strict", [True, False])
    async def test_a_budget_that_cannot_pay_leads_to_a_cheaper_alias(self, strict: bool) -> None:
        small = structs.replace(DAILY, limit_pico_usd=1_000_000, strict=strict)
        fallback = to("cheap", FallbackCause.BUDGET_EXHAUSTED)
        place = house(
            Reply.json(CHAT),
            aliases=(named("gpt", 1, DEAR, fallbacks=(fallback,)), named("cheap", 2, C)),
            budgets=(small,),
        )

        response = await place.chat({"max_tokens": 500})

        assert (response.status_code, response.headers["x-gateway-fallback"]) == (200, "cheap")
        state = await place.store.state(small)
        assert (state.held_pico_usd, state.settled_pico_usd) == (0, place.row["cost_pico_usd"])

    async def test_a_spent_budget_of_the_alias_itself_does_not_bind_the_cheaper_one(self) -> None:
        spent = BudgetRule(8, "gpt", "model", "gpt", "day", 0, "UTC")
        fallback = to("cheap", FallbackCause.BUDGET_EXHAUSTED)
        place = house(
            Reply.json(CHAT),
            aliases=(named("gpt", 1, A, budgets=(spent,), fallbacks=(fallback,)), named("cheap", 2, C)),
        )

        await place.chat()

        assert place.row["alias"] == "cheap"
        assert (await place.store.state(spent)).settled_pico_usd == 0

    async def test_if_nobody_has_room_the_first_refusal_is_told(self) -> None:
        none = structs.replace(DAILY, name="tiny", limit_pico_usd=0)
        fallback = to("cheap", FallbackCause.BUDGET_EXHAUSTED)
        place = house(aliases=(named("gpt", 1, A, fallbacks=(fallback,)), named("cheap", 2, C)), budgets=(none,))

        response = await place.chat()

        assert (response.status_code, response.headers["x-budget-name"]) == (402, "tiny")
        assert place.ledger.opened == []

    async def test_a_model_without_a_price_is_a_gap_to_be_told(self) -> None:
        fallback = to("cheap", FallbackCause.BUDGET_EXHAUSTED)
        unpriced = replace(A, prices=())
        place = house(aliases=(named("gpt", 1, unpriced, fallbacks=(fallback,)), named("cheap", 2, C)))

        response = await place.chat()

        assert (response.status_code, response.json()["error"]["code"]) == (402, "model_not_priced")


async def test_a_fallbacks_own_limits_and_budgets_count() -> None:
    own = BudgetRule(9, "second", "model", "second", "day", 10**12, "UTC")
    place = house(
        Reply.json(error(), 500),
        Reply.json(CHAT),
        aliases=(named("gpt", 1, A, fallbacks=(to("second"),)), named("second", 2, C, budgets=(own,))),
    )

    await place.chat()

    assert (await place.store.state(own)).settled_pico_usd == place.row["cost_pico_usd"] > 0
