"""Kept answers in memory."""

from __future__ import annotations

import pytest

from llmgateway.pipeline.cached_answers import AnswerStore
from llmgateway.stores.cache_memory import MemoryAnswers
from tests.fakes import FakeClock
from tests.stores.cache_contract import ANSWER, AnswerStoreContract, answer, digest

ROOM = 10 * 2048
HALF_KB = b"x" * 1024


class TestMemoryAnswers(AnswerStoreContract):
    @pytest.fixture
    async def store(self) -> AnswerStore:
        self.clock = FakeClock()
        return MemoryAnswers(self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
def store() -> MemoryAnswers:
    return MemoryAnswers(FakeClock(), max_bytes=ROOM)


async def test_those_not_asked_for_longest_go_first(store: MemoryAnswers) -> None:
    for number in range(10):
        store.keep(digest(number), answer(body=HALF_KB), 60)
    assert store.byte_count == ROOM
    await store.find(digest(0))

    store.keep(digest(10), answer(body=HALF_KB), 60)

    assert await store.find(digest(0)) is not None
    assert await store.find(digest(1)) is None
    assert (store.entry_count, store.byte_count) == (10, ROOM)


async def test_one_answer_does_not_drive_all_others_out(store: MemoryAnswers) -> None:
    store.keep(digest(1), ANSWER, 60)

    store.keep(digest(2), answer(body=b"x" * (ROOM // 4)), 60)

    assert await store.find(digest(2)) is None
    assert await store.find(digest(1)) is not None


async def test_an_answer_that_is_replaced_by_a_too_large_one_is_gone(store: MemoryAnswers) -> None:
    store.keep(digest(1), ANSWER, 60)

    store.keep(digest(1), answer(body=b"x" * ROOM), 60)

    assert (await store.find(digest(1)), store.byte_count) == (None, 0)


async def test_memory_is_counted_through_everything(store: MemoryAnswers) -> None:
    for number in range(50):
        store.keep(digest(number % 7), answer(body=b"x" * (number * 10)), 60)
    kept = [each for number in range(7) if (each := await store.find(digest(number))) is not None]

    assert store.byte_count == sum(each.size for each in kept)


async def test_an_alias_is_forgotten_and_others_stay(store: MemoryAnswers) -> None:
    store.keep(digest(1), ANSWER, 60)
    store.keep(digest(2), answer(alias="other"), 60)

    store.forget("gpt")

    assert await store.find(digest(1)) is None
    assert await store.find(digest(2)) is not None


async def test_less_room_frees_memory_at_once(store: MemoryAnswers) -> None:
    for number in range(10):
        store.keep(digest(number), answer(body=HALF_KB), 60)

    store.resize(ROOM // 2)

    assert store.entry_count == 5


async def test_what_has_expired_takes_no_room_once_it_was_asked_for() -> None:
    clock = FakeClock()
    store = MemoryAnswers(clock)
    store.keep(digest(), ANSWER, 5)
    clock.advance(5)

    await store.find(digest())

    assert store.byte_count == store.entry_count == 0
