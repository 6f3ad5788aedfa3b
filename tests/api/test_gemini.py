"""Gemini's surface: its paths, its two ways to stream, its lists and its errors; to any provider."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from billing.money import PICO_PER_USD
from llmgateway.http import httpx
from llmgateway.pipeline.snapshot import BudgetRule
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, SECRET, House, alias, deployment, key, snapshot

GOOGLE = deployment(
    "google",
    2,
    provider="google",
    adapter=get_adapter("gemini"),
    base_url="http://google.test/v1beta",
    model="gemini-9-flash",
    headers=((b"x-goog-api-key", b"provider-secret"),),
    max_output_tokens=8192,
)
MAIN = deployment()
HELLO: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
USAGE = {"promptTokenCount": 8, "candidatesTokenCount": 4, "thoughtsTokenCount": 3, "totalTokenCount": 15}


def chunk(text: str, finish: str = "") -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": USAGE, "modelVersion": "gemini-9-flash", "responseId": "r1"}


ANSWER = chunk("Hello", "STOP")
EVENTS = [chunk("Hel"), chunk("lo", "STOP")]
STREAM = tuple(f"data: {json.dumps(event)}\r\n\r\n".encode() for event in EVENTS)


def house(*replies: Reply, who: Any = None, more: tuple[Any, ...] = (), google: Any = GOOGLE) -> House:
    named = (alias("flash", google), alias("gpt", MAIN), alias("team/gpt", MAIN), *more)
    return House(ScriptedUpstream(*replies), snapshot(*named, who=who, deployments=(MAIN, google)))


@pytest.mark.parametrize(
    "prefix", ["/v1beta", "/v1", "/v1alpha", "/gemini/v1beta", "/gemini/v1", "/google/v1beta", "/google/v1"]
)
async def test_every_path_that_clients_know_leads_to_the_model(prefix: str) -> None:
    place = house(Reply.json(ANSWER))
    body = {**HELLO, "novel": {"kept": True}}

    response = await place.post(f"{prefix}/models/flash:generateContent", body, authorization="", x_goog_api_key=SECRET)

    assert (response.status_code, response.json()) == (200, ANSWER)
    sent = place.upstream.requests[0]
    assert str(sent.url) == "http://google.test/v1beta/models/gemini-9-flash:generateContent"
    assert sent.headers["x-goog-api-key"] == "provider-secret"
    assert place.upstream.bodies == [body]
    assert (place.row["input"], place.row["output"], place.row["reasoning"]) == (8, 4, 3)
    assert (place.row["alias"], place.row["response_model"]) == ("flash", "gemini-9-flash")


async def test_the_key_may_stand_in_the_query() -> None:
    place = house(Reply.json(ANSWER))

    response = await place.post(f"/v1beta/models/flash:generateContent?key={SECRET}", HELLO, authorization="")

    assert response.status_code == 200
    assert "key" not in str(place.upstream.requests[0].url)


async def test_a_model_may_be_called_by_the_provider_s_name_under_its_prefix() -> None:
    place = house(Reply.json(ANSWER))

    under = await place.post("/gemini/v1beta/models/gemini-9-flash:generateContent", HELLO)
    bare = await place.post("/v1beta/models/gemini-9-flash:generateContent", HELLO)

    assert (under.status_code, bare.status_code) == (200, 404)
    assert bare.json()["error"]["status"] == "NOT_FOUND"


async def test_a_name_with_slashes_is_one_name() -> None:
    place = house(Reply.json(CHAT))

    response = await place.post("/v1beta/models/team/gpt:generateContent", HELLO)

    assert response.status_code == 200
    assert place.row["alias"] == "team/gpt"


async def test_a_stream_of_events_is_the_provider_s_own() -> None:
    place = house(Reply.events(*STREAM))

    response = await place.post("/v1beta/models/flash:streamGenerateContent?alt=sse", HELLO)

    assert response.content == b"".join(STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert str(place.upstream.requests[0].url).endswith("gemini-9-flash:streamGenerateContent?alt=sse")
    assert (place.row["usage_source"], place.row["output"], place.row["status"]) == ("provider", 4, "completed")


async def test_without_alt_a_stream_is_one_list() -> None:
    place = house(Reply.events(*STREAM))

    response = await place.post("/gemini/v1beta/models/flash:streamGenerateContent", HELLO)

    assert response.json() == EVENTS
    assert response.headers["content-type"] == "application/json"
    assert str(place.upstream.requests[0].url).endswith("?alt=sse")
    assert place.row["output"] == 4


async def test_an_answer_of_another_dialect_is_translated() -> None:
    place = house(Reply.json(CHAT))

    response = await place.post("/v1beta/models/gpt:generateContent", HELLO)

    assert place.upstream.bodies[0]["messages"] == [{"role": "user", "content": "Hi"}]
    answer = response.json()
    assert answer["candidates"][0]["content"] == {"parts": [{"text": "Hello"}], "role": "model"}
    assert answer["usageMetadata"]["totalTokenCount"] == 16


@pytest.mark.parametrize("query", ["", "?alt=sse"])
async def test_a_provider_that_does_not_stream_still_answers_as_one(query: str) -> None:
    place = house(Reply.json(CHAT))

    response = await place.post(f"/v1beta/models/gpt:streamGenerateContent{query}", HELLO)

    events = (
        [json.loads(each.removeprefix("data: ")) for each in response.text.split("\r\n\r\n") if each]
        if query
        else response.json()
    )
    assert events[0]["candidates"][0]["content"]["parts"] == [{"text": "Hello"}]
    assert events[-1]["candidates"][0]["finishReason"] == "STOP"


async def test_openais_clients_reach_it() -> None:
    place = house(Reply.json(ANSWER))

    response = await place.chat({"model": "flash", "reasoning_effort": "low", "user": "bob"})

    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert response.json()["usage"]["completion_tokens"] == 7
    sent = place.upstream.bodies[0]
    assert sent["contents"] == HELLO["contents"]
    assert sent["generationConfig"]["thinkingConfig"] == {"thinkingLevel": "LOW"}
    assert response.headers["x-gateway-dropped-params"] == "user"


async def test_an_embedding_reaches_either_kind_of_provider() -> None:
    body = {"content": {"parts": [{"text": "a"}]}}
    native = house(Reply.json({"embedding": {"values": [0.5]}}))
    other = house(Reply.json({"data": [{"index": 0, "embedding": [0.25]}], "usage": {"prompt_tokens": 2}}))

    own = await native.post("/v1beta/models/flash:embedContent", body)
    foreign = await other.post("/v1beta/models/gpt:batchEmbedContents", {"requests": [body]})

    assert own.json() == {"embedding": {"values": [0.5]}}
    assert foreign.json()["embeddings"] == [{"values": [0.25]}]
    assert other.upstream.bodies[0]["input"] == ["a"]
    assert (native.row["usage_source"], other.row["input"]) == ("estimated", 2)


async def test_tokens_are_counted_by_a_provider_that_has_the_same_call() -> None:
    place = house(Reply.json({"totalTokens": 7}))
    body = {"generateContentRequest": {"model": "models/flash", **HELLO}}

    response = await place.post("/v1beta/models/flash:countTokens", body)

    assert response.json() == {"totalTokens": 7}
    assert str(place.upstream.requests[0].url) == "http://google.test/v1beta/models/gemini-9-flash:countTokens"
    assert place.upstream.bodies[0]["generateContentRequest"]["model"] == "models/gemini-9-flash"
    assert (place.row["cost_pico_usd"], place.row["usage_source"]) == (0, "none")


async def test_tokens_are_estimated_where_nobody_counts_them_or_a_budget_is_strict_about_it() -> None:
    place = house()
    budget = BudgetRule(1, "day", "key", "1", "day", PICO_PER_USD, "UTC")
    poor = house(who=key(budgets=(budget,)))

    elsewhere = await place.post("/v1beta/models/gpt:countTokens", HELLO)
    budgeted = await poor.post("/v1beta/models/flash:countTokens", HELLO)

    for response in (elsewhere, budgeted):
        assert response.json()["totalTokens"] > 0
        assert response.headers["x-gateway-token-count"] == "estimated"
    assert place.upstream.requests == poor.upstream.requests == []
    assert place.ledger.closed == []


async def test_models_are_listed_in_pages_in_googles_words() -> None:
    place = house(who=key(models=frozenset({"flash", "gpt"})))

    first = (await place.get("/v1beta/models?pageSize=1")).json()
    second = (await place.get(f"/gemini/v1beta/models?pageSize=1&pageToken={first['nextPageToken']}")).json()
    one = (await place.get("/v1beta/models/flash")).json()

    assert [model["name"] for model in (*first["models"], *second["models"])] == ["models/flash", "models/gpt"]
    assert "nextPageToken" not in second
    assert one == first["models"][0]
    assert one["outputTokenLimit"] == 8192
    assert {"generateContent", "embedContent"} <= set(one["supportedGenerationMethods"])


async def test_the_common_list_is_in_googles_words_for_googles_clients() -> None:
    place = house()

    google = await place.get("/v1/models", authorization="", x_goog_api_key=SECRET)
    one = await place.get("/v1/models/flash", authorization="", x_goog_api_key=SECRET)
    openai = await place.get("/v1/models")

    assert google.json()["models"][0]["name"] == "models/flash"
    assert one.json()["name"] == "models/flash"
    assert openai.json()["object"] == "list"


@pytest.mark.parametrize(
    ("path", "body", "status", "name", "reason"),
    [
        ("/v1beta/models/gone:generateContent", HELLO, 404, "NOT_FOUND", "model_not_found"),
        ("/v1beta/models/team/gpt:generateContent", HELLO, 403, "PERMISSION_DENIED", "model_not_allowed"),
        ("/v1beta/models/team/gpt:countTokens", HELLO, 403, "PERMISSION_DENIED", "model_not_allowed"),
        ("/v1beta/models/gone:countTokens", HELLO, 404, "NOT_FOUND", "model_not_found"),
        ("/v1beta/models/flash:generateContent", b"{", 400, "INVALID_ARGUMENT", "invalid_json"),
        ("/v1beta/models/gpt:generateContent", {"contents": 7}, 400, "INVALID_ARGUMENT", "invalid_value"),
    ],
)
async def test_errors_are_in_googles_envelope(path: str, body: Any, status: int, name: str, reason: str) -> None:
    place = house(who=key(models=frozenset({"flash", "gpt", "gone"})))

    response = await place.post(path, body)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (status, status, name)
    assert error["details"][0]["reason"] == reason


async def test_a_wrong_key_and_a_wrong_method_are_told_in_googles_envelope() -> None:
    place = house()

    nobody = await place.post("/v1beta/models/flash:generateContent", HELLO, authorization="", x_goog_api_key="no")
    wrong = await place.get("/v1beta/models/flash:generateContent")
    pages = await place.get("/v1beta/models?pageSize=many")

    assert (nobody.status_code, nobody.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, 405)
    assert (pages.status_code, pages.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


async def test_a_providers_error_is_its_own() -> None:
    error = {"error": {"code": 400, "message": "No.", "status": "FAILED_PRECONDITION"}}
    place = house(Reply.json(error, status=400))

    response = await place.post("/v1beta/models/flash:streamGenerateContent", HELLO)

    assert (response.status_code, response.json()) == (400, error)


@pytest.mark.parametrize("path", ["/v1beta/models/flash:novelMethod", "/v1beta/cachedContents", "/v1alpha/x/models"])
async def test_what_nobody_knows_is_not_found_in_googles_words(path: str) -> None:
    response = await house().post(path, HELLO)

    assert (response.status_code, response.json()["error"]["status"]) == (404, "NOT_FOUND")


async def test_prefixes_of_nobody_are_nobodys() -> None:
    response = await house().post("/elsewhere/v1beta/models/flash:generateContent", HELLO)

    assert response.json()["error"]["code"] == "unknown_endpoint"


def strict(limit_usd_millionths: int) -> Any:
    """A key whose budget must not be overspent."""
    limit = limit_usd_millionths * PICO_PER_USD // 1_000_000
    return key(budgets=(BudgetRule(1, "day", "key", "1", "day", limit, "UTC", strict=True),))


@pytest.mark.parametrize(
    ("config", "cap"),
    [({}, None), ({"maxOutputTokens": 900_000, "topK": 3}, None), ({"maxOutputTokens": 300}, 300)],
)
async def test_a_strict_budget_caps_the_output_where_gemini_has_it(config: dict[str, Any], cap: int | None) -> None:
    place = house(Reply.json(ANSWER), who=strict(limit_usd_millionths=1))

    response = await place.post("/v1beta/models/flash:generateContent", {**HELLO, "generation_config": config})

    sent = place.upstream.bodies[0]["generation_config"]
    said = response.headers.get("x-gateway-output-cap")
    assert sent == {**config, "maxOutputTokens": cap or int(said or 0)}
    assert (said is None) is (cap is not None)
    assert place.row["cost_pico_usd"] <= place.row["held_pico_usd"]


async def test_a_strict_budget_caps_translated_output_too() -> None:
    to_gemini = house(Reply.json(ANSWER), who=strict(limit_usd_millionths=1))
    from_gemini = house(Reply.json(CHAT), who=strict(limit_usd_millionths=1))

    await to_gemini.chat({"model": "flash"})
    await from_gemini.post("/v1beta/models/gpt:generateContent", HELLO)

    assert to_gemini.upstream.bodies[0]["generationConfig"]["maxOutputTokens"] > 0
    assert from_gemini.upstream.bodies[0]["max_tokens"] > 0


async def test_a_strict_budget_refuses_contents_whose_size_nobody_knows() -> None:
    place = house(who=strict(limit_usd_millionths=1_000_000))
    film = {"fileData": {"fileUri": "https://example.org/film.mp4"}}

    response = await place.post("/v1beta/models/flash:generateContent", {"contents": [{"parts": [film]}]})

    assert (response.status_code, response.json()["error"]["status"]) == (402, "RESOURCE_EXHAUSTED")
    assert response.json()["error"]["details"][0]["reason"] == "cost_not_boundable"


async def test_an_error_inside_a_stream_is_seen_and_stands_in_the_ledger() -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    events = (STREAM[0], f"data: {json.dumps(error)}\r\n\r\n".encode())
    native, translated = house(Reply.events(*events)), house(Reply.events(*events))

    own = await native.post("/v1beta/models/flash:streamGenerateContent", HELLO)
    other = await translated.chat({"model": "flash", "stream": True})

    assert own.json()[-1] == error
    assert "The model is overloaded." in other.text
    assert native.row["status"] == translated.row["status"] == "failed"


async def test_a_stream_that_breaks_off_ends_with_an_error_in_either_form() -> None:
    torn = (STREAM[0], STREAM[1][:20], httpx.ReadError("torn"))
    events, listed = house(Reply.events(*torn)), house(Reply.events(*torn))

    as_events = await events.post("/v1beta/models/flash:streamGenerateContent?alt=sse", HELLO)
    as_list = await listed.post("/v1beta/models/flash:streamGenerateContent", HELLO)

    last = json.loads(as_events.text.split("data: ")[-1])
    assert last["error"]["status"] == "UNAVAILABLE"
    assert [next(iter(element)) for element in as_list.json()] == ["candidates", "error"]
    assert events.row["status"] == listed.row["status"] == "failed"


# ── what is attached, where usage does not tell kinds apart ──

PER_KIND = replace(PRICE, image_input=7, audio_input=11)
PICTURE = {"inlineData": {"mimeType": "image/png", "data": "A" * 4_000}}
SOUND = {"inlineData": {"mimeType": "audio/wav", "data": "A" * 4_000}}
WORDS = {"text": "twelve chars"}
"""Three tokens."""


def told(*details: tuple[str, int], **usage: int) -> Reply:
    counted = [{"modality": name, "tokenCount": tokens} for name, tokens in details]
    said = {"promptTokenCount": 300, "candidatesTokenCount": 4, "totalTokenCount": 304, **usage}
    return Reply.json({**ANSWER, "usageMetadata": said | ({"promptTokensDetails": counted} if counted else {})})


def asked(*parts: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}]}


def buckets(of: House) -> tuple[int, int, int, int]:
    return of.row["input"], of.row["cache_read"], of.row["image_input"], of.row["audio_input"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (asked(PICTURE), (0, 0, 300, 0)),
        (asked(WORDS, PICTURE), (3, 0, 297, 0)),
        (asked({"text": "x" * 9_000}, PICTURE), (300, 0, 0, 0)),
        (asked({"text": "漢" * 100}, PICTURE), (100, 0, 200, 0)),
        (asked(WORDS, SOUND), (3, 0, 0, 297)),
        ({**asked(PICTURE), "systemInstruction": {"parts": [WORDS]}}, (3, 0, 297, 0)),
        (asked(WORDS), (300, 0, 0, 0)),
        (asked(PICTURE, SOUND), (300, 0, 0, 0)),
        (asked(PICTURE, {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}}), (300, 0, 0, 0)),
        (asked(PICTURE, {"fileData": {"mimeType": "audio/wav", "fileUri": "https://a.test/b"}}), (300, 0, 0, 0)),
    ],
    ids=["a picture", "and words", "more words than tokens", "words beyond ASCII", "sound", "instructions", "words alone",
         "two kinds", "a document besides", "a file besides"],
)  # fmt: skip
async def test_what_is_attached_has_its_own_price_though_nobody_says_how_many_tokens_it_is(
    body: dict[str, Any], found: tuple[int, int, int, int]
) -> None:
    place = house(told(), google=replace(GOOGLE, prices=(PER_KIND,)))

    await place.post("/v1beta/models/flash:generateContent", body)

    assert buckets(place) == found
    assert sum(found) == 300, "what the provider said"
    text, _, images, sound = found
    assert place.row["cost_pico_usd"] == text * PRICE.input + images * 7 + sound * 11 + 4 * PRICE.output
    assert place.row["usage_source"] == "provider"


async def test_it_is_found_in_the_words_of_other_protocols_too() -> None:
    place = house(told())
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 4_000}"}}

    await place.chat({"model": "flash", "messages": [{"role": "user", "content": [picture]}]})

    assert buckets(place) == (0, 0, 300, 0)


async def test_what_the_provider_says_of_kinds_stands() -> None:
    place = house(told(("TEXT", 290), ("IMAGE", 10)))

    await place.post("/v1beta/models/flash:generateContent", asked(PICTURE))

    assert buckets(place) == (290, 0, 10, 0)


async def test_what_was_cached_was_text_first() -> None:
    place = house(told(cachedContentTokenCount=2))

    await place.post("/v1beta/models/flash:generateContent", asked(WORDS, PICTURE))

    assert buckets(place) == (1, 2, 297, 0)


async def test_figures_that_contradict_each_other_are_left_as_they_are() -> None:
    place = house(told(totalTokenCount=999))

    await place.post("/v1beta/models/flash:generateContent", asked(PICTURE))

    assert buckets(place) == (300, 0, 0, 0)


async def test_a_picture_that_is_embedded_is_no_text() -> None:
    place = house(Reply.json({"embedding": {"values": [0.5]}, "usageMetadata": {"promptTokenCount": 258}}))

    await place.post("/v1beta/models/flash:embedContent", {"content": {"parts": [PICTURE]}})

    assert buckets(place) == (0, 0, 258, 0)
    assert place.ledger.opened[0]["input_estimate"] < 50
