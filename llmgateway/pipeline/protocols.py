"""What the pipeline asks of the world: a clock, a store of counters, a ledger, telemetry. Shapes only.

Implementations are `llmgateway.stores`, `billing.journal` and `llmgateway.pipeline.telemetry`; tests bring small
real ones of their own (`tests/fakes.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from llmgateway.pipeline.snapshot import BudgetRule, Limit


class Clock(Protocol):
    """The time. Wall time decides windows and prices; monotonic time measures."""

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds, never going back."""
        ...


class Reservation(msgspec.Struct, frozen=True):
    """What an admitted request took, to be settled exactly once. `id` is the gateway's request id."""

    id: str
    limits: tuple[Limit, ...]
    windows: tuple[tuple[str, BudgetRule], ...]
    """(counter name, budget) of each window that holds `held_pico_usd`."""
    held_pico_usd: int
    limit: int | None = None
    """Of the tightest request limit, for `x-ratelimit-limit-requests`."""
    remaining: int | None = None
    reset_s: float = 0.0
    """Until that limit is as if never used."""


@dataclass(frozen=True, slots=True)
class LimitRefusal:
    """The first limit that had no room."""

    limit: Limit
    remaining: int
    retry_after_s: float | None
    """Exact, if nothing else is taken meanwhile. None: no wait helps."""


@dataclass(frozen=True, slots=True)
class BudgetRefusal:
    """The first budget that could not pay the hold."""

    budget: BudgetRule
    settled_pico_usd: int
    held_pico_usd: int
    resets_at: float | None
    """Seconds since the epoch; None: never."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    settled_pico_usd: int
    held_pico_usd: int


class AdmissionStore(Protocol):
    """Counters of limits and budgets.

    `admit` checks all and takes from all or from none, in one atomic step. `settle` gives back the hold and books
    the cost; settling an id twice changes nothing. `settle` and `seed` never wait.
    """

    async def admit(
        self, request_id: str, *, limits: tuple[Limit, ...], budgets: tuple[BudgetRule, ...], hold_pico_usd: int
    ) -> Reservation | LimitRefusal | BudgetRefusal: ...

    def settle(
        self, reservation: Reservation, *, cost_pico_usd: int, budgets: tuple[BudgetRule, ...], refund_limits: bool
    ) -> None:
        """Book `cost_pico_usd` on every window that was held, and on those `budgets` that came into being meanwhile.

        `refund_limits` gives back what limits took: for a request that reached no provider.
        """
        ...

    def seed(self, budget: BudgetRule, *, window_start: float, settled_pico_usd: int) -> None:
        """What the ledger says was settled in the window that began at `window_start`, before any request counted."""
        ...

    def restart(self, budget: BudgetRule) -> None:
        """Forget what is settled in the current window; a `seed` follows. What is held stays."""
        ...

    def state(self, budget: BudgetRule) -> BudgetState:
        """Of the current window."""
        ...


Record = dict[str, Any]
"""A journal record's content: text, numbers, lists and objects of them."""


class Ledger(Protocol):
    """The crash-safe record of what happens to each request. Calls return when the record is written.

    Every `open` is followed by one `close` or, if the process dies, by an adopter's. All calls come from the event
    loop's thread and none waits longer than a plain write takes.
    """

    def open(self, record: Record) -> None:
        """The request was admitted: `id`, who, which windows, hold. Also holds the first attempt when known.

        Raises:
            LedgerUnavailableError: it could not be written; the request must not go on.
        """
        ...

    def attempt(self, request_id: str, record: Record) -> None:
        """Written before each upstream call after the first: `deployment`, `provider`, `model`, `price_id`."""
        ...

    def progress(self, counted: list[tuple[str, int]]) -> None:
        """Output tokens counted so far of each running stream: (request id, tokens). One write for all."""
        ...

    def close(self, record: Record) -> None:
        """The complete ledger row, by the column names of `billing.models.UsageRecord`. Before the last byte goes out."""
        ...

    def refused(self, counts: list[Record]) -> None:
        """Requests refused before any upstream call, summed per team, key, alias and hour."""
        ...

    @property
    def backlog_bytes(self) -> int:
        """Bytes that are not in the database yet."""
        ...
