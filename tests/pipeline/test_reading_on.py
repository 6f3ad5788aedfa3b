"""Where a deployment asks for it, a stream whose client has left is read to its end, to learn exactly what it used."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from billing.money import PICO_PER_USD
from llmgateway.http import httpx
from llmgateway.pipeline.snapshot import BudgetRule
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import PRICE, SECRET, Caller, House, alias, deployment, key, snapshot

PATIENT = deployment(drain_s=5.0)
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}\n\n'
DONE = b"data: [DONE]\n\n"


def said(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def house(*pieces: bytes | Exception | float, target: Any = PATIENT, who: Any = None) -> House:
    return House(ScriptedUpstream(Reply.events(*pieces)), snapshot(alias("gpt", target), who=who))


async def left_after_first_chunk(place: House, *, reading: bool = True) -> None:
    caller = Caller()
    if not reading:
        caller.stuck_after = 0
    body = json.dumps({"model": "gpt", "messages": [], "stream": True, "max_tokens": 9}).encode()
    running = asyncio.create_task(
        caller.call(place.app, "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {SECRET}"})
    )
    await caller.got(1)
    place.gateway.exchanges.tick()
    caller.left.set()
    await asyncio.wait_for(running, 1)


async def settled(place: House) -> Any:
    async with asyncio.timeout(2):
        while not place.ledger.closed:  # noqa: ASYNC110  # Nobody tells when it is settled.
            await asyncio.sleep(0.005)
    return place.row


async def test_what_the_provider_says_at_the_end_is_what_is_billed() -> None:
    place = house(said("Hel"), 0.03, said("lo"), 0.03, USAGE, DONE)

    await left_after_first_chunk(place)
    row = await settled(place)

    assert (row["status"], row["error_type"]) == ("cancelled", "client_left")
    assert (row["usage_source"], row["input"], row["output"]) == ("provider", 11, 5)
    assert row["cost_pico_usd"] == 11 * 2 + 5 * 10
    await asyncio.sleep(0.01)
    assert place.upstream.streams[0].closed
    assert len(place.gateway.reading_on) == 0
    assert place.ledger.running == set()


async def test_a_client_that_leaves_while_it_does_not_read_loses_nothing_either() -> None:
    place = house(said("Hel"), said("lo"), USAGE, DONE)

    await left_after_first_chunk(place, reading=False)

    assert (await settled(place))["output"] == 5


async def test_it_ends_after_its_time_and_is_estimated() -> None:
    place = house(said("Hel"), 60.0, USAGE, target=deployment(drain_s=0.05))

    await left_after_first_chunk(place)
    row = await settled(place)

    assert (row["status"], row["usage_source"]) == ("cancelled", "estimated")
    await asyncio.sleep(0.01)
    assert place.upstream.streams[0].closed


async def test_it_ends_before_the_answer_costs_more_than_is_held() -> None:
    budget = BudgetRule(1, "day", "key", "1", "day", PICO_PER_USD, "UTC")
    endless = [piece for _ in range(1000) for piece in (said("word " * 20), 0.001)]
    place = house(*endless, USAGE, target=deployment(drain_s=5.0, prices=(PRICE,)), who=key(budgets=(budget,)))

    await left_after_first_chunk(place)
    row = await settled(place)

    assert row["usage_source"] == "estimated"
    assert not place.upstream.streams[0].exhausted


async def test_a_connection_that_breaks_meanwhile_is_settled() -> None:
    place = house(said("Hel"), 0.02, httpx.ReadError("gone"))

    await left_after_first_chunk(place)

    assert (await settled(place))["usage_source"] == "estimated"


async def test_the_process_s_end_settles_what_is_being_read() -> None:
    place = house(said("Hel"), 60.0, USAGE)

    await left_after_first_chunk(place)
    assert not place.ledger.closed
    await asyncio.wait_for(place.gateway.reading_on.stop(), 1)

    assert place.row["status"] == "cancelled"
    assert place.upstream.streams[0].closed


async def test_other_deployments_end_the_stream_at_once() -> None:
    place = house(said("Hel"), 60.0, USAGE, target=deployment())

    await left_after_first_chunk(place)

    assert place.row["usage_source"] == "estimated"
    assert place.upstream.streams[0].closed
