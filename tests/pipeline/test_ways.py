"""Aliases that lead through other aliases, over a whole gateway: who is asked what, and what it counts for."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from billing.money import PICO_PER_USD
from llmgateway.http import httpx
from llmgateway.pipeline.protocols import BudgetState, CountersAwayError
from llmgateway.pipeline.route_rules import CircuitRules, Fallback, Parameters
from llmgateway.pipeline.rules import BudgetIndex
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Deployment, Limit
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, House, deployment, key, snapshot
from tests.pipeline.test_routing import nested, rule

A, B, C = (deployment(name, number) for number, name in enumerate("abc", 1))
COST = 11 * PRICE.input + 5 * PRICE.output
"""Of an answer like `CHAT`."""
FIVE = Limit("limit:1", "5 requests per minute", "key", 5, 5, owner="key:1")
ONE = Limit("limit:9", "1 request per minute", "model", 1, 1, owner="alias:77")
DAY = BudgetRule(1, "day", "key", "1", "day", PICO_PER_USD, "UTC", owner="key:1")
POOL_DAY = BudgetRule(2, "pool a day", "model", "pool", "day", PICO_PER_USD, "UTC", owner="alias:77")


def house(*aliases: Alias, replies: Any = None, **changes: Any) -> House:
    script = [Reply.json(CHAT) for _ in range(6)] if replies is None else replies
    return House(ScriptedUpstream(*script), snapshot(*aliases, **changes))


def pool(*targets: Deployment | Alias, **changes: Any) -> Alias:
    return replace(nested("pool", *targets), id=77, **changes)


def hosts(of: House) -> str:
    """The targets in the order in which they were asked."""
    return "".join([request.url.host.partition(".")[0] for request in of.upstream.requests])


async def state(of: House, budget: BudgetRule) -> BudgetState:
    return await of.store.state(budget)


class TestWhoIsAsked:
    async def test_the_row_and_the_answer_name_the_alias_asked_for_and_the_target(self) -> None:
        of = house(nested("gpt", pool(B)))

        response = await of.chat()

        assert response.status_code == 200
        assert (response.headers["x-gateway-model"], response.headers["x-gateway-deployment"]) == ("gpt", "b")
        assert (of.row["alias"], of.row["deployment"], of.row["cost_pico_usd"]) == ("gpt", "b", COST)

    async def test_a_failing_target_is_followed_by_the_next_one_through_the_nested_alias(self) -> None:
        inner = pool(B, C)
        of = house(nested("gpt", A, inner), inner, replies=[httpx.ConnectError("refused")] * 2 + [Reply.json(CHAT)])

        assert (await of.chat()).status_code == 200

        assert hosts(of) == "abc"
        assert [each.get("alias") for each in of.row["attempts"]] == [None, "pool", "pool"]

    async def test_task_types_are_a_rule_over_a_header(self) -> None:
        tasks = (rule("b", "request.task_type == 'summarization'"),)
        of = house(nested("gpt", A, rules=tasks), nested("b", B))

        await of.chat()
        await of.chat(x_gateway_task_type="summarization")

        assert hosts(of) == "ab"
        assert "x-gateway-task-type" not in of.upstream.requests[1].headers

    async def test_sessions_stick(self) -> None:
        of = house(nested("gpt", A, B, C, strategy="round_robin", sticky="session"))

        for _ in range(4):
            await of.chat(x_gateway_session_id="s-1")

        assert len(set(hosts(of))) == 1
        assert "x-gateway-session-id" not in of.upstream.requests[0].headers

    async def test_a_stuck_session_moves_on_only_while_its_target_cannot_answer(self) -> None:
        of = house(
            nested("gpt", A, B, strategy="round_robin", sticky="session"),
            replies=[Reply.json(CHAT), httpx.ConnectError("refused"), Reply.json(CHAT), Reply.json(CHAT)],
        )

        for _ in range(3):
            await of.chat(x_gateway_session_id="s-1")

        first = hosts(of)[0]
        other = "b" if first == "a" else "a"
        assert hosts(of) == first + first + other + first

    async def test_the_cheapest_by_the_bill_is_asked(self) -> None:
        dear = replace(A, prices=(replace(PRICE, output=100),))
        of = house(nested("gpt", dear, B, strategy="lowest_cost"))

        await of.chat()

        assert hosts(of) == "b"

    async def test_what_is_cheap_depends_on_how_much_is_read_and_how_much_is_written(self) -> None:
        reader = replace(A, prices=(replace(PRICE, input=1, output=1000),))
        writer = replace(B, prices=(replace(PRICE, input=1000, output=1),))
        of = house(nested("gpt", reader, writer, strategy="lowest_cost"))

        await of.chat({"max_tokens": 500})
        await of.chat({"max_tokens": 1, "messages": [{"role": "user", "content": "read this " * 400}]})

        assert hosts(of) == "ba"

    async def test_a_least_busy_target_is_asked_while_a_stream_runs_on_another(self) -> None:
        of = house(
            nested("gpt", A, B, strategy="least_in_flight"),
            replies=[replace(Reply.json(CHAT), delay_s=0.2), Reply.json(CHAT)],
        )

        slow = asyncio.create_task(of.chat())
        await asyncio.sleep(0.05)
        await of.chat()
        await slow
        of.upstream.then(Reply.json(CHAT))
        await of.chat()

        assert hosts(of) == "aba"
        assert of.gateway.traffic.in_flight(A.id) == of.gateway.traffic.in_flight(B.id) == 0


class TestBudgetUsed:
    def pair(self, **changes: Any) -> House:
        return house(
            nested("gpt", A, rules=(rule("b", "budget_used > 0.5"),)),
            nested("b", B),
            who=key(budgets=(DAY,)),
            **changes,
        )

    async def test_who_has_spent_much_goes_to_the_cheap_one(self) -> None:
        of = self.pair()
        await of.chat()
        today = of.clock.time() // 86400 * 86400
        of.store.restart(DAY)
        of.store.seed(DAY, window_start=today, settled_pico_usd=PICO_PER_USD * 6 // 10)

        await of.chat()

        assert hosts(of) == "ab"

    async def test_counters_that_are_away_make_no_rule_hold_and_no_500(self) -> None:
        of = self.pair()
        of.gateway.store.state = _away  # type: ignore[method-assign]

        assert (await of.chat()).status_code == 200

        assert hosts(of) == "a"
        assert of.gateway.router.conditions.failures == {("gpt", "rule"): 1}

    async def test_without_a_budget_nothing_is_used(self) -> None:
        of = house(nested("gpt", A, rules=(rule("b", "budget_used > 0.0"),)), nested("b", B))

        await of.chat()

        assert hosts(of) == "a"


async def _away(budget: BudgetRule) -> BudgetState:
    raise CountersAwayError(budget.name)


class TestWhatItCountsFor:
    async def test_a_nested_alias_s_limit_leaves_it_out_when_it_has_no_room(self) -> None:
        inner = pool(B, limits=(ONE,))
        of = house(nested("gpt", inner, A), inner)

        assert [(await of.chat()).status_code for _ in range(3)] == [200] * 3

        assert hosts(of) == "baa"

    async def test_a_limit_of_the_way_is_named_with_its_own_alias(self) -> None:
        inner = pool(B, limits=(ONE,))
        of = house(nested("gpt", inner), inner)
        await of.chat()

        refused = await of.chat()

        assert refused.status_code == 429
        assert refused.json()["error"]["message"].startswith("The model 'pool' allows 1 request per minute")
        assert refused.headers["x-ratelimit-scope"] == "model"

    async def test_the_key_s_own_limit_for_the_nested_model_holds_too(self) -> None:
        mine = structs.replace(FIVE, counter="limit:2", name="1 request per minute", amount=1, burst=1, model="pool")
        inner = pool(B)
        of = house(nested("gpt", inner, A), inner, who=key(limits=(mine,)))

        await of.chat()
        await of.chat()

        assert hosts(of) == "ba"

    async def test_a_general_limit_is_counted_once(self) -> None:
        inner = pool(B)
        of = house(nested("gpt", inner), inner, who=key(limits=(FIVE,)))

        headers = (await of.chat()).headers

        assert headers["x-ratelimit-remaining-requests"] == "4"

    async def test_budgets_of_both_aliases_and_of_the_key_pay_each_once(self) -> None:
        gpt_day = structs.replace(POOL_DAY, id=3, name="gpt a day", scope_id="gpt", owner="alias:1")
        inner = pool(B, budgets=(POOL_DAY,))
        of = house(nested("gpt", inner, budgets=(gpt_day,)), inner, who=key(budgets=(DAY,)))

        await of.chat()

        for budget in (DAY, gpt_day, POOL_DAY):
            assert await state(of, budget) == BudgetState(COST, 0), budget.name

    async def test_a_diamond_pays_its_shared_alias_once(self) -> None:
        inner = pool(B, budgets=(POOL_DAY,), limits=(structs.replace(ONE, amount=5, burst=5),))
        left = nested("left", inner)
        of = house(nested("gpt", left, inner), left, inner)

        await of.chat()

        assert await state(of, POOL_DAY) == BudgetState(COST, 0)

    async def test_a_nested_alias_that_cannot_pay_is_passed_over(self) -> None:
        poor = structs.replace(POOL_DAY, limit_pico_usd=1)
        inner = pool(B, budgets=(poor,))
        of = house(nested("gpt", inner, A), inner)

        assert (await of.chat()).status_code == 200

        assert hosts(of) == "a"
        assert await state(of, poor) == BudgetState(0, 0)

    async def test_the_hold_of_a_way_returns_when_another_way_is_taken(self) -> None:
        inner = pool(B, budgets=(POOL_DAY,))
        of = house(nested("gpt", inner, A), inner, replies=[httpx.ConnectError("refused"), Reply.json(CHAT)])

        await of.chat()

        assert hosts(of) == "ba"
        assert await state(of, POOL_DAY) == BudgetState(0, 0)

    async def test_a_strict_budget_of_a_nested_alias_lowers_the_cap(self) -> None:
        body = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1000}
        affordable = len(json.dumps(body).encode()) * PRICE.input + 300 * PRICE.output
        strict = structs.replace(POOL_DAY, limit_pico_usd=affordable, strict=True)
        inner = pool(B, budgets=(strict,))
        of = house(nested("gpt", inner), inner)

        response = await of.chat({"max_tokens": 1000})

        assert response.status_code == 200, response.text
        assert 256 <= of.upstream.bodies[0]["max_tokens"] <= 320
        assert (await state(of, strict)).held_pico_usd == 0

    async def test_a_rule_s_alias_pays_as_well(self) -> None:
        inner = pool(B, budgets=(POOL_DAY,))
        of = house(nested("gpt", A, rules=(rule("pool"),)), inner)

        await of.chat()

        assert hosts(of) == "b"
        assert await state(of, POOL_DAY) == BudgetState(COST, 0)

    async def test_a_budget_that_comes_meanwhile_is_booked_for_the_nested_alias(self) -> None:
        inner = pool(B)
        of = house(nested("gpt", inner), inner, replies=[replace(Reply.json(CHAT), delay_s=0.1)])
        running = asyncio.create_task(of.chat())
        await asyncio.sleep(0.03)

        of.gateway.use(replace(of.gateway.snapshot, budgets={2: POOL_DAY}), BudgetIndex({2: POOL_DAY}))
        await running

        assert await state(of, POOL_DAY) == BudgetState(COST, 0)

    async def test_the_bytes_that_a_nested_alias_takes_are_its_own(self) -> None:
        small = Limit(
            "limit:5", "100 bytes a request", "model", 100, 100, metric="request_bytes", per="", owner="alias:77"
        )
        inner = pool(B, limits=(small,))
        of = house(nested("gpt", inner, A), inner)

        await of.chat({"messages": [{"role": "user", "content": "x" * 200}]})

        assert hosts(of) == "a"

    async def test_slots_on_the_way_return(self) -> None:
        slot = Limit("limit:6", "1 at a time", "model", 1, 1, metric="concurrency", per="", owner="alias:77")
        inner = pool(B, limits=(slot,))
        of = house(nested("gpt", inner), inner)

        assert [(await of.chat()).status_code for _ in range(3)] == [200] * 3
        assert await of.store.limit_used(slot) == 0


class TestParameters:
    async def test_the_alias_asked_for_sets_them_before_admission(self) -> None:
        capped = Parameters(defaults={"max_tokens": 7}, overrides={"temperature": 0, "top_p": None})
        of = house(nested("gpt", A, parameters=capped), who=key(budgets=(DAY,)))

        await of.chat({"temperature": 1, "top_p": 0.5})

        assert of.upstream.bodies[0] == {
            "model": "gpt-upstream",
            "messages": [{"role": "user", "content": "Hi"}],
            "temperature": 0,
            "max_tokens": 7,
        }
        held = of.ledger.opened[0]["held_pico_usd"]
        assert held - of.row["input_estimate"] * PRICE.input == 7 * PRICE.output

    async def test_what_a_caller_says_stands_before_a_default(self) -> None:
        of = house(nested("gpt", A, parameters=Parameters(defaults={"max_tokens": 7})))

        await of.chat({"max_tokens": 3})

        assert of.upstream.bodies[0]["max_tokens"] == 3

    async def test_each_way_gets_its_own_and_holds_are_made_for_it(self) -> None:
        inner = pool(B, parameters=Parameters(overrides={"max_tokens": 9, "n": 2}))
        of = house(
            nested("gpt", A, inner),
            inner,
            replies=[httpx.ConnectError("refused"), Reply.json(CHAT)],
            who=key(budgets=(DAY,)),
        )

        await of.chat({"max_tokens": 3})

        first, second = of.upstream.bodies
        assert (first["max_tokens"], second["max_tokens"], second["n"]) == (3, 9, 2)

    @pytest.mark.parametrize("strict", [False, True])
    async def test_what_is_held_is_for_the_request_as_it_is_sent(self, strict: bool) -> None:
        inner = pool(B, parameters=Parameters(overrides={"max_tokens": 300, "n": 2}))
        of = house(nested("gpt", inner), inner, who=key(budgets=(structs.replace(DAY, strict=strict),)))

        await of.chat({"max_tokens": 9000})

        held = of.ledger.opened[0]["held_pico_usd"]
        assert 2 * 300 * PRICE.output <= held <= 2 * 300 * PRICE.output + 200 * PRICE.input

    async def test_the_inner_override_has_the_last_word_and_the_outer_default_the_first(self) -> None:
        inner = pool(B, parameters=Parameters(defaults={"seed": 2}, overrides={"temperature": 0.2}))
        outer = Parameters(defaults={"seed": 1}, overrides={"temperature": 0.1})
        of = house(nested("gpt", inner, parameters=outer), inner)

        await of.chat()

        assert (of.upstream.bodies[0]["seed"], of.upstream.bodies[0]["temperature"]) == (1, 0.2)

    async def test_a_rule_s_alias_sets_its_own_too(self) -> None:
        cheap = pool(B, parameters=Parameters(overrides={"max_tokens": 5}))
        of = house(nested("gpt", A, rules=(rule("pool"),)), cheap)

        await of.chat({"max_tokens": 500})

        assert of.upstream.bodies[0]["max_tokens"] == 5

    async def test_a_strict_budget_and_a_translated_target_see_the_changed_cap(self) -> None:
        talker = replace(A, adapter=get_adapter("anthropic"))
        of = house(
            nested("gpt", talker, parameters=Parameters(overrides={"max_tokens": 300})),
            replies=[
                Reply.json(
                    {
                        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
                        "content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": 1, "output_tokens": 1},
                    }
                )
            ],
            who=key(budgets=(structs.replace(DAY, strict=True),)),
        )  # fmt: skip

        response = await of.chat({"max_tokens": 9000})

        assert response.status_code == 200, response.text
        assert of.upstream.bodies[0]["max_tokens"] == 300

    async def test_a_path_that_names_the_model_is_read_again_as_it_was(self) -> None:
        of = house(
            nested(
                "gpt", replace(A, adapter=get_adapter("gemini")), parameters=Parameters(overrides={"max_tokens": 5})
            ),
            replies=[Reply.json({"candidates": [{"content": {"parts": [{"text": "Hi"}]}}], "usageMetadata": {}})],
        )

        await of.post("/v1beta/models/gpt:generateContent", {"contents": [{"parts": [{"text": "Hi"}]}]})

        assert of.upstream.bodies[0]["generationConfig"] == {"maxOutputTokens": 5}

    async def test_what_does_not_fit_says_whose_it_is(self) -> None:
        of = house(nested("gpt", A, parameters=Parameters(overrides={"max_tokens": "many"})))

        response = await of.chat()

        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith("What the model 'gpt' sets does not fit this request")

    async def test_whether_an_answer_is_a_stream_is_not_an_alias_s_to_say(self) -> None:
        of = house(nested("gpt", A, parameters=Parameters(overrides={"stream": True, "model": "other"})))

        await of.chat()

        assert of.upstream.bodies[0] == {"model": "gpt-upstream", "messages": [{"role": "user", "content": "Hi"}]}


class TestWhenAllAreOut:
    async def open_circuit(self, of: House) -> None:
        of.gateway.health.record(A, ok=False, kind="server_error")

    def ill(self, wait_s: float, *aliases: Alias) -> House:
        return house(*aliases, circuit=CircuitRules(failures=1, open_s=30.0, wait_s=wait_s))

    async def test_a_fallback_answers_at_once(self) -> None:
        of = self.ill(0.0, nested("gpt", A, fallbacks=(Fallback("b"),)), nested("b", B))
        await self.open_circuit(of)

        assert (await of.chat()).status_code == 200

        assert hosts(of) == "b"

    async def test_without_one_the_refusal_says_when_to_come_back(self) -> None:
        of = self.ill(0.0, nested("gpt", A))
        await self.open_circuit(of)

        response = await of.chat()

        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_healthy_target")
        assert response.headers["retry-after"] == "30"
        assert response.headers["x-gateway-degraded"] == "true"

    async def test_who_has_failed_again_and_again_is_tried_when_nobody_else_is_left(self) -> None:
        of = house(
            nested("gpt", A, retries=0),
            replies=[Reply.json({"error": {"message": "no"}}, 503), Reply.json(CHAT)],
            circuit=CircuitRules(failures=1, open_s=30.0, wait_s=0.0),
        )
        await self.open_circuit(of)
        of.clock.advance(30)
        assert (await of.chat()).status_code == 503
        assert (await of.chat()).headers["retry-after"] == "30"
        of.clock.advance(30)

        assert (await of.chat()).status_code == 200
        assert of.gateway.health.state_of(A).state == "healthy"

    async def test_who_is_back_in_time_answers(self) -> None:
        of = house(nested("gpt", A), circuit=CircuitRules(failures=1, open_s=0.05, wait_s=5.0))
        await self.open_circuit(of)
        running = asyncio.create_task(of.chat())
        await asyncio.sleep(0)
        of.clock.advance(0.1)

        assert (await running).status_code == 200

    async def test_who_comes_too_late_to_who_is_back_waits_on(self) -> None:
        of = house(nested("gpt", A), circuit=CircuitRules(failures=1, open_s=0.05, wait_s=5.0))
        await self.open_circuit(of)
        health, somebody = of.gateway.health, contextvars.copy_context()
        wait, waits = health.wait_for_any, list[float]()

        async def overtaken(candidates: Sequence[Deployment], timeout_s: float) -> bool:
            found = await wait(candidates, timeout_s)
            waits.append(timeout_s)
            if len(waits) == 1:
                assert somebody.run(health.claim, A)
                asyncio.get_running_loop().call_later(0.01, health.release, A, context=somebody)
            return found

        health.wait_for_any = overtaken  # type: ignore[method-assign]
        running = asyncio.create_task(of.chat())
        await asyncio.sleep(0)
        of.clock.advance(0.1)

        assert (await running).status_code == 200
        assert waits[0] == pytest.approx(5.0)
        assert waits[1] < waits[0]


@pytest.mark.parametrize("strategy", ["round_robin", "weighted", "least_in_flight", "lowest_latency", "lowest_cost"])
async def test_with_every_strategy_all_slots_and_holds_return(strategy: str) -> None:
    slot = Limit("limit:6", "3 at a time", "model", 3, 3, metric="concurrency", per="", owner="alias:77")
    inner = pool(B, C, strategy=strategy, limits=(slot,), budgets=(POOL_DAY,))
    replies = [replace(Reply.json(CHAT), delay_s=0.01) for _ in range(40)]
    of = house(nested("gpt", A, inner, strategy=strategy), inner, replies=replies, who=key(budgets=(DAY,)))

    responses = await asyncio.gather(*[of.chat() for _ in range(20)])

    assert {response.status_code for response in responses} <= {200}
    assert (await state(of, DAY)) == BudgetState(20 * COST, 0)
    assert (await state(of, POOL_DAY)).held_pico_usd == 0
    assert await of.store.limit_used(slot) == 0
    assert all(of.gateway.traffic.in_flight(each.id) == 0 for each in (A, B, C))


async def test_a_rule_that_cannot_be_evaluated_is_counted_and_the_request_goes_on() -> None:
    of = house(nested("gpt", A, rules=(rule("b", "headers['x-team'] == 'red'"),)), nested("b", B))

    assert (await of.chat()).status_code == 200
    page = (await of.request("GET", "/metrics", b"", {})).text

    assert hosts(of) == "a"
    assert 'llmgateway_routing_rule_failures_total{alias="gpt",rule="rule"} 1.0' in page
    assert of.gateway.problems == ()


class TestTheLedger:
    async def test_rows_and_records_of_attempts_name_the_aliases_on_the_way(self) -> None:
        inner = pool(B)
        middle = nested("middle", inner)
        of = house(nested("gpt", A, middle), middle, inner, replies=[httpx.ConnectError("refused"), Reply.json(CHAT)])

        await of.chat()

        assert of.row["via"] == "middle pool"
        assert "via" not in of.ledger.opened[0]
        assert [record["via"] for _, record in of.ledger.attempts] == ["middle pool"]

    async def test_a_row_of_the_alias_s_own_targets_names_none(self) -> None:
        of = house(nested("gpt", A))

        await of.chat()

        assert "via" not in of.row


class TestFallbacks:
    async def test_a_fallback_pays_for_itself_with_the_caller_s_budgets(self) -> None:
        gpt_day = structs.replace(POOL_DAY, id=3, name="gpt a day", scope_id="gpt", owner="alias:1")
        spare = pool(B, budgets=(POOL_DAY,), parameters=Parameters(overrides={"max_tokens": 5}))
        of = house(
            nested("gpt", A, fallbacks=(Fallback("pool"),), budgets=(gpt_day,), retries=0),
            spare,
            replies=[httpx.ConnectError("refused"), Reply.json(CHAT)],
            who=key(budgets=(DAY,)),
        )

        response = await of.chat({"max_tokens": 900})

        assert response.status_code == 200, response.text
        assert hosts(of) == "ab"
        assert [body["max_tokens"] for body in of.upstream.bodies] == [900, 5]
        assert (of.row["alias"], of.row["via"]) == ("gpt", "pool")
        for budget in (DAY, gpt_day, POOL_DAY):
            assert await state(of, budget) == BudgetState(COST, 0), budget.name

    async def test_one_without_room_is_passed_over(self) -> None:
        spare = pool(B, budgets=(structs.replace(POOL_DAY, limit_pico_usd=1),))
        of = house(
            nested("gpt", A, fallbacks=(Fallback("pool"), Fallback("c")), retries=0),
            spare,
            nested("c", C),
            replies=[httpx.ConnectError("refused"), Reply.json(CHAT)],
        )

        assert (await of.chat()).status_code == 200
        assert hosts(of) == "ac"

    async def test_one_that_the_key_may_not_call_is_not_asked(self) -> None:
        of = house(
            nested("gpt", A, fallbacks=(Fallback("pool"),), retries=0),
            pool(B),
            replies=[httpx.ConnectError("refused")],
            who=key(models=frozenset({"gpt"})),
        )

        assert (await of.chat()).status_code == 502
        assert hosts(of) == "a"
