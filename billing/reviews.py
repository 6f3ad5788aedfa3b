"""Rows whose cost is a guess: what strict budgets stay charged for them, until a person has looked at each.

A worker that dies during an upstream call leaves no usage behind. Its row costs an estimate, and a strict budget keeps
the rest of what was held (`reserved_pico_usd`), because the provider may bill that much.
"""

from __future__ import annotations

from django.db.models import QuerySet
from django.utils import timezone

from billing.models import UsageRecord


def mark_reviewed(rows: QuerySet[UsageRecord], *, by: str) -> int:
    """From now on only their cost counts, and they say who decided that and when. Returns how many there were.

    The amount that was reserved stays on the row, for the record.
    """
    return rows.filter(needs_review=True).update(needs_review=False, reviewed_at=timezone.now(), reviewed_by=by[:200])
