"""Counters that stand where the real ones stand, and of which anything may be taken: nobody else sees it."""

from __future__ import annotations

from collections.abc import Sequence

from llmgateway.pipeline.protocols import AdmissionStore, BudgetState, Clock, Refusal, Reservation, TargetTerms, Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.limits import Slots
from llmgateway.stores.memory import MemoryStore


class RehearsalStore(MemoryStore):
    """Decides as the real store would now. What a request asks about is read first, each counter once.

    Raises what reading raises: `CountersAwayError` where the real counters cannot be asked.
    """

    def __init__(self, real: AdmissionStore, clock: Clock) -> None:
        super().__init__(clock)
        self._real = real
        self.limits: dict[str, tuple[Limit, int]] = {}
        """By counter: the limits that were asked about, and how much of each was taken."""
        self.budgets: dict[tuple[int, str], tuple[BudgetRule, BudgetState]] = {}
        """By row and subject."""

    async def admit(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: Sequence[TargetTerms],
    ) -> Reservation | Refusal:
        for limit in (*limits, *[each for target in targets for each in target.limits]):
            if limit.counter not in self.limits:
                await self._read_limit(limit)
        for budget in (*budgets, *[each for target in targets for each in target.budgets]):
            if (budget.id, budget.scope_id) not in self.budgets:
                await self._read_budget(budget)
        return await super().admit(request_id, demand=demand, limits=limits, budgets=budgets, targets=targets)

    async def hold_returned(self, timeout_s: float) -> bool:
        """None ever does."""
        return False

    async def _read_limit(self, limit: Limit) -> None:
        used = await self._real.limit_used(limit)
        self.limits[limit.counter] = limit, used
        counter = self.counter_of(limit)
        if isinstance(counter, Slots):
            counter.running = used
        else:
            counter.take(used)

    async def _read_budget(self, budget: BudgetRule) -> None:
        state = await self._real.state(budget)
        self.budgets[budget.id, budget.scope_id] = budget, state
        window = self.window_of(budget)
        window.settled, window.held = state.settled_pico_usd, state.held_pico_usd
