"""The composition root: how new budgets take over when the database fails in the middle of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError

from billing import journal
from billing.journal import Journal
from billing.journal_files import Position
from billing.standing import BySubject, Tally, Used
from llmgateway import wiring
from llmgateway.conf import Conf
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.protocols import BudgetState
from llmgateway.pipeline.snapshot import BudgetRule, Snapshot
from llmgateway.seeding import Seeds
from llmgateway.wiring import Runtime
from tests.billing.records import opened
from tests.billing.test_journal import FullDisk

TOTAL = BudgetRule(1, "total", "global", "", "total", 1000, "UTC")
Mark = Callable[[], Position]


@pytest.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """Built, but without its threads and timers."""
    monkeypatch.setattr(wiring, "SEED_AGAIN_S", 0.0)
    runtime = Runtime(Conf({"GATEWAY_DATA_DIR": str(tmp_path)}), Snapshot(), Seeds())
    yield runtime
    await runtime.stop()


class FailingLedger:
    """`used_up_to` that fails after its mark, once, and then says 7."""

    def __init__(self, error: Exception) -> None:
        self.errors = [error]

    def __call__(self, journal: Journal, tallies: Sequence[Tally], mark: Mark) -> list[BySubject]:
        mark()
        if self.errors:
            raise self.errors.pop()
        return [{"": Used(cost_pico_usd=7)} for _ in tallies]


async def counted(runtime: Runtime) -> BudgetState:
    await asyncio.wait_for(runtime.gateway.budgets_ready.wait(), 2)
    return await runtime.gateway.store.state(TOTAL)


@pytest.mark.parametrize("error", [DatabaseError("away"), InterfaceError("connection is closed"), TimeoutError()])
async def test_a_new_budget_is_counted_once_the_database_is_back(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(wiring, "used_up_to", FailingLedger(error))

    await asyncio.to_thread(runtime.follower._on_change, Snapshot(budgets={1: TOTAL}))

    assert await counted(runtime) == BudgetState(7, 0)


async def test_a_budget_that_could_not_be_counted_is_with_the_next_snapshot(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Snapshot(revision=2, budgets={1: TOTAL})
    monkeypatch.setattr(wiring, "used_up_to", FailingLedger(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        await asyncio.to_thread(runtime.follower._on_change, snapshot)

    await asyncio.to_thread(runtime.follower._on_change, dataclasses.replace(snapshot, revision=3))

    assert await counted(runtime) == BudgetState(7, 0)


async def test_a_full_disk_makes_it_unready_until_there_is_room(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(0)
    monkeypatch.setattr(journal, "os", disk)

    with pytest.raises(LedgerUnavailableError):
        runtime.journal.open(opened("a"))

    assert (runtime.ready, runtime.facts()["ledger"]) == (False, "full")
    disk.room = 2**20
    assert (runtime.ready, runtime.facts()["ledger"]) == (True, "ok")


@pytest.mark.parametrize("kind", ["lean", "aiohttp", "httpcore"])
async def test_upstreams_are_reached_as_the_settings_say(kind: str) -> None:
    transport = wiring.upstream_transport(Conf({"UPSTREAM_TRANSPORT": kind, "UPSTREAM_PROXY": "http://p.test:1"}))

    assert type(transport) is wiring.transport_kind(kind)
    await transport.aclose()


@pytest.mark.parametrize(
    "settings",
    [
        {"UPSTREAM_PROXY": "socks5://me:secret@p.test"},
        {"UPSTREAM_CA_FILE": __file__},
        {"UPSTREAM_CLIENT_CERTIFICATE": __file__},
        {"UPSTREAM_CA_FILE": "/nowhere"},
    ],
)
def test_a_way_to_upstreams_that_cannot_be_used_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured, match=next(iter(settings))) as raised:
        wiring.upstream_transport(Conf(settings))

    assert "secret" not in str(raised.value)
