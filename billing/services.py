"""Writes to budgets and their prepaid credit. The admin, the API, the import and the commands go through here.

An edit keeps the row, and with it what was spent and is held: it applies to the next request.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from billing.models import Budget, BudgetCredit


def budget_create(**columns: Any) -> Budget:
    """A new budget from columns of `Budget`: at most one of `key`, `team`, `provider`, `deployment` and `alias`.

    Raises:
        ValidationError: by field, with what to write instead.

    Example:
        budget_create(key=key, name="day", window="day", limit_pico_usd=10 * PICO_PER_USD, mode="strict")
    """
    budget = Budget(**columns)
    budget.full_clean()
    budget.save()
    return budget


@transaction.atomic
def budget_update(budget: Budget, **changes: Any) -> None:
    """Set the columns of `budget` that `changes` names.

    Raises:
        ValidationError: by field; nothing is saved.
    """
    current = _locked(budget)
    for name, value in changes.items():
        setattr(current, name, value)
    current.full_clean()
    if changes:
        current.save(update_fields=list(changes))
    budget.refresh_from_db()


def budget_increase(budget: Budget, amount_pico_usd: int, *, until: datetime, reason: str = "") -> None:
    """Raise the limit by an amount until a moment; nothing has to be done for it to end. It replaces an earlier one.

    Raises:
        ValidationError: by field, such as that the moment has passed.
    """
    if until <= timezone.now():
        raise ValidationError({"increase_until": "Choose a moment that is still to come."})
    budget_update(budget, increase_pico_usd=amount_pico_usd, increase_until=until, increase_reason=reason)


def budget_end_increase(budget: Budget) -> None:
    """Take a temporary increase back at once."""
    budget_update(budget, increase_pico_usd=0, increase_until=None, increase_reason="")


@transaction.atomic
def credit_add(
    budget: Budget, amount_pico_usd: int, *, note: str = "", expires_at: datetime | None = None, created_by: str = ""
) -> BudgetCredit:
    """Prepaid credit, which adds to the limit of a budget in total until it expires.

    Raises:
        ValidationError: by field, such as that the budget begins anew and so cannot have any.
    """
    credit = BudgetCredit(
        budget=_locked(budget), amount_pico_usd=amount_pico_usd, note=note, expires_at=expires_at, created_by=created_by
    )
    if expires_at is not None and expires_at <= timezone.now():
        raise ValidationError({"expires_at": "Choose a moment that is still to come."})
    credit.full_clean()
    credit.save()
    return credit


def _locked(budget: Budget) -> Budget:
    """The row as it is now. Two who raise the same budget at once must not both find that there is room for it."""
    return Budget.objects.select_for_update().get(pk=budget.pk)
