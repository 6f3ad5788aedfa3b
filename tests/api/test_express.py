"""What goes the short way is answered, counted and billed as on the long one, whatever happens in the middle of it."""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from billing.windows import load_zone
from llmgateway.http import httpx
from llmgateway.key_secrets import digest
from llmgateway.pipeline.protocols import Record
from llmgateway.pipeline.snapshot import BudgetRule, KeyDigest, Limit, Networks, Timeouts
from tests.api.express_scene import HANG, OK, QUESTION, STREAM, Scene, answer, opened, until
from tests.gateways import CHAT, PEPPER, SECRET, alias, key

TURNS = itertools.count()
TIMES = {"id", "started_at", "admitted_at", "duration_us", "ttft_us", "overhead_us"}
PER_MINUTE = Limit("limit:1", "3 requests per minute", "key", 3, 3, "requests", "minute")


def timeless(record: Record) -> Record:
    plain = {name: value for name, value in record.items() if name not in TIMES}
    if isinstance(plain.get("attempts"), list):
        plain["attempts"] = [{**attempt, "duration_us": 0} for attempt in plain["attempts"]]
    return plain


def strict_budget(amount: int) -> BudgetRule:
    load_zone("UTC")
    return BudgetRule(1, "day", "key", "1", "day", amount, "UTC", strict=True)


async def settled(scene: Scene, count: int = 1) -> list[Record]:
    """The rows, as soon as there are so many and nothing runs any more."""
    await until(lambda: len(scene.house.ledger.closed) >= count and not len(scene.house.gateway.exchanges))
    assert not scene.house.ledger.running
    assert scene.house.gateway.turns.taken == 0
    return scene.house.ledger.closed


async def long_way(scene: Scene, **changes: Any) -> Any:
    """The answer to the same question with a head that was never said before, on a connection of its own."""
    headers = {**scene.client.headers, "cookie": f"turn={next(TURNS)}"}
    async with type(scene.client)(base_url=scene.client.base_url, headers=headers) as stranger:
        return await stranger.post("/v1/chat/completions", json={**QUESTION, **changes})


async def test_an_ordinary_request_goes_the_short_way_and_says_and_books_the_same() -> None:
    budget = strict_budget(10**12)
    limits = (
        structs.replace(PER_MINUTE, amount=1000, burst=1000),
        Limit("limit:2", "slots", "key", 5, 5, "concurrency", ""),
    )
    async with opened(who=key(budgets=(budget,), limits=limits)) as scene:
        ours = await scene.ask()
        theirs = await long_way(scene)

        assert scene.express == ["taken"]
        assert ours.json() == theirs.json() == CHAT
        assert list(ours.headers) == list(theirs.headers)
        moving = ("x-request-id", "server-timing", "x-llm-ttfb-ms", "x-ratelimit-re")
        assert [each for each in ours.headers.items() if not each[0].startswith(moving)] == [
            each for each in theirs.headers.items() if not each[0].startswith(moving)
        ]
        one, other = await settled(scene, 2)
        assert timeless(one) == timeless(other)
        assert [timeless(each) for each in scene.house.ledger.opened[:1]] == [
            timeless(each) for each in scene.house.ledger.opened[1:]
        ]
        assert ours.headers["x-request-id"] == one["id"]
        assert scene.upstream.bodies[-2] == scene.upstream.bodies[-1]
        state = await scene.house.store.state(budget)
        assert state.held_pico_usd == 0
        assert state.settled_pico_usd == 4 * one["cost_pico_usd"] > 0
        assert await scene.house.store.limit_used(limits[1]) == 0
        lines = [
            timeless({**line, "duration_ms": 0, "request_id": 0, "ttft_ms": 0}) for line in scene.house.log.lines[-2:]
        ]
        assert lines[0] == lines[1]


async def test_many_at_once_are_answered_each_with_its_own() -> None:
    async with opened(who=key(limits=(Limit("limit:2", "slots", "key", 50, 50, "concurrency", ""),))) as scene:
        clients = [type(scene.client)(base_url=scene.client.base_url, headers=scene.client.headers) for _ in range(20)]
        for client in clients:
            for _ in range(2):
                await client.post("/v1/chat/completions", json=QUESTION)
        scene.upstream.bodies.clear()
        scene.express.clear()
        asked = [{**QUESTION, "user": f"user-{number}"} for number in range(20)]
        answers = await asyncio.gather(
            *[client.post("/v1/chat/completions", json=body) for client, body in zip(clients, asked, strict=True)]
        )

        assert [each.status_code for each in answers] == [200] * 20
        assert len(scene.express) == 20
        assert {body["user"] for body in scene.upstream.bodies} == {body["user"] for body in asked}
        rows = await settled(scene, 60)
        assert {row["end_user"] for row in rows[-20:]} == {body["user"] for body in asked}
        for client in clients:
            await client.aclose()


async def test_a_limit_without_room_is_told_as_ever_and_takes_nothing() -> None:
    async with opened(who=key(limits=(PER_MINUTE,))) as scene:
        assert (await scene.ask()).status_code == 200
        refused = await scene.ask()

        assert scene.express == ["taken"]
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["x-ratelimit-scope"] == "key"
        assert len(await settled(scene)) == 1


async def test_a_strict_budget_without_room_is_told_as_ever() -> None:
    async with opened() as scene:
        poor = key(budgets=(strict_budget(1),))
        scene.swap(replace(scene.house.gateway.snapshot, keys=keys_of(poor)))

        assert (await scene.ask()).status_code == 402
        assert not scene.express


def keys_of(who: Any, **of_digest: Any) -> dict[bytes, KeyDigest]:
    return {digest(SECRET.encode(), PEPPER): KeyDigest(who, **of_digest)}


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        pytest.param({}, 401, id="revoked"),
        pytest.param({"who": key(enabled=False)}, 403, id="disabled"),
        pytest.param({"who": key(models=frozenset({"other"}))}, 403, id="model-taken-away"),
        pytest.param({"who": key(networks=Networks.of(("192.0.2.0/24",)))}, 403, id="address-taken-away"),
        pytest.param({"who": key(expires_at=1.0)}, 403, id="expired"),
        pytest.param({"who": key(starts_at=9e9)}, 403, id="not-yet-valid"),
    ],
)
async def test_what_changes_in_the_configuration_holds_at_once(changed: dict[str, Any], status: int) -> None:
    async with opened() as scene:
        assert (await scene.ask()).status_code == 200

        scene.swap(replace(scene.house.gateway.snapshot, keys=keys_of(changed["who"]) if changed else {}))

        assert (await scene.ask()).status_code == status
        assert scene.express == ["taken"]


async def test_a_second_connection_of_a_client_goes_the_short_way_at_once() -> None:
    async with opened() as scene:
        async with type(scene.client)(base_url=scene.client.base_url, headers=scene.client.headers) as second:
            told = await second.post("/v1/chat/completions", json=QUESTION)

        assert told.json() == CHAT
        assert scene.express == ["taken"]
        assert (await settled(scene))[0]["status"] == "completed"


async def test_keys_that_take_turns_on_a_connection_go_the_short_way_each_with_its_own_limits_and_bill() -> None:
    """As behind a proxy in front, which keeps few connections for many clients."""
    secrets = [f"sk-gw-turns{number:07}-0123456789abcdef0123456789abcdef" for number in range(12)]
    keys = {
        digest(secret.encode(), PEPPER): KeyDigest(
            key(id=f"key-{number}", limits=(structs.replace(PER_MINUTE, counter=f"of-{number}", amount=2, burst=2),))
        )
        for number, secret in enumerate(secrets)
    }
    async with opened() as scene:
        scene.swap(replace(scene.house.gateway.snapshot, keys=keys))
        told = []
        for secret in secrets * 3:
            scene.client.headers["authorization"] = f"Bearer {secret}"
            told.append((await scene.ask()).status_code)

        assert told == [200] * 24 + [429] * 12
        assert len(scene.express) == 12, "the first time they were new, the last there was no room"
        rows = await settled(scene, 24)
        assert [row["key_id"] for row in rows] == [f"key-{number}" for number in range(12)] * 2
        assert len(scene.state.connections) == 1


async def test_a_head_that_comes_from_elsewhere_is_from_there() -> None:
    """The same bytes from two addresses, of which the key is allowed for one."""
    async with opened(who=key(networks=Networks.of(("127.0.0.1/32",)))) as scene:
        transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        same: dict[str, Any] = {"base_url": scene.client.base_url, "headers": scene.client.headers}
        async with type(scene.client)(transport=transport, **same) as elsewhere:
            told = []
            for client in [scene.client, elsewhere] * 3:
                answer = await client.post("/v1/chat/completions", json=QUESTION)
                told.append(answer.status_code)

        assert told == [200, 403] * 3
        assert len(scene.express) == 3
        assert {row["client_ip"] for row in await settled(scene, 3)} == {"127.0.0.1"}


async def test_a_key_ends_in_the_middle_of_a_connection() -> None:
    async with opened() as scene:
        now = scene.house.clock.now
        scene.swap(replace(scene.house.gateway.snapshot, keys=keys_of(key(), valid_until=now + 10)))
        assert (await scene.ask()).status_code == 200
        scene.house.clock.now = now + 10

        assert (await scene.ask()).status_code == 401
        scene.house.clock.now = now
        assert (await scene.ask()).status_code == 200
        assert scene.express == ["taken", "taken"]


async def test_many_models_in_turn_go_the_short_way_each_by_its_own_rules() -> None:
    """Also those that another key asked for first."""
    async with opened() as scene:
        known = scene.house.gateway.snapshot
        other = "sk-gw-others000000-0123456789abcdef0123456789abcdef"
        refused = structs.replace(PER_MINUTE, scope="alias", owner="alias:1", counter="of-alias", amount=0, burst=0)
        some = [replace(known.aliases["gpt"], name=f"gpt-{number}", id=100 + number) for number in range(60)]
        some[40] = replace(some[40], limits=(refused,))
        keys = {**known.keys, digest(other.encode(), PEPPER): KeyDigest(key(id="of-few", models=frozenset({"gpt-7"})))}
        scene.swap(replace(known, aliases={each.name: each for each in some}, keys=keys))

        told = [(await scene.ask(model=each.name)).status_code for each in [*some, *some]]
        assert told == [200] * 40 + [429] + [200] * 59 + [429] + [200] * 19
        assert len(scene.express) == 118
        scene.client.headers["authorization"] = f"Bearer {other}"
        few = [(await scene.ask(model=f"gpt-{number}")).status_code for number in (7, 8, 7, 9)]

        assert few == [200, 403, 200, 403]
        assert len(scene.express) == 119


async def test_a_model_that_nobody_has_is_not_remembered() -> None:
    async with opened() as scene:
        for number in range(5):
            assert (await scene.ask(model=f"made-up-{number}")).status_code == 404

        ways = scene.house.app.express.lane._ways
        assert [model for _, model in ways._ways] == ["gpt"]


async def test_a_model_that_is_gone_is_not_found() -> None:
    async with opened() as scene:
        scene.swap(replace(scene.house.gateway.snapshot, aliases={}))

        assert (await scene.ask()).status_code == 404


@pytest.mark.parametrize(
    ("said", "status"),
    [
        pytest.param(answer(b'{"error":{"message":"no"}}', status=400), 400, id="refused"),
        pytest.param(answer(gzip.compress(json.dumps(CHAT).encode()), content_encoding="gzip"), 200, id="packed"),
        pytest.param([OK[:40], OK[40:200], OK[200:]], 200, id="in-pieces"),
        pytest.param([b"HTTP/1.1 103 Early Hints\r\n\r\n", OK], 200, id="after-an-interim-answer"),
        pytest.param(
            OK.replace(b"HTTP/1.1 200 X\r\n", b"HTTP/1.1 200 X\r\nConnection: close\r\n"), 200, id="that-closes"
        ),
        pytest.param(answer(json.dumps({**CHAT, "long": "x" * 300_000}).encode()), 200, id="large"),
        pytest.param(b"HTTP/1.1 302 X\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", 502, id="redirect"),
        pytest.param(b"nonsense\r\n\r\n", 502, id="no-http"),
    ],
)
async def test_what_the_provider_says_is_told_as_on_the_long_way(said: Any, status: int) -> None:
    async with opened(said, said) as scene:
        ours = await scene.ask()
        theirs = await long_way(scene)

        assert scene.express == ["taken"]
        assert ours.status_code == theirs.status_code == status
        assert ours.content == theirs.content
        one, other = await settled(scene, 2)
        assert timeless(one) == timeless(other)


async def test_a_kept_connection_that_was_dead_is_repeated_once() -> None:
    async with opened("") as scene:
        told = await scene.ask()

        assert scene.express == ["taken"]
        assert told.status_code == 200
        (row,) = await settled(scene)
        assert [attempt["cause"] for attempt in row["attempts"]] == ["stale_connection", "completed"]


async def test_another_target_answers_where_the_first_fails() -> None:
    async with opened(answer(b"{}", status=503), OK) as scene:
        first = next(iter(scene.house.gateway.snapshot.aliases["gpt"].deployments))
        second = replace(first, id=2, name="spare")
        scene.swap(replace(scene.house.gateway.snapshot, aliases={"gpt": alias("gpt", first, second)}))

        told = await scene.ask()

        assert scene.express == ["taken"]
        assert told.status_code == 200
        assert told.headers["x-gateway-deployment"] == "spare"
        (row,) = await settled(scene)
        assert [attempt["deployment"] for attempt in row["attempts"]] == [first.name, "spare"]


async def test_targets_take_turns() -> None:
    async with opened() as scene:
        first = next(iter(scene.house.gateway.snapshot.aliases["gpt"].deployments))
        second = replace(first, id=2, name="spare")
        both = alias("gpt", first, second, strategy="round_robin")
        scene.swap(replace(scene.house.gateway.snapshot, aliases={"gpt": both}))

        told = [(await scene.ask()).headers["x-gateway-deployment"] for _ in range(4)]

        assert len(scene.express) == 4
        assert told in (["main", "spare"] * 2, ["spare", "main"] * 2)


async def test_a_client_that_leaves_closes_the_upstream_and_is_settled() -> None:
    async with opened(HANG, who=key(limits=(Limit("limit:2", "slots", "key", 1, 1, "concurrency", ""),))) as scene:
        asking = asyncio.create_task(scene.ask())
        await until(lambda: scene.express)
        await asyncio.sleep(0.02)

        asking.cancel()

        async with asyncio.timeout(0.2):
            await asyncio.gather(*[gone.wait() for gone in scene.upstream.gone])
        (row,) = await settled(scene)
        assert (row["status"], row["error_type"], row["usage_source"]) == ("cancelled", "client_left", "estimated")
        assert row["cost_pico_usd"] > 0
        slots = scene.house.gateway.snapshot.keys[digest(SECRET.encode(), PEPPER)].key.limits[0]
        assert await scene.house.store.limit_used(slots) == 0


async def test_a_provider_that_says_nothing_runs_out_of_time() -> None:
    async with opened(HANG, timeouts=Timeouts(total_s=0.4)) as scene:
        told = await scene.ask()

        assert scene.express == ["taken"]
        assert told.status_code == 504
        (row,) = await settled(scene)
        assert (row["status"], row["attempts"][0]["cause"]) == ("failed", "timeout")


async def test_a_second_request_that_does_not_wait_for_the_answer_to_the_first_gets_its_own() -> None:
    body = json.dumps(QUESTION).encode()
    sent = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    slow = [OK[:30], b"", b"", OK[30:]]
    other = answer(json.dumps({**CHAT, "id": "second"}).encode())
    async with opened() as scene:
        reader, writer = await asyncio.open_connection(*scene.address)
        for _ in range(2):
            writer.write(sent)
            assert b'"chatcmpl-1"' in await _one(reader)
        scene.upstream.script.extend([slow, other])
        writer.write(sent)
        await until(lambda: scene.express)
        writer.write(sent)

        assert [b"chatcmpl-1" in await _one(reader), b"second" in await _one(reader)] == [True, True]
        assert len(await settled(scene, 4)) == 4
        writer.close()


async def _one(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return await reader.readexactly(int(length))


async def test_a_server_that_stops_lets_it_finish() -> None:
    async with opened([OK[:30], b"", b"", OK[30:]]) as scene:
        asking = asyncio.create_task(scene.ask())
        await until(lambda: scene.express)

        for connection in list(scene.state.connections):
            connection.shutdown()

        told = await asking
        assert told.json() == CHAT
        assert told.headers["connection"] == "close"
        assert (await settled(scene))[0]["status"] == "completed"


async def test_a_journal_that_takes_nothing_refuses_and_holds_nothing() -> None:
    budget = strict_budget(10**12)
    async with opened(who=key(budgets=(budget,))) as scene:
        scene.house.ledger.failing = True

        assert (await scene.ask()).status_code == 503

        assert not scene.express
        assert (await scene.house.store.state(budget)).held_pico_usd == 0
        assert scene.house.gateway.turns.taken == 0
        assert not len(scene.house.gateway.exchanges)


async def test_a_fault_of_the_gateway_itself_is_told_and_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as scene:
        monkeypatch.setattr("llmgateway.pipeline.express.headers_for_client", lambda headers: 1 / 0)

        told = await scene.ask()

        assert told.status_code == 500
        assert "request failed" not in told.text
        (row,) = await settled(scene)
        assert (row["status"], row["error_type"]) == ("failed", "internal_error")
        monkeypatch.undo()
        assert (await scene.ask()).status_code == 200


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        pytest.param({"n": "two"}, {}, id="a-body-that-is-refused"),
        pytest.param({}, {"x-gateway-strict": "true"}, id="strict"),
        pytest.param({}, {"x-request-timeout-ms": "1000"}, id="with-a-time-of-its-own"),
        pytest.param({}, {"origin": "https://page.test"}, id="from-a-page"),
        pytest.param({"messages": [{"role": "user", "content": "x" * 70_000}]}, {}, id="large"),
    ],
)
async def test_what_is_not_ordinary_goes_the_long_way(changes: dict[str, Any], headers: dict[str, str]) -> None:
    async with opened() as scene:
        scene.client.headers.update(headers)
        for _ in range(3):
            told = await scene.ask(**changes)

        assert told.status_code == (400 if "n" in changes else 200)
        assert not scene.express


async def test_a_key_that_may_bypass_health_goes_the_long_way() -> None:
    async with opened(who=key(may_bypass_health=True)) as scene:
        assert (await scene.ask()).status_code == 200
        assert not scene.express


async def test_a_deployment_with_rules_of_its_own_goes_the_long_way() -> None:
    async with opened(limits=(structs.replace(PER_MINUTE, scope="deployment", amount=100, burst=100),)) as scene:
        assert (await scene.ask()).status_code == 200
        assert not scene.express


@pytest.mark.parametrize("said", [OK, STREAM, answer(b"{}", status=400)], ids=["whole", "stream", "handed-over"])
async def test_nothing_of_it_is_left_in_a_cycle(said: Any) -> None:
    """What waits for the garbage collector of a busy process waits for long."""
    async with opened(*[said] * 4) as scene:
        asked = {"stream": True} if said is STREAM else {}
        await scene.ask(**asked)
        await settled(scene)

        found = await left_behind(lambda: scene.ask(**asked))

        assert len(scene.express) == 2
        assert not {name for name in found if name.startswith(("llmgateway.", "providers."))}


async def left_behind(ask: Callable[[], Awaitable[object]]) -> set[str]:
    """Classes of the objects that are in cycles then."""
    gc.collect()
    gc.disable()
    try:
        await ask()
        await asyncio.sleep(0.01)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return {f"{type(each).__module__}.{type(each).__name__}" for each in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    ("said", "who"),
    [
        pytest.param({"safety_identifier": "p1"}, "p1", id="safety_identifier"),
        pytest.param({"user": "u1", "safety_identifier": "p1"}, "u1", id="both"),
        pytest.param({"safety_identifier": None}, "", id="null"),
        pytest.param({"safety_identifier": "x" * 300}, "x" * 200, id="long"),
    ],
)
async def test_the_person_behind_a_request_is_in_its_row_on_both_ways(said: dict[str, Any], who: str) -> None:
    async with opened() as scene:
        await scene.ask(**said)
        await long_way(scene, **said)

        assert scene.express == ["taken"]
        assert [row["end_user"] for row in await settled(scene, 2)] == [who, who]
