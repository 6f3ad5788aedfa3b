"""What the pipeline asks of the world: a clock, a store of counters, a ledger, telemetry. Shapes only.

Implementations are `llmgateway.stores`, `billing.journal` and `llmgateway.pipeline.telemetry`; tests bring small
real ones of their own (`tests/fakes.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

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


class Tokens(msgspec.Struct, frozen=True):
    """Tokens of one request: estimated when it is admitted, used when it is settled."""

    input: int = 0
    output: int = 0

    def amount(self, metric: str) -> int:
        """What the request takes of a limit's metric."""
        if metric == "tokens":
            return self.input + self.output
        if metric == "input_tokens":
            return self.input
        if metric == "output_tokens":
            return self.output
        return 1


class StrictHold(msgspec.Struct, frozen=True):
    """What a request must hold of strict budgets, in pico-dollars: between `least` and `wanted`."""

    wanted: int
    """The worst case at the request's own cap."""
    least: int
    """The worst case at the smallest output that is worth asking for; below it the request is refused."""
    share: int = 1
    """Holds no more than what remains of the budget divided by this, yet never less than `least`."""


class TargetTerms(msgspec.Struct, frozen=True):
    """What one candidate deployment asks of admission."""

    limits: tuple[Limit, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()
    """The deployment's and the provider's, besides the caller's."""
    expected_pico_usd: int = 0
    """Held of every budget that is not strict."""
    strict: StrictHold | None = None
    """Held of every strict budget; None: no strict budget is concerned."""


class Headroom(msgspec.Struct, frozen=True):
    """How much the tightest limit of a kind leaves, for `x-ratelimit-*`."""

    limit: int
    remaining: int
    reset_s: float
    """Until it is as if never used; infinite for a total that never resets."""


class HeldWindow(msgspec.Struct, frozen=True):
    """One budget's window that a request holds something of."""

    name: str
    """Of the counter."""
    budget: BudgetRule
    held_pico_usd: int


class Reservation(msgspec.Struct, frozen=True):
    """What an admitted request took, to be settled exactly once. `id` is the gateway's request id."""

    id: str
    demand: Tokens = Tokens()
    limits: tuple[Limit, ...] = ()
    """The caller's."""
    target_limits: tuple[Limit, ...] = ()
    """The deployment's and provider's of the present attempt."""
    windows: tuple[HeldWindow, ...] = ()
    target: int = 0
    """Which of the targets was taken: the first with room."""
    granted_pico_usd: int | None = None
    """What strict budgets hold; None: there is none."""
    requests: Headroom | None = None
    """Of the tightest limit of requests."""
    tokens: Headroom | None = None
    shadowed: tuple[Limit, ...] = ()
    """Limits in shadow mode that would have refused it."""

    @property
    def held_pico_usd(self) -> int:
        """The largest hold."""
        windows = self.windows
        largest = 0
        for window in windows:
            largest = max(largest, window.held_pico_usd)
        return largest


class LimitRefusal(msgspec.Struct, frozen=True):
    """The first limit that had no room."""

    limit: Limit
    remaining: int
    retry_after_s: float | None
    """Exact, if nothing else is taken meanwhile; a guess for concurrency. None: no wait helps."""


class BudgetRefusal(msgspec.Struct, frozen=True):
    """The first budget that could not pay the hold."""

    budget: BudgetRule
    settled_pico_usd: int
    held_pico_usd: int
    resets_at: float | None
    """Seconds since the epoch; None: never."""


class StoreRefusal(msgspec.Struct, frozen=True):
    """The counters cannot be asked, and what the operator chose for then refuses this request."""

    reason: str


Refusal = LimitRefusal | BudgetRefusal | StoreRefusal


class CountersAwayError(Exception):
    """Whoever keeps the counters cannot be asked now."""


class BudgetState(msgspec.Struct, frozen=True):
    settled_pico_usd: int
    held_pico_usd: int


@runtime_checkable
class AdmitsAtOnce(Protocol):
    """A store that need not ask anybody else."""

    def admit_at_once(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        terms: TargetTerms,
    ) -> Reservation | None:
        """`admit` for one target without limits and budgets of its own, if that needs no waiting and nobody is before it.

        None: nothing is taken, and `admit` says why not.
        """
        ...


@runtime_checkable
class AdmitsSoon(Protocol):
    """A store that asks others, and can tell of their answer without a task that waits for it."""

    @property
    def can_ask(self) -> bool:
        """False: only `admit` knows what to do now."""
        ...

    def admit_soon(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        terms: TargetTerms,
        decided: Callable[[Reservation | None], None],
    ) -> None:
        """`admit` for one target without limits and budgets of its own, while `can_ask`.

        `decided` is called once and later, from the event loop. With None nothing is taken, and `admit` says why not.
        """
        ...


class AdmissionStore(Protocol):
    """Counters of limits and budgets.

    `admit` checks all and takes from all or from none, in one atomic step. `settle` gives back the hold and books
    the cost; settling an id twice changes nothing. `settle`, `seed`, `seed_limit` and `restart` never wait; whoever asks
    afterwards sees what they did.
    """

    async def admit(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: Sequence[TargetTerms],
    ) -> Reservation | Refusal:
        """Take from the caller's `limits` and `budgets` and those of the first of `targets` (one at least) that has room.

        What is asked, in this order: the caller's limits; then for one target after the other the caller's budgets,
        the target's and the target's limits. The caller's own refusals come first; if only targets lack room, the
        first target's refusal is the answer. A limit that the demand can never fit refuses with `retry_after_s=None`.
        A limit in shadow mode without room is named in `shadowed`, and nothing is taken of it. No counter may come
        twice.
        """
        ...

    async def move(self, reservation: Reservation, target: TargetTerms) -> Reservation | Refusal:
        """Exchange the target's counters and the difference of the hold, for another attempt; or change nothing.

        The caller's counters stay taken. What the former target's limits took is given back.
        """
        ...

    def settle(
        self,
        reservation: Reservation,
        *,
        cost_pico_usd: int,
        used: Tokens | None,
        budgets: tuple[BudgetRule, ...],
    ) -> None:
        """Book `cost_pico_usd` on every window that was held, and on those `budgets` that came into being meanwhile.

        `used` corrects what token limits took, and may drive a bucket into debt; None gives everything back, the
        request itself included: it reached no provider. Concurrency slots return in any case. A bucket gets back
        only what has not drained since by itself: else a request that runs for minutes lets the same amount pass twice.
        """
        ...

    async def hold_returned(self, timeout_s: float) -> bool:
        """Wait for a hold to return; False: none did. Those who wait are woken in turn.

        Either way try once more: a hold may have returned for somebody else's turn and still be there.
        """
        ...

    def seed(self, budget: BudgetRule, *, window_start: float, settled_pico_usd: int) -> None:
        """What the ledger says was settled in the window that began at `window_start`, before any request counted."""
        ...

    def seed_limit(self, limit: Limit, *, window_start: float, used: int) -> None:
        """The same for a limit over a calendar window or a total; of a bucket, how much it lacks now."""
        ...

    def restart(self, budget: BudgetRule) -> None:
        """Forget what is settled in the current window; a `seed` follows. What is held stays."""
        ...

    async def state(self, budget: BudgetRule) -> BudgetState:
        """Of the current window. Raises CountersAwayError."""
        ...

    async def limit_used(self, limit: Limit) -> int:
        """How much of the limit is taken now: of a bucket, a window, or slots."""
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


class Owner(msgspec.Struct, frozen=True):
    """Who made an object through the gateway, and where it is kept."""

    provider: str
    team_id: int
    key_id: str

    def shares_with(self, other: Owner) -> bool:
        """Keys of one team see each other's objects; a key without a team sees its own."""
        return self.team_id == other.team_id and (self.team_id != 0 or self.key_id == other.key_id)


class ObjectBook(Protocol):
    """Remembers objects by the ids that providers gave them. Shared by all workers; calls may wait for a database."""

    async def owners(self, ids: Collection[str]) -> Mapping[str, Owner]:
        """Of those that are known."""
        ...

    async def remember(self, ids: Collection[str], owner: Owner, *, model: str = "") -> None:
        """An object keeps its first owner, and the first model that it is said to belong to: that of its batch."""
        ...

    async def models(self, ids: Collection[str]) -> Mapping[str, str]:
        """Of those whose model is known."""
        ...

    async def claim(self, object_id: str, owner: Owner, *, request_id: str, now: float) -> bool:
        """Whether `request_id` is the one whose row is charged with an object's cost. True once for each object."""
        ...


class KeptResponse(msgspec.Struct, frozen=True):
    """One response that the gateway keeps, so that another request can go on from it."""

    id: str
    owner: Owner
    """Its provider is empty: nobody else knows of it."""
    previous_id: str
    """The response that it went on from; empty: it began a conversation."""
    packed: bytes = b""
    """What was said, compressed."""
    size: int = 0
    """Bytes before that."""


class ResponseShelf(Protocol):
    """Keeps responses for as long as the operator wants. Shared by all workers; calls may wait for a database.

    A conversation is kept until nobody has gone on with it for that long.
    """

    async def put(self, kept: KeptResponse) -> None:
        """Its conversation is used now. A response is kept once."""
        ...

    async def last(self, response_id: str, *, with_content: bool = False) -> KeptResponse | None:
        """This response alone. None: it is not here, or not any more."""
        ...

    async def conversation(self, response_id: str, *, most_bytes: int) -> Sequence[KeptResponse]:
        """The responses up to this one, oldest first; empty if one of them is not here any more.

        Raises:
            RequestTooLargeError: they are larger than that.
        """
        ...

    async def remove(self, response_id: str) -> None: ...
