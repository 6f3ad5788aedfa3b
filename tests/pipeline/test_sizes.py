"""Limits on the bytes of one request."""

from __future__ import annotations

from msgspec import structs

from llmgateway.pipeline.snapshot import Limit
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, House, alias, deployment, key, snapshot

SMALL = Limit("limit:1", "200 bytes in a request", "key", 200, 200, metric="request_bytes", per="")
LONG = {"messages": [{"role": "user", "content": "a" * 300}]}


def house(*aliases: object, limits: tuple[Limit, ...] = ()) -> House:
    made = snapshot(*aliases, who=key(limits=limits))  # type: ignore[arg-type]
    return House(ScriptedUpstream(*[Reply.json(CHAT) for _ in range(4)]), made)


async def test_a_request_within_it_passes_and_a_larger_one_is_told_which_limit() -> None:
    of = house(limits=(SMALL,))

    assert (await of.chat()).status_code == 200
    refused = await of.chat(LONG)

    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
    assert (refused.headers["x-ratelimit-scope"], refused.headers["x-ratelimit-name"]) == ("key", SMALL.name)
    assert "200 bytes in a request" in refused.json()["error"]["message"]
    assert len(of.ledger.opened) == 1


async def test_the_very_amount_still_fits() -> None:
    of = house()
    await of.chat(LONG)
    size = len(of.upstream.requests[-1].content) - len("gpt-upstream") + len("gpt")

    assert (await house(limits=(structs.replace(SMALL, amount=size),)).chat(LONG)).status_code == 200
    assert (await house(limits=(structs.replace(SMALL, amount=size - 1),)).chat(LONG)).status_code == 413


async def test_a_deployment_that_takes_less_is_passed_over() -> None:
    small = deployment("small", 1, limits=(structs.replace(SMALL, scope="deployment"),))
    of = house(alias("gpt", small, deployment("large", 2)))

    assert (await of.chat()).headers["x-gateway-deployment"] == "small"
    assert (await of.chat(LONG)).headers["x-gateway-deployment"] == "large"
    assert (await house(alias("gpt", small)).chat(LONG)).status_code == 413


async def test_in_shadow_it_is_counted_alone() -> None:
    of = house(limits=(structs.replace(SMALL, shadow=True),))

    assert (await of.chat(LONG)).status_code == 200
    assert of.telemetry.figures.shadow_refusals == {("key", SMALL.name): 1}
