"""A replica takes the master's place: its counters are made anew, whatever the replication lost, and nothing hangs.

A name in front of both stands for what operators have: an address that follows the master.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from llmgateway.pipeline.protocols import Refusal, Reservation, StoreRefusal, StrictHold, Tokens
from llmgateway.stores.redis_store import RedisStore
from tests.stores.redis_running import DAILY, RATE, STRICT, TOTAL, Ledger, WallClock, admitted, ask, running, until
from tests.stores.redis_server import RedisServer, free_port


@pytest.fixture
def replica(tmp_path_factory: pytest.TempPathFactory, server: RedisServer) -> Iterator[RedisServer]:
    redis_server = RedisServer(str(tmp_path_factory.mktemp("replica")))
    redis_server.start()
    redis_server.follow(server)
    yield redis_server
    redis_server.kill()


class Name:
    """Of whichever is the master: connections go to where it points when they are made."""

    def __init__(self, target: RedisServer) -> None:
        self.target = target
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def serve(self) -> None:
        def passing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._passing.add(asyncio.create_task(self._pass_on(reader, writer)))

        self._server = await asyncio.start_server(passing, "127.0.0.1", self.port)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._passing)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            its_reader, its_writer = await asyncio.open_connection("127.0.0.1", self.target.port)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, its_writer}
        await asyncio.gather(_copy(reader, its_writer), _copy(its_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass  # One of both was killed.
    finally:
        writer.close()


@asynccontextmanager
async def named(server: RedisServer) -> AsyncIterator[Name]:
    name = Name(server)
    await name.serve()
    yield name
    await name.close()


@asynccontextmanager
async def counting(name: Name, ledger: Ledger) -> AsyncIterator[RedisStore]:
    store = RedisStore(name.url, WallClock(), recount=ledger, timeout_s=0.5)
    store.start()
    assert await store.ready()
    yield store
    await store.stop()


async def strict(store: RedisStore) -> Reservation | Refusal:
    return await ask(store, (), (STRICT,), strict=StrictHold(1, 1))


async def test_a_replica_that_takes_over_begins_with_what_the_ledger_says(
    server: RedisServer, replica: RedisServer
) -> None:
    ledger = Ledger(idle=True)
    async with named(server) as name, counting(name, ledger) as one, counting(name, ledger) as other:
        runs = await admitted(one, (DAILY,), (TOTAL,), hold=100)
        server.kill()
        ledger.settled = 300  # Of which the replica may not have heard.
        await until(one, "local")
        assert isinstance(await strict(one), StoreRefusal)
        assert isinstance(await ask(one, (RATE,)), Reservation)
        replica.promote()
        name.target = replica
        for store in (one, other):
            await until(store, "ok")

        state = await other.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (300, 100)
        one.settle(runs, cost_pico_usd=60, used=Tokens(1, 1), budgets=(TOTAL,))
        state = await one.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (360, 0)
        assert isinstance(await strict(other), Reservation)


async def test_a_master_that_becomes_a_replica_is_left_for_the_new_one(
    server: RedisServer, replica: RedisServer
) -> None:
    """It answers reads and refuses writes, and its connections stay."""
    ledger = Ledger(idle=True)
    async with named(server) as name, counting(name, ledger) as store:
        runs = await admitted(store, (), (TOTAL,), hold=100)
        replica.promote()
        server.follow(replica)
        started = time.perf_counter()
        decisions = await asyncio.gather(*(ask(store, (RATE,)) for _ in range(20)))
        assert all(isinstance(decision, Reservation) for decision in decisions)
        await until(store, "local")
        assert isinstance(await strict(store), StoreRefusal)
        assert time.perf_counter() - started < 2
        store.settle(runs, cost_pico_usd=40, used=Tokens(1, 1), budgets=(TOTAL,))
        ledger.settled = 40
        assert store.mode != "ok"  # While the name still leads to the replica.
        name.target = replica
        await until(store, "ok")

        state = await store.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (40, 0)


async def test_a_master_that_was_a_replica_meanwhile_is_not_believed(server: RedisServer, replica: RedisServer) -> None:
    """The very same process, with counters that are not what it counted."""
    ledger = Ledger(idle=True)
    async with running(server, recount=ledger, timeout_s=0.5) as store:
        await admitted(store, (), (TOTAL,), hold=100)
        replica.promote()
        replica.ask("CONFIG", "SET", "save", "")
        for key in replica.ask("KEYS", "*budget*"):  # type: ignore[attr-defined]
            replica.ask("HINCRBY", key, "remaining", 7)
        server.follow(replica)
        server.promote()
        ledger.settled = 20
        await until(store, "local", "rebuilding", timeout_s=5)
        await until(store, "ok")

        state = await store.state(TOTAL)
        assert (state.settled_pico_usd, state.held_pico_usd) == (20, 100)
