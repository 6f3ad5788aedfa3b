"""Holds the counters that all workers share in Redis against the ledger, and puts right what differs.

One worker does, elected by a lock that expires. It sums the ledger, reads all counters in one step together with how
far each worker's journal was then, and adds what every worker says its journal has beyond the ledger. Requests go on
meanwhile. Only a difference that was seen twice is corrected, and nothing is while anything is unclear: a worker that
died and whose journal nobody adopted yet, one that did not hear of the comparison, another configuration.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from llmgateway.counter_check import EVERY_S, CounterDrift, RepeatedCheck, slices
from llmgateway.pipeline.protocols import Clock
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.pipeline.telemetry import Figures
from llmgateway.recount import LedgerRecount, frame_of, rules_mark
from llmgateway.seeding import Seed, Seeds, WindowLimit
from llmgateway.stores.redis_comparison import Comparison, InconclusiveError, Reading
from llmgateway.stores.redis_link import Call, EpochChangedError, LinkLostError
from llmgateway.stores.redis_store import RedisStore
from llmgateway.stores.redis_terms import Packed

log = logging.getLogger(__name__)

SLICE = 1000
"""Rules that are read in one step: Redis does nothing else meanwhile, for a millisecond or two."""
CONFIRM_S = 15.0
"""Between the two times that a difference is looked at: what begins to count for a new rule is through by then."""
TRIES = 3
TRY_AGAIN_S = 7.0
EDGE_S = 60.0
"""A window that ends so soon is left out: requests that began in the next must not be among those compared."""
GONE_S = 30.0
"""After a worker was heard of last, what it settled is in the ledger, or its journal is still known there."""
ON_LOOP_S = 15.0
STEP_S = 120.0
"""Longer than it takes to compare some rules: after that another worker may begin, if this one died."""
REST = 0.9
"""Of the time between two comparisons: whoever comes first after it makes the next."""

Answer = TypeVar("Answer")
Drifts = dict[str, CounterDrift]
"""By counter."""


class SharedCounterCheck(RepeatedCheck):
    """Made on the event loop. Every worker has one; each time, one of them compares."""

    def __init__(
        self,
        store: RedisStore,
        recount: LedgerRecount,
        *,
        clock: Clock,
        figures: Figures,
        every_s: float = EVERY_S,
        confirm_s: float = CONFIRM_S,
        try_again_s: float = TRY_AGAIN_S,
    ) -> None:
        super().__init__(figures=figures, every_s=every_s)
        self._comparisons = store.comparisons
        self._recount = recount
        self._clock = clock
        self._confirm_s = confirm_s
        self._try_again_s = try_again_s

    def run(self) -> list[CounterDrift]:
        """Nothing, where another worker compares."""
        try:
            if not self._on_loop(self._comparisons.elected(STEP_S)):
                self._tell_drift(())  # Of all workers' figures together, only the last comparison's count.
                return []
            try:
                drifts = self._drifted()
            finally:
                self._on_loop(self._comparisons.stay(self._every_s * REST))
        except (InconclusiveError, LinkLostError, EpochChangedError) as reason:
            log.warning("The counters in Redis could not be compared with the ledger this time: %s", reason)
            return []
        self._tell(drifts)
        self._read_rollup_drift()
        return drifts

    def _drifted(self) -> list[CounterDrift]:
        """All that drifted and was put right."""
        first: Drifts = {}
        budgets, limits = self._recount.rules()
        for some_budgets, some_limits in slices(list(budgets.values()), list(limits.values()), SLICE):
            first |= self._compared(some_budgets, some_limits)
        if not first or self._stop.wait(self._confirm_s):
            return []
        put_right = []
        for some_budgets, some_limits in slices(*_concerned(first, budgets, limits), SLICE):
            second = self._compared(some_budgets, some_limits)
            put_right += self._put_right(_seen_twice(first, second))
        return put_right

    def _compared(self, budgets: Sequence[BudgetRule], limits: Sequence[WindowLimit]) -> Drifts:
        for _ in range(TRIES - 1):
            try:
                return self._compare(budgets, limits)
            except InconclusiveError as reason:
                log.info("Comparing counters with the ledger again: %s", reason)
                if self._stop.wait(self._try_again_s):
                    raise
        return self._compare(budgets, limits)

    def _compare(self, budgets: Sequence[BudgetRule], limits: Sequence[WindowLimit]) -> Drifts:
        self._on_loop(self._comparisons.stay(STEP_S))
        at = self._clock.time()
        budgets = [budget for budget in budgets if frame_of(budget, at).ends_at - at > EDGE_S]
        limits = [each for each in limits if frame_of(each.limit, at).ends_at - at > EDGE_S]
        stored, offsets, lively = self._recount.compared_sums(budgets, limits, at)
        comparison = Comparison.of(
            at, [budget.id for budget in budgets], [each.limit.counter for each in limits], offsets
        )
        windows, counters = _names(stored.budgets, at), _names(stored.limits, at)
        reading = self._on_loop(self._comparisons.read(comparison, windows, counters))
        self._all_accounted_for(reading, lively)
        parts = self._on_loop(self._comparisons.parts(comparison, reading.workers))
        if any(part.rules != rules_mark(budgets, limits, at) for part in parts):
            raise InconclusiveError("not every worker has the present configuration yet")
        beyond = [part.amounts for part in parts]
        return _drifts(
            stored, at, dict(zip([*windows, *counters], [*reading.budgets, *reading.limits], strict=True)), beyond
        )

    def _all_accounted_for(self, reading: Reading, lively: set[str]) -> None:
        """Raises InconclusiveError while the counters may know something that neither ledger nor parts do."""
        said = {name for name, seen in reading.journals.items() if seen.worker in reading.workers}
        lost = sorted(lively - said)
        if lost:
            raise InconclusiveError(f"the journals {', '.join(lost)} belong to no worker that counts in Redis now")
        gone = {name: seen for name, seen in reading.journals.items() if name not in said}
        if any(seen.age_s < GONE_S for seen in gone.values()):
            raise InconclusiveError("a worker ended a moment ago")
        self._on_loop(self._comparisons.forget(list(gone)))

    def _put_right(self, drifts: Drifts) -> list[CounterDrift]:
        now, found, calls = self._clock.time(), [], []
        for name, drift in drifts.items():
            frame = frame_of(drift.rule, now)
            if frame.name == name:
                found.append(drift)
                calls.append(_correction(drift, frame.packed))
        done = self._on_loop(self._comparisons.put_right(calls))
        return [drift for drift, was_done in zip(found, done, strict=True) if was_done]

    def _on_loop(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        running: concurrent.futures.Future[Answer] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result(ON_LOOP_S)
        except TimeoutError:
            running.cancel()
            raise


def _names(found: Sequence[Seed[Any]], at: float) -> list[str]:
    return [frame_of(rule, at).name for rule, *_ in found]


def _drifts(stored: Seeds, at: float, counted: dict[str, int], beyond: Sequence[dict[str, int]]) -> Drifts:
    found = {}
    sums: list[tuple[BudgetRule | Limit, float, int]] = [*stored.budgets, *stored.limits]
    for rule, start, amount in sums:
        name = frame_of(rule, at).name
        expected = amount + sum(amounts.get(name, 0) for amounts in beyond)
        if counted[name] != expected:
            found[name] = CounterDrift(rule, start, counted[name], expected)
    return found


def _seen_twice(first: Drifts, second: Drifts) -> Drifts:
    """What differed both times, by no more than both times."""
    found = {}
    for name, drift in second.items():
        before = first[name].difference if name in first else 0
        if before * drift.difference > 0:
            least = min(before, drift.difference, key=abs)
            found[name] = replace(drift, expected=drift.counted + least)
    return found


def _correction(drift: CounterDrift, packed: Packed) -> Call:
    if isinstance(drift.rule, BudgetRule):
        return "budget", packed, str(drift.difference)
    return "limit", packed, drift.difference


def _concerned(
    drifts: Drifts, budgets: Mapping[int, BudgetRule], limits: dict[str, WindowLimit]
) -> tuple[list[BudgetRule], list[WindowLimit]]:
    """The rules, as they are in the configuration, to which drifted counters belong."""
    numbers = {drift.rule.id for drift in drifts.values() if isinstance(drift.rule, BudgetRule)}
    names = {drift.rule.counter for drift in drifts.values() if not isinstance(drift.rule, BudgetRule)}
    some_limits = [
        each
        for counter, each in limits.items()
        if counter in names or (each.limit.each and any(name.startswith(f"{counter}:") for name in names))
    ]
    return [budgets[number] for number in numbers if number in budgets], some_limits


__all__ = ["SharedCounterCheck"]
