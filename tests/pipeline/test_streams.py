"""Streams: passed on as they come, metered on the way, and settled whoever leaves first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.protocols import Record
from llmgateway.pipeline.snapshot import Timeouts
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import SECRET, Caller, House, alias, deployment, snapshot

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def event(content: str | None = None, **extra: Any) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    return b"data: " + json.dumps({"model": "m", "choices": choices, "usage": None, **extra}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
SCRIPT = (event("Hel"), event("lo"), event(usage=USAGE), DONE)


async def left_after(house: House, chunks: int, body: dict[str, Any] | None = None) -> Caller:
    """A caller that leaves once it has got so many chunks."""
    caller = Caller()
    asked = {"model": "gpt", "messages": [], "stream": True, **(body or {})}
    headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
    running = asyncio.create_task(
        caller.call(house.app, "POST", "/v1/chat/completions", json.dumps(asked).encode(), headers)
    )
    await asyncio.wait_for(caller.got(chunks), 1)
    await asyncio.sleep(0.01)
    house.gateway.exchanges.tick()
    caller.left.set()
    await asyncio.wait_for(running, 1)
    return caller


async def test_a_stream_comes_as_it_was_sent_when_the_caller_wants_usage() -> None:
    upstream = ScriptedUpstream(Reply.events(*SCRIPT))
    house = House(upstream)

    response = await house.chat({"stream": True, "stream_options": {"include_usage": True}})

    assert response.content == b"".join(SCRIPT)
    assert upstream.bodies[0]["stream_options"] == {"include_usage": True}
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"


async def test_usage_is_asked_for_and_its_chunk_removed_when_the_caller_does_not() -> None:
    upstream = ScriptedUpstream(Reply.events(*SCRIPT))
    house = House(upstream)

    response = await house.chat({"stream": True})

    assert upstream.bodies[0]["stream_options"] == {"include_usage": True}
    assert response.content == event("Hel") + event("lo") + DONE
    assert (house.row["input"], house.row["output"], house.row["usage_source"]) == (9, 3, "provider")


async def test_a_deployment_may_forbid_asking_for_usage() -> None:
    upstream = ScriptedUpstream(Reply.events(event("Hello"), DONE))
    house = House(upstream, snapshot(alias("gpt", deployment(inject_usage=False))))

    await house.chat({"stream": True})

    assert "stream_options" not in upstream.bodies[0]
    assert house.row["usage_source"] == "estimated"


async def test_the_first_chunk_is_there_before_the_second_exists() -> None:
    house = House(ScriptedUpstream(Reply.events(event("Hel"), 60.0, event("lo"))))

    caller = await left_after(house, 1)

    assert caller.chunks == [event("Hel")]


async def test_the_ledger_has_the_row_before_the_end_reaches_the_client() -> None:
    house = House(ScriptedUpstream(Reply.events(*SCRIPT)))
    seen: list[int] = []
    write = house.ledger.close

    caller = Caller()

    def close(record: Record) -> None:
        seen.append(len(b"".join(caller.chunks)))
        write(record)

    house.ledger.close = close  # type: ignore[method-assign]
    body = json.dumps({"model": "gpt", "messages": [], "stream": True}).encode()
    await caller.call(house.app, "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {SECRET}"})

    assert seen == [len(event("Hel") + event("lo"))]
    assert b"".join(caller.chunks).endswith(DONE)


@pytest.mark.parametrize(
    ("pieces", "chunks"),
    [((60.0,), 0), ((event("Hel"), 60.0), 1)],
    ids=["waiting for the first chunk", "between chunks"],
)
async def test_a_client_that_leaves_closes_the_upstream_and_is_settled(
    pieces: Sequence[bytes | float], chunks: int
) -> None:
    upstream = ScriptedUpstream(Reply.events(*pieces))
    house = House(upstream)

    await left_after(house, chunks)

    assert upstream.streams[0].closed
    assert not upstream.streams[0].exhausted
    assert (house.row["status"], house.row["error_type"], house.row["usage_source"]) == (
        "cancelled",
        "client_left",
        "estimated",
    )
    assert house.row["output"] == chunks
    assert len(house.gateway.exchanges) == 0


async def test_a_client_that_left_before_it_was_watched_is_noticed_by_the_first_look() -> None:
    house = House(ScriptedUpstream(Reply(delay_s=60.0)))
    caller = Caller()
    body = json.dumps({"model": "gpt", "messages": []}).encode()
    running = asyncio.create_task(
        caller.call(house.app, "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {SECRET}"})
    )
    await asyncio.sleep(0.01)
    caller.left.set()
    await asyncio.sleep(0.01)
    assert not running.done()

    house.gateway.exchanges.tick()
    await asyncio.wait_for(running, 1)

    assert (house.row["status"], house.row["error_type"]) == ("cancelled", "client_left")


async def test_a_client_that_leaves_before_the_headers_is_settled() -> None:
    house = House(ScriptedUpstream(Reply(delay_s=60.0)))

    await left_after(house, 0)

    assert house.row["status"] == "cancelled"
    assert house.ledger.running == set()


async def test_a_client_that_stops_reading_is_not_the_provider_s_silence() -> None:
    upstream = ScriptedUpstream(Reply.events(event("Hel"), event("lo"), 60.0))
    house = House(upstream)
    caller = Caller()
    caller.stuck_after = 1
    body = json.dumps({"model": "gpt", "messages": [], "stream": True}).encode()
    running = asyncio.create_task(
        caller.call(house.app, "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {SECRET}"})
    )
    await asyncio.wait_for(caller.started.wait(), 1)
    await asyncio.sleep(0.02)

    house.clock.advance(Timeouts().idle_s + 1)
    house.gateway.exchanges.tick()
    await asyncio.sleep(0.02)
    assert not running.done()
    assert house.ledger.closed == []

    house.clock.advance(Timeouts().total_s)
    house.gateway.exchanges.tick()
    caller.left.set()
    await asyncio.wait_for(running, 1)

    assert upstream.streams[0].closed


async def test_a_client_that_stops_reading_and_leaves_is_settled() -> None:
    upstream = ScriptedUpstream(Reply.events(event("Hel"), event("lo"), 60.0))
    house = House(upstream)
    caller = Caller()
    caller.stuck_after = 1
    body = json.dumps({"model": "gpt", "messages": [], "stream": True}).encode()
    running = asyncio.create_task(
        caller.call(house.app, "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {SECRET}"})
    )
    await asyncio.wait_for(caller.started.wait(), 1)
    await asyncio.sleep(0.02)
    house.gateway.exchanges.tick()

    caller.left.set()
    await asyncio.wait_for(running, 1)

    assert upstream.streams[0].closed
    assert house.row["status"] == "cancelled"


async def test_a_stream_that_breaks_off_says_so_in_band_and_is_charged_for_what_came() -> None:
    house = House(ScriptedUpstream(Reply.events(event("Hel"), httpx.ReadError("reset"))))

    response = await house.chat({"stream": True})

    last = json.loads(response.content.rsplit(b"data: ", 1)[1])
    assert last["error"]["code"] == "upstream_error"
    assert (house.row["status"], house.row["usage_source"], house.row["output"]) == ("failed", "estimated", 1)


async def test_a_stream_that_breaks_off_before_its_first_chunk_goes_to_the_next_target() -> None:
    upstream = ScriptedUpstream(Reply.events(httpx.ReadError("reset")), Reply.events(*SCRIPT))
    house = House(upstream, snapshot(alias("gpt", deployment("first"), deployment("second", 2))))

    response = await house.chat({"stream": True})

    assert response.headers["x-gateway-deployment"] == "second"
    assert house.row["status"] == "completed"


async def test_an_error_event_of_the_provider_marks_the_row() -> None:
    broken = b'data: {"error":{"message":"overloaded"}}\n\n'
    house = House(ScriptedUpstream(Reply.events(event("Hel"), broken)))

    response = await house.chat({"stream": True})

    assert response.content.endswith(broken)
    assert (house.row["status"], house.row["error_type"]) == ("failed", "upstream_error")


async def test_an_answer_that_is_no_stream_keeps_its_own_content_type() -> None:
    house = House(ScriptedUpstream(Reply.json({"choices": [], "usage": USAGE})))

    response = await house.chat({"stream": True})

    assert response.headers["content-type"] == "application/json"
    assert house.row["input"] == 9


async def test_no_answer_in_time_is_a_timeout_of_that_attempt() -> None:
    upstream = ScriptedUpstream(Reply(delay_s=60.0), Reply.events(*SCRIPT))
    house = House(upstream, snapshot(alias("gpt", deployment("slow"), deployment("quick", 2))))
    running = asyncio.create_task(house.chat({"stream": True}))
    await asyncio.sleep(0.01)

    house.clock.advance(61)
    house.gateway.exchanges.tick()
    response = await asyncio.wait_for(running, 1)

    assert response.headers["x-gateway-deployment"] == "quick"
    assert house.row["attempts"][0]["cause"] == "timeout"


async def test_with_no_other_target_a_timeout_is_a_504() -> None:
    house = House(ScriptedUpstream(Reply(delay_s=60.0)))
    running = asyncio.create_task(house.chat())
    await asyncio.sleep(0.01)

    house.clock.advance(601)
    house.gateway.exchanges.tick()
    response = await asyncio.wait_for(running, 1)

    assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")


async def test_a_stream_that_falls_silent_is_ended_in_band() -> None:
    house = House(ScriptedUpstream(Reply.events(event("Hel"), 600.0)))
    running = asyncio.create_task(house.chat({"stream": True}))
    await asyncio.sleep(0.01)

    house.clock.advance(121)
    house.gateway.exchanges.tick()
    response = await asyncio.wait_for(running, 1)

    assert b'"upstream_timeout"' in response.content
    assert house.row["error_type"] == "upstream_timeout"


async def test_progress_counts_what_running_streams_have_brought() -> None:
    house = House(ScriptedUpstream(Reply.events(event("Hel"), event("lo"), 60.0)))
    running = asyncio.create_task(house.chat({"stream": True}))
    await asyncio.sleep(0.02)

    counted = list(house.gateway.exchanges.progress())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert [tokens for _, tokens in counted] == [2]
    assert house.row["error_type"] == "shutdown"


async def test_the_time_to_first_token_does_not_count_what_says_nothing() -> None:
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    house = House(ScriptedUpstream(Reply.events(b": keep-alive\n\n", role, 0.05, event("Hello"), DONE)))
    running = asyncio.create_task(house.chat({"stream": True}))
    await asyncio.sleep(0.01)

    house.clock.advance(2)
    await running

    assert house.row["ttft_us"] == 2_000_000


async def test_a_stream_is_one_however_its_content_type_is_spelled() -> None:
    house = House(ScriptedUpstream(Reply(200, {"content-type": "Text/Event-Stream"}, SCRIPT)))

    response = await house.chat({"stream": True})

    assert response.content == event("Hel") + event("lo") + DONE
