"""The composition root: makes one running gateway per process out of its parts, and takes it down in order."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connection

from billing.journal import Journal
from billing.journal_files import Position
from billing.ledger import Drain, drain_orphans
from billing.object_book import DatabaseBook
from billing.reporters.backlog import BacklogWatch
from billing.response_shelf import DatabaseShelf
from billing.standing import used_up_to
from billing.windows import load_zone
from llmgateway import conf as conf_module
from llmgateway import memory
from llmgateway.answer_keeping import AnswerKeeping
from llmgateway.api.app import DataPlane
from llmgateway.api.connections import Connections
from llmgateway.api.metrics import page_of
from llmgateway.beginnings import Beginnings
from llmgateway.conf import Conf
from llmgateway.config_follower import ConfigFollower
from llmgateway.config_loader import load_snapshot
from llmgateway.counter_check import CounterCheck
from llmgateway.health_keeping import HealthKeeping
from llmgateway.pipeline.authentication import Authenticator
from llmgateway.pipeline.cached_answers import RENEW_S
from llmgateway.pipeline.exchanges import TICK_S
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.protocols import Record
from llmgateway.pipeline.proxies import Proxies, tls_context
from llmgateway.pipeline.response_state import ResponseState
from llmgateway.pipeline.rules import BudgetIndex
from llmgateway.pipeline.snapshot import BudgetRule, Snapshot
from llmgateway.pipeline.sockets import SocketOpener
from llmgateway.pipeline.telemetry import AccessLog, Telemetry
from llmgateway.pipeline.upstream import Upstream
from llmgateway.recount import LedgerRecount, Orphan, orphans
from llmgateway.seeding import Seeds, limits_anew, new_time_zones, seeds, window_limits
from llmgateway.shared_check import SharedCounterCheck
from llmgateway.siblings import Siblings
from llmgateway.stores.memory import MemoryStore
from llmgateway.stores.redis_fallback import Policy
from llmgateway.stores.redis_store import RedisStore
from llmgateway.version import version

if TYPE_CHECKING:
    from llmgateway.pipeline.httpcore_transport import HttpcoreTransport
    from llmgateway.pipeline.transport import PooledTransport

logger = logging.getLogger(__name__)

PROGRESS_S = 0.25
"""How often the journal notes how far streams have come, and takes the refusals."""
SWEEP_S = 60.0
SHARED_COUNTERS_S = 3.0
"""A worker waits so long for Redis before it listens; without it, it starts all the same."""
SEED_AGAIN_S = 0.5
SWITCH_INTERVAL_S = 0.0005
"""How long a thread that moves rows or writes lines may keep the interpreter while the event loop waits for it. With
a thread at work for 30 of every 100 ms, the loop woke up to 5.3 ms late (p99) at Python's own 5 ms, and 0.8 ms at this."""
ON_LOOP_S = 10.0

Transport: TypeAlias = "LeanTransport | PooledTransport | HttpcoreTransport"


def transport_kind(name: str) -> type[Transport]:
    """By the value of `UPSTREAM_TRANSPORT`. The library of each is loaded by who uses it alone: aiohttp takes 10 MB."""
    if name == "aiohttp":
        from llmgateway.pipeline.transport import PooledTransport

        return PooledTransport
    if name == "httpcore":
        from llmgateway.pipeline.httpcore_transport import HttpcoreTransport

        return HttpcoreTransport
    return LeanTransport


def upstream_transport(conf: Conf) -> Transport:
    """Raises ImproperlyConfigured for a proxy or a certificate that cannot be used."""
    proxies, tls = way_out(conf)
    kind = transport_kind(conf.upstream_transport)
    return kind(max_connections=conf.max_upstream_connections, tls=tls, proxies=proxies)


def way_out(conf: Conf) -> tuple[Proxies, ssl.SSLContext]:
    """Which proxy leads where, and how upstreams prove who they are; raises ImproperlyConfigured as above."""
    try:
        proxies = Proxies.of(conf.upstream_proxy, os.environ)
    except ValueError as error:
        # Not the address itself: it may hold a password.
        raise ImproperlyConfigured(f"UPSTREAM_PROXY, HTTP_PROXY or HTTPS_PROXY is not usable: {error}.") from None
    try:
        tls = tls_context(
            ca_file=conf.upstream_ca_file,
            certificate=conf.upstream_client_certificate,
            key=conf.upstream_client_key,
        )
    except OSError as error:
        raise ImproperlyConfigured(
            f"UPSTREAM_CA_FILE, UPSTREAM_CLIENT_CERTIFICATE or UPSTREAM_CLIENT_KEY is not usable: {error}. "
            "Give each a PEM file; the key must belong to the certificate."
        ) from error
    return proxies, tls


class SystemClock:
    """The time of this machine."""

    def __init__(self) -> None:
        self.time: Callable[[], float] = time.time
        self.monotonic: Callable[[], float] = time.monotonic


class Runtime:
    """The data plane of this process and everything it runs on. Started and stopped on one event loop."""

    def __init__(self, conf: Conf, snapshot: Snapshot, seeded: Seeds) -> None:
        self._conf = conf
        self._loop = asyncio.get_running_loop()
        self._clock = SystemClock()
        self._shutdown = threading.Event()
        self._access_log = AccessLog(sys.stdout.fileno())
        self.journal = Journal(conf.journal_dir, fsync=conf.journal_fsync, max_bytes=conf.journal_max_mb * 2**20)
        self._recount = LedgerRecount(self.journal, lambda: self.gateway.snapshot, self._clock)
        self._shared = self._shared_counters(conf) if conf.redis_url else None
        self._beginnings = None if self._shared is None else Beginnings(self._shared, self._recount, self.journal)
        self.drain = Drain(self.journal, on_adopted=None if self._shared is None else self._on_adopted)
        self._store: RedisStore | MemoryStore = self._shared or _own_counters(self._clock, seeded)
        self._webhooks = BacklogWatch()
        self._returning = memory.Returning()
        proxies, tls = way_out(conf)
        self._upstream = Upstream(upstream_transport(conf), SocketOpener(tls=tls, proxies=proxies))
        self.gateway = Gateway(
            snapshot=snapshot,
            authenticator=Authenticator(tuple(bytes.fromhex(pepper) for pepper in conf.key_peppers)),
            store=self._store,
            ledger=self.journal,
            upstream=self._upstream,
            telemetry=Telemetry(self._access_log),
            clock=self._clock,
            is_stale=self._is_stale,
            responses=ResponseState(
                DatabaseBook(),
                DatabaseShelf(conf.responses_retention_hours) if conf.responses_retention_hours else None,
            ),
        )
        self.gateway.telemetry.figures.shared_counters = self._shared
        self._kept_answers = AnswerKeeping(conf, self.gateway, self._clock)
        self._health = HealthKeeping(conf, self.gateway, self._clock, self._shared)
        self.follower = ConfigFollower(snapshot, self._on_change)
        self.counter_check = self._counter_check()
        self._counted = snapshot
        """Of which every counter was begun."""
        self._timers: list[asyncio.TimerHandle] = []
        self.data_plane = DataPlane(self.gateway, conf, self)
        self._siblings = Siblings(conf.data_dir / "run", self._metrics) if conf.workers > 1 else None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where everything of the gateway runs."""
        return self._loop

    @property
    def conf(self) -> Conf:
        return self._conf

    async def run(self) -> None:
        """Start the threads and timers."""
        if self._siblings is not None:
            await self._siblings.start()
        self._access_log.start()
        self.drain.start()
        self.follower.start()
        self._webhooks.start()
        self._returning.start()
        self.counter_check.start()
        if self._shared is not None:
            self._shared.start()
            await self._shared.ready(SHARED_COUNTERS_S)
        self._health.start()
        self._every(TICK_S, self.gateway.exchanges.tick)
        self._every(PROGRESS_S, self._note_progress)
        self._every(SWEEP_S, self._store.sweep)
        await self._kept_answers.start()
        self._every(RENEW_S, self._kept_answers.renew)

    def _shared_counters(self, conf: Conf) -> RedisStore:
        """Counters that all workers share. Ledger and journals say what they begin with."""
        return RedisStore(
            conf.redis_url,
            self._clock,
            policy=cast("Policy", conf.redis_failure_policy),
            timeout_s=conf.redis_timeout_ms / 1000,
            recount=self._recount,
            journal=self._recount,
        )

    def _on_adopted(self, rows: list[Record]) -> None:
        """Called in the drain's thread."""
        found = orphans(rows)
        if found:
            self._loop.call_soon_threadsafe(self.settle_orphans, found)

    def settle_orphans(self, found: list[Orphan]) -> None:
        """What dead workers held of shared counters returns with their rows."""
        if self._shared is not None:
            self._shared.settle_orphans(found)

    def _counter_check(self) -> CounterCheck | SharedCounterCheck:
        figures = self.gateway.telemetry.figures
        if isinstance(self._store, RedisStore):
            return SharedCounterCheck(self._store, self._recount, clock=self._clock, figures=figures)
        return CounterCheck(
            self._store, self.journal, lambda: self.gateway.snapshot, clock=self._clock, figures=figures
        )

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
        await self.gateway.mirroring.stop()
        await self.gateway.reading_on.stop()
        await self._health.stop()
        await self.gateway.responses.stop()
        await self._kept_answers.stop()
        if self._siblings is not None:
            await self._siblings.stop()
        await asyncio.to_thread(self.follower.stop)
        await asyncio.to_thread(self.counter_check.stop)
        if self._shared is not None:
            await self._shared.stop()
        await asyncio.to_thread(self.drain.stop)
        await asyncio.to_thread(self._webhooks.stop)
        await asyncio.to_thread(self._returning.stop)
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
        return not self.journal.refusal()

    @property
    def version(self) -> str:
        return version()

    def facts(self) -> dict[str, Any]:
        return {
            "database": "ok" if self.follower.healthy else "unreachable",
            "ledger": self._ledger_state(),
            "journal_backlog_bytes": self.journal.backlog_bytes,
            "journal_undrained_s": round(self.journal.undrained_s, 1),
            "requests_in_flight": len(self.gateway.exchanges),
            "requests_queued": self.gateway.turns.queued,
            "connections": 0 if _connections is None else _connections.open,
            "counters": "ok" if self._shared is None else self._shared.mode,
            "workers": 1 if self._shared is None else self._shared.workers,
            "config_revision": self.gateway.snapshot.revision,
            "config_problems": len(self.gateway.problems),
            "pages": _pages(),
            "webhooks": self._webhooks.facts(),
        }

    def _ledger_state(self) -> str:
        """`full`: the disk or the journal is, and requests are refused; the log says which."""
        if self.journal.refusal():
            return "full"
        return "ok" if self.drain.healthy and not self.journal.unwritten_closes else "behind"

    async def sibling_metrics(self) -> list[bytes]:
        return [] if self._siblings is None else await self._siblings.pages()

    async def _metrics(self) -> bytes:
        return page_of(self.gateway, self)

    def _is_stale(self) -> bool:
        longest = self._conf.stale_config_max_s
        return bool(longest) and self._clock.monotonic() - self.follower.last_seen > longest

    # Live configuration.

    def _on_change(self, snapshot: Snapshot) -> None:
        """Called in the follower's thread with the next snapshot."""
        for time_zone in new_time_zones(self._counted, snapshot):
            load_zone(time_zone)
        if self._beginnings is not None:
            self._take_over_shared(snapshot, self._beginnings)
        else:
            self._swap_budgets(snapshot)
            self._count_limits(snapshot)

    def _take_over_shared(self, snapshot: Snapshot, beginnings: Beginnings) -> None:
        """Swap; rules that are new go on from what was used before, in the counters that all workers share."""
        before, self._counted = self._counted, snapshot
        budgets = [
            budget for number, budget in snapshot.budgets.items() if _counts_anew(before.budgets.get(number), budget)
        ]
        limits = limits_anew(before, snapshot)
        known = self.gateway.budget_index
        index = known if known.budgets == snapshot.budgets else BudgetIndex(snapshot.budgets)
        if not budgets and not limits:
            self._loop.call_soon_threadsafe(self.gateway.use, snapshot, index)
            return
        beginnings.begin(budgets, limits, lambda: self.gateway.use(snapshot, index), self.gateway.budgets_ready)

    def _swap_budgets(self, snapshot: Snapshot) -> None:
        """Swap; budgets that are new count from the first request on."""
        before = self.gateway.budget_index
        index = before if before.budgets == snapshot.budgets else BudgetIndex(snapshot.budgets)
        # While the last new budgets are not counted, nothing says which these were.
        counted = self.gateway.budgets_ready.is_set()
        fresh = [
            budget
            for number, budget in snapshot.budgets.items()
            if not budget.each and (not counted or _counts_anew(before.budgets.get(number), budget))
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

        def mark() -> Position:
            return self._on_loop(lambda: self._swap(snapshot, index, fresh))

        found = seeds(fresh, (), self._clock.time(), lambda tallies: used_up_to(self.journal, tallies, mark))
        self._loop.call_soon_threadsafe(self._seeded, found)

    def _count_limits(self, snapshot: Snapshot) -> None:
        """Limits that are new, or sum something else than before, go on from what the ledger says of their window.

        Requests do not wait for that: until then, which takes milliseconds, such a limit counts from nothing. So do
        budgets for each address or end user.
        """
        before, self._counted = self._counted, snapshot
        if isinstance(self.counter_check, SharedCounterCheck):
            return
        budgets = [
            budget
            for number, budget in snapshot.budgets.items()
            if budget.each and _counts_anew(before.budgets.get(number), budget)
        ]
        fresh = limits_anew(before, snapshot)
        try:
            if fresh or budgets:
                self.counter_check.correct(budgets, fresh)
        except (DatabaseError, InterfaceError, OSError) as error:
            logger.warning("new limits are counted with the next comparison of counters: %s", error)

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

    def _seeded(self, found: Seeds) -> None:
        found.sow(self._store)
        self.gateway.budgets_ready.set()


def _own_counters(clock: SystemClock, seeded: Seeds) -> MemoryStore:
    store = MemoryStore(clock)
    seeded.sow(store)
    return store


def _counts_anew(before: BudgetRule | None, budget: BudgetRule) -> bool:
    """Whether a budget is new, or sums something else than before. A changed limit keeps its counter."""
    if before is budget:
        return False
    return before is None or _summed(before) != _summed(budget)


def _summed(budget: BudgetRule) -> tuple[object, ...]:
    period = (budget.window, budget.time_zone, budget.starts_on)
    return *period, budget.scope, budget.scope_id, budget.each, budget.owner, budget.strict


def _prepare(conf: Conf) -> tuple[Snapshot, Seeds, list[Orphan]]:
    """Read configuration and ledger. What earlier processes left in their journals is booked first."""
    try:
        adopted: list[Orphan] = []
        drain_orphans(conf.journal_dir, on_commit=lambda rows: adopted.extend(orphans(rows)))
        snapshot = load_snapshot(revision=1)
        limits = list(window_limits(snapshot).values())
        return snapshot, seeds(list(snapshot.budgets.values()), limits, time.time()), adopted
    finally:
        connection.close()


_runtime: Runtime | None = None
_connections: Connections | None = None
_pages: Callable[[], dict[str, Any]] = partial(dict, made="here", pid=0)
_starting = asyncio.Lock()


def watch(connections: Connections, pages: Callable[[], dict[str, Any]]) -> None:
    """Show the figures of the server's connections, and who makes pages. To be called before `start`."""
    global _connections, _pages  # As above.
    _connections, _pages = connections, pages


def current() -> Runtime | None:
    """The running data plane of this process."""
    return _runtime


async def start() -> Runtime:
    """Start the data plane of this process, once."""
    global _runtime  # noqa: PLW0603  # One per process is what this module is for.
    async with _starting:
        if _runtime is None:
            memory.use_one_heap()
            conf = conf_module.conf
            snapshot, seeded, adopted = await asyncio.to_thread(_prepare, conf)
            runtime = Runtime(conf, snapshot, seeded)
            runtime.settle_orphans(adopted)
            await runtime.run()
            memory.expect_few_cycles()
            runtime.gateway.telemetry.figures.connections = _connections
            if _connections is not None:
                _connections.express = runtime.data_plane.express
            sys.setswitchinterval(SWITCH_INTERVAL_S)
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
