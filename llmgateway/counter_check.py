"""Holds the counters of this process against ledger and journal, and puts right what differs.

Runs in a thread. The drain stands still while a slice of the counters is compared, for milliseconds; the event loop
only tells what the counters say and takes the corrections. A correction is a difference that is added, so nothing that
is counted meanwhile is lost.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from django.db import DatabaseError, InterfaceError, connections

from billing.journal import Journal
from billing.journal_files import Position
from billing.models import Reconciliation
from billing.money import format_usd
from billing.standing import BySubject, Tally, closes, used, used_by
from llmgateway.pipeline.protocols import AdmissionStore, BudgetState, Clock
from llmgateway.pipeline.snapshot import BudgetRule, Limit, Snapshot
from llmgateway.pipeline.telemetry import Figures
from llmgateway.seeding import Seeds, WindowLimit, seeds, window_limits

log = logging.getLogger(__name__)

EVERY_S = 300.0
SLICE = 500
"""Rules compared while the drain stands still."""
PAUSE_S = 0.05
"""Between slices, for the drain."""
ON_LOOP_S = 10.0


class Counters(AdmissionStore, Protocol):
    """A store whose counters are this process's alone."""

    def limits_settled(self, limits: Sequence[Limit]) -> list[int]: ...

    def is_shared(self, rule: Limit | BudgetRule) -> bool: ...


@dataclass(frozen=True, slots=True)
class CounterDrift:
    """A counter that did not say what the ledger says."""

    rule: BudgetRule | Limit
    window_start: float
    counted: int
    expected: int

    @property
    def difference(self) -> int:
        return self.expected - self.counted

    def __str__(self) -> str:
        if isinstance(self.rule, BudgetRule):
            subject = f" of {self.rule.scope_id}" if self.rule.each else ""
            counted, expected = format_usd(self.counted), format_usd(self.expected)
            return f"budget {self.rule.name} ({self.rule.id}){subject}: counter {counted}, ledger {expected}"
        return f"{self.rule.counter} ({self.rule.name}): counter {self.counted}, ledger {self.expected}"


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the counters say, and how far the journal is at that very moment."""

    position: Position
    settled: list[int]
    limits: list[int]
    shared: set[BudgetRule | Limit]
    """Those that are counted together with others: of them alone nobody knows."""


class RepeatedCheck(ABC):
    """A thread that compares every few minutes, and tells log and metrics."""

    def __init__(self, *, figures: Figures, every_s: float) -> None:
        self._figures = figures
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="counter-check", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 15.0) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @abstractmethod
    def run(self) -> list[CounterDrift]:
        """Compares all counters, corrects those that drifted, and tells log and metrics.

        Raises:
            DatabaseError: the ledger cannot be read.
        """

    def _work(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.run()
            except (DatabaseError, InterfaceError, TimeoutError, OSError) as error:
                log.warning("The counters cannot be compared with the ledger now: %s", error)
            except Exception:
                # A fault here must not end the comparing for good.
                log.exception("Comparing the counters with the ledger met an unexpected error")
            finally:
                connections.close_all()

    def _tell(self, drifts: Sequence[CounterDrift]) -> None:
        for drift in drifts:
            log.warning("A counter had drifted and was put right: %s", drift)
        self._tell_drift(drifts)
        self._figures.counter_repairs += len(drifts)

    def _tell_drift(self, drifts: Sequence[CounterDrift]) -> None:
        self._figures.counter_drift_pico_usd = _sum(drifts, BudgetRule)
        self._figures.counter_drift_limits = _sum(drifts, Limit)

    def _read_rollup_drift(self) -> None:
        last = Reconciliation.objects.order_by("-id").first()
        self._figures.rollup_drift_rows = last.drifted if last else 0


class CounterCheck(RepeatedCheck):
    """Of counters that are this process's alone. `run` may be called by one thread at a time."""

    def __init__(
        self,
        store: Counters,
        journal: Journal,
        snapshot: Callable[[], Snapshot],
        *,
        clock: Clock,
        figures: Figures,
        every_s: float = EVERY_S,
    ) -> None:
        super().__init__(figures=figures, every_s=every_s)
        self._store = store
        self._journal = journal
        self._snapshot = snapshot
        self._clock = clock
        self._one_at_a_time = threading.Lock()

    def run(self) -> list[CounterDrift]:
        snapshot = self._snapshot()
        # A limit in shadow mode takes nothing when it is full, so it says less than the ledger.
        limits = [each for each in window_limits(snapshot).values() if not each.limit.shadow]
        drifts: list[CounterDrift] = []
        for some_budgets, some_limits in slices(list(snapshot.budgets.values()), limits, SLICE):
            if self._stop.is_set():
                return drifts
            drifts += self.correct(some_budgets, some_limits)
            self._stop.wait(PAUSE_S)
        self._tell(drifts)
        self._read_rollup_drift()
        return drifts

    def correct(self, budgets: Sequence[BudgetRule], limits: Sequence[WindowLimit]) -> list[CounterDrift]:
        """Compares these, and corrects what differs. Returns what did, unlogged: a new limit's counter always does."""
        with self._one_at_a_time, self._journal.gate:
            drifts = self._compared(budgets, limits)
            if drifts:
                self._loop.call_soon_threadsafe(self._put_right, drifts)
        return drifts

    def _compared(self, budgets: Sequence[BudgetRule], limits: Sequence[WindowLimit]) -> list[CounterDrift]:
        at, first = self._clock.time(), self._journal.position()
        before = [record for _, record in closes(self._journal, first)]
        subjects = seeds(budgets, limits, at, lambda tallies: used(tallies, records=before))
        reading = asyncio.run_coroutine_threadsafe(self._read(subjects), self._loop).result(ON_LOOP_S)
        between = [record for place, record in closes(self._journal, reading.position) if place > first]

        def with_the_rest(tallies: Sequence[Tally]) -> list[BySubject]:
            return used_by(between, tallies)

        rest = seeds(budgets, limits, at, with_the_rest) if between else Seeds()
        return _drifts(subjects, rest, reading)

    async def _read(self, subjects: Seeds) -> _Reading:
        # Nothing here waits, so that position and counters are of one moment.
        position = self._journal.position()
        states: list[BudgetState] = [await self._store.state(budget) for budget, *_ in subjects.budgets]
        limits = self._store.limits_settled([limit for limit, *_ in subjects.limits])
        rules: list[BudgetRule | Limit] = [budget for budget, *_ in subjects.budgets]
        rules += [limit for limit, *_ in subjects.limits]
        shared = {rule for rule in rules if rule.each and self._store.is_shared(rule)}
        return _Reading(position, [state.settled_pico_usd for state in states], limits, shared)

    def _put_right(self, drifts: Sequence[CounterDrift]) -> None:
        for drift in drifts:
            rule, start, difference = drift.rule, drift.window_start, drift.difference
            if isinstance(rule, BudgetRule):
                self._store.seed(rule, window_start=start, settled_pico_usd=difference)
            else:
                self._store.seed_limit(rule, window_start=start, used=difference)


def slices(
    budgets: list[BudgetRule], limits: list[WindowLimit], size: int
) -> Iterator[tuple[list[BudgetRule], list[WindowLimit]]]:
    """Some of both at a time."""
    for place in range(0, len(budgets) + len(limits), size):
        beyond = place - len(budgets)
        yield budgets[place : place + size], limits[max(0, beyond) : max(0, beyond + size)]


def _drifts(subjects: Seeds, rest: Seeds, reading: _Reading) -> list[CounterDrift]:
    later: dict[BudgetRule | Limit, int] = {budget: amount for budget, _, amount in rest.budgets}
    later |= {limit: amount for limit, _, amount in rest.limits}
    compared = [
        CounterDrift(budget, start, counted, amount + later.get(budget, 0))
        for (budget, start, amount), counted in zip(subjects.budgets, reading.settled, strict=True)
    ]
    compared += [
        CounterDrift(limit, start, counted, amount + later.get(limit, 0))
        for (limit, start, amount), counted in zip(subjects.limits, reading.limits, strict=True)
    ]
    return [drift for drift in compared if drift.difference and drift.rule not in reading.shared]


def _sum(drifts: Sequence[CounterDrift], kind: type[BudgetRule | Limit]) -> int:
    return sum(abs(drift.difference) for drift in drifts if isinstance(drift.rule, kind))


__all__ = ["CounterCheck", "CounterDrift", "Counters", "RepeatedCheck", "slices"]
