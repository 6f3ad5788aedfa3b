"""Vectors of questions on a real PostgreSQL with its extension `vector`, and what happens without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from django.db import connections, transaction

from llmgateway.pipeline.cached_answers import VectorStore
from llmgateway.question_vectors import MOST_WAITING, TABLE, DatabaseVectors, ensure_table
from tests.stores.vectors_contract import GROUP, ONE, VectorStoreContract, unit

pytestmark = pytest.mark.postgres


@pytest.fixture
def prepared(postgres: str) -> str:
    assert ensure_table(postgres)
    return postgres


@pytest.fixture
def locked(prepared: str) -> Iterator[str]:
    """Nobody can read the table."""
    with transaction.atomic(using=prepared):
        with connections[prepared].cursor() as cursor:
            cursor.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
        yield prepared


class TestDatabaseVectors(VectorStoreContract):
    @pytest.fixture
    async def store(self, prepared: str) -> AsyncIterator[VectorStore]:
        # A busy machine is not what a database that is away means.
        store = DatabaseVectors(prepared, wait_s=5)
        yield store
        await asyncio.to_thread(store.stop)

    async def settled(self) -> None:
        await asyncio.sleep(0.3)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def test_an_answer_of_the_same_request_replaces_the_former(prepared: str) -> None:
    store = DatabaseVectors(prepared, wait_s=5)
    store.add(GROUP, unit(1, 0), ONE, 0.01)
    await asyncio.sleep(0.3)
    store.add(GROUP, unit(1, 0), ONE, 60)

    async with asyncio.timeout(5):
        while await store.nearest(GROUP, unit(1, 0), similarity=0.9) is None:  # noqa: ASYNC110  # It tells nobody.
            await asyncio.sleep(0.05)
    await asyncio.to_thread(store.stop)


async def test_a_database_that_does_not_answer_is_a_miss_in_time(locked: str) -> None:
    store = DatabaseVectors(locked, wait_s=0.3)
    before = time.monotonic()

    found = await store.nearest(GROUP, unit(1, 0), similarity=0.1)

    assert found is None
    assert time.monotonic() - before < 3
    await asyncio.to_thread(store.stop)


async def test_no_more_than_a_few_wait_for_the_database(locked: str) -> None:
    store = DatabaseVectors(locked, wait_s=1)
    waiting = [asyncio.ensure_future(store.nearest(GROUP, unit(1, 0), similarity=0.1)) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0)
    before = time.monotonic()

    assert await store.nearest(GROUP, unit(1, 0), similarity=0.1) is None

    assert time.monotonic() - before < 0.5
    await asyncio.gather(*waiting)
    await asyncio.to_thread(store.stop)


def test_migrations_make_the_table(postgres: str) -> None:
    with connections[postgres].cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", [TABLE])
        assert cursor.fetchone() == (TABLE,)


def test_the_table_is_made_once(prepared: str) -> None:
    assert ensure_table(prepared)
    assert ensure_table(prepared)


@pytest.fixture
def modest(postgres: str) -> Iterator[str]:
    """Somebody who may change no schema."""
    with connections[postgres].cursor() as cursor:
        cursor.execute("CREATE ROLE modest")
        cursor.execute("SET ROLE modest")
    yield postgres
    with connections[postgres].cursor() as cursor:
        cursor.execute("RESET ROLE")
        cursor.execute("DROP ROLE modest")


def test_who_may_not_make_the_table_may_use_it(modest: str) -> None:
    assert ensure_table(modest)


def test_who_may_not_make_the_extension_goes_without(modest: str, caplog: pytest.LogCaptureFixture) -> None:
    with connections[modest].cursor() as cursor:
        cursor.execute("RESET ROLE")
        cursor.execute("DROP EXTENSION vector CASCADE")
        cursor.execute(f"DROP TABLE {TABLE}")
        cursor.execute("SET ROLE modest")

    assert not ensure_table(modest)
    assert "an admin must create it" in caplog.text


@pytest.mark.django_db
def test_a_database_without_the_extension_keeps_no_vectors() -> None:
    assert not ensure_table("default")
