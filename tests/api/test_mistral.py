"""Mistral's SDKs: with the gateway for a base URL, any provider's model behind it, and Mistral's own paths."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from billing.pricing import PriceVersion, UnitPrice
from llmgateway.pipeline.snapshot import BudgetRule
from providers.adapters.mistral import Mistral
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, House, alias, deployment, key, snapshot

FREE = PriceVersion(7, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
AGENT = "mistral-client-python/3.7.0"
PLAIN = deployment(provider="acme")
MISTRAL = deployment("there", 2, provider="sea", adapter=get_adapter("mistral"))
NAMED = deployment("named", 3, provider="mistral", adapter=get_adapter("mistral"))
EMBEDDED: dict[str, Any] = {
    "object": "list",
    "model": "e",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}
ASKED = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], "random_seed": 7, "safe_prompt": False}


class NoPrefix(Mistral):
    """Where no row and no adapter is called as the prefix."""

    name = "lake"


def house(*replies: Reply, who: Any = None, deployments: Any = (PLAIN, MISTRAL)) -> House:
    aliases = (alias("gpt", PLAIN), alias("sea", deployments[-1]))
    return House(ScriptedUpstream(*replies), snapshot(*aliases, who=who, deployments=deployments))


def pieces(*deltas: dict[str, Any]) -> Reply:
    chunks: list[dict[str, Any]] = [
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": each}]} for each in deltas
    ]
    chunks.append({"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    chunks.append({"id": "c", "model": "m", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    told = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks)
    return Reply(200, {"content-type": "text/event-stream"}, (told, b"data: [DONE]\n\n"))


def call(**piece: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **piece}]}


@pytest.mark.parametrize(("path", "agent"), [("/v1", AGENT), ("/mistral/v1", "curl/8")], ids=["by agent", "by path"])
async def test_its_words_are_understood_for_every_provider(path: str, agent: str) -> None:
    place = house(Reply.json(CHAT), deployments=(PLAIN,))

    response = await place.post(f"{path}/chat/completions", ASKED, user_agent=agent)

    assert response.status_code == 200
    assert place.upstream.bodies[0]["seed"] == 7
    assert "random_seed" not in place.upstream.bodies[0]
    assert (place.row["input"], place.row["output"]) == (11, 5)


async def test_calls_of_a_stream_come_whole() -> None:
    place = house(
        pieces(
            call(id="call_1", type="function", function={"name": "f", "arguments": ""}),
            call(function={"arguments": '{"a"'}),
            call(function={"arguments": ":1}"}),
        )
    )

    response = await place.post("/v1/chat/completions", {**ASKED, "stream": True}, user_agent=AGENT)

    events = [json.loads(event[6:]) for event in response.text.split("\n\n") if event.startswith("data: {")]
    calls = [each for event in events for choice in event["choices"] for each in choice["delta"].get("tool_calls", ())]
    assert [each["function"] for each in calls] == [{"name": "f", "arguments": '{"a":1}'}]
    assert events[-1]["usage"]["completion_tokens"] == 2


async def test_other_clients_get_the_provider_s_own_bytes() -> None:
    place = house(Reply.json(CHAT))

    await place.post("/v1/chat/completions", ASKED, user_agent="OpenAI/Python 3")

    assert place.upstream.bodies[0]["random_seed"] == 7


async def test_vectors_have_an_id() -> None:
    place = house(Reply.json(EMBEDDED))

    response = await place.post("/v1/embeddings", {"model": "gpt", "input": ["x"]}, user_agent=AGENT)

    assert response.json()["id"]
    assert response.json()["data"] == EMBEDDED["data"]


@pytest.mark.parametrize("path", ["/v1/models", "/mistral/v1/models"])
async def test_models_are_shown_as_its_cards(path: str) -> None:
    elsewhere = deployment("there", 2, provider="sea", adapter=NoPrefix())
    place = house(who=key(models=frozenset({"sea"})), deployments=(PLAIN, elsewhere))

    listed = (await place.get(path, user_agent=AGENT)).json()
    shown = (await place.get(f"{path}/sea", user_agent=AGENT)).json()
    hidden = await place.get(f"{path}/gpt", user_agent=AGENT)

    assert listed["data"] == [shown]
    assert (shown["type"], shown["id"]) == ("base", "sea")
    assert shown["capabilities"]["completion_chat"]
    assert shown["capabilities"]["completion_fim"]
    assert hidden.status_code == 404


async def test_filling_in_is_metered_and_refused_where_nobody_can() -> None:
    place = house(Reply.json(CHAT))
    asked = {"model": "sea", "prompt": "def f(", "suffix": "return a"}

    filled = await place.post("/v1/fim/completions", asked, user_agent=AGENT)
    refused = await place.post("/v1/fim/completions", {**asked, "model": "gpt"}, user_agent=AGENT)

    assert (filled.status_code, refused.status_code) == (200, 400)
    assert place.upstream.requests[0].url.path == "/v1/fim/completions"
    assert (place.row["operation"], place.row["input"], place.row["output"]) == ("text_completion", 11, 5)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/moderations"),
        ("GET", "/v1/libraries/0b7a4bc1-35f0-4f9a-8f04-1c8f2a3d4e5f/documents"),
        ("GET", "/v1/batch/jobs"),
    ],
)
async def test_what_only_it_has_passes_through_at_the_root_too(method: str, path: str) -> None:
    place = house(Reply.json({"pages": []}))

    response = await place.request(method, path, b"", {"x-api-key": "sk-gw-alicealice-0123456789abcdef"})

    assert response.status_code == 200
    sent = place.upstream.requests[0]
    assert (sent.method, str(sent.url)) == (method, f"http://there.test{path}")
    assert place.row["operation"] == "passthrough"


@pytest.mark.parametrize("path", ["/v1/ocr", "/v1/ocrs", "/v1/novelty", "/v1/agents/../ocr"])
async def test_there_is_nothing_where_no_provider_has_it(path: str) -> None:
    place = house(deployments=(PLAIN,))

    response = await place.post(path, {"model": "gpt"})

    assert response.status_code == 404


async def test_a_provider_of_the_name_comes_before_the_name() -> None:
    place = house(Reply.json({"object": "list", "data": []}), Reply.json(CHAT), deployments=(PLAIN, NAMED))

    listed = await place.get("/mistral/v1/models", user_agent=AGENT)
    chat = await place.post("/mistral/v1/chat/completions", {**ASKED, "model": "gpt-upstream"}, user_agent=AGENT)

    assert [listed.json()["data"], chat.status_code] == [[], 200]
    assert json.loads(place.upstream.requests[-1].content)["random_seed"] == 7


async def test_openai_s_clients_reach_it_in_its_own_words() -> None:
    place = house(Reply.json(CHAT))

    await place.chat({"model": "sea", "seed": 7, "stream_options": {"include_usage": True}, "max_completion_tokens": 9})

    sent = place.upstream.bodies[0]
    assert (sent["random_seed"], sent["max_tokens"]) == (7, 9)
    assert not {"seed", "stream_options", "max_completion_tokens"} & sent.keys()


# ── documents, by the page ──

BY_PAGE = replace(FREE, units=(UnitPrice("page", 10**9), UnitPrice("page:annotated", 3 * 10**9)))
DOCUMENT = {"type": "document_url", "document_url": "https://papers.test/a.pdf"}


def reader(*replies: Reply, who: Any = None, **changes: Any) -> House:
    changes = {"prices": (BY_PAGE,), **changes}
    made = deployment("there", 2, provider="sea", adapter=get_adapter("mistral"), model="mistral-ocr-2512", **changes)
    aliases = (alias("gpt", PLAIN), alias("reader", made))
    return House(ScriptedUpstream(*replies), snapshot(*aliases, who=who, deployments=(PLAIN, made)))


def read(pages: int = 3, **usage: Any) -> Reply:
    found = [{"index": number, "markdown": "# A"} for number in range(pages)]
    return Reply.json({"pages": found, "model": "mistral-ocr-2512", **usage})


def told(pages: Any) -> dict[str, Any]:
    return {"usage_info": {"pages_processed": pages, "doc_size_bytes": 4711}}


@pytest.mark.parametrize("path", ["/v1/ocr", "/mistral/v1/ocr", "/sea/v1/ocr"])
async def test_pages_are_billed_as_the_provider_counts_them(path: str) -> None:
    place = reader(read(2, **told(3)))

    answer = await place.post(path, {"model": "reader", "document": DOCUMENT}, user_agent=AGENT)

    assert (answer.status_code, len(answer.json()["pages"])) == (200, 2)
    sent = place.upstream.requests[0]
    assert (sent.url.path, place.upstream.bodies[0]["model"]) == ("/v1/ocr", "mistral-ocr-2512")
    row = place.row
    assert (row["operation"], row["units"], row["usage_source"]) == ("ocr", {"page": 3}, "provider")
    assert (row["cost_pico_usd"], row["response_model"]) == (3 * 10**9, "mistral-ocr-2512")
    assert (row["input"], row["output"]) == (0, 0)


@pytest.mark.parametrize("form", ["bbox_annotation_format", "document_annotation_format"])
async def test_annotated_pages_have_a_price_of_their_own(form: str) -> None:
    place = reader(read(**told(3)), read(**told(3)), read(**told(3)))
    asked = {"model": "reader", "document": DOCUMENT}

    for schema in ({"type": "json_schema"}, None):
        await place.post("/v1/ocr", {**asked, form: schema})

    assert [row["units"] for row in place.ledger.closed] == [{"page:annotated": 3}, {"page": 3}]
    assert [row["cost_pico_usd"] for row in place.ledger.closed] == [9 * 10**9, 3 * 10**9]


@pytest.mark.parametrize(
    ("usage", "source", "pages"),
    [
        ({}, "provider", 3),
        ({"usage_info": {"doc_size_bytes": 1}}, "provider", 3),
        (told(0), "provider", 0),
        (told("many"), "estimated", 2),
        (told(-1), "estimated", 2),
    ],
    ids=["no usage", "no pages in it", "none", "no number", "less than none"],
)
async def test_without_usage_the_pages_of_the_answer_count_else_those_asked_for(
    usage: dict[str, Any], source: str, pages: int
) -> None:
    place = reader(read(3, **usage))

    await place.post("/v1/ocr", {"model": "reader", "document": DOCUMENT, "pages": [0, 4]})

    assert (place.row["units"], place.row["usage_source"]) == ({"page": pages}, source)


async def test_a_key_with_a_list_of_models_may_read_with_those_alone() -> None:
    place = reader(read(**told(1)), who=key(models=frozenset({"reader"})))
    stranger = reader(who=key(models=frozenset({"gpt"})))

    allowed = await place.post("/v1/ocr", {"model": "reader", "document": DOCUMENT})
    refused = await stranger.post("/v1/ocr", {"model": "reader", "document": DOCUMENT})

    assert (allowed.status_code, refused.status_code) == (200, 403)


async def test_a_document_in_the_request_is_no_text() -> None:
    place = reader(read(**told(1)))
    document = {"type": "document_url", "document_url": f"data:application/pdf;base64,{'A' * 100_000}"}

    await place.post("/v1/ocr", {"model": "reader", "document": document})

    assert place.ledger.opened[0]["input_estimate"] < 100
    assert place.ledger.opened[0]["request_price"] == 10**9


async def test_nobody_knows_how_long_a_document_is_so_a_strict_budget_needs_a_largest_cost() -> None:
    strict = key(budgets=(BudgetRule(1, "day", "key", "1", "day", 10**13, "UTC", strict=True),))
    asked = {"model": "reader", "document": DOCUMENT}

    refused = await reader(who=strict).post("/v1/ocr", asked)
    paid = await reader(read(**told(1)), who=strict, max_request_pico_usd=10**11).post("/v1/ocr", asked)

    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "cost_not_boundable")
    assert paid.status_code == 200
