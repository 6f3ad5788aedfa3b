"""Results of batches are charged by whatever they are billed by, in every provider's form, and once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from billing.pricing import PriceVersion, UnitPrice
from llmgateway.key_secrets import digest
from llmgateway.pipeline.snapshot import BudgetRule, Deployment, KeyDigest
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import PEPPER, PRICE, House, alias, deployment, key, snapshot
from tests.providers.dialects.test_multipart import encoded

FREE = PriceVersion(7, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
HALF = replace(FREE, id=8, input=1, output=5)
BY_PAGE = (UnitPrice("page", 10**9), UnitPrice("page:annotated", 3 * 10**9))
BOBS = "sk-gw-bobbobbobb-0123456789abcdef"
BOB = key("bob", id="2", public_id="bobbobbobb", team_id=4, team_name="blue")
JOB_ID, OUT, ERRORS = (f"0b7a4bc1-35f0-4f9a-8f04-1c8f2a3d4e5{last}" for last in "abc")
JOB = {
    "id": JOB_ID, "object": "batch", "input_files": ["f"], "endpoint": "/v1/ocr", "model": "mistral-ocr-latest",
    "output_file": None, "error_file": None, "status": "QUEUED", "outputs": None,
}  # fmt: skip
DONE = {**JOB, "status": "SUCCESS", "output_file": OUT, "error_file": ERRORS}


def kept_at(adapter: str, model: str, **changes: Any) -> Deployment:
    base = "http://main.test/v1beta" if adapter == "gemini" else "http://main.test/v1"
    return deployment(provider="acme", model=model, adapter=get_adapter(adapter), base_url=base, **changes)


def house(made: Deployment, *replies: Reply) -> House:
    mine = snapshot(alias("it", made), deployments=(made,))
    return House(
        ScriptedUpstream(*replies), replace(mine, keys={**mine.keys, digest(BOBS.encode(), PEPPER): KeyDigest(BOB)})
    )


def lines(*results: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in results)


def content(*results: Any) -> Reply:
    return Reply(200, {"content-type": "application/octet-stream"}, (lines(*results),))


def answered(number: int, body: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "custom_id": str(number), "response": {"status_code": 200, "body": body}, "error": None}


def read(pages: int, **more: Any) -> dict[str, Any]:
    shown = [{"index": number, "markdown": "# A", "images": []} for number in range(pages)]
    usage = {"pages_processed": pages, "doc_size_bytes": 4711}
    return {
        "pages": shown,
        "model": "mistral-ocr-2505-completion",
        "document_annotation": None,
        "usage_info": usage,
        **more,
    }


NOTED = {"images": [{"id": "1", "image_annotation": '{"kind": "chart"}'}]}
RESULTS = (
    answered(1, read(2)),
    answered(2, read(3)),
    answered(3, read(4, document_annotation='{"title": "A"}')),
    answered(4, {**read(1), "pages": [NOTED]}),
    {"custom_id": "5", "response": {"status_code": 422, "body": {"detail": "no such document"}}, "error": None},
)
PAGES = {"page": 5, "page:annotated": 5}
READER = kept_at("mistral", "mistral-ocr-latest", prices=(replace(FREE, units=BY_PAGE),))


async def with_job(*replies: Reply, made: Deployment = READER) -> House:
    """A house in which alice has made a job of Mistral's, and has seen that it is done."""
    of = house(made, Reply.json(JOB), Reply.json(DONE), *replies)
    await of.post("/v1/batch/jobs", {"input_files": ["f"], "model": "mistral-ocr-latest", "endpoint": "/v1/ocr"})
    await of.get(f"/v1/batch/jobs/{JOB_ID}")
    return of


def charged(of: House) -> list[int]:
    return [row["cost_pico_usd"] for row in of.ledger.closed if row["usage_source"] != "none"]


# ── documents ──


@pytest.mark.parametrize("path", [f"/v1/files/{OUT}/content", f"/acme/v1/files/{OUT}/content"])
async def test_documents_are_charged_by_the_page_and_once(path: str) -> None:
    of = await with_job(content(*RESULTS), content(*RESULTS))

    first, second = await of.get(path), await of.get(f"/v1/files/{OUT}/content", range="bytes=0-99")

    assert first.content == second.content == lines(*RESULTS)
    row, again = of.ledger.closed[-2:]
    assert (row["units"], row["cost_pico_usd"], row["usage_source"]) == (PAGES, 5 * 10**9 + 15 * 10**9, "provider")
    assert (row["model"], row["price_id"], row["priced"]) == ("mistral-ocr-latest", 7, True)
    assert row["usage_raw"] == {"requests": 4, "models": {"mistral-ocr-2505-completion": 4}}
    assert (again["cost_pico_usd"], again["usage_source"]) == (0, "none")
    assert "range" not in of.upstream.requests[-1].headers


async def test_pages_of_batches_have_a_price_of_their_own_if_one_is_given() -> None:
    half = replace(FREE, id=9, units=(UnitPrice("page", 5 * 10**8),))
    of = await with_job(content(*RESULTS), made=replace(READER, batch_prices=(half,)))

    await of.get(f"/v1/files/{OUT}/content")

    assert (of.ledger.closed[-1]["cost_pico_usd"], of.ledger.closed[-1]["price_id"]) == (10 * 5 * 10**8, 9)


@pytest.mark.parametrize("metadata", [None, {}, {"model": 7, "output": "of mine"}, {"output": {"inlinedResponses": 1}}])
async def test_results_that_the_job_shows_are_those_of_its_file(metadata: Any) -> None:
    shown = {**DONE, "outputs": list(RESULTS), "name": None, "metadata": metadata}
    of = await with_job(Reply.json(shown), Reply.json(shown), Reply.json({"data": [shown]}), content(*RESULTS))

    for path in (f"/v1/batch/jobs/{JOB_ID}?inline=true", f"/acme/v1/batch/jobs/{JOB_ID}?inline=true", "/v1/batch/jobs"):
        assert (await of.get(path)).status_code == 200
    await of.get(f"/v1/files/{OUT}/content")

    assert charged(of) == [20 * 10**9]
    assert of.ledger.closed[2]["units"] == PAGES


async def test_of_many_who_see_a_job_without_a_file_at_once_one_is_charged() -> None:
    of = await with_job(*[Reply.json({**DONE, "output_file": None, "outputs": list(RESULTS)})] * 12)

    await asyncio.gather(*[of.get(f"/v1/batch/jobs/{JOB_ID}?inline=true") for _ in range(12)])

    assert charged(of) == [20 * 10**9]


@pytest.mark.parametrize("path", [f"/v1/files/{OUT}/content", f"/acme/v1/files/{OUT}", f"/acme/v1/files/{ERRORS}"])
async def test_files_of_a_job_are_its_team_s(path: str) -> None:
    of = await with_job()

    answer = await of.request("GET", path, b"", {"authorization": f"Bearer {BOBS}"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "object_not_found")


async def test_jobs_of_others_in_a_list_are_neither_charged_nor_shown() -> None:
    others = {**DONE, "outputs": list(RESULTS)}
    of = await with_job(Reply.json({"data": [others]}))

    answer = await of.request("GET", "/acme/v1/batch/jobs", b"", {"authorization": f"Bearer {BOBS}"})

    assert answer.json() == {"data": []}
    assert charged(of) == []


async def test_the_address_of_results_is_not_handed_out() -> None:
    document = {"id": "0b7a4bc1-35f0-4f9a-8f04-1c8f2a3d4e5d", "object": "file", "purpose": "ocr"}
    of = await with_job(Reply.json(document), Reply.json({"url": "https://signed.test/a.pdf"}))
    form = encoded({"purpose": "ocr"}, {"file": b'{"model": "no batch"}'})
    await of.post("/v1/files", form, content_type="multipart/form-data; boundary=xYz-1")

    results, unknown, own = [
        await of.get(f"/acme/v1/files/{each}/url") for each in (OUT, OUT[:-1] + "e", document["id"])
    ]

    assert (results.status_code, unknown.status_code, own.status_code) == (404, 404, 200)
    assert f"/v1/files/{OUT}/content" in results.json()["error"]["message"]


@pytest.mark.parametrize("custom_id", [{}, {"custom_id": None}, {"custom_id": 7}])
async def test_a_result_that_nobody_gave_an_id_is_charged_too(custom_id: dict[str, Any]) -> None:
    of = await with_job(content({"response": {"status_code": 200, "body": read(2)}, **custom_id}))

    await of.get(f"/v1/files/{OUT}/content")

    assert charged(of) == [2 * 10**9]


# ── whatever else batches answer, in OpenAI's form ──

VECTORS = {"object": "list", "data": [], "model": "m-2025-01-01", "usage": {"prompt_tokens": 7, "total_tokens": 7}}
FLAGGED = {"id": "modr-1", "model": "m-2025-01-01", "results": [{"flagged": True}]}
PICTURES = {
    "created": 1, "data": [{"b64_json": "AA"}, {"b64_json": "AA"}], "quality": "high", "size": "1024x1024",
    "usage": {"input_tokens": 5, "output_tokens": 9, "output_tokens_details": {"image_tokens": 9}},
}  # fmt: skip
HEARD = {"task": "transcribe", "duration": 2.5, "text": "Hello", "x_groq": {"id": "r"}}
SEARCHED = {
    "object": "response", "model": "m-2025-01-01", "usage": {"input_tokens": 5, "output_tokens": 3},
    "output": [{"type": "web_search_call", "action": {"type": "search"}}],
}  # fmt: skip
UNSAID = {"object": "chat.completion", "model": "m-2025-01-01", "choices": [{"message": {"content": "A" * 400}}]}


@pytest.mark.parametrize(
    ("body", "units", "tokens", "pico_usd", "source"),
    [
        (VECTORS, {}, (14, 0), 14, "provider"),
        (PICTURES, {"image:high:1024x1024": 4, "image_token": 18}, (10, 18), 10 + 18 * 5 + 4 * 700, "provider"),
        (HEARD, {"millisecond": 5_000}, (0, 0), 5_000 * 2, "provider"),
        ({"text": "A" * 15}, {"millisecond": 2_000}, (0, 0), 2_000 * 2, "estimated"),
        (SEARCHED, {"search": 2}, (10, 6), 10 + 6 * 5 + 2 * 900, "provider"),
        (FLAGGED, {}, (0, 0), 0, "estimated"),
        (UNSAID, {}, (0, 248), 248 * 5, "estimated"),
    ],
    ids=["embeddings", "images", "sound", "sound of unsaid length", "searches", "moderations", "no usage"],
)
async def test_every_kind_is_charged_by_what_it_is_billed_by(
    body: dict[str, Any], units: dict[str, int], tokens: tuple[int, int], pico_usd: int, source: str
) -> None:
    prices = (UnitPrice("image", 700), UnitPrice("millisecond", 2), UnitPrice("search", 900))
    made = kept_at("openai", "m", prices=(PRICE,), batch_prices=(replace(HALF, units=prices),))
    batch = {"id": "batch_1", "object": "batch", "model": "m-2025-01-01", "output_file_id": "file-out"}
    of = house(made, Reply.json(batch), content(answered(1, body), answered(2, body)))
    await of.post("/v1/batches", {"endpoint": "/v1/x"})

    await of.get("/v1/files/file-out/content")

    row = of.ledger.closed[-1]
    assert (row.get("units", {}), row["input"], row["usage_source"]) == (units, tokens[0], source)
    assert (row["output"], row["cost_pico_usd"]) == (tokens[1], pico_usd)
    assert (row["model"], row["price_id"]) == ("m", 8)


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ((b'{"model": "m"}', b'{"model": "m"}'), "m"),
        ((b'{"model": "m"}', b'{"model": "n"}'), ""),
        ((rb'{"model": "m", "prompt": "\u00e4\u00f6"}',), "m"),
        ((rb'{"model": "m", "mod\u0065l": "n"}',), ""),
    ],
    ids=["one model", "several", "escapes in texts", "one in disguise"],
)
async def test_a_model_that_neither_result_nor_batch_names_is_that_of_the_requests(
    asked: tuple[bytes, ...], model: str
) -> None:
    made = kept_at("groq", "m", prices=(replace(FREE, units=(UnitPrice("millisecond", 2),)),))
    batch = {"id": "batch_1", "object": "batch", "input_file_id": "file-in", "output_file_id": "file-out"}
    of = house(made, Reply.json({"id": "file-in"}), Reply.json(batch), content(answered(1, HEARD)))
    form = encoded(
        {"purpose": "batch"}, {"file": b"\n".join(b'{"custom_id": "1", "body": %b}' % each for each in asked)}
    )
    await of.post("/v1/files", form, content_type="multipart/form-data; boundary=xYz-1")
    await of.post("/v1/batches", {"input_file_id": "file-in", "endpoint": "/v1/audio/transcriptions"})

    await of.get("/v1/files/file-out/content")

    row = of.ledger.closed[-1]
    assert (row["response_model"], row["units"]) == (model, {"millisecond": 2_500})
    assert (row["cost_pico_usd"], row["priced"]) == ((5_000, True) if model else (0, False))


async def test_a_batch_of_two_models_of_which_one_has_no_price_is_marked() -> None:
    said = {"object": "chat.completion", "usage": {"prompt_tokens": 10, "completion_tokens": 0}}
    of = house(kept_at("openai", "m"), Reply.json({"id": "batch_1", "output_file_id": "file-out"}), content(
        answered(1, {**said, "model": "n"}), answered(2, {**said, "model": "m"})
    ))  # fmt: skip
    await of.post("/v1/batches", {"endpoint": "/v1/x"})

    await of.get("/v1/files/file-out/content")

    row = of.ledger.closed[-1]
    assert (row["input"], row["cost_pico_usd"], row["priced"]) == (20, 10 * PRICE.input, False)
    assert row["usage_raw"] == {"requests": 2, "models": {"n": 1, "m": 1}}


# ── forms of their own ──

MESSAGE = {
    "id": "msg_1", "type": "message", "model": "claude-sonnet-4-5-20250929", "content": [],
    "usage": {"input_tokens": 10, "output_tokens": 4, "cache_read_input_tokens": 3},
}  # fmt: skip
BATCH_ID = "msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d"


async def test_batches_of_messages_are_charged_when_their_results_are_fetched() -> None:
    results = (
        {"custom_id": "1", "result": {"type": "succeeded", "message": MESSAGE}},
        {"custom_id": "2", "result": {"type": "succeeded", "message": MESSAGE}},
        {"custom_id": "3", "result": {"type": "errored", "error": {"type": "error", "error": {"type": "x"}}}},
        {"custom_id": "4", "result": {"type": "expired"}},
    )
    made = kept_at("anthropic", "claude-sonnet-4-5", batch_prices=(HALF,))
    batch = {"id": BATCH_ID, "type": "message_batch"}
    of = house(made, Reply.json(batch), Reply.json(batch), content(*results), content(*results))
    await of.post("/acme/v1/messages/batches", {"requests": []})
    await of.get(f"/acme/v1/messages/batches/{BATCH_ID}")

    answers = [
        await of.get(f"/acme/v1/messages/batches/{BATCH_ID}/results{end}", range="bytes=9-")
        for end in ("", "?beta=true")
    ]

    assert [answer.content for answer in answers] == [lines(*results)] * 2
    assert "range" not in of.upstream.requests[-1].headers
    assert charged(of) == [20 * 1 + 8 * 5]
    row = of.ledger.closed[2]
    assert (row["input"], row["cache_read"], row["output"], row["price_id"]) == (20, 6, 8, 8)


async def test_a_batch_that_shows_its_results_when_it_is_done_is_charged_and_its_team_s() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, "cost": 0.000002}
    said = {"id": "gen-1", "object": "chat.completion", "model": "acme/m", "choices": [], "usage": usage}
    begun = {"id": "batch_0123456789abcdef", "object": "batch", "model": "acme/m", "status": "validating"}
    done = Reply.json({**begun, "status": "completed", "results": [answered(1, said), answered(2, said)]})
    made = kept_at("openrouter", "acme/m", batch_prices=(HALF,))
    of = house(made, Reply.json({**begun, "results": None}), Reply.json({**begun, "results": None}), done, done)
    await of.post("/acme/api/v1/batches", {"endpoint": "/v1/chat/completions", "requests": []})
    path = "/acme/api/v1/batches/batch_0123456789abcdef"

    answers = [await of.get(path) for _ in range(3)]
    foreign = await of.request("GET", path, b"", {"authorization": f"Bearer {BOBS}"})

    assert ([each.status_code for each in answers], foreign.status_code) == ([200] * 3, 404)
    assert charged(of) == [2 * (10 + 4 * 5)]
    assert of.ledger.closed[2]["reported_cost_pico_usd"] == 4 * 10**6


async def test_a_budget_pays_for_them() -> None:
    day = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC")
    made = kept_at("anthropic", "claude-sonnet-4-5", batch_prices=(HALF,))
    mine = snapshot(alias("it", made), who=key(budgets=(day,)), deployments=(made,))
    of = House(ScriptedUpstream(content({"custom_id": "1", "result": {"type": "succeeded", "message": MESSAGE}})), mine)

    await of.get(f"/acme/v1/messages/batches/{BATCH_ID}/results")

    assert of.row["cost_pico_usd"] == 10 * 1 + 4 * 5
    assert (await of.store.state(day)).settled_pico_usd == 30


GENERATED = {
    "candidates": [{"content": {"parts": [{"text": "Hi"}]}}], "modelVersion": "gemini-2.5-flash",
    "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 4, "totalTokenCount": 14},
}  # fmt: skip
EMBEDDED = {"tokenCount": "7", "embedding": {"values": [0.5]}}


def operation(**output: Any) -> dict[str, Any]:
    said = {
        "model": "models/gemini-2.5-flash",
        "name": "batches/b1",
        "state": "BATCH_STATE_SUCCEEDED",
        "output": output,
    }
    return {"name": "batches/b1", "metadata": said, "done": True, "response": output}


@pytest.mark.parametrize(
    ("end", "output"),
    [
        ("batchGenerateContent", {"inlinedResponses": {"inlinedResponses": [{"response": GENERATED}] * 2}}),
        (
            "asyncBatchEmbedContent",
            {"inlinedEmbedContentResponses": {"inlinedResponses": [{"response": EMBEDDED}] * 2}},
        ),
    ],
    ids=["contents", "embeddings"],
)
async def test_results_within_an_operation_are_charged_when_it_is_seen_first(end: str, output: Any) -> None:
    done = Reply.json(operation(**output))
    begun = Reply.json({"name": "batches/b1", "metadata": {"model": "models/gemini-2.5-flash"}})
    of = house(kept_at("gemini", "gemini-2.5-flash", batch_prices=(HALF,)), begun, begun, done, done,
               Reply.json({"operations": [operation(**output)]}))  # fmt: skip
    await of.post(f"/acme/v1beta/models/gemini-2.5-flash:{end}", {"batch": {}})

    for path in (
        "/acme/v1beta/batches/b1",
        "/acme/v1beta/batches/b1",
        "/acme/v1beta/batches/b1",
        "/acme/v1beta/batches",
    ):
        assert (await of.get(path)).status_code == 200
    foreign = await of.request("GET", "/acme/v1beta/batches/b1", b"", {"authorization": f"Bearer {BOBS}"})

    assert foreign.status_code == 404
    assert charged(of) == [20 + 8 * 5 if end == "batchGenerateContent" else 14]
    assert of.ledger.closed[2]["cost_pico_usd"] > 0


@pytest.mark.parametrize(
    ("answer", "pico_usd"), [(GENERATED, 20 + 8 * 5), (EMBEDDED, 14)], ids=["contents", "embeddings"]
)
async def test_a_file_with_results_is_charged_and_its_team_s(answer: Any, pico_usd: int) -> None:
    results = ({"key": "1", "response": answer}, {"key": "2", "response": answer}, {"key": "3", "error": {"code": 3}})
    of = house(
        kept_at("gemini", "gemini-2.5-flash", batch_prices=(HALF,)), Reply.json({"name": "batches/b1"}),
        Reply.json(operation(responsesFile="files/batch-b1")), content(*results), content(*results),
    )  # fmt: skip
    await of.post("/acme/v1beta/models/gemini-2.5-flash:batchGenerateContent", {"batch": {}})
    await of.get("/acme/v1beta/batches/b1")
    path = "/acme/download/v1beta/files/batch-b1:download?alt=media"

    foreign = await of.request("GET", path, b"", {"authorization": f"Bearer {BOBS}"})
    for _ in range(2):
        await of.get(path, range="bytes=9-")

    assert foreign.status_code == 404
    assert charged(of) == [pico_usd]


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "1", "method": "POST", "url": "/v1/ocr", "body": read(1)},
        {"custom_id": "1", "response": None, "error": {"code": "x"}},
        {"custom_id": "1", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}},
        {"response": {"text": "a line of somebody's own"}},
        {"response": "text"},
    ],
)
async def test_other_lines_cost_nothing(line: dict[str, Any]) -> None:
    of = await with_job(content(line))

    await of.get(f"/v1/files/{OUT}/content")

    assert charged(of) == []
