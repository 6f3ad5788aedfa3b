"""Vectors in memory."""

from __future__ import annotations

import pytest

from llmgateway.pipeline.cached_answers import VectorStore
from llmgateway.stores.vectors_memory import MOST_IN_GROUP, MemoryVectors
from tests.fakes import FakeClock
from tests.stores.vectors_contract import GROUP, VectorStoreContract, unit


class TestMemoryVectors(VectorStoreContract):
    @pytest.fixture
    async def store(self) -> VectorStore:
        self.clock = FakeClock()
        return MemoryVectors(self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


async def test_of_a_group_the_oldest_go_first() -> None:
    store = MemoryVectors(FakeClock())
    for number in range(MOST_IN_GROUP + 1):
        store.add(GROUP, unit(1, number), number.to_bytes(32, "big"), 60)

    assert len(store) == MOST_IN_GROUP
    found = await store.nearest(GROUP, unit(1, 0), similarity=0)
    assert found is not None
    assert int.from_bytes(found.digest, "big") == 1


async def test_groups_not_used_for_longest_go_first() -> None:
    room = 10 * (8 * 2 + 256)
    store = MemoryVectors(FakeClock(), max_bytes=room)
    for number in range(10):
        store.add(bytes([number]), unit(1, 0), bytes(32), 60)
    await store.nearest(bytes([0]), unit(1, 0), similarity=0)

    store.add(bytes([10]), unit(1, 0), bytes(32), 60)

    assert len(store) == 10
    assert await store.nearest(bytes([0]), unit(1, 0), similarity=0) is not None
    assert await store.nearest(bytes([1]), unit(1, 0), similarity=0) is None


async def test_many_are_compared_in_a_thread() -> None:
    store = MemoryVectors(FakeClock())
    for number in range(100):
        store.add(GROUP, unit(1, number), number.to_bytes(32, "big"), 60)

    found = await store.nearest(GROUP, unit(1, 50), similarity=0.9999)

    assert found is not None
    assert int.from_bytes(found.digest, "big") == 50
