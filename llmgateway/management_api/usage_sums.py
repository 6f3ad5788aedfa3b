"""Sums of the rollups by any of their groups. Money is summed exactly, however much it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import F, Max, Q, QuerySet, Sum
from django.db.models.functions import TruncDay

from billing.day_sums import Parts, summed_until
from billing.models import KeyDay, TeamDay, UsageRecord, UsageRollup

Rows = QuerySet[Any]

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
_SUMS = ("admitted", "refused", "errors", "input", "output", "estimated", "unpriced", "whole", "rest")
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

    def sources(self, group_by: Sequence[str], *, of_keys: bool) -> list[Rows]:
        """Rows that together hold the span once: days that are summed, and hours around them.

        `of_keys` says that somebody asks for certain keys.
        """
        if "hour" in group_by:
            return [_hours(((self.since, self.until),))]
        parts = Parts.of(self.since, self.until, summed_until())
        if parts.days is None:
            return [_hours(parts.hours)]
        days: Rows = KeyDay.objects.all() if of_keys or "key" in group_by else TeamDay.objects.all()
        first, end = parts.days
        return [days.filter(day__gte=first, day__lt=end), _hours(parts.hours)]


def _hours(ranges: Sequence[tuple[datetime, datetime]]) -> Rows:
    if not ranges:
        return UsageRollup.objects.none()
    within = [Q(hour__gte=start, hour__lt=end) for start, end in ranges]
    return UsageRollup.objects.filter(reduce(or_, within))


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def usage_sums(sources: Sequence[Rows], group_by: Sequence[str]) -> list[dict[str, Any]]:
    """The dearest groups first, and one more than `MAX_GROUPS` where there are more."""
    parts = [compiled for rows in sources if (compiled := _compiled(rows, group_by)) is not None]
    if not parts:
        return []
    columns = [GROUPS[name] for name in group_by]
    names = [_NAMES[name] for name in group_by if name in _NAMES]
    sums = [f"SUM({name}) AS {name}" for name in _SUMS] + [f"MAX({name}) AS {name}" for name in names]
    places = ", ".join(columns)
    # One statement, so that all its parts are of one moment.
    sql = (
        f"SELECT {places}, {', '.join(sums)} FROM ({' UNION ALL '.join(part for part, _ in parts)}) AS parts "  # noqa: S608
        f"GROUP BY {places} ORDER BY SUM(whole) + SUM(rest) / {_PART} DESC, SUM(rest) %% {_PART} DESC, "
        f"SUM(admitted) DESC, {places} LIMIT {MAX_GROUPS + 1}"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [parameter for _, parameters in parts for parameter in parameters])
        return [_sum(dict(zip((*columns, *_SUMS, *names), row, strict=True)), group_by) for row in cursor.fetchall()]


def _compiled(rows: Rows, group_by: Sequence[str]) -> tuple[str, tuple[Any, ...]] | None:
    """A query for the groups of these rows; None: there can be none."""
    rows = rows.order_by()
    if "day" in group_by and rows.model is UsageRollup:
        rows = rows.annotate(day=TruncDay("hour", tzinfo=UTC))
    grouped = rows.values(*(GROUPS[name] for name in group_by)).annotate(
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
    try:
        sql, parameters = grouped.query.sql_with_params()
    except EmptyResultSet:
        return None
    return sql, parameters


def _sum(row: dict[str, Any], group_by: Sequence[str]) -> dict[str, Any]:
    group: dict[str, Any] = {}
    for name in group_by:
        value = row[GROUPS[name]]
        group[name] = _moment(value).isoformat() if name in {"hour", "day"} else value
        if name in _NAMES:
            group[f"{name}_id"], group[name] = str(value), row[_NAMES[name]]
    return {
        "group": group,
        "requests": int(row["admitted"]),
        "refused": int(row["refused"]),
        "errors": int(row["errors"]),
        "input_tokens": int(row["input"]),
        "output_tokens": int(row["output"]),
        "estimated_requests": int(row["estimated"]),
        "unpriced_requests": int(row["unpriced"]),
        "cost_pico_usd": int(row["whole"]) * _PART + int(row["rest"]),
    }


def _moment(value: datetime | str) -> datetime:
    """SQLite gives text without a zone; it is UTC."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
