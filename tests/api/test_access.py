"""Who gets in, from where, and how a refusal is said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmgateway.pipeline.snapshot import Limit, Networks
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, SECRET, Caller, House, alias, deployment, key, snapshot

BODY = b'{"model":"gpt","messages":[]}'
CLOSED = Limit("limit:1", "0 requests per minute", "key", 0, 0)


class SlowCaller(Caller):
    """Sends its body when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def _receive(self) -> dict[str, Any]:
        self.asked.set()
        await self.may_go_on.wait()
        return await super()._receive()


def house(*replies: Reply, settings: dict[str, str] | None = None, **who: Any) -> House:
    return House(ScriptedUpstream(*replies), snapshot(who=key(**who)), settings=settings or {})


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/models", {"authorization": f"Bearer {SECRET}"}),
        ("/v1/models", {"authorization": f"bearer  {SECRET}"}),
        ("/v1/models", {"x-api-key": SECRET}),
        ("/v1/models", {"x-goog-api-key": SECRET}),
        ("/v1/models", {"api-key": SECRET}),
        (f"/v1/models?key={SECRET}", {}),
        ("/v1/models", {"authorization": "Basic YTpi", "x-api-key": SECRET}),
    ],
)
async def test_a_key_is_found_in_any_of_its_places(path: str, headers: dict[str, str]) -> None:
    response = await house().request("GET", path, b"", headers)

    assert response.status_code == 200
    listed = response.json()
    # Google's header gets Google's words.
    names = [model.get("id") or model["name"] for model in listed.get("data") or listed["models"]]
    assert names in (["gpt"], ["models/gpt"])


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-gw-wrong"}, {"authorization": "Bearer "}])
async def test_without_a_known_key_there_is_a_401(headers: dict[str, str]) -> None:
    response = await house().request("POST", "/v1/chat/completions", BODY, headers)

    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("who", "code"),
    [
        ({"enabled": False}, "key_disabled"),
        ({"expires_at": 1_773_489_600.0}, "key_expired"),
        ({"starts_at": 1_773_489_601.0}, "key_not_yet_valid"),
        ({"networks": Networks.of(("10.0.0.0/8", "2001:db8::/32"))}, "ip_not_allowed"),
        ({"networks": Networks()}, "ip_not_allowed"),
    ],
)
async def test_a_known_key_that_may_not_be_used_is_a_403(who: dict[str, Any], code: str) -> None:
    response = await house(**who).chat()

    assert (response.status_code, response.json()["error"]["code"]) == (403, code)
    assert "alice" in response.json()["error"]["message"]


async def test_a_key_is_good_until_the_moment_it_expires() -> None:
    assert (await house(Reply.json(CHAT), expires_at=1_773_489_600.5).chat()).status_code == 200


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::7", True),
        ("11.0.0.1", False),
        ("2001:db9::1", False),
        ("unix", False),
    ],
)
async def test_addresses_of_both_families_and_mapped_ones(address: str, allowed: bool) -> None:
    place = house(networks=Networks.of(("10.0.0.0/8", "2001:db8::/32")))
    caller = Caller(address)

    await caller.call(place.app, "GET", "/v1/models", b"", {"authorization": f"Bearer {SECRET}"})

    assert (caller.response().status_code == 200) is allowed


@pytest.mark.parametrize(
    ("trusted", "forwarded", "allowed"),
    [
        ("", "10.0.0.9", False),
        ("127.0.0.1", "10.0.0.9", True),
        ("127.0.0.1", "10.0.0.9, 192.0.2.1", False),
        ("127.0.0.1,192.0.2.0/24", "10.0.0.9, 192.0.2.1", True),
        ("127.0.0.1", "10.0.0.9:4711", True),
        ("127.0.0.1", "[2001:db8::9]:4711", False),
        ("127.0.0.1", "nonsense", False),
    ],
)
async def test_forwarded_addresses_count_only_from_trusted_proxies(trusted: str, forwarded: str, allowed: bool) -> None:
    place = house(settings={"TRUSTED_PROXIES": trusted}, networks=Networks.of(("10.0.0.0/8",)))

    response = await place.get("/v1/models", x_forwarded_for=forwarded)

    assert (response.status_code == 200) is allowed


async def test_a_model_outside_the_allowlist_is_refused_and_not_listed() -> None:
    place = House(
        ScriptedUpstream(),
        snapshot(
            alias("gpt", deployment()), alias("meta/llama", deployment()), who=key(models=frozenset({"meta/llama"}))
        ),
    )

    refused = await place.chat()

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert [model["id"] for model in (await place.get("/v1/models")).json()["data"]] == ["meta/llama"]
    assert (await place.get("/v1/models/meta/llama")).json()["id"] == "meta/llama"
    assert (await place.get("/v1/models/gpt")).status_code == 404


async def test_an_unknown_model_is_a_404_that_names_it() -> None:
    response = await house().chat({"model": "nope"})

    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert "nope" in response.json()["error"]["message"]


async def test_refusals_are_logged_and_counted_but_are_no_ledger_rows() -> None:
    place = house(enabled=False)

    await place.chat()
    await place.chat({"model": "nope"})

    assert [(line["error_type"], line["key_name"]) for line in place.log.lines] == [("key_disabled", "alice")] * 2
    assert place.ledger.opened == []
    assert place.telemetry.figures.refusals["key_disabled"] == 2
    (summed,) = place.telemetry.take_refused()
    assert (summed["key_name"], summed["code"], summed["count"]) == ("alice", "key_disabled", 2)


async def test_listing_models_is_logged_too() -> None:
    place = house()

    await place.get("/v1/models")

    assert [(line["path"], line["http_status"], line["status"]) for line in place.log.lines] == [
        ("/v1/models", 200, "answered")
    ]


@pytest.mark.parametrize(
    ("change", "code"), [({"enabled": False}, "key_disabled"), ({"limits": (CLOSED,)}, "request_exceeds_limit")]
)
async def test_what_changes_while_a_body_is_sent_slowly_counts(change: dict[str, Any], code: str) -> None:
    place = house(Reply.json(CHAT))
    sending = SlowCaller()
    request = asyncio.create_task(
        sending.call(place.app, "POST", "/v1/chat/completions", BODY, {"authorization": f"Bearer {SECRET}"})
    )
    await sending.asked.wait()

    place.gateway.use(snapshot(who=key(**change)), place.gateway.budget_index)
    sending.may_go_on.set()
    await request

    assert sending.response().json()["error"]["code"] == code
    assert not place.upstream.bodies
