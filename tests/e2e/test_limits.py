"""Limits and budgets as applications meet them: a real server under many callers at once."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

import pytest
from httpx_aiohttp import AiohttpTransport

from llmgateway.http import httpx
from tests.e2e.harness import INPUT_PRICE, OUTPUT_PRICE, Product, running_product, running_provider, wait_for

CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
CAP = 300
STRICT_LIMIT = 2_000_000_000
"""Pico-dollars: 0.002 dollars."""
RULES = {
    "burst": "limits: [{metric: requests, per: minute, amount: 60, burst: 5}]",
    "five": "limits: [{metric: requests, per: minute, amount: 5}]",
    "many": "limits: [{metric: requests, per: minute, amount: 300}]",
    "daily": "limits: [{metric: requests, per: day, amount: 3}]",
    "tokens": "limits: [{metric: tokens, per: minute, amount: 2000}]",
    "slots": "limits: [{metric: concurrency, amount: 2}]",
    "strict": 'budgets: [{name: month, window: month, limit_usd: "0.002", mode: strict}]',
    "edited": "limits: [{metric: requests, per: day, amount: 100000}]",
}


def secret(name: str) -> str:
    return f"sk-gw-{name:0<10}-0123456789abcdefghij"


CONFIGURATION = "".join(
    f"  {name}: {{team: platform, secret: {secret(name)}, {rules}}}\n" for name, rules in RULES.items()
)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("limits")
    with running_provider(folder) as provider, running_product(folder, provider, more=CONFIGURATION) as product:
        yield product


class Caller:
    def __init__(self, product: Product, name: str, *, timeout: float = 30) -> None:
        self.client = httpx.AsyncClient(
            base_url=product.url,
            headers={"authorization": f"Bearer {secret(name)}"},
            timeout=timeout,
            # httpx's own looks at every connection that there is for each request: a thousand of them take it ten seconds.
            transport=AiohttpTransport(limits=httpx.Limits(max_connections=2_000)),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def ask(self, **changes: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json={**CHAT, **changes})

    async def all_at_once(self, count: int, *, workers: int, **changes: Any) -> list[httpx.Response]:
        turns = asyncio.Semaphore(workers)

        async def one() -> httpx.Response:
            async with turns:
                return await self.ask(**changes)

        return await asyncio.gather(*[one() for _ in range(count)])


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


async def test_five_a_minute_is_exactly_five_in_a_burst(limited: Product) -> None:
    async with Caller(limited, "five") as caller:
        answers = await caller.all_at_once(20, workers=20)

    assert statuses(answers) == {200: 5, 429: 15}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 11 <= int(refused.headers["retry-after"]) <= 12
    assert refused.headers["x-ratelimit-scope"] == "key"


async def test_retry_after_is_right_to_the_second(limited: Product) -> None:
    async with Caller(limited, "burst") as caller:
        answers = await caller.all_at_once(6, workers=6)
        refused = next(answer for answer in answers if answer.status_code == 429)
        reset_s = float(refused.headers["x-ratelimit-reset-requests"].removesuffix("s"))

        assert int(refused.headers["retry-after"]) == math.ceil(reset_s) == 1
        await asyncio.sleep(reset_s)
        assert [(await caller.ask()).status_code for _ in range(2)] == [200, 429]


async def test_600_requests_of_96_workers_never_exceed_the_bound(limited: Product) -> None:
    began = time.monotonic()
    async with Caller(limited, "many") as caller:
        answers = await caller.all_at_once(600, workers=96)
    lasted = time.monotonic() - began

    assert set(statuses(answers)) == {200, 429}
    assert 300 <= statuses(answers)[200] <= 300 + 300 * lasted / 60 + 1


async def test_a_day_s_requests_are_used_up_until_midnight(limited: Product) -> None:
    async with Caller(limited, "daily") as caller:
        answers = await caller.all_at_once(10, workers=10)

    assert statuses(answers) == {200: 3, 429: 7}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 0 < int(refused.headers["retry-after"]) <= 86_400


async def test_tokens_are_corrected_by_what_was_used(limited: Product) -> None:
    async with Caller(limited, "tokens") as caller:
        first = await caller.ask()
        too_large = await caller.ask(max_tokens=100_000, messages=[{"role": "user", "content": "a" * 20_000}])

        used = first.json()["usage"]["total_tokens"]
        assert first.headers["x-ratelimit-limit-tokens"] == "2000"
        second = await caller.ask()
        assert int(second.headers["x-ratelimit-remaining-tokens"]) > 2_000 - 1_100 - used - 10
        assert (too_large.status_code, too_large.json()["error"]["code"]) == (429, "request_exceeds_limit")
        assert too_large.headers["x-should-retry"] == "false"


async def test_two_at_a_time_are_two_to_the_end_of_their_streams(limited: Product) -> None:
    async with Caller(limited, "slots") as caller:
        slow = {**CHAT, "stream": True, "x_fake": {"chunk_delay_ms": 100, "tokens": 8}}
        async with (
            caller.client.stream("POST", "/v1/chat/completions", json=slow) as one,
            caller.client.stream("POST", "/v1/chat/completions", json=slow) as two,
        ):
            pieces = one.aiter_raw(), two.aiter_raw()
            assert [await anext(each) != b"" for each in pieces] == [True, True]

            refused = await caller.ask()
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrency_limit_exceeded")
            for each in pieces:
                assert [piece async for piece in each][-1].endswith(b"data: [DONE]\n\n")
        assert (await caller.ask()).status_code == 200


async def test_a_client_that_leaves_gives_its_slot_back(limited: Product) -> None:
    async with Caller(limited, "slots") as caller:
        stalling = {**CHAT, "stream": True, "x_fake": {"stall_after": 2}}
        for _ in range(4):
            async with caller.client.stream("POST", "/v1/chat/completions", json=stalling) as left:
                assert left.status_code == 200
            await asyncio.sleep(0.3)

        assert (await caller.ask()).status_code == 200


async def test_a_thousand_at_once_overspend_a_strict_budget_by_nothing(limited: Product) -> None:
    async with Caller(limited, "strict", timeout=60) as caller:
        answers = await caller.all_at_once(1_000, workers=1_000, max_tokens=CAP)

    passed = [answer.json()["usage"] for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    spent = sum(cost(usage) for usage in passed)
    assert {answer.status_code for answer in refused} <= {402}
    budget = wait_for(lambda: settled(limited, spent), "the ledger's sum", within_s=20)
    assert (int(budget["settled_pico_usd"]), int(budget["held_pico_usd"])) == (spent, 0)
    assert spent <= STRICT_LIMIT
    assert refused, "the budget was meant to run out"
    await spend_the_rest(limited, spent)


async def spend_the_rest(product: Product, spent: int) -> None:
    """What is affordable when nothing else is held runs, one by one, until nothing is."""
    async with Caller(product, "strict") as caller:
        while (answer := await caller.ask(max_tokens=CAP)).status_code == 200:
            spent += cost(answer.json()["usage"])
    least = len(answer.request.content) * INPUT_PRICE + 256 * OUTPUT_PRICE
    assert STRICT_LIMIT - least < spent <= STRICT_LIMIT
    assert answer.headers["x-budget-settled-usd"] == f"{spent / 1e12:.12f}".rstrip("0")


def cost(usage: dict[str, Any]) -> int:
    return int(usage["prompt_tokens"]) * INPUT_PRICE + int(usage["completion_tokens"]) * OUTPUT_PRICE


def settled(product: Product, spent: int) -> dict[str, Any] | None:
    budgets = [json.loads(line) for line in product.manage("budgets", "--json").splitlines()]
    [budget] = [each for each in budgets if each["name"] == "month"]
    return budget if int(budget["settled_pico_usd"]) >= spent else None


async def test_an_edit_under_load_holds_for_the_next_requests(limited: Product) -> None:
    answered: list[tuple[float, int]] = []
    async with Caller(limited, "edited") as caller:

        async def keep_asking() -> None:
            while True:
                began = time.monotonic()
                answered.append((began, (await caller.ask()).status_code))

        loading = [asyncio.create_task(keep_asking()) for _ in range(8)]
        await asyncio.to_thread(wait_for, lambda: len(answered) >= 50, "answers before the edit")
        saving = time.monotonic()
        edit = "from llmgateway.models import RateLimit as R; R.objects.filter(key__name='edited').update(amount=1)"
        await asyncio.to_thread(limited.manage, "shell", "-c", edit)
        edited = time.monotonic()
        await asyncio.sleep(1.5)
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)

    assert {status for began, status in answered if began > edited + 1} == {429}
    assert 200 in {status for began, status in answered if began < saving}
