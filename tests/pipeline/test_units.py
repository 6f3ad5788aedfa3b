"""What providers bill beside tokens, and what they say themselves that a call cost, stand in the ledger."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from billing.pricing import UnitPrice
from llmgateway.pipeline.snapshot import BudgetRule
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PRICE, House, alias, deployment, key, snapshot

SEARCHES = replace(PRICE, units=(UnitPrice("search", 10**10),))
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "Found."}],
    "usage": {"input_tokens": 7, "output_tokens": 3, "server_tool_use": {"web_search_requests": 2}},
}  # fmt: skip
RESPONSE = {
    "id": "resp_1", "object": "response", "status": "completed", "model": "gpt",
    "output": [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "a"}},
        {"type": "web_search_call", "id": "ws_2", "status": "completed", "action": {"type": "open_page", "url": "b"}},
        {"type": "message", "id": "m", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Found.", "annotations": []}]},
    ],
    "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
}  # fmt: skip
CONTENT = {
    "candidates": [
        {
            "content": {"role": "model", "parts": [{"text": "Found."}]},
            "finishReason": "STOP",
            "groundingMetadata": {"webSearchQueries": ["one", "two", "three"]},
        }
    ],
    "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10},
}


def _house(adapter: str, *replies: Reply, **changes: Any) -> House:
    made = deployment(**{"adapter": get_adapter(adapter), "prices": (SEARCHES,), **changes})
    return House(ScriptedUpstream(*replies), snapshot(alias("gpt", made)))


def _events(*contents: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(data).encode() + b"\n\n" for data in contents)


def _expect(house: House, searches: int) -> None:
    row = house.row
    assert row["units"] == {"search": searches}
    assert row["usage_source"] == "provider"
    assert row["cost_pico_usd"] == 7 * 2 + 3 * 10 + searches * 10**10
    assert row["priced"]


async def test_searches_of_anthropic_are_billed() -> None:
    house = _house("anthropic", Reply.json(MESSAGE))

    await house.post("/v1/messages", {"model": "gpt", "max_tokens": 9, "messages": []})

    _expect(house, 2)


async def test_searches_of_anthropic_are_billed_when_its_answer_is_translated() -> None:
    house = _house("anthropic", Reply.json(MESSAGE))

    await house.chat()

    _expect(house, 2)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_searches_of_openai_are_billed_and_a_page_that_is_opened_is_not(path: str) -> None:
    house = _house("openai", Reply.json(RESPONSE if path == "/v1/responses" else CHAT))

    await house.post(path, {"model": "gpt", "input": "?", "messages": [{"role": "user", "content": "?"}]})

    if path == "/v1/responses":
        _expect(house, 1)
    else:
        assert "units" not in house.row


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_searches_of_a_stream_of_responses_are_billed(size: int) -> None:
    stream = _events({"type": "response.created", "response": {}}, {"type": "response.completed", "response": RESPONSE})
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    house = _house("openai", Reply.events(*pieces))

    answer = await house.post("/v1/responses", {"model": "gpt", "input": "?", "stream": True})

    assert answer.content == stream
    _expect(house, 1)


async def test_searches_of_gemini_are_billed_whole_streamed_and_translated() -> None:
    asked = {"contents": [{"role": "user", "parts": [{"text": "?"}]}]}
    streamed = Reply.events(_events(CONTENT))
    for path, body, reply in (
        ("/v1beta/models/gpt:generateContent", asked, Reply.json(CONTENT)),
        ("/v1beta/models/gpt:streamGenerateContent?alt=sse", asked, streamed),
        ("/v1/chat/completions", {"model": "gpt", "messages": [{"role": "user", "content": "?"}]}, Reply.json(CONTENT)),
    ):
        house = _house("gemini", reply)

        await house.post(path, body)

        _expect(house, 3)


async def test_searches_of_perplexity_and_its_own_figure_are_kept() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "num_search_queries": 4,
             "cost": {"total_cost": 0.0123}}  # fmt: skip
    house = _house("perplexity", Reply.json({**CHAT, "usage": usage}))

    await house.chat()

    _expect(house, 4)
    assert house.row["reported_cost_pico_usd"] == 12_300_000_000


async def test_what_xai_and_openrouter_say_is_kept_beside_what_we_charge() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    for adapter, said, pico in (
        (
            "xai",
            {"cost_in_usd_ticks": 37_756_000, "server_side_tool_usage_details": {"x_search_calls": 1}},
            3_775_600_000,
        ),
        ("openrouter", {"cost": 0.00014}, 140_000_000),
        ("openrouter", {"cost": 1e30}, None),
        ("openrouter", {}, None),
    ):
        house = _house(adapter, Reply.json({**CHAT, "usage": {**usage, **said}}))

        await house.chat()

        searches = 1 if adapter == "xai" else 0
        assert house.row.get("reported_cost_pico_usd") == pico
        assert house.row["cost_pico_usd"] == 7 * 2 + 3 * 10 + searches * 10**10


async def test_an_answer_without_units_has_none_in_its_row() -> None:
    house = House(ScriptedUpstream(Reply.json(CHAT)))

    await house.chat()

    assert not {"units", "reported_cost_pico_usd"} & house.row.keys()


@pytest.mark.parametrize(
    ("adapter", "model", "refused"),
    [("perplexity", "sonar", True), ("openai", "gpt-4o-search-preview", True), ("openai", "gpt-4o", False)],
)
async def test_a_strict_budget_needs_a_bound_for_models_that_search_unasked(
    adapter: str, model: str, refused: bool
) -> None:
    budget = BudgetRule(1, "day", "key", "1", "day", 10**13, "UTC", strict=True)
    made = deployment(adapter=get_adapter(adapter), model=model, prices=(SEARCHES,))
    house = House(ScriptedUpstream(Reply.json(CHAT)), snapshot(alias("gpt", made), who=key(budgets=(budget,))))

    answer = await house.chat({"max_tokens": 5})

    assert answer.status_code == (402 if refused else 200)
    if refused:
        assert answer.json()["error"]["code"] == "cost_not_boundable"
