"""Callers' own keys that come beside a key of the gateway: as their team may, for the provider they name, at its expense."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from billing.windows import load_zone
from llmgateway.http import httpx
from llmgateway.key_secrets import digest
from llmgateway.pipeline.caching import Caching
from llmgateway.pipeline.protocols import Owner
from llmgateway.pipeline.route_rules import Fallback, MirrorRule
from llmgateway.pipeline.snapshot import BudgetRule, ForeignKeys, Key, KeyDigest, Limit, Retries
from llmgateway.stores.cache_memory import MemoryAnswers
from providers.adapters.registry import get_adapter
from tests.api.express_scene import QUESTION, opened, until
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PEPPER, SECRET, House, alias, deployment, key, snapshot

OWN = "sk-own-key-of-carol-0123456789"
DIGEST = digest(OWN.encode(), PEPPER)
BOBS = "sk-gw-bobbobbob0-0123456789abcdef"
BOB = Key(id="2", public_id="bobbobbob0", name="bob", team_id=4, team_name="blue")
MAIN = deployment(provider="acme")
TWIN = deployment("twin", 4, provider="acme", base_url="http://twin.test/v1")
RIVAL = deployment("other", 2, provider="rival")
CLAUDE = deployment(
    "claude", 3, provider="claude", adapter=get_adapter("anthropic"), base_url="http://claude.test", model="claude-9"
)
CHATS = "/v1/chat/completions"
BODY = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}]}
BROKE = BudgetRule(1, "nothing", "model", "gpt", "day", 0, "UTC")
SPENT = BudgetRule(2, "spent", "key", "1", "day", 0, "UTC")
SAID = {"type": "message", "content": [], "model": "claude-9", "usage": {"input_tokens": 1, "output_tokens": 1}}


def house(
    *replies: Reply | Exception,
    foreign: ForeignKeys | None = ForeignKeys(),  # noqa: B008
    who: Key | None = None,
) -> House:
    # Neither the model nor the key has anything left to spend, and the rival would be asked first.
    load_zone("UTC")
    gpt = replace(alias("gpt", RIVAL, replace(MAIN, budgets=(BROKE,)), TWIN), budgets=(BROKE,))
    deployments = (CLAUDE, MAIN, RIVAL, TWIN)
    made = snapshot(gpt, alias("claude", CLAUDE), who=who or key(budgets=(SPENT,)), deployments=deployments)
    keys = {**made.keys, digest(BOBS.encode(), PEPPER): KeyDigest(BOB)}
    made = replace(made, keys=keys, budgets={1: BROKE, 2: SPENT}, foreign=foreign)
    return House(ScriptedUpstream(*replies), made)


async def ask(
    place: House, path: str = CHATS, *, own: str = OWN, at: str = "acme", secret: str = SECRET, **more: Any
) -> Any:
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    headers |= {name: said for name, said in (("x-gateway-provider-key", own), ("x-gateway-provider", at)) if said}
    return await place.request("POST", path, json.dumps({**BODY, **more}).encode(), headers)


def change(place: House, **changes: Any) -> None:
    place.snapshot = replace(place.snapshot, **changes)
    place.gateway.use(place.snapshot, place.gateway.budget_index)


# ── it pays ──


@pytest.mark.parametrize(("path", "at"), [(CHATS, "acme"), ("/acme/v1/chat/completions", "")])
async def test_it_reaches_the_provider_that_it_is_for_and_pays(path: str, at: str) -> None:
    place = house(Reply.json(CHAT))

    response = await ask(place, path, at=at)

    assert response.status_code == 200
    (sent,) = place.upstream.requests
    assert str(sent.url) == "http://main.test/v1/chat/completions"
    assert sent.headers.get_list("authorization") == [f"Bearer {OWN}"]
    assert not [name for name in sent.headers if name.startswith("x-gateway")]
    row = place.row
    assert (row["key_id"], row["team_id"], row["own_key"], row["priced"]) == ("1", 3, DIGEST.hex(), True)
    assert (row["cost_pico_usd"], row["held_pico_usd"], row["input"], row["output"]) == (0, 0, 11, 5)
    assert response.headers["x-gateway-cost-usd"] == "0"


async def test_another_protocol_is_translated_and_the_key_goes_in_the_provider_s_own_header() -> None:
    place = house(Reply.json(SAID))

    response = await ask(place, at="claude", model="claude", max_tokens=9)

    assert response.status_code == 200
    sent = place.upstream.requests[0].headers
    assert (sent["x-api-key"], "authorization" in sent) == (OWN, False)


async def test_without_it_the_gateway_s_credential_pays_as_before() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT), who=key())
    change(place, aliases={"gpt": alias("gpt", MAIN)})

    await ask(place)
    await ask(place, own="", at="")
    await ask_again(place)

    bearers = [sent.headers["authorization"] for sent in place.upstream.requests]
    assert bearers == [f"Bearer {OWN}", "Bearer provider-secret", f"Bearer {OWN}"]
    assert [row.get("own_key", "") for row in place.ledger.closed] == [DIGEST.hex(), "", DIGEST.hex()]
    assert place.ledger.closed[1]["cost_pico_usd"] > 0


async def ask_again(place: House) -> None:
    place.upstream.then(Reply.json(CHAT))
    await ask(place)


async def test_everything_else_below_a_provider_s_prefix_goes_with_it_too() -> None:
    place = house(Reply.json({"data": []}), Reply.json({"ok": 1}))

    answers = [
        await place.get("/acme/v1/novelties", x_gateway_provider_key=OWN),
        await ask(place, "/acme/v1/novelties", at=""),
    ]

    assert [answer.status_code for answer in answers] == [200, 200], "it costs nothing here that a budget could want"
    assert [sent.headers["authorization"] for sent in place.upstream.requests] == [f"Bearer {OWN}"] * 2


async def test_its_team_s_limits_hold() -> None:
    each = Limit("limit:1", "1 request per minute", "key", 1, 1)
    place = house(Reply.json(CHAT), who=key(limits=(each,)))

    codes = [(await ask(place, own=own)).status_code for own in (OWN, f"{OWN}-another")]

    assert codes == [200, 429]


# ── it goes nowhere else ──


@pytest.mark.parametrize("failure", [Reply.json({"error": {"message": "busy"}}, 503), httpx.ConnectError("gone")])
async def test_no_other_provider_is_asked_when_its_own_fails(failure: Any) -> None:
    place = house(failure)
    change(place, retries=Retries(attempts=0))

    response = await ask(place)

    assert response.status_code in (502, 503)
    assert {str(sent.url.host) for sent in place.upstream.requests} <= {"main.test"}


async def test_what_the_provider_says_of_the_key_is_told_and_not_held_against_the_gateway_s() -> None:
    refused = {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}
    place = house(Reply.json(refused, 401), Reply.json(refused, 429, retry_after="60"), Reply.json(CHAT))

    answers = [await ask(place) for _ in range(2)]
    change(place, aliases={"gpt": alias("gpt", MAIN)}, keys=house(who=key()).snapshot.keys)
    ours = await ask(place, own="", at="")

    assert [answer.status_code for answer in answers] == [401, 429]
    assert answers[0].json() == refused
    assert ours.status_code == 200


@pytest.mark.parametrize(
    ("path", "at", "model", "param"),
    [
        (CHATS, "", "gpt", "x-gateway-provider"),
        (CHATS, "nobody", "gpt", "x-gateway-provider"),
        (CHATS, "claude", "gpt", "model"),
        ("/rival/v1/chat/completions", "acme", "gpt", "x-gateway-provider"),
        ("/rival/v1/novelties", "acme", "gpt", "x-gateway-provider"),
        ("/acme/v1/chat/completions", "", "claude", "model"),
    ],
)
async def test_it_is_sent_nowhere_unless_it_is_clear_whose_it_is(path: str, at: str, model: str, param: str) -> None:
    place = house()

    response = await ask(place, path, at=at, model=model)

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert place.upstream.requests == []


async def test_no_fallback_of_the_model_answers_in_its_place() -> None:
    place = house(Reply.json({"error": {"message": "busy"}}, 503), who=key())
    free = replace(alias("gpt", MAIN), fallbacks=(Fallback("spare"),))
    change(place, aliases={"gpt": free, "spare": alias("spare", RIVAL)}, retries=Retries(attempts=0))

    response = await ask(place)

    assert response.status_code == 503
    assert [sent.url.host for sent in place.upstream.requests] == ["main.test"]


async def test_the_router_itself_does_not_send_it_to_another() -> None:
    place = house()
    mine = await place.gateway.with_own_key(
        place.snapshot.keys[digest(SECRET.encode(), PEPPER)].key, OWN.encode(), "acme"
    )

    response = await ask(place, "/rival/v1/chat/completions", own="", at="")
    place.gateway.authenticate = lambda *_, **__: _known(mine)  # type: ignore[method-assign]
    crossed = await ask(place, "/rival/v1/chat/completions", own="", at="")

    assert response.status_code == 402
    assert (crossed.status_code, crossed.json()["error"]["param"]) == (400, "x-gateway-provider")
    assert place.upstream.requests == []


async def _known(found: Key) -> Key:
    return found


async def test_no_copy_of_it_goes_to_a_mirror() -> None:
    place = house(Reply.json(CHAT))
    copied = replace(alias("gpt", MAIN), mirror=MirrorRule("claude", 1.0))
    change(place, aliases={**place.snapshot.aliases, "gpt": copied})

    await ask(place)
    await asyncio.sleep(0)

    assert len(place.upstream.requests) == 1


@pytest.mark.parametrize(
    "secret", ["sk-gw-revoked-0123456789abcdef", "gw-mgmt-token-0123456789", "short", "sk-own key with spaces", BOBS]
)
async def test_what_cannot_be_a_provider_s_key_is_not_sent(secret: str) -> None:
    place = house()

    response = await ask(place, own=secret)

    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-gateway-provider-key")
    assert secret not in response.text
    assert place.upstream.requests == []


async def test_a_key_of_the_gateway_in_another_form_is_not_sent() -> None:
    imported = "an-imported-key-of-another-shape"
    known = {digest(imported.encode(), PEPPER): KeyDigest(BOB)}
    place = house()
    change(place, keys={**place.snapshot.keys, **known})

    response = await ask(place, own=imported)

    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-gateway-provider-key")
    assert place.upstream.requests == []


async def test_an_unknown_gateway_key_beside_it_is_not_taken_for_another_of_the_provider_s() -> None:
    place = house()

    response = await ask(place, "/acme/v1/chat/completions", secret="sk-an-imported-key-that-was-revoked")

    assert response.status_code == 401
    assert place.upstream.requests == []


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/query", {"query": "Hi", "model": "gpt"}), ("/v1/gateway/query", {"query": "Hi", "model": "gpt"})],
)
async def test_where_it_is_of_no_use_it_is_refused_rather_than_passed_over(path: str, body: Any) -> None:
    place = house()

    response = await place.post(path, body, x_gateway_provider_key=OWN, x_gateway_provider="acme")

    assert response.status_code == 400
    assert "x-gateway-provider-key" in response.text
    assert place.upstream.requests == []


# ── who may ──


@pytest.mark.parametrize(
    ("foreign", "codes"),
    [
        (None, (403, 403)),
        (ForeignKeys(), (200, 200)),
        (ForeignKeys(teams={3: False}), (403, 200)),
        (ForeignKeys(allowed=False, teams={3: True}), (200, 403)),
        (ForeignKeys(allowed=False, teams={4: False}), (403, 403)),
    ],
)
async def test_the_setting_holds_unless_the_team_says_otherwise(
    foreign: ForeignKeys | None, codes: tuple[int, int]
) -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT), foreign=foreign)

    answers = [await ask(place, secret=secret) for secret in (SECRET, BOBS)]

    assert tuple(answer.status_code for answer in answers) == codes
    assert len(place.upstream.requests) == codes.count(200)


async def test_who_may_not_is_told_what_to_do() -> None:
    place = house(foreign=ForeignKeys(teams={3: False}))

    error = (await ask(place)).json()["error"]

    assert error["code"] == "own_keys_refused"
    assert "'red'" in error["message"]
    assert "x-gateway-provider-key" in error["message"]
    assert "admin" in error["message"]


async def test_a_team_s_leave_lets_in_nobody_without_a_gateway_key() -> None:
    place = house(foreign=ForeignKeys(allowed=False, teams={3: True}))

    response = await ask(place, "/acme/v1/chat/completions", secret=OWN, own="", at="")

    assert response.status_code == 401
    assert place.upstream.requests == []


@pytest.mark.parametrize("beside", [True, False])
async def test_a_banned_digest_is_refused_however_it_comes(beside: bool) -> None:
    place = house(foreign=ForeignKeys(banned=frozenset({DIGEST})))

    response = await (ask(place) if beside else ask(place, "/acme/v1/chat/completions", secret=OWN, own="", at=""))

    assert (response.status_code, response.json()["error"]["code"]) == (403, "key_banned")
    assert place.upstream.requests == []


async def test_the_gateway_key_s_models_and_state_hold() -> None:
    listed = house(who=key(models=frozenset({"claude"})))
    disabled = house(who=key(enabled=False))

    codes = [(await ask(place)).json()["error"]["code"] for place in (listed, disabled)]

    assert codes == ["model_not_allowed", "key_disabled"]


# ── it leaves nothing behind ──


async def test_it_stands_in_no_log_line_journal_or_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    place = house(Reply.json(CHAT), Reply.json({"error": {"message": "no"}}, 500), Reply.json({"error": {}}, 401))
    change(place, retries=Retries(attempts=0))

    answers = [await ask(place) for _ in range(3)]
    change(place, foreign=None)
    answers.append(await ask(place))

    assert [answer.status_code for answer in answers][-1] == 403
    kept = [place.ledger.opened, place.ledger.attempts, place.ledger.closed, place.ledger.refusals, place.log.lines]
    written = json.dumps(kept, default=str) + caplog.text + repr(place.gateway.snapshot)
    assert OWN not in written + "".join(f"{answer.headers}{answer.text}" for answer in answers)


async def test_no_kept_answer_serves_it_and_it_leaves_none() -> None:
    place = house(Reply.json(CHAT), Reply.json(CHAT), Reply.json(CHAT), who=key())
    place.gateway.caching = Caching(place.gateway, MemoryAnswers(place.clock))
    cached = replace(place.snapshot.cache, enabled=True, ttl_s=300)
    change(place, aliases={"gpt": alias("gpt", MAIN)}, budgets={}, cache=cached)

    for own in (OWN, "", OWN):
        await place.post(CHATS, BODY, x_gateway_cache="on", **own_headers(own))
    hit = await place.post(CHATS, BODY, x_gateway_cache="on")

    bearers = [sent.headers["authorization"] for sent in place.upstream.requests]
    assert bearers == [f"Bearer {OWN}", "Bearer provider-secret", f"Bearer {OWN}"]
    assert hit.headers["x-gateway-cache"] == "hit"


def own_headers(own: str) -> dict[str, str]:
    return {"x_gateway_provider_key": own, "x_gateway_provider": "acme"} if own else {}


async def test_what_it_has_made_is_its_own_alone() -> None:
    place = house(Reply.json({"id": "file-mine", "object": "file"}), Reply.json({"id": "file-mine"}), who=key())
    naming = [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-mine"}}]}]

    made = await ask(place, "/v1/files")
    others = [
        await ask(place, "/v1/files/file-mine", secret=BOBS, own=f"{OWN}-of-bob"),
        await ask(place, secret=BOBS, own=f"{OWN}-of-bob", messages=naming),
        await place.get("/v1/files/file-mine"),
        await place.get("/acme/v1/files/file-mine"),
    ]
    mine = await place.get("/v1/files/file-mine", x_gateway_provider_key=OWN, x_gateway_provider="acme")

    assert [answer.status_code for answer in (made, *others, mine)] == [200, 404, 404, 404, 404, 200]
    assert [sent.headers["authorization"] for sent in place.upstream.requests] == [f"Bearer {OWN}"] * 2


async def test_a_response_that_it_has_made_is_found_with_it_alone() -> None:
    answer = {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": []}
    place = house(Reply.json(answer), Reply.json(answer), who=key())
    known = replace(MAIN, adapter=get_adapter("openai"))
    change(place, aliases={"gpt": alias("gpt", known)}, deployments=(known,))
    await place.post("/v1/responses", {"model": "gpt", "input": "Hi"}, **own_headers(OWN))

    without = await place.get("/v1/responses/resp_1")
    other = await place.get("/v1/responses/resp_1", **own_headers(f"{OWN}-another"))
    mine = await place.get("/v1/responses/resp_1", **own_headers(OWN))

    assert [each.status_code for each in (without, other, mine)] == [404, 404, 200]
    assert [sent.headers["authorization"] for sent in place.upstream.requests] == [f"Bearer {OWN}"] * 2


async def test_a_name_taken_with_it_opens_nothing_in_the_gateway_s_account() -> None:
    google = deployment(
        "google", 5, provider="google", adapter=get_adapter("gemini"), base_url="http://google.test/v1beta"
    )
    place = house(Reply.json({"name": "cachedContents/shared"}), who=key())
    change(place, deployments=(google,), aliases={"flash": alias("flash", google)})
    made = await ask(place, "/google/v1beta/cachedContents", at="google", model="flash")

    taken = await place.get("/google/v1beta/cachedContents/shared")

    assert (made.status_code, taken.status_code) == (200, 404)
    assert len(place.upstream.requests) == 1


async def test_what_another_team_has_made_is_not_reached_with_it() -> None:
    place = house()
    await place.gateway.responses.book.remember(["file-theirs"], Owner("acme", 4, "2"))

    answers = [
        await place.get(path, x_gateway_provider_key=OWN, x_gateway_provider="acme")
        for path in ("/v1/files/file-theirs", "/acme/v1/files/file-theirs")
    ]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert place.upstream.requests == []


async def test_the_results_of_its_own_batch_are_billed_to_nobody_here() -> None:
    line = {"custom_id": "1", "response": {"status_code": 200, "body": CHAT}}
    place = house(Reply.json(line))

    response = await place.get("/acme/v1/files/file-out/content", x_gateway_provider_key=OWN)

    assert response.status_code == 200
    assert place.row["cost_pico_usd"] == 0


# ── counting tokens ──


async def test_tokens_are_counted_where_it_is_for_and_estimated_otherwise() -> None:
    place = house(Reply.json({"input_tokens": 7}))
    asked = {"model": "claude", "messages": [{"role": "user", "content": "Hi"}]}

    there = await place.post("/v1/messages/count_tokens", asked, **{**own_headers(OWN), "x_gateway_provider": "claude"})
    elsewhere = await place.post("/v1/messages/count_tokens", asked, **own_headers(OWN))

    assert there.json() == {"input_tokens": 7}
    assert place.upstream.requests[0].headers["x-api-key"] == OWN
    assert elsewhere.status_code == 200
    assert len(place.upstream.requests) == 1


# ── the short way ──


async def test_the_short_way_takes_none() -> None:
    async with opened() as scene:
        made = scene.house.gateway.snapshot
        main = made.aliases["gpt"].deployments
        scene.swap(replace(made, deployments=main, foreign=ForeignKeys()))
        ours: dict[str, str] = {}
        own = {"x-gateway-provider-key": OWN, "x-gateway-provider": main[0].provider}

        # What has been said before goes the short way, if it may.
        asked = [ours, own, own, own, ours, ours, own]
        for headers in asked:
            assert (await scene.client.post(CHATS, json=QUESTION, headers=headers)).status_code == 200
        await until(lambda: len(scene.house.ledger.closed) == len(asked))

    assert len(scene.express) == 3, "the same without a key of their own go there"
    rows = scene.house.ledger.closed
    assert [row.get("own_key", "") for row in rows] == [DIGEST.hex() if headers else "" for headers in asked]
    assert [row["cost_pico_usd"] > 0 for row in rows] == [headers is ours for headers in asked]
