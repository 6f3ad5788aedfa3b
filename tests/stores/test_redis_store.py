"""The Redis store on a real Redis: the contract, and the model whatever happens in whatever order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from billing.windows import load_zone
from llmgateway.pipeline.protocols import AdmissionStore
from llmgateway.stores.redis_store import RedisStore
from tests.fakes import FakeClock
from tests.stores.contract import StoreContract
from tests.stores.machine import StoreMachine
from tests.stores.redis_running import Soon
from tests.stores.redis_server import RedisServer

load_zone("UTC")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    redis_server = RedisServer(str(tmp_path_factory.mktemp("redis")))
    redis_server.start()
    yield redis_server
    redis_server.kill()


async def new_store(server: RedisServer, clock: FakeClock, kind: type[RedisStore] = RedisStore) -> RedisStore:
    """On an empty Redis, and on `clock` instead of its own."""
    server.ask("FLUSHALL")
    store = kind(server.url, clock, timeout_s=5, lease_s=10**7, now_us=lambda: round(clock.monotonic() * 1e6))
    store.start()
    assert await store.ready()
    return store


class TestRedisStore(StoreContract):
    @pytest.fixture
    async def store(self, server: RedisServer, clock: FakeClock) -> AsyncIterator[AdmissionStore]:
        store = await new_store(server, clock)
        yield store
        await store.stop()


class TestRedisStoreThatIsAskedWithoutATask(StoreContract):
    @pytest.fixture
    async def store(self, server: RedisServer, clock: FakeClock) -> AsyncIterator[AdmissionStore]:
        store = await new_store(server, clock, Soon)
        yield store
        await store.stop()


def test_counts_as_the_model_does(server: RedisServer) -> None:
    class RedisMachine(StoreMachine):
        steps_back = True

        async def make_store(self, clock: FakeClock) -> AdmissionStore:
            return await new_store(server, clock)

        async def close_store(self, store: AdmissionStore) -> None:
            assert isinstance(store, RedisStore)
            await store.stop()

    run_state_machine_as_test(
        RedisMachine,
        settings=settings(
            max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
