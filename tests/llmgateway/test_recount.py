"""Lost counters are made of the ledger and of every journal beyond it: together, each request counts once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.db import connections

from billing.journal import Journal
from billing.ledger import JournalDrain
from billing.usage_rows import completed
from llmgateway.pipeline.protocols import Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Key, KeyDigest, Limit, Snapshot
from llmgateway.recount import LedgerRecount, orphans
from llmgateway.stores.redis_epoch import Totals
from tests.billing.records import NOON, closed, opened
from tests.fakes import FakeClock

pytestmark = pytest.mark.django_db(transaction=True)

BUDGET = BudgetRule(1, "monthly", "key", "7", "month", 10**15, "UTC")
DAILY = Limit("limit:1", "1000 per day", "key", 1000, 1000, per="day", owner="key:7")
KEY = Key("7", "pub", "k", 3, "red", limits=(DAILY,), budgets=(BUDGET,))
SNAPSHOT = Snapshot(keys={b"x": KeyDigest(KEY)}, budgets={1: BUDGET})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, fsync="never", max_bytes=2**20)
    yield journal
    journal.stop()


@pytest.fixture
def recount(journal: Journal) -> LedgerRecount:
    return LedgerRecount(journal, lambda: SNAPSHOT, FakeClock(NOON))


def finish(journal: Journal, request_id: str, cost: int) -> None:
    journal.open(opened(request_id))
    journal.close(closed(request_id, cost_pico_usd=cost))


async def drain(journal: Journal) -> None:
    await in_thread(lambda: JournalDrain(journal.folder, journal=journal).drain())


async def in_thread(work: Callable[[], Any]) -> None:
    def closing() -> None:
        try:
            work()
        finally:
            connections.close_all()

    await asyncio.to_thread(closing)


def said(totals: Totals) -> tuple[int, int]:
    """Pico-dollars of the budget and requests of the day."""
    return sum(amount for *_, amount in totals.budgets), sum(amount for *_, amount in totals.limits)


async def test_the_ledger_and_the_journal_beyond_it_are_everything_once(
    journal: Journal, recount: LedgerRecount
) -> None:
    finish(journal, "drained", 50)
    await drain(journal)
    finish(journal, "not drained", 30)

    totals = await recount.totals()
    finish(journal, "before the mark", 7)
    await drain(journal)  # What is drained after the sums were taken still counts as beyond them.
    mark = recount.mark()
    finish(journal, "after the mark", 1000)
    own = await recount.beyond(totals.offsets, mark)

    assert said(totals) == (50, 1)
    assert said(own) == (37, 2)


async def test_a_worker_that_came_later_has_nothing_to_add(journal: Journal, recount: LedgerRecount) -> None:
    own = await recount.beyond("{}", recount.mark())

    assert said(own) == (0, 0)


async def test_rates_begin_unused_only_if_nothing_ran(journal: Journal, recount: LedgerRecount) -> None:
    assert (await recount.totals()).idle

    finish(journal, "a", 1)
    assert not (await recount.totals()).idle  # It is in the journal,

    await drain(journal)
    assert not (await recount.totals()).idle  # and then in the ledger.


def test_every_row_of_an_adopted_journal_says_what_its_request_used() -> None:
    changes = {"status": "interrupted", "cost_pico_usd": 9, "reserved_pico_usd": 4}
    rows = [
        completed(closed("closed", cost_pico_usd=50)),
        completed(closed("open", **changes)),
        completed(closed("not sent", cost_pico_usd=0, counted=False)),
    ]

    found = orphans(rows)

    assert [(each.id, each.cost_pico_usd, each.reserved_pico_usd) for each in found] == [
        ("closed", 50, 0),
        ("open", 9, 4),
        ("not sent", 0, 0),
    ]
    assert [each.used for each in found] == [Tokens(100, 25), Tokens(100, 25), None]


def test_the_hold_of_a_second_attempt_returns_with_a_row_that_nobody_has_read() -> None:
    row = {"id": "r", "cost_pico_usd": 7, "counted": False, "attempts": msgspec.Raw(b'[{"hedge":true},{}]')}

    assert [(each.id, each.cost_pico_usd) for each in orphans([row])] == [("r", 7), ("r#h", 0)]
