"""What many budgets have cost in their windows, in few queries.

Whole hours come from the rollups, the parts of hours at the ends of a window from the ledger. Budgets for each address
or end user are summed from the ledger, for rollups know neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import F, QuerySet, Sum

from billing.models import Budget, UsageRecord, UsageRollup
from billing.windows import window_bounds
from llmgateway.limit_terms import start_number

_PART = 10**6
"""A sum of 64-bit integers may leave 64 bits, at which SQLite gives up: so sums are of two parts."""
_IDS_AT_ONCE = 500
_FURTHEST = datetime(9999, 1, 1, tzinfo=UTC)

Scope = tuple[str, str]
"""The ledger's column by which a budget's requests are found, and what stands in it. Everyone's: empty."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a budget, or one subject of it, has settled in a window."""

    budget: Budget
    window_start: datetime
    settled_pico_usd: int
    subject: str = ""


def scope_of(budget: Budget) -> Scope:
    if budget.key_id:
        return "key_id", str(budget.key_id)
    if budget.team_id:
        return "team_id", str(budget.team_id)
    for column in ("provider", "deployment", "alias"):
        owner = getattr(budget, column)
        if owner is not None:
            return column, owner.name
    return "", ""


def window_of(budget: Budget, at: datetime) -> tuple[datetime, datetime]:
    """Start and end of the budget's window that contains `at`."""
    team = budget.key.team if budget.key else budget.team
    zone = team.time_zone if team else "UTC"
    start, end = window_bounds(
        budget.window, zone, at.timestamp(), starts_on=start_number(budget.window, budget.starts_on)
    )
    return datetime.fromtimestamp(start, UTC), _FURTHEST if end is None else datetime.fromtimestamp(end, UTC)


def spent(budgets: Iterable[Budget], at: datetime) -> Iterator[Spent]:
    """What each budget has settled in its window that contains `at`; of those for each subject, every subject's."""
    together: dict[tuple[str, datetime, datetime], list[Budget]] = defaultdict(list)
    for budget in budgets:
        start, end = window_of(budget, at)
        if budget.each:
            for subject, settled in _by_subject(budget, start, end).items():
                yield Spent(budget, start, settled, subject)
        else:
            together[scope_of(budget)[0], start, end].append(budget)
    for (column, start, end), group in together.items():
        settled_by = _settled(column, [scope_of(budget)[1] for budget in group], start, end)
        for budget in group:
            yield Spent(budget, start, settled_by.get(scope_of(budget)[1], 0))


def _settled(column: str, ids: Sequence[str], start: datetime, end: datetime) -> dict[str, int]:
    first, last = _hour(start + timedelta(hours=1) - timedelta(microseconds=1)), _hour(end)
    parts: list[QuerySet[Any]] = [UsageRollup.objects.filter(hour__gte=first, hour__lt=last)]
    for begin, stop in ((start, min(first, end)), (max(last, first), end)):
        if begin < stop:
            parts.append(UsageRecord.objects.filter(started_at__gte=begin, started_at__lt=stop))
    totals: dict[str, int] = defaultdict(int)
    for rows in parts:
        for position in range(0, len(ids), _IDS_AT_ONCE):
            for name, cost in _sums(rows, column, ids[position : position + _IDS_AT_ONCE]).items():
                totals[name] += cost
    return totals


def _sums(rows: QuerySet[Any], column: str, ids: Sequence[str]) -> dict[str, int]:
    if not column:
        found = rows.order_by().aggregate(**_two_parts())
        return {"": _whole(found)}
    grouped = rows.filter(**{f"{column}__in": ids}).order_by().values(column).annotate(**_two_parts())
    return {str(found[column]): _whole(found) for found in grouped}


def _by_subject(budget: Budget, start: datetime, end: datetime) -> dict[str, int]:
    column, owner = scope_of(budget)
    subject = "client_ip" if budget.each == Budget.Each.IP else "end_user"
    rows = UsageRecord.objects.filter(started_at__gte=start, started_at__lt=end).exclude(**{subject: ""})
    if column:
        rows = rows.filter(**{column: owner})
    return _sums_by(rows, subject)


def _sums_by(rows: QuerySet[Any], column: str) -> dict[str, int]:
    return {found[column]: _whole(found) for found in rows.order_by().values(column).annotate(**_two_parts())}


def _two_parts() -> dict[str, Any]:
    return {
        "whole": Sum(F("cost_pico_usd") / _PART, default=0),
        "rest": Sum(F("cost_pico_usd") % _PART, default=0),
    }


def _whole(found: dict[str, Any]) -> int:
    return int(found["whole"]) * _PART + int(found["rest"])


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
