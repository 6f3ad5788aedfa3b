"""One question to several models: at once, each a request of its own, and no failure of one is another's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.api.questions import ONCE, house, made_by, several
from tests.fakes import Reply
from tests.gateways import CHAT, Caller, alias, deployment, snapshot


async def test_several_are_asked_at_once_and_each_is_a_row() -> None:
    place = house(
        *[Reply(pieces=Reply.json(CHAT).pieces, delay_s=0.2) for _ in range(5)],
        shot=snapshot(*[alias(f"m{n}", deployment(f"d{n}", n)) for n in range(1, 6)], retries=ONCE),
    )
    loop = asyncio.get_running_loop()
    began = loop.time()

    response = await place.post("/api/parallel", {"query": "a", "models": [f"m{n}" for n in range(1, 6)]})

    assert loop.time() - began < 0.6, "they were asked one after the other"
    answer = response.json()
    assert list(answer["responses"]) == ["m1", "m2", "m3", "m4", "m5"]
    assert {each["response"] for each in answer["responses"].values()} == {"Hello"}
    assert [each["request_id"] for each in answer["responses"].values()] == [
        f"{answer['request_id']}.{number}" for number in range(1, 6)
    ]
    assert {row["id"] for row in place.ledger.closed} == {each["request_id"] for each in answer["responses"].values()}


async def test_one_that_fails_is_told_among_the_answers() -> None:
    shot = snapshot(alias("good", deployment()), alias("bad", deployment("bad", 2)), retries=ONCE)
    place = house(Reply.json(CHAT), Reply.json({"error": {"message": "Boom.", "code": "boom"}}, 400), shot=shot)

    answer = (await place.post("/api/parallel", {"query": "a", "models": ["good", "bad", "missing"]})).json()

    told = answer["responses"]
    assert told["good"]["response"] == "Hello"
    assert "error" not in told["good"]
    assert (told["bad"]["error"], told["bad"]["error_type"], told["bad"]["response"]) == ("Boom.", "boom", "")
    assert told["missing"]["error_type"] == "model_not_found"
    assert [line["error_type"] for line in place.log.lines if line["status"] == "refused"] == ["model_not_found"]


async def test_by_default_one_of_each_vendor_is_asked() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT), shot=several(made_by("mistral", 2), made_by("openai", 3)))

    answer = (await place.post("/api/parallel", {"query": "a"})).json()

    assert set(answer["responses"]) == {"mistral", "openai"}


async def test_one_that_takes_too_long_is_told_while_the_others_answer() -> None:
    shot = snapshot(alias("quick", deployment()), alias("slow", deployment("slow", 2)), retries=ONCE)
    place = house(Reply.json(CHAT), Reply(delay_s=60.0), shot=shot)
    asked = {"query": "a", "models": ["quick", "slow"], "timeout": 0.5}
    running = asyncio.create_task(place.post("/api/parallel", asked))
    await asyncio.sleep(0.05)

    place.clock.advance(0.6)
    place.gateway.exchanges.tick()
    answer = (await running).json()

    assert answer["responses"]["quick"]["response"] == "Hello"
    assert answer["responses"]["slow"]["error_type"] == "upstream_timeout"
    assert {row["error_type"] for row in place.ledger.closed} == {"", "upstream_timeout"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"models": ["a", "a"]}, "models"),
        ({"models": [""]}, "models"),
        ({"models": [str(number) for number in range(17)]}, "models"),
        ({"models": "gpt"}, "models"),
        ({"models": ["a"], "model_versions": {"b": "c"}}, "model_versions"),
        ({"timeout": 0}, "timeout"),
    ],
)
async def test_lists_of_models_are_checked(fields: dict[str, Any], param: str) -> None:
    response = await house().post("/api/parallel", {"query": "a", **fields})

    assert (response.status_code, response.json()["param"]) == (400, param)


async def test_a_client_that_leaves_ends_all_of_them() -> None:
    shot = snapshot(*[alias(f"m{n}", deployment(f"d{n}", n)) for n in (1, 2)], retries=ONCE)
    place = house(Reply(delay_s=60.0), Reply(delay_s=60.0), shot=shot)
    caller = Caller()
    body = json.dumps({"query": "a", "models": ["m1", "m2"]}).encode()
    headers = {"authorization": "Bearer sk-gw-alicealice-0123456789abcdef", "content-type": "application/json"}
    running = asyncio.create_task(caller.call(place.app, "POST", "/api/parallel", body, headers))
    await asyncio.sleep(0.05)
    assert len(place.upstream.requests) == 2

    caller.left.set()
    place.gateway.exchanges.tick()
    await running

    assert [(row["status"], row["error_type"]) for row in place.ledger.closed] == [("cancelled", "client_left")] * 2
    assert place.ledger.running == set()
