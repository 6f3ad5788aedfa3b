"""What happens to requests while the counters in Redis cannot be asked, as the operator chose.

`local` lets every worker use its share of what was left when Redis was last heard of; `open` lets everything pass;
`closed` lets nothing pass that has a limit or budget. Strict budgets and token quotas are closed in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec import structs

from llmgateway.pipeline.protocols import (
    BudgetRefusal,
    Clock,
    HeldWindow,
    LimitRefusal,
    Refusal,
    Reservation,
    StoreRefusal,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.memory import MemoryStore
from llmgateway.stores.redis_seen import Seen
from llmgateway.stores.redis_terms import BUCKET, LARGEST_AMOUNT, UNIT, WINDOW, Asked, Frames, is_quota, kind_of

Policy = Literal["local", "closed", "open"]

AWAY = "The counters of limits and budgets cannot be reached"


class Local(msgspec.Struct):
    """A request that was admitted without Redis."""

    reservation: Reservation
    """As the memory store knows it, with this worker's shares in place of the limits."""


class Fallback:
    """Admits without Redis. `begin` when it is lost; what is settled meanwhile the store reports to it afterwards."""

    def __init__(
        self,
        policy: Policy,
        clock: Clock,
        *,
        frames: Frames,
        seen: Seen,
        workers: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        """`now` is Redis's time, as far as it is known."""
        self.policy: Policy = policy
        self._clock = clock
        self._now = now
        self._frames = frames
        self._seen = seen
        self._workers = workers
        self.begin()

    def begin(self) -> None:
        """Redis was lost just now: share out what was left then."""
        self._store = MemoryStore(self._clock)
        self._shares: dict[int, tuple[Limit, Limit]] = {}
        self._parts: dict[int, tuple[BudgetRule, BudgetRule | None]] = {}
        self._filled: set[str] = set()
        """Buckets that go on from the level they had in Redis."""

    async def admit(self, asked: Asked) -> tuple[Reservation, Local | None] | Refusal:
        """The reservation by the rules as they are, and what is to be settled here."""
        now = self._now()
        refused = self._closed(asked.limits, asked.budgets, now)
        if refused is not None:
            return refused
        passing = []
        for number, target in enumerate(asked.targets):
            reason = self._closed(target.limits, target.budgets, now)
            if reason is None:
                passing.append(number)
            refused = refused or reason
        if not passing:
            return refused or StoreRefusal(AWAY)
        if self.policy == "open":
            return self._reservation(Reservation(asked.id, asked.demand), asked, passing[0], now), None
        return await self._share(asked, passing, now)

    def settle(self, local: Local, *, cost_pico_usd: int, used: Tokens | None) -> None:
        self._store.settle(local.reservation, cost_pico_usd=cost_pico_usd, used=used, budgets=())

    def sweep(self) -> None:
        self._store.sweep()

    def refuses_move(self, target: TargetTerms, budgets: Sequence[BudgetRule]) -> StoreRefusal | None:
        """Whether a request that runs may not go on to another target."""
        now = self._now()
        return self._closed((), budgets, now) or self._closed(target.limits, target.budgets, now)

    def _closed(self, limits: Sequence[Limit], budgets: Sequence[BudgetRule], now: float) -> StoreRefusal | None:
        """Why these rules let nothing pass at present."""
        for limit in limits:
            if not limit.shadow and (self.policy == "closed" or is_quota(limit)):
                return StoreRefusal(f"{AWAY}, so nothing passes '{limit.name}' ({limit.scope}) until they are back.")
        for budget in budgets:
            if budget.strict or self.policy == "closed":
                return StoreRefusal(f"{AWAY}, so nothing is spent of budget '{budget.name}' until they are back.")
            if self.policy == "local" and self._part(budget, now) is None:
                return StoreRefusal(
                    f"{AWAY}, and this worker does not know yet what is left of budget '{budget.name}'."
                )
        return None

    def _reservation(self, decision: Reservation, asked: Asked, number: int, now: float) -> Reservation:
        """By the rules as they are, whatever was counted."""
        target = asked.targets[number]
        held = target.expected_pico_usd
        return msgspec.structs.replace(
            decision,
            limits=asked.limits,
            target_limits=target.limits,
            windows=tuple(
                [
                    HeldWindow(self._frames.budget(budget, now).name, budget, held)
                    for budget in (*asked.budgets, *target.budgets)
                ]
            ),
            target=number,
        )

    # Policy `local`.

    async def _share(
        self, asked: Asked, passing: Sequence[int], now: float
    ) -> tuple[Reservation, Local | None] | Refusal:
        decision = await self._store.admit(
            asked.id,
            demand=asked.demand,
            limits=self._limits(asked.limits, now),
            budgets=self._budgets(asked.budgets, now),
            targets=[self._target(asked.targets[number], now) for number in passing],
        )
        if isinstance(decision, Reservation):
            plain = self._reservation(decision, asked, passing[decision.target], now)
            shadowed = tuple([self._whole(limit) for limit in decision.shadowed])
            return msgspec.structs.replace(plain, shadowed=shadowed), Local(decision)
        if isinstance(decision, LimitRefusal):
            return msgspec.structs.replace(decision, limit=self._whole(decision.limit))
        if isinstance(decision, BudgetRefusal):
            return msgspec.structs.replace(decision, budget=self._whole_budget(decision.budget))
        return decision

    def _target(self, target: TargetTerms, now: float) -> TargetTerms:
        return TargetTerms(
            self._limits(target.limits, now), self._budgets(target.budgets, now), target.expected_pico_usd
        )

    def _limits(self, limits: Sequence[Limit], now: float) -> tuple[Limit, ...]:
        return tuple([self._limit_share(limit, now) for limit in limits])

    def _budgets(self, budgets: Sequence[BudgetRule], now: float) -> tuple[BudgetRule, ...]:
        return tuple([part for budget in budgets if (part := self._part(budget, now)) is not None])

    def _limit_share(self, limit: Limit, now: float) -> Limit:
        known = self._shares.get(id(limit))
        if known is None or known[0] is not limit:
            known = self._shares[id(limit)] = limit, self._shared(limit, now)
        return known[1]

    def _shared(self, limit: Limit, now: float) -> Limit:
        workers, kind = self._workers(), kind_of(limit)
        if not limit.amount or not limit.burst:
            return limit
        if kind != WINDOW:
            # Never nothing at all: a rate that lets nobody pass would be an outage of its own.
            share = structs.replace(limit, amount=max(1, limit.amount // workers), burst=max(1, limit.burst // workers))
            if kind == BUCKET:
                self._fill(share, limit, workers, now)
            return share
        taken = self._seen.taken(self._frames.limit(limit, now).name) or 0
        return structs.replace(limit, amount=max(0, limit.amount - taken) // workers)

    def _fill(self, share: Limit, limit: Limit, workers: int, now: float) -> None:
        """Leave room in this worker's bucket for no more than its share of what there was room for."""
        if limit.counter in self._filled:
            return
        self._filled.add(limit.counter)
        level = self._seen.level(self._frames.limit(limit, now).name, limit, now)
        room = max(0, limit.burst * UNIT - level) // workers // UNIT
        if level and room < share.burst:
            self._store.seed_limit(share, window_start=0.0, used=share.burst - room)

    def _part(self, budget: BudgetRule, now: float) -> BudgetRule | None:
        """This worker's part of what was left of a budget; None: nobody has said what that is."""
        known = self._parts.get(id(budget))
        if known is None or known[0] is not budget:
            taken = self._seen.taken(self._frames.budget(budget, now).name)
            part = None
            if taken is not None:
                left = max(0, min(budget.limit_at(now), LARGEST_AMOUNT) - taken)
                part = structs.replace(budget, limit_pico_usd=left // self._workers(), increase_pico_usd=0)
            known = self._parts[id(budget)] = budget, part
        return known[1]

    def _whole(self, share: Limit) -> Limit:
        return next((limit for limit, mine in self._shares.values() if mine is share), share)

    def _whole_budget(self, part: BudgetRule) -> BudgetRule:
        return next((budget for budget, mine in self._parts.values() if mine is part), part)
