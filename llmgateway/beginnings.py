"""How shared counters of new rules begin, while requests run in every worker: with what was really used before.

The drain of this worker stands still from the moment it counts for the rules until it knows how far the sums reach, so
that they never reach beyond that moment. See `stores.redis_newcomers` for what the workers say to each other.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError

from billing.journal import Journal
from billing.journal_files import Position
from llmgateway.pipeline.snapshot import BudgetRule
from llmgateway.recount import LedgerRecount
from llmgateway.seeding import WindowLimit
from llmgateway.stores.redis_link import EpochChangedError, LinkLostError
from llmgateway.stores.redis_newcomers import Claim, Rule
from llmgateway.stores.redis_store import RedisStore

log = logging.getLogger(__name__)

ON_LOOP_S = 10.0

Rules = tuple[list[BudgetRule], list[WindowLimit]]
Answer = TypeVar("Answer")


class Beginnings:
    """Made on the event loop; `begin` runs in the thread that brings new snapshots."""

    def __init__(self, store: RedisStore, recount: LedgerRecount, journal: Journal) -> None:
        self._store = store
        self._recount = recount
        self._journal = journal
        self._loop = asyncio.get_running_loop()

    def begin(
        self,
        budgets: Sequence[BudgetRule],
        limits: Sequence[WindowLimit],
        swap: Callable[[], None],
        ready: asyncio.Event,
    ) -> None:
        """Count for these rules from `swap` on, which runs on the event loop, and tell what was used before.

        `ready` is cleared while budgets lack that, so that requests wait.
        """
        try:
            self._begin(budgets, limits, swap, ready)
        except (LinkLostError, EpochChangedError, TimeoutError, DatabaseError, InterfaceError, OSError) as error:
            reason = f"new rules could not be counted ({error or type(error).__name__})"
            self._loop.call_soon_threadsafe(self._store.count_anew, reason)
        finally:
            self._loop.call_soon_threadsafe(ready.set)

    def _begin(
        self,
        budgets: Sequence[BudgetRule],
        limits: Sequence[WindowLimit],
        swap: Callable[[], None],
        ready: asyncio.Event,
    ) -> None:
        by_rule: dict[Rule, WindowLimit] = {each.limit: each for each in limits}

        async def count_from_here() -> tuple[Claim, Position]:
            # Nothing here waits: what was settled before is in the journal's part, what is settled later is told.
            swap()
            if budgets:
                ready.clear()
            return self._store.newcomers.claim([*budgets, *by_rule]), self._journal.position()

        with self._journal.gate:
            claim, mark = self._on_loop(count_from_here())
            owners = {
                owner: _sorted(rules, by_rule)
                for owner, rules in self._on_loop(self._store.newcomers.owners(claim)).items()
            }
            if claim.id in owners:
                self._on_loop(self._store.newcomers.publish(claim, self._recount.sums(*owners[claim.id])))
            offsets = {owner: self._on_loop(self._store.newcomers.offsets(claim, owner)) for owner in owners}
        for owner, rules in owners.items():
            own = self._recount.part(*rules, offsets[owner], mark)
            self._on_loop(self._store.newcomers.add(claim, owner, own))
        strict = [owner for owner, (some, _) in owners.items() if any(budget.strict for budget in some)]
        self._on_loop(self._store.newcomers.all_said(claim, strict))

    def _on_loop(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        running: concurrent.futures.Future[Answer] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result(ON_LOOP_S)
        except TimeoutError:
            running.cancel()
            raise


def _sorted(rules: Sequence[Rule], limits: dict[Rule, WindowLimit]) -> Rules:
    budgets = [rule for rule in rules if isinstance(rule, BudgetRule)]
    return budgets, [limits[rule] for rule in rules if not isinstance(rule, BudgetRule)]


__all__ = ["Beginnings"]
