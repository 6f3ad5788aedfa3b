"""Sums of the rollups by any of their groups. Money is summed exactly, however much it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import F, Max, Q, QuerySet, Sum
from django.db.models.functions import TruncDay

from billing.models import UsageRecord, UsageRollup

MAX_GROUPS = 1000

# How each group is called in an answer -> what the rows are grouped by.
GROUPS = {
    "team": "team_id",
    "key": "key_id",
    "alias": "alias",
    "provider": "provider",
    "deployment": "deployment",
    "model": "model",
    "status": "status",
    "hour": "hour",
    "day": "day",
}
# Groups by id are called by the newest name their rows have.
_NAMES = {"team": "team_name", "key": "key_name"}

# A sum of 64-bit integers may leave 64 bits, at which SQLite gives up: so sums are of two parts.
_PART = 10**6
_HOUR = timedelta(hours=1)
_ADMITTED = ~Q(status="refused")
_ERRORS = (UsageRecord.Status.FAILED, UsageRecord.Status.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Span:
    """Whole UTC hours, as rollups have them."""

    since: datetime
    until: datetime

    @classmethod
    def of(cls, since: datetime, until: datetime) -> Span:
        """The hours in which the two moments lie, and those between."""
        end = _hour_of(until)
        return cls(_hour_of(since), end if end == until else end + _HOUR)

    def rollups(self) -> QuerySet[UsageRollup]:
        return UsageRollup.objects.filter(hour__gte=self.since, hour__lt=self.until)


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def usage_sums(rollups: QuerySet[UsageRollup], group_by: Sequence[str]) -> list[dict[str, Any]]:
    """The dearest groups first, and one more than `MAX_GROUPS` where there are more."""
    rows: Any = rollups.order_by()
    if "day" in group_by:
        rows = rows.annotate(day=TruncDay("hour", tzinfo=UTC))
    rows = rows.values(*(GROUPS[name] for name in group_by)).annotate(
        admitted=Sum("requests", filter=_ADMITTED, default=0),
        refused=Sum("requests", filter=~_ADMITTED, default=0),
        errors=Sum("requests", filter=Q(status__in=_ERRORS), default=0),
        input=Sum("input_tokens"),
        output=Sum("output_tokens"),
        estimated=Sum("estimated_requests"),
        unpriced=Sum("unpriced_requests"),
        whole=Sum(F("cost_pico_usd") / _PART),
        rest=Sum(F("cost_pico_usd") % _PART),
        **{_NAMES[name]: Max(_NAMES[name]) for name in group_by if name in _NAMES},
    )
    dearest = rows.order_by("-whole", "-rest", "-admitted", *(GROUPS[name] for name in group_by))
    return [_sum(row, group_by) for row in dearest[: MAX_GROUPS + 1]]


def _sum(row: dict[str, Any], group_by: Sequence[str]) -> dict[str, Any]:
    group: dict[str, Any] = {}
    for name in group_by:
        value = row[GROUPS[name]]
        group[name] = value.isoformat() if isinstance(value, datetime) else value
        if name in _NAMES:
            group[f"{name}_id"], group[name] = str(value), row[_NAMES[name]]
    return {
        "group": group,
        "requests": row["admitted"],
        "refused": row["refused"],
        "errors": row["errors"],
        "input_tokens": row["input"],
        "output_tokens": row["output"],
        "estimated_requests": row["estimated"],
        "unpriced_requests": row["unpriced"],
        "cost_pico_usd": int(row["whole"]) * _PART + int(row["rest"]),
    }
