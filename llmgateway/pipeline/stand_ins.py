"""Other aliases that are admitted in the place of one whose limits or budgets have no room.

From the admission on everything is theirs: limits, budgets, prices and the row's alias. The caller's own limits and
budgets hold for them as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmgateway.pipeline.errors import BudgetExceededError, GatewayError, RateLimitError
from llmgateway.pipeline.route_rules import FallbackCause
from llmgateway.pipeline.routing import Routed
from llmgateway.pipeline.snapshot import Alias, Deployment

REFUSALS = (RateLimitError, BudgetExceededError)
"""What another alias may have room for."""
_OF_TARGETS = frozenset({b"provider", b"deployment", b"model"})
"""Scopes of limits that another alias need not have."""


def cause_of(refusal: GatewayError) -> FallbackCause | None:
    """Which fallbacks may be admitted instead; None: the refusal stands.

    A model without a price, or a cost without a bound, is a gap in the configuration: it is told, not gone round.
    """
    if isinstance(refusal, BudgetExceededError):
        is_spent = refusal.code == BudgetExceededError.default_code
        return FallbackCause.BUDGET_EXHAUSTED if is_spent else None
    if isinstance(refusal, RateLimitError) and dict(refusal.headers).get(b"x-ratelimit-scope") in _OF_TARGETS:
        return FallbackCause.RATE_LIMIT
    return None


def each_alias(others: Routed) -> Iterator[Routed]:
    """The fallbacks one by one, as if each had been asked for."""
    groups: dict[int, tuple[Alias, list[Deployment]]] = {}
    for deployment in others.candidates:
        alias = others.via[deployment.id][0]
        groups.setdefault(alias.id, (alias, []))[1].append(deployment)
    for alias, candidates in groups.values():
        via = {each.id: way for each in candidates if (way := others.via[each.id][1:])}
        yield Routed(alias, tuple(candidates), via)
