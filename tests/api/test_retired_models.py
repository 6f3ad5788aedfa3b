"""A model that retires: announced before, and from that moment on refused on every surface in its own words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import FakeClock, Reply, ScriptedUpstream
from tests.gateways import CHAT, SECRET, House, alias, deployment, key, snapshot

MAIN = deployment(provider="acme")
END = FakeClock().now + 60
OLD = replace(alias("old", MAIN), retires_at=END, replacement="gpt")
MESSAGES = [{"role": "user", "content": "Hi"}]
CONTENTS = {"contents": [{"parts": [{"text": "Hi"}]}]}
REFUSED = "The model 'old' has been retired. Call 'gpt' in its place."


def house(*replies: Reply, old: Any = OLD, who: Any = None) -> House:
    return House(ScriptedUpstream(*replies), snapshot(alias("gpt", MAIN), old, who=who, deployments=(MAIN,)))


async def test_until_then_answers_say_when_and_what_to_call_in_its_place() -> None:
    place = house(Reply.json(CHAT))

    response = await place.chat({"model": "old"})

    assert response.status_code == 200
    assert response.headers["sunset"] == "Sat, 14 Mar 2026 12:01:00 GMT"
    assert response.headers["x-gateway-model-replacement"] == "gpt"


async def test_a_model_that_stays_announces_nothing() -> None:
    response = await house(Reply.json(CHAT)).chat()

    assert not {"sunset", "x-gateway-model-replacement"} & response.headers.keys()


async def test_the_clock_decides_per_request() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT))

    place.clock.advance(59.9)
    before = await place.chat({"model": "old"})
    place.clock.advance(0.2)
    after = await place.chat({"model": "old"})

    assert (before.status_code, after.status_code) == (200, 404)
    assert after.json()["error"] == {
        "message": REFUSED,
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_retired",
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "old", "messages": MESSAGES}),
        ("/v1/responses", {"model": "old", "input": "Hi"}),
        ("/v1/embeddings", {"model": "old", "input": "Hi"}),
        ("/v1/messages", {"model": "old", "max_tokens": 9, "messages": MESSAGES}),
        ("/v1/messages/count_tokens", {"model": "old", "messages": MESSAGES}),
        ("/v1beta/models/old:generateContent", CONTENTS),
        ("/v1beta/models/old:streamGenerateContent", CONTENTS),
        ("/v1beta/models/old:countTokens", CONTENTS),
        ("/acme/v1/chat/completions", {"model": "old", "messages": MESSAGES}),
    ],
)
async def test_afterwards_every_surface_refuses_before_anything_is_taken_or_sent(path: str, body: Any) -> None:
    place = house()
    place.clock.advance(60)

    response = await place.post(path, body)

    error = response.json()["error"]
    assert (response.status_code, error["message"]) == (404, REFUSED)
    assert "model_retired" in response.text
    assert place.upstream.requests == []
    assert place.ledger.opened == []
    if path.startswith("/v1/messages"):
        assert (response.json()["type"], error["type"]) == ("error", "not_found_error")
    elif path.startswith("/v1beta"):
        assert (error["code"], error["status"]) == (404, "NOT_FOUND")


async def test_without_a_replacement_the_list_is_named() -> None:
    place = house(old=replace(OLD, replacement=""))
    place.clock.advance(60)

    response = await place.chat({"model": "old"})

    assert response.json()["error"]["message"].endswith("GET /v1/models lists those that there are.")


@pytest.mark.parametrize(
    "secret",
    [{}, {"authorization": "", "x-goog-api-key": SECRET}, {"anthropic-version": "2023-06-01"}],
    ids=["openai", "google", "anthropic"],
)
async def test_lists_leave_it_out_and_its_page_says_why(secret: dict[str, str]) -> None:
    place = house()

    before = (await place.get("/v1/models", **secret)).text
    place.clock.advance(60)
    after = (await place.get("/v1/models", **secret)).text
    page = await place.get("/v1/models/old", **secret)

    assert ("old" in before, "old" in after, "gpt" in after) == (True, False, True)
    assert (page.status_code, page.json()["error"]["message"]) == (404, REFUSED)


async def test_a_key_s_other_model_answers_for_the_same_native_one() -> None:
    """`old` comes first by name among the models of the key, and has retired."""
    place = House(
        ScriptedUpstream(Reply.json(CHAT)),
        snapshot(OLD, alias("young", MAIN), who=key(models=frozenset({"old", "young"})), deployments=(MAIN,)),
    )
    place.clock.advance(60)

    response = await place.post("/acme/v1/chat/completions", {"model": "gpt-upstream", "messages": MESSAGES})

    assert (response.status_code, place.row["alias"]) == (200, "young")
