"""What every store of vectors does. Inherit it and give it a `store`."""

from __future__ import annotations

import math

import pytest

from llmgateway.pipeline.cached_answers import VectorStore


def unit(*numbers: float) -> tuple[float, ...]:
    length = math.hypot(*numbers)
    return tuple(number / length for number in numbers)


GROUP, OTHER = b"g" * 32, b"o" * 32
ONE, TWO = b"1" * 32, b"2" * 32


class VectorStoreContract:
    @pytest.fixture
    async def store(self) -> VectorStore:
        raise NotImplementedError

    async def settled(self) -> None:
        """What was added is there."""

    async def pass_time(self, seconds: float) -> None:
        raise NotImplementedError

    async def test_the_most_similar_one_is_found(self, store: VectorStore) -> None:
        store.add(GROUP, unit(1, 0, 0), ONE, 60)
        store.add(GROUP, unit(1, 1, 0), TWO, 60)
        await self.settled()

        found = await store.nearest(GROUP, unit(1, 0.9, 0), similarity=0.5)

        assert found is not None
        assert found.digest == TWO
        assert found.similarity == pytest.approx(1.9 / math.sqrt(2) / math.sqrt(1.81), abs=1e-5)

    async def test_what_is_less_similar_than_asked_is_not_found(self, store: VectorStore) -> None:
        store.add(GROUP, unit(1, 0), ONE, 60)
        await self.settled()

        assert await store.nearest(GROUP, unit(1, 1), similarity=0.71) is None
        assert await store.nearest(GROUP, unit(1, 1), similarity=0.70) is not None

    async def test_groups_know_nothing_of_each_other(self, store: VectorStore) -> None:
        store.add(GROUP, unit(1, 0), ONE, 60)
        await self.settled()

        assert await store.nearest(OTHER, unit(1, 0), similarity=0.1) is None

    async def test_vectors_expire(self, store: VectorStore) -> None:
        store.add(GROUP, unit(1, 0), ONE, 1.0)
        await self.settled()
        assert await store.nearest(GROUP, unit(1, 0), similarity=0.9) is not None

        await self.pass_time(1.1)

        assert await store.nearest(GROUP, unit(1, 0), similarity=0.9) is None

    async def test_vectors_of_another_length_are_left_out(self, store: VectorStore) -> None:
        store.add(GROUP, unit(1, 0, 0), ONE, 60)
        await self.settled()

        assert await store.nearest(GROUP, unit(1, 0), similarity=0.1) is None
