"""The requests that run in this worker, and what Redis has to be told of them: after a loss, and now and then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from llmgateway.pipeline.protocols import HeldWindow, Reservation, Tokens
from llmgateway.pipeline.snapshot import BudgetRule
from llmgateway.stores.redis_debts import Numbers
from llmgateway.stores.redis_fallback import Local
from llmgateway.stores.redis_link import Call
from llmgateway.stores.redis_terms import GRACE_S, Frames, Packed, amount_text, budget_sums


class OpenRequest(msgspec.Struct):
    """A request that runs."""

    reservation: Reservation
    callers: int
    """So many of its windows are the caller's, the rest the target's."""
    local: Local | None = None
    """It was admitted by this worker's share."""
    outside: bool = False
    """Redis knows nothing of it."""

    def others(self, budgets: Sequence[BudgetRule]) -> list[BudgetRule]:
        """Those of `budgets` that came into being since it was admitted, or sum up something else than then."""
        windows = self.reservation.windows
        for number, budget in enumerate(budgets):
            if number >= len(windows) or windows[number].budget is not budget:
                break
        else:
            return []  # As nearly always, the very ones that it was admitted with.
        held = [window.budget for window in windows]
        others = [budget for budget in budgets if not any(budget is each for each in held)]
        if not others:
            return others
        booked = {_counter(budget) for budget in held}
        return [budget for budget in others if _counter(budget) not in booked]


class Orphan(msgspec.Struct, frozen=True):
    """A request whose worker died, as its adopter closed it."""

    id: str
    cost_pico_usd: int
    used: Tokens | None
    """None: it does not count for limits."""
    reserved_pico_usd: int = 0
    """What strict budgets are charged besides, for the provider may bill that much."""


class OpenRequests(dict[str, OpenRequest]):
    """By request id."""

    def __init__(self, frames: Frames, numbers: Numbers, lease_us: int) -> None:
        super().__init__()
        self._numbers = numbers
        self.outside = 0
        """How many of them Redis knows nothing of."""
        self._frames = frames
        self._lease_us = lease_us

    def windows(self, opened: OpenRequest, now: float) -> list[Packed]:
        """Of the caller's budgets that a request holds something of."""
        return [self._window(window, now) for window in opened.reservation.windows[: opened.callers]]

    def kept(self, now: float) -> Iterator[Call]:
        """What tells new counters of every request that runs."""
        for request_id, opened in self.items():
            self._let_in(opened)
            yield self._kept(request_id, opened, now)

    def let_in(self, now: float) -> Iterator[Call]:
        """What tells Redis of every request that it knows nothing of."""
        if not self.outside:
            return
        for request_id, opened in self.items():
            if opened.outside:
                self._let_in(opened)
                yield self._kept(request_id, opened, now)

    def renewals(self) -> Iterator[Call]:
        """What renews the leases of all slots."""
        running: dict[str, list[str]] = {}
        for request_id, opened in self.items():
            if opened.outside:
                continue
            for limit in (*opened.reservation.limits, *opened.reservation.target_limits):
                if limit.metric == "concurrency" and limit not in opened.reservation.shadowed:
                    running.setdefault(self._frames.limit(limit, 0.0).name, []).append(request_id)
        for counter, ids in running.items():
            yield "renew", counter, ids, self._lease_us

    def _let_in(self, opened: OpenRequest) -> None:
        if opened.outside:
            opened.outside, opened.local = False, None
            self.outside -= 1

    def _window(self, window: HeldWindow, now: float) -> Packed:
        """The budget as of the window it was admitted in, which may be over by now."""
        frame = self._frames.budget(window.budget, now)
        if frame.name == window.name:
            return frame.packed
        return [window.name, frame.packed[1], window.budget.strict, int((now + GRACE_S) * 1e6)]

    def _kept(self, request_id: str, opened: OpenRequest, now: float) -> Call:
        reservation = opened.reservation
        windows = [
            (self._window(window, now), amount_text(window.held_pico_usd), number >= opened.callers)
            for number, window in enumerate(reservation.windows)
        ]
        limits = [
            [*packed, of_target]
            for of_target, some in ((False, reservation.limits), (True, reservation.target_limits))
            for packed in self._frames.limits(
                [limit for limit in some if limit not in reservation.shadowed], reservation.demand, now
            )
        ]
        return "keep", self._numbers.next(), request_id, windows, limits, self._lease_us


def _counter(budget: BudgetRule) -> tuple[Any, ...]:
    """What tells counters of budgets apart, whatever the time."""
    return budget.id, *budget_sums(budget)
