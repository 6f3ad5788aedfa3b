"""What becomes of prepaid credit when it expires: the unused rest falls away, what was spent of it stays part of the limit.

What a budget spends is taken from the credit that expires first, then from the next, and last from what never expires.
A budget for each end user or address has as many such sums as subjects, and its credit expires as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from django.utils import timezone

from billing.models import Budget, BudgetCredit
from billing.selectors import budget_tally
from billing.standing import used

SETTLED_AFTER = timedelta(seconds=10)
"""By when the drains of all workers have stored what was spent before the expiry."""


class Span(NamedTuple):
    """When a credit can be spent: seconds since the epoch."""

    begins: float
    ends: float
    amount_pico_usd: int


def parts_used(spans: Sequence[Span], spent: Callable[[float, float], int]) -> list[int]:
    """What was spent of each; `spent` says how much the budget spent between two moments."""
    left = [span.amount_pico_usd for span in spans]
    moments = sorted({moment for span in spans for moment in (span.begins, span.ends)})
    by_end = sorted(range(len(spans)), key=lambda number: (spans[number].ends, spans[number].begins))
    for start, end in pairwise(moments):
        amount = spent(start, end)
        for number in by_end:
            if spans[number].begins <= start and end <= spans[number].ends:
                part = min(amount, left[number])
                left[number] -= part
                amount -= part
    return [span.amount_pico_usd - rest for span, rest in zip(spans, left, strict=True)]


def settle_expired(now: datetime | None = None, *, using: str = "default") -> int:
    """Notes what was spent of credits that have expired since the last time. Returns how many these were.

    Whoever comes first writes it; others would write the same.
    """
    before = (now or timezone.now()) - SETTLED_AFTER
    due = BudgetCredit.objects.using(using).filter(
        used_pico_usd__isnull=True, expires_at__lte=before, budget__window=Budget.Window.TOTAL, budget__each=""
    )
    budgets = Budget.objects.using(using).filter(pk__in=due.values("budget_id"))
    settled = 0
    for budget in budgets.select_related("key__team", "team", "provider", "deployment", "alias"):
        settled += _settle(budget, before, using)
    return settled


def _settle(budget: Budget, before: datetime, using: str) -> int:
    expiring = [credit for credit in budget.credits.using(using).order_by("id") if credit.expires_at is not None]
    spans = [_span(credit, before) for credit in expiring]
    moments = sorted({moment for span in spans for moment in (span.begins, span.ends)})
    sums = used([budget_tally(budget, moment) for moment in moments], using=using)
    since = {moment: found[""].cost_pico_usd for moment, found in zip(moments, sums, strict=True)}
    parts = parts_used(spans, lambda start, end: max(0, since[start] - since[end]))
    settled = 0
    for credit, part in zip(expiring, parts, strict=True):
        if credit.expires_at is not None and credit.expires_at <= before:
            rows = BudgetCredit.objects.using(using).filter(
                pk=credit.pk, used_pico_usd__isnull=True, expires_at=credit.expires_at
            )
            settled += rows.update(used_pico_usd=part)
    return settled


def _span(credit: BudgetCredit, before: datetime) -> Span:
    """Of one that has not expired, what lies before: its later part does not matter yet."""
    assert credit.expires_at is not None
    begins = credit.created_at.timestamp()
    # An expiry that was set into the past leaves nothing to spend.
    ends = max(begins, min(credit.expires_at, max(before, credit.created_at)).timestamp())
    return Span(begins, ends, credit.amount_pico_usd)
