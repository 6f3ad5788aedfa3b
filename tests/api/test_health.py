"""What callers get when deployments are left alone: others' answers, a short wait, or a 503 that says so."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.route_rules import CircuitRules
from llmgateway.pipeline.snapshot import BudgetRule, Key
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, SECRET, Caller, House, alias, deployment, key, snapshot

A, B = deployment("a", 1), deployment("b", 2)
FINE = Reply.json(CHAT)
FAILED = Reply.json({"error": {"message": "broken"}}, status=500)
BODY = b'{"model": "gpt", "messages": [{"role": "user", "content": "Hi"}]}'


def house(*script: Reply, targets: Any = (A,), who: Key | None = None, **circuit: Any) -> House:
    rules = {"failures": 1, "open_s": 30.0, "wait_s": 0.2, **circuit}
    return House(
        ScriptedUpstream(*script),
        snapshot(
            replace(alias("gpt", *targets), retries=0), deployments=targets, who=who, circuit=CircuitRules(**rules)
        ),
    )


async def test_when_all_are_out_the_answer_says_when_to_come_back() -> None:
    home = house(FAILED)
    assert (await home.chat()).status_code == 500
    home.clock.advance(9.5)

    answer = await home.chat()

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "21"
    assert answer.headers["x-gateway-degraded"] == "true"
    assert answer.headers["x-llm-proxy-error-class"] == "provider_degraded"
    error = answer.json()["error"]
    assert error["code"] == "no_healthy_target"
    assert "[LLM_PROXY_PROVIDER_DEGRADED]" in error["message"]
    assert "21 s" in error["message"]
    assert len(home.upstream.requests) == 1
    assert not home.ledger.running


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"model": "gpt", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1beta/models/gpt:generateContent", {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
    ],
)
async def test_other_protocols_say_it_in_their_words(path: str, body: dict[str, Any]) -> None:
    home = house(FAILED)
    await home.chat()

    answer = await home.post(path, body)

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"
    assert "[LLM_PROXY_PROVIDER_DEGRADED]" in answer.text


async def test_a_drained_deployment_answers_nobody() -> None:
    home = house(FINE, targets=(replace(A, draining=True), B))
    assert (await home.chat()).headers["x-gateway-deployment"] == "b"

    alone = house(targets=(replace(A, draining=True),))
    assert (await alone.chat()).status_code == 503
    assert not alone.upstream.requests


async def test_in_log_mode_everybody_is_asked() -> None:
    home = house(FAILED, FINE, mode="log")
    await home.chat()

    assert (await home.chat()).status_code == 200


@pytest.mark.parametrize(("may", "sent", "status"), [(True, "true", 200), (True, "", 503), (False, "true", 503)])
async def test_keys_that_may_pass_over_circuits_do_so_when_they_ask(may: bool, sent: str, status: int) -> None:
    home = house(FAILED, FINE, who=key(may_bypass_health=may))
    await home.chat()

    answer = await home.chat(x_gateway_bypass_health=sent)

    assert answer.status_code == status
    assert all("x-gateway-bypass-health" not in request.headers for request in home.upstream.requests)


async def test_a_request_waits_for_the_one_that_tries() -> None:
    home = house(FAILED, replace(FINE, delay_s=0.05), FINE, wait_s=5.0)
    await home.chat()
    home.clock.advance(30)

    first = asyncio.create_task(home.chat())
    await asyncio.sleep(0.01)
    second = asyncio.create_task(home.chat())
    await asyncio.sleep(0.01)
    assert len(home.upstream.requests) == 2  # The failure, and the one that tries.

    assert (await first).status_code == (await second).status_code == 200
    assert len(home.upstream.requests) == 3


async def test_many_that_wait_are_all_answered_once_one_has_succeeded() -> None:
    home = house(FAILED, replace(FINE, delay_s=0.02), *[FINE] * 49, wait_s=5.0)
    await home.chat()
    home.clock.advance(30)

    answers = await asyncio.gather(*[home.chat() for _ in range(50)])

    assert [answer.status_code for answer in answers] == [200] * 50


async def test_who_was_admitted_waits_too_when_another_was_quicker_to_try() -> None:
    home = house(FAILED, replace(FINE, delay_s=0.05), FINE, wait_s=5.0)
    await home.chat()
    home.clock.advance(30)
    admit = home.gateway.desk.admit

    async def admit_slowly(*arguments: Any) -> Any:
        await asyncio.sleep(0.01)  # As with counters in Redis: others go on meanwhile.
        return await admit(*arguments)

    home.gateway.desk.admit = admit_slowly  # type: ignore[assignment,method-assign]

    answers = await asyncio.gather(home.chat(), home.chat())

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(home.upstream.requests) == 3
    assert answers[1].headers["x-gateway-attempts"] == "1"


async def test_of_two_targets_the_one_that_is_being_tried_is_waited_for_when_the_other_fails() -> None:
    home = house(FAILED, FINE, replace(FINE, delay_s=0.05), FAILED, FINE, targets=(A, B), wait_s=5.0)
    await home.chat()
    home.clock.advance(30)

    first = asyncio.create_task(home.chat())
    await asyncio.sleep(0.01)
    second = await home.chat()

    assert (await first).status_code == second.status_code == 200
    assert second.headers["x-gateway-attempts"] == "2"
    hosts = [request.url.host for request in home.upstream.requests]
    assert hosts == ["a.test", "b.test", "a.test", "b.test", "a.test"]
    assert not home.ledger.running
    assert [attempt["deployment"] for attempt in home.ledger.closed[-1]["attempts"]] == ["b", "a"]


async def test_a_target_that_is_well_again_meanwhile_is_asked_at_once() -> None:
    home = house(FAILED, FINE, replace(FAILED, delay_s=0.05), FINE, targets=(A, B))
    await home.chat()
    asking = asyncio.create_task(home.chat())
    await asyncio.sleep(0.01)
    home.clock.advance(30)

    assert (await asking).headers["x-gateway-deployment"] == "a"


async def test_a_target_that_cannot_be_paid_is_not_let_in() -> None:
    unpriced = replace(A, prices=())
    who = key(budgets=(BudgetRule(1, "month", "key", "1", "total", 10**15, "UTC"),))
    home = house(FAILED, FAILED, targets=(B, unpriced), who=who)
    home.gateway.health.record(unpriced, ok=False, kind="server_error")
    asking = asyncio.create_task(home.chat())
    home.clock.advance(30)

    assert (await asking).status_code == 500
    assert {request.url.host for request in home.upstream.requests} == {"b.test"}


async def test_all_that_were_limited_go_on_when_the_provider_said_that_they_may() -> None:
    limited = replace(Reply.json({"error": {"message": "slow"}}, status=429, retry_after="0.05"), delay_s=0.01)
    home = house(*[limited] * 3, *[FINE] * 3, who=key(), wait_s=0.01)
    home.gateway.snapshot = replace(home.snapshot, aliases={"gpt": alias("gpt", A)})  # With retries.
    asking = [asyncio.create_task(home.chat()) for _ in range(3)]
    await asyncio.sleep(0.03)
    assert home.gateway.health.state_of(A).state == "open"
    home.clock.advance(0.05)

    assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200, 200, 200]


@pytest.mark.parametrize(("timeout_ms", "state"), [("10", "healthy"), ("", "open")])
async def test_a_caller_that_would_not_wait_opens_no_circuit(timeout_ms: str, state: str) -> None:
    home = house(replace(FINE, delay_s=0.2))
    asking = asyncio.create_task(home.chat(x_request_timeout_ms=timeout_ms))
    await asyncio.sleep(0.01)
    home.clock.advance(601)
    home.gateway.exchanges.tick()

    assert (await asking).status_code == 504
    assert home.gateway.health.state_of(A).state == state


async def test_streams_that_break_off_open_the_circuit_too() -> None:
    piece = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'
    broken = Reply.events(piece, httpx.ReadError("reset"))
    home = house(broken, broken, failures=2)

    for state in ("healthy", "open"):
        assert (await home.chat({"stream": True})).status_code == 200
        assert home.gateway.health.state_of(A).state == state
    assert home.gateway.health.state_of(A).kind == "connection_broken"


async def test_whoever_leaves_while_waiting_is_gone_at_once() -> None:
    home = house(FAILED, replace(FINE, delay_s=0.3), wait_s=30.0)
    await home.chat()
    home.clock.advance(30)
    first = asyncio.create_task(home.chat())
    await asyncio.sleep(0.02)
    caller = Caller()
    headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
    waiting = asyncio.create_task(caller.call(home.app, "POST", "/v1/chat/completions", BODY, headers))
    await asyncio.sleep(0.02)
    assert len(home.gateway.health._waiting) == 1

    caller.left.set()
    await asyncio.wait_for(waiting, 0.2)

    assert not home.gateway.health._waiting
    assert (await first).status_code == 200
    assert not home.ledger.running
