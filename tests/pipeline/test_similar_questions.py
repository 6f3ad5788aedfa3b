"""Questions in other words: found by their vectors, within what is the same before them, and paid for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.caching import Caching
from llmgateway.pipeline.route_rules import CacheRule
from llmgateway.pipeline.snapshot import BudgetRule, Key, Retries
from llmgateway.stores.cache_memory import MemoryAnswers
from llmgateway.stores.vectors_memory import MemoryVectors
from tests.fakes import Reply
from tests.gateways import CHAT, PRICE, House, alias, deployment, key
from tests.pipeline.test_caching import caching_house

RULE = CacheRule(ttl_s=60, mode="semantic", similarity=0.9, embeddings="vectors")
HI, HELLO, BYE = [1.0, 0.0], [2.0, 0.5], [0.0, 1.0]
"""`HI` and `HELLO` have a cosine of 0.9701."""


def vector(numbers: list[float]) -> Reply:
    return Reply.json(
        {
            "object": "list",
            "model": "e",
            "data": [{"index": 0, "embedding": numbers}],
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
    )


def house(*script: Reply | Exception, rule: CacheRule = RULE, who: Key | None = None) -> House:
    aliases = (replace(alias("gpt", deployment()), cache=rule), alias("vectors", deployment("vectors", 2)))
    made = caching_house(*script, aliases=aliases, who=who, retries=Retries(attempts=0))
    made.gateway.caching = Caching(made.gateway, MemoryAnswers(made.clock), MemoryVectors(made.clock))
    return made


def saying(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)], **more}


async def test_the_same_question_in_other_words_is_answered_from_memory() -> None:
    answering = house(vector(HI), Reply.json(CHAT), vector(HELLO))

    first = await answering.chat(saying("Hi"))
    second = await answering.chat(saying("Hello there"))

    assert (first.headers["x-gateway-cache"], second.headers["x-gateway-cache"]) == ("miss", "semantic")
    assert second.headers["x-gateway-cache-similarity"] == "0.9701"
    assert second.json() == CHAT
    assert [request.url.path for request in answering.upstream.requests] == [
        "/v1/embeddings", "/v1/chat/completions", "/v1/embeddings",
    ]  # fmt: skip
    assert answering.upstream.bodies[2]["input"] == "Hello there"


async def test_the_same_words_need_no_vector() -> None:
    answering = house(vector(HI), Reply.json(CHAT))

    await answering.chat(saying("Hi"))
    again = await answering.chat(saying("Hi"))

    assert again.headers["x-gateway-cache"] == "hit"
    assert len(answering.upstream.requests) == 2


async def test_vectors_are_rows_of_their_own_at_their_price() -> None:
    answering = house(vector(HI), Reply.json(CHAT), vector(HELLO))

    await answering.chat(saying("Hi"))
    await answering.chat(saying("Hello there"))

    rows = answering.ledger.closed
    assert [(row["alias"], row.get("cache", ""), row["cost_pico_usd"]) for row in rows] == [
        ("vectors", "", 4 * PRICE.input),
        ("gpt", "miss", 11 * PRICE.input + 5 * PRICE.output),
        ("vectors", "", 4 * PRICE.input),
        ("gpt", "semantic", 0),
    ]
    assert {row["key_id"] for row in rows} == {"1"}
    assert all(len(row["id"]) <= 40 for row in rows)
    assert not answering.ledger.running
    assert len(answering.gateway.exchanges) == 0


async def test_another_question_is_asked() -> None:
    answering = house(vector(HI), Reply.json(CHAT), vector(BYE), Reply.json(CHAT))

    await answering.chat(saying("Hi"))

    assert (await answering.chat(saying("Good bye"))).headers["x-gateway-cache"] == "miss"


@pytest.mark.parametrize(
    "other",
    [
        saying("Are you well?", "Yes", "Hello there"),
        saying("Hello there", temperature=0.5),
        {"messages": [{"role": "system", "content": "Be rude"}, {"role": "user", "content": "Hello there"}]},
    ],
    ids=["conversation", "parameter", "system"],
)
async def test_what_stands_before_the_question_must_be_the_same(other: dict[str, Any]) -> None:
    answering = house(vector(HI), Reply.json(CHAT), vector(HELLO), Reply.json(CHAT))

    await answering.chat(saying("Hi"))

    assert (await answering.chat(other)).headers["x-gateway-cache"] == "miss"


async def test_the_last_question_of_a_conversation_counts() -> None:
    answering = house(vector(HI), Reply.json(CHAT), vector(HELLO))

    await answering.chat(saying("Are you well?", "Yes", "Hi"))

    assert (await answering.chat(saying("Are you well?", "Yes", "Hello"))).headers["x-gateway-cache"] == "semantic"


async def test_many_at_once_need_one_vector() -> None:
    answering = house(vector(HI), Reply.json(CHAT), vector(HELLO))
    await answering.chat(saying("Hi"))

    answers = await asyncio.gather(*[answering.chat(saying("Hello there")) for _ in range(50)])

    assert [answer.headers["x-gateway-cache"] for answer in answers] == ["semantic"] * 50
    assert len(answering.upstream.requests) == 3


async def test_asked_again_in_the_other_words_it_needs_no_vector_and_says_what_it_is() -> None:
    answering = house(vector(HI), Reply.json(CHAT), vector(HELLO))
    await answering.chat(saying("Hi"))
    await answering.chat(saying("Hello there"))

    again = await answering.chat(saying("Hello there"))

    assert again.headers["x-gateway-cache-similarity"] == "0.9701"
    assert len(answering.upstream.requests) == 3


async def test_an_answer_found_by_similarity_grows_no_older_than_the_first() -> None:
    answering = house(vector(HI), Reply.json(CHAT), vector(HELLO), vector(HELLO), Reply.json(CHAT))
    await answering.chat(saying("Hi"))
    answering.clock.advance(40)
    await answering.chat(saying("Hello there"))
    answering.clock.advance(20)

    assert (await answering.chat(saying("Hello there"))).headers["x-gateway-cache"] == "miss"


async def test_a_stream_is_served_too() -> None:
    answering = house(vector(HI), Reply.json(CHAT), vector(HELLO))

    await answering.chat(saying("Hi"))
    stream = await answering.chat(saying("Hello", stream=True))

    assert stream.headers["x-gateway-cache"] == "semantic"
    assert b"Hello" in stream.content


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        Reply.json({"error": {"message": "no"}}, status=400),
        Reply.json({"data": []}),
        vector([0.0, 0.0]),
    ],
    ids=["away", "refused", "nothing", "no direction"],
)
async def test_without_a_vector_it_is_a_miss(failure: Reply | Exception) -> None:
    answering = house(failure, Reply.json(CHAT))

    answer = await answering.chat(saying("Hi"))

    assert (answer.status_code, answer.headers["x-gateway-cache"]) == (200, "miss")
    assert not answering.ledger.running


async def test_a_key_that_may_not_call_the_embeddings_finds_the_same_words_only() -> None:
    answering = house(Reply.json(CHAT), Reply.json(CHAT), who=key(models=frozenset({"gpt"})))

    await answering.chat(saying("Hi"))

    assert (await answering.chat(saying("Hello"))).headers["x-gateway-cache"] == "miss"
    assert (await answering.chat(saying("Hi"))).headers["x-gateway-cache"] == "hit"


async def test_a_budget_that_cannot_pay_the_vector_is_told_by_the_question_itself() -> None:
    spent = BudgetRule(1, "monthly", "key", "1", "total", 1, "UTC")
    answering = house(who=key(budgets=(spent,)))

    assert (await answering.chat(saying("Hi"))).status_code == 402


async def test_pictures_are_no_questions() -> None:
    answering = house(Reply.json(CHAT))
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "https://images.test/a.png"}},
    ]

    await answering.chat({"messages": [{"role": "user", "content": parts}]})

    assert len(answering.upstream.requests) == 1
