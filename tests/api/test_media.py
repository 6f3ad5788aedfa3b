"""Images, sound, moderation and reranking: passed through, metered, limited and budgeted like chats."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from billing.pricing import PriceVersion, UnitPrice
from llmgateway.http import httpx
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import MalformedBodyError
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import PRICE, SECRET, Caller, House, alias, deployment, key, snapshot
from tests.providers.dialects.test_multipart import encoded

FREE = PriceVersion(7, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
UNITS = (
    UnitPrice("millisecond", 10**8, 1000),
    UnitPrice("character", 15 * 10**6),
    UnitPrice("image", 4 * 10**10),
    UnitPrice("image:hd:1024x1792", 12 * 10**10),
    UnitPrice("search", 2 * 10**9),
)
BY_UNIT = replace(FREE, units=UNITS)
IMAGE = {"created": 1, "data": [{"b64_json": "aGk="}, {"b64_json": "aGk="}]}
WAV = b"RIFF" + struct.pack("<I", 32_036) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
WAV += b"data" + struct.pack("<I", 32_000) + b"\0" * 32_000
AUDIO = {"content-type": "audio/mpeg"}


def house(*replies: Reply | Exception, adapter: str = "openai", who: Any = None, **changes: Any) -> House:
    made = deployment(**{"adapter": get_adapter(adapter), "prices": (BY_UNIT,), "model": "upstream-model", **changes})
    return House(ScriptedUpstream(*replies), snapshot(alias("m", made), who=who))


def form(**fields: str) -> tuple[bytes, str]:
    return encoded({"model": "m", **fields}, {"file": WAV}), "multipart/form-data; boundary=xYz-1"


def budget(limit: int, *, strict: bool = True) -> Any:
    return key(budgets=(BudgetRule(1, "day", "key", "1", "day", limit, "UTC", strict=strict),))


BODIES: dict[str, Any] = {
    "/v1/images/generations": {"model": "m", "prompt": "a cat", "n": 2},
    "/v1/images/edits": None,
    "/v1/images/variations": None,
    "/v1/audio/speech": {"model": "m", "input": "Grüße!", "voice": "alloy"},
    "/v1/audio/transcriptions": None,
    "/v1/audio/translations": None,
    "/v1/moderations": {"model": "m", "input": "hello"},
    "/v1/rerank": {"model": "m", "query": "q", "documents": ["a", "b"]},
    "/v2/rerank": {"model": "m", "query": "q", "documents": ["a", "b"]},
}
ANSWERS: dict[str, Reply] = {
    "/v1/images/generations": Reply.json(IMAGE),
    "/v1/images/edits": Reply.json(IMAGE),
    "/v1/images/variations": Reply.json(IMAGE),
    "/v1/audio/speech": Reply(200, AUDIO, (b"ID3", b"\xff\xfb", b"\0")),
    "/v1/audio/transcriptions": Reply.json({"text": "hi", "usage": {"type": "duration", "seconds": 9}}),
    "/v1/audio/translations": Reply.json({"text": "hi", "duration": 9.5}),
    "/v1/moderations": Reply.json({"id": "modr", "model": "omni", "results": []}),
    "/v1/rerank": Reply.json({"results": [], "meta": {"billed_units": {"search_units": 1}}}),
    "/v2/rerank": Reply.json({"results": [], "usage": {"total_tokens": 12}}),
}
COSTS = {
    "/v1/images/generations": 8 * 10**10,
    "/v1/images/edits": 8 * 10**10,
    "/v1/images/variations": 8 * 10**10,
    "/v1/audio/speech": 6 * 15 * 10**6,
    "/v1/audio/transcriptions": 9 * 10**8,
    "/v1/audio/translations": 950 * 10**6,
    "/v1/moderations": 0,
    "/v1/rerank": 2 * 10**9,
    "/v2/rerank": 2 * 10**9,
}
EVERY = pytest.mark.parametrize("path", sorted(BODIES))


async def call(of: House, path: str, model: str = "m") -> httpx.Response:
    body = BODIES[path]
    if body is None:
        content, content_type = encoded({"model": model}, {"file": WAV}), "multipart/form-data; boundary=xYz-1"
        return await of.post(path, content, content_type=content_type)
    return await of.post(path, {**body, "model": model})


@EVERY
async def test_the_answer_is_the_providers_and_its_cost_is_in_the_ledger(path: str) -> None:
    of = house(ANSWERS[path], adapter="openai_compatible")

    answer = await call(of, path)

    sent = of.upstream.requests[0]
    assert answer.status_code == 200
    assert answer.content == b"".join(piece for piece in ANSWERS[path].pieces if isinstance(piece, bytes))
    assert sent.url.path == "/v1/rerank" if "rerank" in path else sent.url.path == path
    assert b"upstream-model" in sent.content
    assert of.row["cost_pico_usd"] == COSTS[path]
    assert of.row["status"] == "completed"
    assert sent.headers["authorization"] == "Bearer provider-secret"


@EVERY
async def test_an_unknown_model_is_not_found(path: str) -> None:
    of = house()

    answer = await call(of, path, model="nonesuch")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert not of.upstream.requests


@EVERY
async def test_a_limit_of_requests_holds(path: str) -> None:
    limit = Limit("limit:1", "1 request per minute", "key", 1, 1)
    of = house(ANSWERS[path], adapter="openai_compatible", who=key(limits=(limit,)))

    first, second = await call(of, path), await call(of, path)

    assert (first.status_code, second.status_code) == (200, 429)


@EVERY
async def test_a_model_that_does_not_offer_it_is_a_bad_request(path: str) -> None:
    of = house(adapter="deepseek")

    answer = await call(of, path)

    assert answer.status_code == 400
    assert "does not offer" in answer.json()["error"]["message"]


@EVERY
async def test_a_client_that_leaves_ends_the_call_and_is_charged_what_it_asked_for(path: str) -> None:
    of = house(Reply(200, AUDIO, (b"first", 3600.0)), adapter="openai_compatible")
    caller = Caller()
    body, content_type = BODIES[path], "application/json"
    if body is None:
        content, content_type = form()
    else:
        content = json.dumps(body).encode()
    headers = {"authorization": f"Bearer {SECRET}", "content-type": content_type}
    calling = asyncio.create_task(caller.call(of.app, "POST", path, content, headers))
    await asyncio.sleep(0.05)

    of.gateway.exchanges.tick()
    caller.left.set()
    await asyncio.wait([calling], timeout=5)

    assert of.upstream.streams[0].closed
    assert of.row["status"] == "cancelled"
    if "moderations" not in path:
        assert of.row["units"]
        assert of.row["cost_pico_usd"] > 0


# ── images ──


async def test_an_image_is_priced_by_quality_and_size_of_the_request() -> None:
    of = house(Reply.json(IMAGE))

    await of.post("/v1/images/generations", {"model": "m", "prompt": "x", "n": 2, "quality": "hd", "size": "1024x1792"})

    assert of.row["units"] == {"image:hd:1024x1792": 2}
    assert of.row["cost_pico_usd"] == 24 * 10**10
    assert of.row["usage_source"] == "provider"


async def test_images_that_report_tokens_are_billed_by_them() -> None:
    usage = {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210,
             "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}  # fmt: skip
    of = house(Reply.json({**IMAGE, "usage": usage, "quality": "high", "size": "1024x1024"}), prices=(PRICE,))

    await of.post("/v1/images/generations", {"model": "m", "prompt": "x", "n": 2, "size": "auto"})

    assert (of.row["input"], of.row["image_input"], of.row["output"]) == (10, 40, 4160)
    assert of.row["units"] == {"image:high:1024x1024": 2}
    assert of.row["cost_pico_usd"] == 50 * 2 + 4160 * 10


@pytest.mark.parametrize("size", [1, 50, 10_000])
async def test_a_stream_of_images_is_metered_when_it_ends(size: int) -> None:
    def completed(tokens: int) -> bytes:
        said = {"type": "image_generation.completed", "b64_json": "aGk=", "size": "1024x1024", "quality": "high",
                "usage": {"input_tokens": 5, "output_tokens": tokens, "total_tokens": 5 + tokens}}  # fmt: skip
        return b"event: image_generation.completed\ndata: " + json.dumps(said).encode() + b"\n\n"

    partial = b'data: {"type":"image_generation.partial_image","b64_json":"aGk="}\n\n'
    stream = partial + completed(100) + partial + completed(200)
    of = house(Reply.events(*[stream[at : at + size] for at in range(0, len(stream), size)]), prices=(PRICE,))

    answer = await of.post("/v1/images/generations", {"model": "m", "prompt": "x", "n": 2, "stream": True})

    assert answer.content == stream
    assert of.row["units"] == {"image:high:1024x1024": 2}
    assert (of.row["input"], of.row["output"], of.row["usage_source"]) == (10, 300, "provider")


async def test_fewer_images_than_asked_are_billed_as_they_came() -> None:
    of = house(Reply.json({"data": [{"url": "https://x"}]}))

    await of.post("/v1/images/generations", {"model": "m", "prompt": "x", "n": 4, "quality": "hd", "size": "1024x1792"})

    assert of.row["cost_pico_usd"] == 12 * 10**10


# ── speech ──


async def test_speech_goes_on_piece_by_piece_and_its_last_byte_waits_for_the_row() -> None:
    of = house(Reply(200, AUDIO, (b"one", b"two", 0.01, b"three")))
    caller = Caller()
    content = json.dumps(BODIES["/v1/audio/speech"]).encode()
    calling = asyncio.create_task(
        caller.call(of.app, "POST", "/v1/audio/speech", content, {"authorization": f"Bearer {SECRET}"})
    )

    await caller.got(2)
    assert not of.ledger.closed
    await calling

    assert caller.response().content == b"onetwothree"
    assert caller.response().headers["content-type"] == "audio/mpeg"
    assert of.row["units"] == {"character": 6}
    assert of.row["usage_source"] == "counted"
    assert of.row["stream"] is False


async def test_speech_as_events_reports_its_tokens() -> None:
    done = {"type": "speech.audio.done", "usage": {"input_tokens": 4, "output_tokens": 90, "total_tokens": 94}}
    stream = b'data: {"type":"speech.audio.delta","audio":"aGk="}\n\ndata: ' + json.dumps(done).encode() + b"\n\n"
    of = house(Reply.events(stream), prices=(PRICE,))

    answer = await of.post("/v1/audio/speech", {**BODIES["/v1/audio/speech"], "stream_format": "sse"})

    assert answer.content == stream
    assert (of.row["input"], of.row["audio_output"], of.row["usage_source"]) == (4, 90, "provider")
    assert of.row["cost_pico_usd"] == 4 * 2 + 90 * 10


async def test_speech_of_a_model_priced_by_tokens_is_estimated() -> None:
    of = house(Reply(200, AUDIO, (b"sound",)), prices=(PRICE,))

    await of.post("/v1/audio/speech", {"model": "m", "input": "x" * 300, "voice": "alloy"})

    assert of.row["usage_source"] == "estimated"
    assert of.row["audio_output"] == 400


@pytest.mark.parametrize("spoken", [{"a": 1}, ["a"], 7, True], ids=["object", "list", "number", "boolean"])
async def test_speech_of_what_is_no_text_is_refused_before_anything_is_sent(spoken: Any) -> None:
    of = house()

    answer = await of.post("/v1/audio/speech", {"model": "m", "input": spoken, "voice": "alloy"})

    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "input", "invalid_value")
    assert "must be a string" in error["message"]
    assert not of.upstream.requests


@pytest.mark.parametrize("body", [{"model": "m"}, {"model": "m", "input": None}], ids=["absent", "null"])
async def test_what_lacks_a_text_is_for_the_provider_to_refuse(body: dict[str, Any]) -> None:
    of = house(Reply.json({"error": {"message": "Say something."}}, status=400))

    answer = await of.post("/v1/audio/speech", body)

    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "Say something.")


def test_an_object_in_place_of_the_text_is_refused_without_being_read() -> None:
    fields = b",".join(b'"k%d":1' % number for number in range(200_000))
    body = b'{"model":"m","stream_format":{%b},"input":{%b}}' % (fields, fields)
    began = time.thread_time()
    read = msgspec.json.decode(body)
    to_read_it = time.thread_time() - began
    began = time.thread_time()

    with pytest.raises(MalformedBodyError):
        get_dialect("openai.speech").read_head(body)

    assert time.thread_time() - began < to_read_it / 2
    assert len(read["input"]) == 200_000


@pytest.mark.parametrize("written", [b'"sse"', b'"\\u0073se"'], ids=["plain", "escaped"])
def test_speech_as_events_is_a_stream_however_that_is_written(written: bytes) -> None:
    body = b'{"model":"m","input":"a","stream_format":%b}' % written

    assert get_dialect("openai.speech").read_head(body).stream is True
    assert get_dialect("openai.speech").asked_units(body) == (("character", 1),)


async def test_half_of_the_sound_is_not_taken_for_all_of_it() -> None:
    of = house(Reply(200, AUDIO, (b"half", httpx.ReadError("gone"))))
    caller = Caller()
    content = json.dumps(BODIES["/v1/audio/speech"]).encode()

    await caller.call(of.app, "POST", "/v1/audio/speech", content, {"authorization": f"Bearer {SECRET}"})

    assert caller.messages[-1]["more_body"], "the answer must not look complete"
    assert all(chunk in b"half" for chunk in caller.chunks)
    assert (of.row["status"], of.row["error_type"]) == ("failed", "upstream_error")


# ── transcription ──


async def test_the_model_is_replaced_in_the_form_and_nothing_else() -> None:
    of = house(Reply.json({"text": "hi", "usage": {"type": "duration", "seconds": 1}}))
    body, _ = form(language="de")

    await of.post("/v1/audio/transcriptions", body, content_type="multipart/form-data; boundary=another")

    sent = of.upstream.requests[0]
    assert sent.content == body.replace(b"\r\n\r\nm\r\n", b"\r\n\r\nupstream-model\r\n")
    assert sent.headers.get_list("content-type") == ["multipart/form-data; boundary=xYz-1"]


async def test_a_transcription_that_reports_tokens() -> None:
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59,
             "input_token_details": {"text_tokens": 0, "audio_tokens": 14}}  # fmt: skip
    of = house(Reply.json({"text": "hi", "usage": usage}), prices=(PRICE,))

    body, content_type = form()
    await of.post("/v1/audio/transcriptions", body, content_type=content_type)

    assert (of.row["audio_input"], of.row["output"], of.row["cost_pico_usd"]) == (14, 45, 14 * 2 + 45 * 10)


async def test_a_transcription_streams() -> None:
    done = {"type": "transcript.text.done", "text": "hi", "usage": {"type": "duration", "seconds": 3}}
    stream = b'data: {"type":"transcript.text.delta","delta":"hi"}\n\ndata: ' + json.dumps(done).encode() + b"\n\n"
    of = house(Reply.events(stream[:30], stream[30:]))
    body, content_type = form(stream="true")

    answer = await of.post("/v1/audio/transcriptions", body, content_type=content_type)

    assert answer.content == stream
    assert of.row["units"] == {"millisecond": 3000}
    assert of.row["stream"] is True


async def test_a_transcription_that_says_nothing_is_estimated_from_the_file() -> None:
    of = house(Reply(200, {"content-type": "text/plain"}, (b"hi there",)))
    body, content_type = form(response_format="text")

    answer = await of.post("/v1/audio/transcriptions", body, content_type=content_type)

    assert answer.text == "hi there"
    assert of.row["units"] == {"millisecond": 1001}
    assert (of.row["usage_source"], of.row["input"]) == ("estimated", 0)


async def test_a_file_counts_for_no_tokens_of_a_limit() -> None:
    limit = Limit("limit:1", "100 input tokens per minute", "key", 100, 100, metric="input_tokens")
    of = house(ANSWERS["/v1/audio/transcriptions"], who=key(limits=(limit,)))

    answer = await call(of, "/v1/audio/transcriptions")

    assert answer.status_code == 200


@pytest.mark.parametrize(("body", "param"), [(b"nonsense", None), (encoded({}, {"file": WAV}), "model")])
async def test_a_form_that_cannot_be_read_is_refused(body: bytes, param: str | None) -> None:
    of = house()

    answer = await of.post("/v1/audio/transcriptions", body, content_type="multipart/form-data; boundary=xYz-1")

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


# ── moderation, reranking ──


async def test_a_moderation_may_leave_its_model_out() -> None:
    of = House(
        ScriptedUpstream(ANSWERS["/v1/moderations"]),
        snapshot(alias("omni-moderation-latest", deployment(adapter=get_adapter("openai"), model="omni-upstream"))),
    )

    answer = await of.post("/v1/moderations", {"input": "hello"})

    assert answer.status_code == 200
    assert of.upstream.bodies == [{"input": "hello", "model": "omni-upstream"}]


async def test_cohere_reranks_at_an_address_of_its_own() -> None:
    of = house(ANSWERS["/v1/rerank"], adapter="cohere", base_url="https://api.cohere.ai/compatibility/v1")

    await call(of, "/v1/rerank")

    assert str(of.upstream.requests[0].url) == "https://api.cohere.ai/v2/rerank"
    assert of.row["units"] == {"search": 1}


# ── budgets ──


@pytest.mark.parametrize(
    ("path", "cost"),
    [("/v1/images/generations", 8 * 10**10), ("/v1/audio/speech", 6 * 15 * 10**6), ("/v1/rerank", 2 * 10**9)],
)
async def test_a_strict_budget_pays_for_exactly_what_was_asked(path: str, cost: int) -> None:
    dearest = 24 * 10**10 if "images" in path else cost
    enough = house(ANSWERS[path], adapter="openai_compatible", who=budget(dearest))
    short = house(adapter="openai_compatible", who=budget(dearest - 1))

    paid, refused = await call(enough, path), await call(short, path)

    assert paid.status_code == 200
    assert (enough.row["cost_pico_usd"], enough.row["held_pico_usd"]) == (cost, dearest)
    assert enough.row["over_hold"] is False
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_quota")


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
async def test_a_strict_budget_needs_the_largest_cost_of_a_transcription(path: str) -> None:
    refused = await call(house(who=budget(10**13)), path)
    paid = house(ANSWERS[path], who=budget(10**13), max_request_pico_usd=10**12)

    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "cost_not_boundable")
    assert (await call(paid, path)).status_code == 200


async def test_a_strict_budget_cannot_bound_images_priced_by_tokens() -> None:
    answer = await call(house(who=budget(10**13), prices=(PRICE,)), "/v1/images/generations")

    assert answer.json()["error"]["code"] == "cost_not_boundable"


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/audio/speech", "/v1/audio/transcriptions"])
async def test_a_price_that_says_nothing_of_it_is_none(path: str) -> None:
    of = house(who=budget(10**13, strict=False), prices=(FREE,))
    free = house(ANSWERS[path], prices=(FREE,))

    answer = await call(of, path)
    await call(free, path)

    assert answer.json()["error"]["code"] == "model_not_priced"
    assert free.row["priced"] is False


async def test_what_a_dead_process_leaves_costs_what_was_asked() -> None:
    of = house(ANSWERS["/v1/images/generations"])

    await call(of, "/v1/images/generations")

    assert of.ledger.opened[0]["request_price"] == 8 * 10**10
