"""Callers' own keys at providers: sent on where they may be, kept nowhere, counted and banned by digest."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from billing.windows import load_zone
from llmgateway.key_secrets import digest
from llmgateway.pipeline.snapshot import BudgetRule, ForeignKeys, KeyDigest, Limit
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PEPPER, SECRET, House, alias, deployment, key, snapshot

OWN = "sk-own-key-of-carol-0123456789"
DIGEST = digest(OWN.encode(), PEPPER)
MAIN = deployment(provider="acme")
TWIN = deployment("twin", 4, provider="acme", base_url="http://twin.test/v1")
RIVAL = deployment("other", 2, provider="rival")
CLAUDE = deployment(
    "claude", 3, provider="claude", adapter=get_adapter("anthropic"), base_url="http://claude.test", model="claude-9"
)
BODY = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}]}
CHATS = "/acme/v1/chat/completions"
BROKE = BudgetRule(1, "nothing", "model", "gpt", "day", 0, "UTC")


def house(*replies: Reply, foreign: ForeignKeys | None = ForeignKeys(), **changes: Any) -> House:  # noqa: B008
    # Nothing may be spent on it, and the rival would be asked first.
    gpt = replace(alias("gpt", RIVAL, replace(MAIN, budgets=(BROKE,)), TWIN), budgets=(BROKE,))
    claude = alias("claude", CLAUDE)
    made = snapshot(gpt, claude, deployments=(CLAUDE, MAIN, RIVAL, TWIN), foreign=foreign, **changes)
    load_zone("UTC")
    return House(ScriptedUpstream(*replies), replace(made, budgets={1: BROKE}))


async def ask(place: House, path: str = CHATS, secret: str = OWN, **more: Any) -> Any:
    return await place.post(path, {**BODY, **more}, authorization=f"Bearer {secret}")


async def test_it_reaches_its_provider_alone_in_the_provider_s_own_header() -> None:
    place = house(Reply.json(CHAT))

    response = await ask(place)

    assert response.status_code == 200
    (sent,) = place.upstream.requests
    assert str(sent.url) == "http://main.test/v1/chat/completions"
    assert sent.headers.get_list("authorization") == [f"Bearer {OWN}"]


async def test_a_key_for_another_form_of_header_is_put_there() -> None:
    answer = {"type": "message", "content": [], "model": "claude-9", "usage": {"input_tokens": 1, "output_tokens": 1}}
    place = house(Reply.json(answer))

    response = await ask(place, "/claude/v1/messages", model="claude", max_tokens=9)

    assert response.status_code == 200
    assert place.upstream.requests[0].headers["x-api-key"] == OWN
    assert "authorization" not in place.upstream.requests[0].headers


async def test_it_is_recorded_by_digest_and_costs_nobody_anything() -> None:
    place = house(Reply.json(CHAT))

    await ask(place)

    row = place.row
    assert (row["key_id"], row["key_name"], row["team_id"]) == (DIGEST.hex(), f"own key {DIGEST.hex()}", 0)
    assert (row["cost_pico_usd"], row["held_pico_usd"], row["input"], row["output"]) == (0, 0, 11, 5)


async def test_it_stands_in_no_log_line_journal_or_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refused = {"error": {"message": "no", "type": "invalid_request_error", "code": "invalid_api_key"}}
    place = house(Reply.json(CHAT), Reply.json(refused, 401))

    answers = [await ask(place), await ask(place)]

    kept = [place.ledger.opened, place.ledger.attempts, place.ledger.closed, place.ledger.refusals, place.log.lines]
    written = json.dumps(kept, default=str) + caplog.text + repr(place.gateway.snapshot)
    assert len(place.ledger.closed) == 2
    assert OWN not in written + "".join(f"{answer.headers}{answer.text}" for answer in answers)
    assert hashlib.sha256(OWN.encode()).hexdigest() not in written


async def test_what_the_provider_says_of_the_key_is_told_as_it_is_and_no_other_is_tried() -> None:
    refused = {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}
    place = house(Reply.json(refused, 401))

    response = await ask(place)

    assert (response.status_code, response.json()) == (401, refused)
    assert len(place.upstream.requests) == 1


async def test_everything_else_passes_through_too() -> None:
    place = house(Reply.json({"data": []}))

    response = await place.get("/acme/v1/novelties", authorization=f"Bearer {OWN}")

    assert response.status_code == 200
    assert place.upstream.requests[0].headers["authorization"] == f"Bearer {OWN}"


@pytest.mark.parametrize(
    ("path", "foreign"),
    [
        (CHATS, None),
        ("/v1/chat/completions", None),
        ("/v1/chat/completions", ForeignKeys()),
        ("/v1/models", ForeignKeys()),
    ],
)
async def test_off_and_elsewhere_it_is_unknown(path: str, foreign: ForeignKeys | None) -> None:
    place = house(foreign=foreign)
    method = "GET" if path == "/v1/models" else "POST"

    response = await place.request(method, path, json.dumps(BODY).encode(), {"authorization": f"Bearer {OWN}"})

    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert place.upstream.requests == []


@pytest.mark.parametrize(
    "secret", ["sk-gw-revoked-0123456789abcdef", "gw-mgmt-token-0123456789", "short", "sk-own key with spaces"]
)
async def test_what_cannot_be_a_provider_s_key_is_unknown(secret: str) -> None:
    place = house()

    assert (await ask(place, secret=secret)).status_code == 401
    assert place.upstream.requests == []


async def test_a_key_in_the_query_cannot_write_headers() -> None:
    place = house()

    response = await place.post(f"{CHATS}?key=sk-own-key%0d%0ax-evil:%201", BODY, authorization="")

    assert response.status_code == 401


async def test_an_old_secret_of_a_known_key_is_not_sent_on() -> None:
    known = {digest(OWN.encode(), PEPPER): KeyDigest(key(), valid_until=1.0)}

    assert (await ask(house(keys=known))).status_code == 401


async def test_keys_of_the_gateway_behave_as_before() -> None:
    place = house()

    response = await ask(place, secret=SECRET)

    assert (response.status_code, response.json()["error"]["code"]) == (402, "insufficient_quota")


async def test_a_banned_digest_is_refused() -> None:
    place = house(foreign=ForeignKeys(banned=frozenset({DIGEST})))

    response = await ask(place)

    assert (response.status_code, response.json()["error"]["code"]) == (403, "key_banned")
    assert place.upstream.requests == []


async def test_everyone_s_limits_and_those_of_the_address_hold() -> None:
    each = Limit("limit:1", "1 request per minute", "ip", 1, 1, each="ip")
    place = house(Reply.json(CHAT), foreign=ForeignKeys(limits=(each,)))

    codes = [(await ask(place, secret=secret)).status_code for secret in (OWN, f"{OWN}-another")]

    assert codes == [200, 429]


async def test_a_provider_whose_requests_are_signed_takes_none() -> None:
    signed = replace(MAIN, adapter=get_adapter("bedrock"), base_url="http://bedrock.test")
    made = snapshot(alias("gpt", signed), deployments=(signed,), foreign=ForeignKeys())
    place = House(ScriptedUpstream(), made)

    response = await ask(place, "/acme/model/gpt/converse", secret="AKIAIOSFODNN7EXAMPLE:secret-of-somebody")

    assert response.status_code == 401
    assert place.upstream.requests == []
