"""What every store of kept answers does. Inherit it and give it a `store` on `clock`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from llmgateway.pipeline.cached_answers import AnswerStore, KeptAnswer, Standing
from providers.adapters.types import Usage

ANSWER = KeptAnswer(
    body=b'{"answer": 42}', form="whole", media_type=b"application/json", stored_at=1000.0, alias="gpt", deployment_id=1,
    deployment="main", provider="p", model="m", response_model="m-1", usage=Usage(input=3, output=4, units=(("search", 1),)),
    usage_source="provider", cost_pico_usd=5, dropped=b"seed",
)  # fmt: skip


def digest(number: int = 0) -> bytes:
    return number.to_bytes(32, "big")


def answer(**changes: Any) -> KeptAnswer:
    return structs.replace(ANSWER, **changes)


class AnswerStoreContract:
    @pytest.fixture
    async def store(self) -> AnswerStore:
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        raise NotImplementedError

    async def test_what_is_kept_is_found_as_it_was(self, store: AnswerStore) -> None:
        store.keep(digest(), ANSWER, 60)

        assert await store.find(digest()) == ANSWER

    async def test_what_was_not_kept_is_not_found(self, store: AnswerStore) -> None:
        store.keep(digest(1), ANSWER, 60)

        assert await store.find(digest(2)) is None

    async def test_the_later_answer_stays(self, store: AnswerStore) -> None:
        store.keep(digest(), ANSWER, 60)
        store.keep(digest(), answer(body=b"new"), 60)

        found = await store.find(digest())
        assert found is not None
        assert found.body == b"new"

    async def test_answers_expire(self, store: AnswerStore) -> None:
        store.keep(digest(), ANSWER, 0.1)
        assert await store.find(digest()) is not None

        await self.pass_time(0.15)

        assert await store.find(digest()) is None

    @pytest.mark.parametrize("size", [0, 10_000, 1_500_000])
    async def test_answers_of_any_size_come_back(self, store: AnswerStore, size: int) -> None:
        body = bytes(number % 251 for number in range(1000)) * (size // 1000)
        store.keep(digest(), answer(body=body), 60)
        await asyncio.sleep(0.1)  # A large one is compressed elsewhere first.

        found = await store.find(digest())

        assert found is not None
        assert found.body == body

    async def test_a_claim_finds_what_is_kept_by_now(self, store: AnswerStore) -> None:
        store.keep(digest(), ANSWER, 60)

        assert await store.claim(digest(), b"one", 0) == ANSWER

    async def test_a_claim_does_not_take_what_is_too_old(self, store: AnswerStore) -> None:
        store.keep(digest(), ANSWER, 60)

        assert await store.claim(digest(), b"one", ANSWER.stored_at) is Standing.LEAD

    async def test_whoever_claims_first_leads(self, store: AnswerStore) -> None:
        assert await store.claim(digest(), b"one", 0) is Standing.LEAD
        assert await store.claim(digest(), b"one", 0) is Standing.LEAD
        store.release(digest(), b"one", alone=False)

        assert await store.claim(digest(), b"two", 0) is Standing.LEAD
