"""How much a model thinks: in words of effort, as some protocols have it, and in tokens, as others do."""

from __future__ import annotations

from providers.adapters.dialects.conversation import Thinking

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
BUDGETS = {"none": 0, "minimal": 1024, "low": 2048, "medium": 8192, "high": 24576, "xhigh": 32768, "max": 32768}
"""Tokens to think with. Not promised by anybody, but near what the providers' own tables say."""
UNLIMITED = -1


def effort_of(thinking: Thinking) -> str:
    """In a word; empty: as the model likes."""
    budget = thinking.budget_tokens
    if thinking.effort or budget is None or budget == UNLIMITED:
        return thinking.effort
    fitting = [effort for effort in EFFORTS[:5] if BUDGETS[effort] <= budget]
    return fitting[-1]


def budget_of(thinking: Thinking, *, at_most: int | None = None) -> int | None:
    """In tokens; None: as the model likes. `at_most`: what there is room for."""
    budget = thinking.budget_tokens if thinking.budget_tokens is not None else BUDGETS.get(thinking.effort)
    return budget if budget is None or at_most is None else min(budget, at_most)
