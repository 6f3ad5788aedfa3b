"""Which budgets a key's requests count for, found without looking at all of them."""

from __future__ import annotations

from collections.abc import Mapping

from llmgateway.pipeline.snapshot import BudgetRule, Key


class BudgetIndex:
    """Budgets by scope. Built off the event loop whenever the snapshot's budgets change."""

    def __init__(self, budgets: Mapping[int, BudgetRule]) -> None:
        self.budgets = budgets
        self._by_scope: dict[tuple[str, str], tuple[BudgetRule, ...]] = {}
        for budget in budgets.values():
            scope = (budget.scope, budget.scope_id)
            self._by_scope[scope] = (*self._by_scope.get(scope, ()), budget)

    def of(self, key: Key) -> tuple[BudgetRule, ...]:
        """The key's own, its team's and the global ones."""
        found = self._by_scope.get
        return (*found(("key", key.id), ()), *found(("team", str(key.team_id)), ()), *found(("global", ""), ()))
