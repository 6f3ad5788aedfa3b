"""Kept answers in a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from llmgateway.pipeline.cached_answers import AnswerStore, Standing
from llmgateway.stores import cache_redis
from llmgateway.stores.cache_redis import RedisAnswers
from tests.stores.cache_contract import ANSWER, AnswerStoreContract, answer, digest
from tests.stores.redis_server import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    redis_server = RedisServer(str(tmp_path_factory.mktemp("redis")))
    redis_server.start()
    yield redis_server
    redis_server.kill()


@asynccontextmanager
async def running(server: RedisServer, *, timeout_s: float = 2.0) -> AsyncIterator[RedisAnswers]:
    store = RedisAnswers(server.url, timeout_s=timeout_s)
    store.start()
    assert await store.ready(5)
    yield store
    await store.stop()


class TestRedisAnswers(AnswerStoreContract):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[AnswerStore]:
        server.ask("FLUSHALL")
        async with running(server) as store:
            yield store

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def test_two_workers_share_answers(server: RedisServer) -> None:
    server.ask("FLUSHALL")
    async with running(server) as one, running(server) as two:
        one.keep(digest(), ANSWER, 60)
        await one.find(digest())

        assert await two.find(digest()) == ANSWER


async def test_of_two_workers_one_leads(server: RedisServer) -> None:
    server.ask("FLUSHALL")
    async with running(server) as one, running(server) as two:
        standings = await asyncio.gather(
            *[store.claim(digest(), bytes([n]), 0) for n, store in enumerate([one, two] * 5)]
        )

        assert standings.count(Standing.LEAD) == 1
        assert standings.count(Standing.WAIT) == 9


async def test_a_leader_that_is_done_lets_the_next_one_lead(server: RedisServer) -> None:
    server.ask("FLUSHALL")
    async with running(server) as one, running(server) as two:
        await one.claim(digest(), b"one", 0)
        two.release(digest(), b"two", alone=False)  # It is not its claim.
        assert await two.claim(digest(), b"two", 0) is Standing.WAIT

        one.release(digest(), b"one", alone=False)
        await one.find(digest())

        assert await two.claim(digest(), b"two", 0) is Standing.LEAD


async def test_others_are_told_that_an_answer_is_not_to_be_kept(server: RedisServer) -> None:
    server.ask("FLUSHALL")
    async with running(server) as one, running(server) as two:
        await one.claim(digest(), b"one", 0)
        one.release(digest(), b"one", alone=True)
        await one.find(digest())

        assert await two.claim(digest(), b"two", 0) is Standing.ALONE


async def test_a_leader_that_dies_is_followed_by_another(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_redis, "LEASE_S", 0.2)
    server.ask("FLUSHALL")
    async with running(server) as one, running(server) as two:
        await one.claim(digest(), b"one", 0)
        for _ in range(4):
            await asyncio.sleep(0.1)
            one.renew(digest(), b"one")
            assert await two.claim(digest(), b"two", 0) is Standing.WAIT
        await one.stop()
        await asyncio.sleep(0.25)

        assert await two.claim(digest(), b"two", 0) is Standing.LEAD


async def test_large_answers_are_kept_small(server: RedisServer) -> None:
    server.ask("FLUSHALL")
    async with running(server) as store:
        store.keep(digest(), answer(body=b"x" * 100_000), 60)
        await store.find(digest())

        names = server.ask("KEYS", "gateway:answer:*")
        assert isinstance(names, list)
        assert len(names) == 1
        assert int(str(server.ask("STRLEN", names[0]))) < 2_000


async def test_what_cannot_be_read_is_a_miss(server: RedisServer) -> None:
    server.ask("FLUSHALL")
    async with running(server) as store:
        name = f"gateway:answer:{{{digest().hex()}}}"
        for garbage in (b"", b"\x00garbage", b"\x01garbage", b"\x02"):
            server.ask("SET", name, garbage)  # type: ignore[arg-type]

            assert await store.find(digest()) is None


async def test_without_redis_everything_is_a_miss_and_nothing_fails(tmp_path_factory: pytest.TempPathFactory) -> None:
    own = RedisServer(str(tmp_path_factory.mktemp("redis")))
    own.start()
    async with running(own, timeout_s=0.2) as store:
        store.keep(digest(), ANSWER, 60)
        assert await store.find(digest()) == ANSWER
        own.freeze()
        before = time.monotonic()

        assert await store.find(digest()) is None
        assert await store.claim(digest(), b"one", 0) is Standing.LEAD
        assert time.monotonic() - before < 1

        own.kill()
        store.keep(digest(), ANSWER, 60)
        store.renew(digest(), b"one")
        store.release(digest(), b"one", alone=True)
        assert await store.find(digest()) is None
