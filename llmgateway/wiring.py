"""The composition root: makes one running gateway per process out of its parts, and takes it down in order."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, InterfaceError, connection

from billing.journal import Journal
from billing.journal_files import Position
from billing.ledger import Drain, drain_orphans, settled_windows
from billing.standing import settled_up_to
from billing.windows import load_zone, window_bounds
from llmgateway import conf as conf_module
from llmgateway.api.app import DataPlane
from llmgateway.conf import Conf
from llmgateway.config_follower import ConfigFollower
from llmgateway.config_loader import load_snapshot
from llmgateway.pipeline.authentication import Authenticator
from llmgateway.pipeline.exchanges import TICK_S
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.rules import BudgetIndex
from llmgateway.pipeline.snapshot import BudgetRule, Snapshot
from llmgateway.pipeline.telemetry import AccessLog, Telemetry
from llmgateway.pipeline.transport import PooledTransport
from llmgateway.pipeline.upstream import Upstream
from llmgateway.stores.memory import MemoryStore
from llmgateway.version import version

logger = logging.getLogger(__name__)

PROGRESS_S = 0.25
"""How often the journal notes how far streams have come, and takes the refusals."""
SWEEP_S = 60.0
SEED_AGAIN_S = 0.5
GC_THRESHOLDS = (50_000, 20, 100)
"""Requests make few cycles; looking for them at the default pace costs more than it frees."""
ON_LOOP_S = 10.0

TRANSPORTS: dict[str, type[PooledTransport | LeanTransport]] = {"aiohttp": PooledTransport, "lean": LeanTransport}
"""By the value of `UPSTREAM_TRANSPORT`."""

Seeds = list[tuple[BudgetRule, float, int]]
"""Budget, start of its current window, pico-dollars settled in it."""


class SystemClock:
    """The time of this machine."""

    def __init__(self) -> None:
        self.time: Callable[[], float] = time.time
        self.monotonic: Callable[[], float] = time.monotonic


class Runtime:
    """The data plane of this process and everything it runs on. Started and stopped on one event loop."""

    def __init__(self, conf: Conf, snapshot: Snapshot, seeds: Seeds) -> None:
        self._conf = conf
        self._loop = asyncio.get_running_loop()
        self._clock = SystemClock()
        self._shutdown = threading.Event()
        self._access_log = AccessLog(sys.stdout.fileno())
        self._store = MemoryStore(self._clock)
        for budget, window_start, settled in seeds:
            self._store.seed(budget, window_start=window_start, settled_pico_usd=settled)
        self.journal = Journal(conf.journal_dir, fsync=conf.journal_fsync, max_bytes=conf.journal_max_mb * 2**20)
        self.drain = Drain(self.journal)
        self._upstream = Upstream(TRANSPORTS[conf.upstream_transport](max_connections=conf.max_upstream_connections))
        self.gateway = Gateway(
            snapshot=snapshot,
            authenticator=Authenticator(tuple(bytes.fromhex(pepper) for pepper in conf.key_peppers)),
            store=self._store,
            ledger=self.journal,
            upstream=self._upstream,
            telemetry=Telemetry(self._access_log),
            clock=self._clock,
            is_stale=self._is_stale,
        )
        self.follower = ConfigFollower(snapshot, self._on_change)
        self._timers: list[asyncio.TimerHandle] = []
        self.data_plane = DataPlane(self.gateway, conf, self)

    def run(self) -> None:
        """Start the threads and timers."""
        self._access_log.start()
        self.drain.start()
        self.follower.start()
        self._every(TICK_S, self.gateway.exchanges.tick)
        self._every(PROGRESS_S, self._note_progress)
        self._every(SWEEP_S, self._store.sweep)

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        position = len(self._timers)

        def tick() -> None:
            self._timers[position] = self._loop.call_later(seconds, tick)
            work()

        self._timers.append(self._loop.call_later(seconds, tick))

    def _note_progress(self) -> None:
        counted = list(self.gateway.exchanges.progress())
        if counted:
            self.journal.progress(counted)
        refused = self.gateway.telemetry.take_refused()
        if refused:
            self.journal.refused(refused)

    async def stop(self) -> None:
        """After the last answer: settle what is left, move it to the database, close everything."""
        self.begin_shutdown()
        for timer in self._timers:
            timer.cancel()
        self._note_progress()
        await asyncio.to_thread(self.follower.stop)
        await asyncio.to_thread(self.drain.stop)
        await asyncio.to_thread(self.journal.stop)
        await self._upstream.aclose()
        await asyncio.to_thread(self._access_log.close)

    def begin_shutdown(self) -> None:
        """From now on `/health/ready` says no, so that nobody sends new requests."""
        self._shutdown.set()

    # What the process knows of itself: `api.health.Status`.

    @property
    def ready(self) -> bool:
        if self._shutdown.is_set() or self._is_stale() or self.journal.unwritten_closes:
            return False
        return self.journal.backlog_bytes < self._conf.journal_max_mb * 2**20

    @property
    def version(self) -> str:
        return version()

    def facts(self) -> dict[str, Any]:
        return {
            "database": "ok" if self.follower.healthy else "unreachable",
            "ledger": "ok" if self.drain.healthy and not self.journal.unwritten_closes else "behind",
            "journal_backlog_bytes": self.journal.backlog_bytes,
            "journal_undrained_s": round(self.journal.undrained_s, 1),
            "requests_in_flight": len(self.gateway.exchanges),
            "config_revision": self.gateway.snapshot.revision,
            "config_problems": len(self.gateway.snapshot.problems),
        }

    def _is_stale(self) -> bool:
        longest = self._conf.stale_config_max_s
        return bool(longest) and self._clock.monotonic() - self.follower.last_seen > longest

    # Live configuration.

    def _on_change(self, snapshot: Snapshot) -> None:
        """Called in the follower's thread with the next snapshot."""
        for budget in snapshot.budgets.values():
            load_zone(budget.time_zone)
        before = self.gateway.budget_index
        index = before if before.budgets == snapshot.budgets else BudgetIndex(snapshot.budgets)
        # While the last new budgets are not counted, nothing says which these were.
        counted = self.gateway.budgets_ready.is_set()
        fresh = [
            budget
            for number, budget in snapshot.budgets.items()
            if not counted or _counts_anew(before.budgets.get(number), budget)
        ]
        if not fresh:
            self._loop.call_soon_threadsafe(self.gateway.use, snapshot, index)
            return
        while not self._shutdown.is_set():
            try:
                self._take_over(snapshot, index, fresh)
            except (DatabaseError, InterfaceError, OSError) as error:
                logger.warning("new budgets cannot be counted yet, trying again: %s", error)
                self._shutdown.wait(SEED_AGAIN_S)
            else:
                return

    def _take_over(self, snapshot: Snapshot, index: BudgetIndex, fresh: list[BudgetRule]) -> None:
        """Swap, with new budgets that know from their first request on what has been spent before."""
        at = self._clock.time()
        starts = [window_bounds(budget.window, budget.time_zone, at)[0] for budget in fresh]
        windows = [(budget.scope, budget.scope_id, start) for budget, start in zip(fresh, starts, strict=True)]

        def mark() -> Position:
            return self._on_loop(lambda: self._swap(snapshot, index, fresh))

        settled = settled_up_to(self.journal, windows, mark)
        seeds = list(zip(fresh, starts, settled, strict=True))
        self._loop.call_soon_threadsafe(self._seeded, seeds)

    def _on_loop(self, work: Callable[[], Position]) -> Position:
        """Run `work` on the event loop and wait for it. For other threads."""
        done: concurrent.futures.Future[Position] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(work()))
        return done.result(timeout=ON_LOOP_S)

    def _swap(self, snapshot: Snapshot, index: BudgetIndex, fresh: list[BudgetRule]) -> Position:
        """From here on what is settled counts for the new budgets; what lies before is about to be summed."""
        self.gateway.use(snapshot, index)
        for budget in fresh:
            self._store.restart(budget)
        self.gateway.budgets_ready.clear()
        return self.journal.position()

    def _seeded(self, seeds: Seeds) -> None:
        for budget, window_start, settled in seeds:
            self._store.seed(budget, window_start=window_start, settled_pico_usd=settled)
        self.gateway.budgets_ready.set()


def _counts_anew(before: BudgetRule | None, budget: BudgetRule) -> bool:
    """Whether a budget is new, or sums something else than before. A changed limit keeps its counter."""
    return before is None or (before.window, before.time_zone, before.scope, before.scope_id) != (
        budget.window,
        budget.time_zone,
        budget.scope,
        budget.scope_id,
    )


def settled_now(budgets: list[BudgetRule], at: float) -> Seeds:
    """What the ledger says of the window of each budget that contains `at`."""
    for budget in budgets:
        load_zone(budget.time_zone)
    starts = [window_bounds(budget.window, budget.time_zone, at)[0] for budget in budgets]
    windows = [(budget.scope, budget.scope_id, start) for budget, start in zip(budgets, starts, strict=True)]
    return list(zip(budgets, starts, settled_windows(windows), strict=True))


def _prepare(conf: Conf) -> tuple[Snapshot, Seeds]:
    """Read configuration and ledger. What earlier processes left in their journals is booked first."""
    try:
        drain_orphans(conf.journal_dir)
        snapshot = load_snapshot(revision=1)
        return snapshot, settled_now(list(snapshot.budgets.values()), time.time())
    finally:
        connection.close()


_runtime: Runtime | None = None
_starting = asyncio.Lock()


def current() -> Runtime | None:
    """The running data plane of this process."""
    return _runtime


async def start() -> Runtime:
    """Start the data plane of this process, once."""
    global _runtime  # noqa: PLW0603  # One per process is what this module is for.
    async with _starting:
        if _runtime is None:
            conf = conf_module.conf
            snapshot, seeds = await asyncio.to_thread(_prepare, conf)
            runtime = Runtime(conf, snapshot, seeds)
            runtime.run()
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            _runtime = runtime
    return _runtime


async def stop() -> None:
    """Take the data plane down; nothing if it was never started."""
    global _runtime
    runtime, _runtime = _runtime, None
    if runtime is not None:
        await runtime.stop()


def begin_shutdown() -> None:
    """Say on `/health/ready` that this process is about to stop."""
    if _runtime is not None:
        _runtime.begin_shutdown()
