"""What is explained is what a real request would get, and nothing of it stays."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import cel
import pytest
from msgspec import structs

from billing.money import PICO_PER_USD
from billing.windows import load_zone
from llmgateway.explain.here import explain
from llmgateway.explain.question import PATHS, Question
from llmgateway.pipeline.protocols import TargetTerms, Tokens
from llmgateway.pipeline.route_rules import Fallback, FallbackCause, RoutingRule
from llmgateway.pipeline.snapshot import BudgetRule, Deployment, Limit, Networks
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, SECRET, House, alias, deployment, key, snapshot

LIMIT = Limit("limit:1", "2 requests per minute", "key", 2, 2, owner="key:1")
SLOTS = Limit("limit:2", "1 at a time", "key", 1, 1, metric="concurrency", per="", owner="key:1")
DAILY = Limit("limit:3", "3 requests per day", "team", 3, 3, per="day")
TINY = BudgetRule(1, "day", "key", "1", "day", 12_000, "UTC")
STRICT = BudgetRule(2, "strict", "team", "3", "day", PICO_PER_USD, "UTC", strict=True)


def house(*replies: Reply, who: Any = None, made: Any = None, **changes: Any) -> House:
    return House(ScriptedUpstream(*replies), snapshot(*(made or (alias("gpt", deployment()),)), who=who, **changes))


async def ask(of: House, **fields: Any) -> dict[str, Any]:
    named: dict[str, Any] = {"model": "gpt", "secret": SECRET.encode(), **fields}
    return await explain(of.gateway, of.conf, Question(**named))


async def test_a_request_that_would_pass_is_told_from_key_to_price() -> None:
    of = house(who=key(limits=(LIMIT, SLOTS), budgets=(STRICT,), networks=Networks.of(("127.0.0.0/8", "::1"))))

    found = await ask(of)

    assert found["decision"]["allowed"] is True
    assert (found["decision"]["status"], found["decision"]["deployment"]) == (200, "main")
    assert found["key"] | {"id": "1"} == found["key"]
    assert (found["key"]["source"], found["key"]["networks"]) == ("database", ["127.0.0.0/8", "::1/128"])
    [target] = found["targets"]
    assert (target["order"], target["health"], target["price"]["input_per_1m_usd"]) == (1, "healthy", "0.000002")
    assert [(each["name"], each["used"], each["remaining"]) for each in found["limits"]] == [
        (LIMIT.name, 0, 2),
        (SLOTS.name, 0, 1),
    ]
    [budget] = found["budgets"]
    assert (budget["limit_usd"], budget["settled_usd"], budget["held_usd"]) == ("1", "0", "0")
    assert found["hold"]["in"] == ["strict"]
    assert SECRET not in json.dumps(found)


async def test_nothing_is_sent_taken_or_written() -> None:
    two = [deployment("a", 1), deployment("b", 2)]
    of = house(
        *[Reply.json(CHAT)] * 2,
        who=key(limits=(LIMIT, SLOTS), budgets=(STRICT,)),
        made=(alias("gpt", *two, strategy="round_robin"),),
    )

    first = [await ask(of) for _ in range(10)]

    assert of.upstream.requests == []
    assert (of.ledger.opened, of.ledger.closed, of.log.lines) == ([], [], [])
    assert [await of.store.limit_used(each) for each in (LIMIT, SLOTS)] == [0, 0]
    assert (await of.store.state(STRICT)).held_pico_usd == 0
    assert {each["decision"]["deployment"] for each in first} == {"a"}, "nobody's turn passes"
    assert (await of.chat()).headers["x-gateway-deployment"] == "a"


SCENES: dict[str, dict[str, Any]] = {
    "passes": {},
    "unknown key": {"secret": "sk-gw-nobodynobo-0123456789abcdef"},
    "disabled": {"who": key(enabled=False)},
    "expired": {"who": key(expires_at=1.0)},
    "not from there": {"who": key(networks=Networks.of(("10.0.0.0/8",)))},
    "unknown model": {"body": {"model": "nothing"}},
    "not its model": {"who": key(models=frozenset({"other"}))},
    "retired": {"made": (replace(alias("gpt", deployment()), retires_at=1.0, replacement="new"),)},
    "no such operation": {"made": (alias("gpt", deployment(adapter=get_adapter("groq"))),), "path": "/v1/embeddings"},
    "cannot be called": {"made": (alias("gpt", deployment(problem="the credential cannot be read")),)},
    "rate limited": {"who": key(limits=(LIMIT,)), "before": 2},
    "daily limit": {"who": key(limits=(DAILY,)), "before": 3},
    "no request at all": {"who": key(limits=(structs.replace(LIMIT, amount=0, burst=0),))},
    "shadowed": {"who": key(limits=(structs.replace(LIMIT, shadow=True),)), "before": 2},
    "target's limit": {
        "made": (alias("gpt", deployment(limits=(structs.replace(LIMIT, scope="deployment"),))),),
        "before": 2,
    },
    "spent": {"who": key(budgets=(TINY,)), "before": 1},
    "not priced": {"who": key(budgets=(TINY,)), "made": (alias("gpt", deployment(prices=())),)},
    "not boundable": {
        "who": key(budgets=(STRICT,)),
        "body": {
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]
        },
    },
    "not JSON": {"body": b"{"},
    "wrong field": {"body": {"max_tokens": "many"}},
    "too large": {"body": {"messages": [{"role": "user", "content": "x" * 3_000}]}, "request_body_limit": 2_000},
    "draining": {"made": (alias("gpt", deployment(draining=True)),)},
}


@pytest.mark.parametrize("scene", SCENES)
async def test_it_is_decided_as_a_real_request_is(scene: str) -> None:
    told = dict(SCENES[scene])
    path, before = told.pop("path", PATHS[0]), told.pop("before", 0)
    secret, body = told.pop("secret", SECRET), told.pop("body", {})
    content = (
        body
        if isinstance(body, bytes)
        else json.dumps({"model": "gpt", "messages": [], "max_tokens": 100, **body}).encode()
    )
    of = house(*[Reply.json(CHAT)] * (before + 1), **told)
    load_zone("UTC")
    for _ in range(before):
        await of.post(path, content)

    found = await ask(of, secret=secret.encode(), path=path, body=content)
    real = await of.post(path, content, authorization=f"Bearer {secret}")

    assert found["decision"]["status"] == real.status_code
    if real.status_code == 200:
        assert found["decision"]["allowed"] is True
        return
    error = real.json()["error"]
    assert (found["decision"]["code"], found["decision"]["message"]) == (error["code"], error["message"])
    assert found["decision"]["headers"].get("retry-after") == real.headers.get("retry-after")


def out_of_order(of: House, *which: Deployment, times: int = 1, kinds: tuple[str, ...] = ("server_error",)) -> None:
    """Their circuits have opened, so often that each pause was twice as long as the one before."""
    health = of.gateway.health
    for number in range(times):
        of.clock.advance(30 * 2.0**number if number else 0)
        for each, kind in zip(which, kinds, strict=True):
            assert health.claim(each)
            for _ in range(1 if number else 5):
                health.record(each, ok=False, kind=kind)


class TestWhenAllAreOut:
    async def test_a_trial_of_the_least_bad_is_told_as_it_would_be_made(self) -> None:
        bad, worse = deployment("bad", 1), deployment("worse", 2)
        of = house(Reply.json(CHAT), made=(alias("gpt", worse, bad),))
        out_of_order(of, worse, bad, times=3, kinds=("authentication", "server_error"))
        of.clock.advance(31)
        before = of.gateway.health.state_of(bad)

        found = await ask(of)
        again = await ask(of)

        assert (before.state, of.gateway.health.state_of(worse).state) == ("open", "open")
        assert found["decision"] == again["decision"]
        assert (found["decision"]["status"], found["decision"]["deployment"]) == (200, "bad")
        assert found["decision"]["trial_in_s"] == 0
        assert "out at present; at once it would be sent to" in found["decision"]["message"]
        assert of.gateway.health.state_of(bad) == before, "nothing is changed by looking"
        real = await of.chat()
        assert (real.status_code, real.headers["x-gateway-deployment"]) == (200, found["decision"]["deployment"])

    async def test_who_is_back_within_the_wait_is_waited_for(self) -> None:
        of = house()
        out_of_order(of, deployment())
        of.clock.advance(28.5)

        found = await ask(of)

        assert found["decision"]["allowed"] is True
        assert found["decision"]["trial_in_s"] == pytest.approx(1.5)
        assert "after 1.5 s it would be sent to 'main'" in found["decision"]["message"]

    async def test_nobody_is_waited_for_longer_than_a_request_would(self) -> None:
        of = house()
        out_of_order(of, deployment())
        of.clock.advance(20)

        found = await ask(of)
        real = await of.chat()

        assert (found["decision"]["status"], real.status_code) == (503, 503)
        assert found["decision"]["message"] == real.json()["error"]["message"]

    async def test_while_another_request_tries_its_outcome_is_waited_for(self) -> None:
        of, main = house(Reply.json(CHAT)), deployment()
        out_of_order(of, main)
        of.clock.advance(31)
        assert of.gateway.health.claim(main)

        found = await ask(of)
        asking = asyncio.create_task(of.chat())
        await asyncio.sleep(0)
        of.gateway.health.record(main, ok=True)

        decision = found["decision"]
        assert (decision["status"], decision["deployment"]) == (200, "main")
        assert (decision["trial_in_s"], decision["awaits_s"]) == (None, of.gateway.snapshot.circuit.wait_s)
        assert "another request is trying 'main'" in decision["message"]
        assert (await asking).headers["x-gateway-deployment"] == "main"

    async def test_who_waits_for_nobody_is_refused_while_another_request_tries(self) -> None:
        of, main = house(), deployment()
        of.gateway.snapshot = replace(of.gateway.snapshot, circuit=replace(of.gateway.snapshot.circuit, wait_s=0.0))
        out_of_order(of, main)
        of.clock.advance(31)
        assert of.gateway.health.claim(main)

        found, real = await ask(of), await of.chat()

        assert (found["decision"]["status"], real.status_code) == (503, 503)
        assert found["decision"]["message"] == real.json()["error"]["message"]

    async def test_rules_and_budgets_are_looked_at_on_the_way(self) -> None:
        compiled = cel.compile("budget_used < 0.5")
        led = replace(
            alias("gpt", deployment("other", 2)), rules=(RoutingRule("r", "budget_used < 0.5", "there", compiled),)
        )
        of = house(made=(led, alias("there", deployment())), who=key(budgets=(STRICT,)))
        out_of_order(of, deployment(), times=2)
        of.clock.advance(31)

        found = await ask(of)

        assert (found["decision"]["deployment"], found["decision"]["trial_in_s"]) == ("main", 0)
        assert [rule["holds"] for rule in found["rules"]] == [True]


async def test_what_is_held_by_others_counts() -> None:
    of = house(who=key(limits=(SLOTS,)))
    taken = await of.store.admit("other", demand=Tokens(), limits=(SLOTS,), budgets=(), targets=(TargetTerms(),))

    found = await ask(of)

    assert taken is not None
    assert found["decision"]["code"] == "concurrency_limit_exceeded"
    assert [(each["used"], each["remaining"]) for each in found["limits"]] == [(1, 0)]


async def test_a_key_is_chosen_by_its_id_too() -> None:
    of = house(who=key(networks=Networks.of(("10.0.0.0/8",))))

    allowed = await ask(of, secret=b"", key_id="1", client_ip="10.1.2.3")
    refused = await ask(of, secret=b"", key_id="1", client_ip="192.0.2.1")
    unknown = await ask(of, secret=b"", key_id="9")

    assert [each["decision"]["status"] for each in (allowed, refused, unknown)] == [200, 403, 401]
    assert refused["key"]["name"] == "alice"
    assert refused["decision"]["code"] == "ip_not_allowed"
    assert unknown["key"] is None


async def test_rules_say_which_of_them_holds() -> None:
    def rule(name: str, when: str, use: str) -> RoutingRule:
        return RoutingRule(name, when, use, cel.compile(when))

    rules = (rule("long", "request.input_tokens > 100000", "big"), rule("team", "team == 'red'", "cheap"))
    of = house(
        made=(
            replace(alias("gpt", deployment()), rules=rules),
            alias("big", deployment("big", 2)),
            alias("cheap", deployment("cheap", 3)),
        )
    )

    found = await ask(of)

    assert [(each["rule"], each["holds"]) for each in found["rules"]] == [("long", False), ("team", True)]
    assert (found["model"]["led_to"], found["decision"]["deployment"]) == (["cheap"], "cheap")


async def test_a_fallback_that_has_room_is_named() -> None:
    spent = structs.replace(TINY, limit_pico_usd=0, scope="model", scope_id="gpt")
    first = replace(
        alias("gpt", deployment()),
        budgets=(spent,),
        fallbacks=(Fallback("cheap", FallbackCause.BUDGET_EXHAUSTED),),
    )
    of = house(
        Reply.json(CHAT), made=(first, replace(alias("cheap", deployment("cheap", 3)), id=2)), budgets={1: spent}
    )
    load_zone("UTC")

    found, real = await ask(of), await of.chat()

    assert (found["decision"]["allowed"], found["model"]["stands_in"]) == (True, "cheap")
    assert found["decision"]["deployment"] == real.headers["x-gateway-deployment"] == "cheap"


@pytest.mark.parametrize("path", PATHS)
async def test_every_protocol_has_a_plainest_request(path: str) -> None:
    found = await ask(house(), path=path)

    assert found["decision"]["allowed"] is True, found["decision"]
    assert found["request"]["input_tokens"] > 0 or path == "/v1/embeddings"


async def test_headers_and_end_users_count_as_they_would() -> None:
    each = structs.replace(LIMIT, each="end_user", amount=1, burst=1)
    of = house(Reply.json(CHAT), who=key(limits=(each,)))
    await of.chat(x_end_user_id="carol")

    carol = await ask(of, end_user="carol")
    dave = await ask(of, headers={"X-End-User-Id": "dave"})

    assert (carol["decision"]["status"], dave["decision"]["status"]) == (429, 200)


async def test_a_body_without_a_model_gets_the_one_that_is_asked_about() -> None:
    found = await ask(house(), body=b'{"messages": [], "max_tokens": 7}')

    assert found["decision"]["allowed"] is True
    assert found["request"]["output_tokens"] == 7


def test_a_question_keeps_its_secret_to_itself() -> None:
    assert SECRET not in repr(Question(model="gpt", secret=SECRET.encode(), body=b"private"))
    assert "private" not in repr(Question(model="gpt", body=b"private"))
