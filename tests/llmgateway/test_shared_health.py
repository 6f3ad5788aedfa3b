"""Workers that share what they know of deployments, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from llmgateway.pipeline.health import Health
from llmgateway.pipeline.route_rules import CircuitRules, Probe
from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.standings import ProbeStanding
from llmgateway.shared_health import SharedHealth
from llmgateway.stores.redis_store import RedisStore
from tests.gateways import alias, deployment, snapshot
from tests.stores.redis_running import WallClock
from tests.stores.redis_server import RedisServer

TARGET = deployment("a", 1, probe=Probe())
OPEN_S = 0.3


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    redis_server = RedisServer(str(tmp_path_factory.mktemp("redis")))
    redis_server.start()
    yield redis_server
    redis_server.kill()


@asynccontextmanager
async def worker(server: RedisServer, *, open_s: float = OPEN_S, target: Deployment = TARGET) -> AsyncIterator[Health]:
    async with worker_and_shared(server, open_s=open_s, target=target) as (health, _):
        yield health


@asynccontextmanager
async def worker_and_shared(
    server: RedisServer, *, open_s: float = OPEN_S, target: Deployment = TARGET
) -> AsyncIterator[tuple[Health, SharedHealth]]:
    store = RedisStore(server.url, WallClock(), timeout_s=0.5)
    health = Health(WallClock())
    health.use(snapshot(alias("gpt", target), circuit=CircuitRules(failures=2, open_s=open_s)))
    shared = SharedHealth(store, health)
    store.start()
    assert await store.ready()
    shared.start()
    try:
        yield health, shared
    finally:
        await shared.stop()
        await store.stop()


async def soon(holds: Callable[[], bool], timeout_s: float = 3.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110  # Of what another worker says there is no event.
            await asyncio.sleep(0.005)


def state(health: Health, target: Deployment = TARGET) -> str:
    return health.state_of(target).state


def fail(health: Health, times: int = 2) -> None:
    for _ in range(times):
        health.record(TARGET, ok=False, kind="server_error")


def heard(health: Health) -> bool:
    """Whether it knows what another worker has seen."""
    return TARGET.id in health._circuits and bool(health._circuits[TARGET.id]._elsewhere)


def standing(*, healthy: bool, at: float) -> ProbeStanding:
    return ProbeStanding(healthy, at, 3.0, "status 503", at)


async def test_what_one_worker_opens_is_open_in_all(server: RedisServer) -> None:
    async with worker(server, open_s=30) as one, worker(server, open_s=30) as two:
        fail(one)

        await soon(lambda: state(two) == "open", 1.5)
        assert two.usable((TARGET,)) == ()
        assert two.state_of(TARGET).kind == "server_error"


async def test_failures_count_wherever_they_are_seen(server: RedisServer) -> None:
    async with worker(server, open_s=30) as one, worker(server, open_s=30) as two, worker(server, open_s=30) as three:
        fail(one, times=1)
        fail(two, times=1)

        await soon(lambda: state(one) == state(two) == state(three) == "open")
        assert one.opens[1] + two.opens[1] >= 1
        assert three.opens[1] == 0


async def test_so_do_answers(server: RedisServer) -> None:
    async with worker(server, open_s=30) as one, worker(server, open_s=30) as two:
        fail(one, times=1)
        for _ in range(9):
            one.record(TARGET, ok=True)
        await soon(lambda: heard(two))
        fail(two, times=1)
        await soon(lambda: heard(one))

        assert state(one) == state(two) == "healthy"
        fail(two, times=1)
        assert state(two) == "open"


async def test_a_worker_that_starts_later_knows_too(server: RedisServer) -> None:
    async with worker(server, open_s=30) as one:
        fail(one)
        async with worker(server, open_s=30) as two:
            await soon(lambda: state(two) == "open")


async def test_one_worker_at_a_time_tries_and_its_verdict_holds_for_all(server: RedisServer) -> None:
    async with worker(server) as one, worker(server) as two, worker(server) as three:
        fail(one)
        await soon(lambda: state(two) == state(three) == "open" or state(two) == state(three) == "half_open")
        await asyncio.sleep(OPEN_S)
        claimed: list[Health] = []
        for _ in range(200):
            claimed += [health for health in (one, two, three) if health.usable((TARGET,)) and health.claim(TARGET)]
            await asyncio.sleep(0.005)
        assert len(claimed) == 1

        claimed[0].record(TARGET, ok=True)
        await soon(lambda: {state(one), state(two), state(three)} == {"healthy"}, 1.5)


async def test_a_failed_trial_leaves_it_alone_everywhere(server: RedisServer) -> None:
    async with worker(server) as one, worker(server) as two:
        fail(one)
        await soon(lambda: state(two) == "half_open")
        assert await two.wait_for_any((TARGET,), 2)
        assert two.claim(TARGET)
        two.record(TARGET, ok=False, kind="timeout")

        for _ in range(50):  # It is told before anyone else may try.
            assert not (one.usable((TARGET,)) and one.claim(TARGET))
            await asyncio.sleep(0.005)
        assert state(one) == "open"


async def test_requests_wait_for_their_workers_turn(server: RedisServer) -> None:
    async with worker(server) as one:
        await asyncio.sleep(0.1)
        fail(one)

        assert one.usable((TARGET,)) == ()
        assert await one.wait_for_any((TARGET,), 2)
        assert one.claim(TARGET)


async def test_a_worker_that_wants_no_try_after_all_lets_others(server: RedisServer) -> None:
    async with worker(server) as one, worker(server) as two:
        fail(one)
        await soon(lambda: state(two) == "half_open")
        assert await one.wait_for_any((TARGET,), 2)  # And never claims.

        assert await two.wait_for_any((TARGET,), 0.1) is False
        await soon(lambda: bool(two.usable((TARGET,))), 4)


async def test_without_redis_each_goes_by_what_it_sees(server: RedisServer) -> None:
    async with worker(server) as one, worker(server) as two:
        fail(one)
        await soon(lambda: state(two) in {"open", "half_open"})
        server.kill()
        await asyncio.sleep(OPEN_S)
        await soon(lambda: bool(one.usable((TARGET,))) and bool(two.usable((TARGET,))))
        assert one.claim(TARGET)
        assert not one.claim(TARGET)
        assert two.claim(TARGET)

        two.record(TARGET, ok=True)
        assert state(two) == "healthy"
        assert state(one) == "half_open"
        server.start()
        await soon(lambda: state(one) == "healthy", 8)


async def test_another_credential_is_another_matter(server: RedisServer) -> None:
    renewed = replace(TARGET, headers=((b"authorization", b"Bearer new"),))
    async with worker(server, open_s=30) as one, worker(server, open_s=30, target=renewed) as two:
        fail(one)
        await asyncio.sleep(1)

        assert state(two, renewed) == "healthy"


async def test_what_one_has_probed_all_know(server: RedisServer) -> None:
    async with worker(server) as one, worker(server) as two:
        one.probed(TARGET, standing(healthy=False, at=WallClock().time()))
        await soon(lambda: state(two) == "unhealthy", 1.5)

        two.probed(TARGET, standing(healthy=True, at=WallClock().time()))
        await soon(lambda: state(one) == "healthy", 1.5)


async def test_one_worker_probes_and_another_when_it_has_gone(server: RedisServer) -> None:
    async with worker_and_shared(server) as (_, one):
        async with worker_and_shared(server) as (_, two):
            assert await two.may_probe(1, 0.3)
            assert not await one.may_probe(1, 0.3)
            assert await two.may_probe(1, 0.3)
        assert await one.may_probe(1, 0.3)


async def test_the_lease_of_a_killed_worker_runs_out(server: RedisServer) -> None:
    async with worker_and_shared(server) as (_, one), worker_and_shared(server) as (_, two):
        assert await two.may_probe(1, 0.2)
        assert not await one.may_probe(1, 0.2)
        await asyncio.sleep(0.25)

        assert await one.may_probe(1, 0.2)
