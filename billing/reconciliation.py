"""Holds the sums of hours against the ledger's rows, says what differs, and puts it right if asked.

Two steps. A quick look at a day at a time finds hours that seem to differ. Each of those is then computed anew from its
rows while no drain can add to it, so that what is said of it is true and what is repaired loses nothing: a drain that
waits adds to what it finds afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Q
from django.utils import timezone

from billing.day_sums import differing, repair_day, sum_again, summed_until
from billing.histogram import Histogram
from billing.journal_files import to_json
from billing.models import Reconciliation, TeamHour, UsageRecord, UsageRollup
from billing.rollups import HISTOGRAMS, KEY, REFUSED, SUMS, Key, Sum, add_rollups, sums
from billing.standing import LONGEST_ADMISSION
from billing.team_hours import TeamHourSum, team_hour_sums
from billing.usage_rows import Row, row_of

log = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
CHUNK = timedelta(days=1)
KEPT = 400
"""Comparisons that are remembered: more than a year of nights."""

_INPUT = "input + cache_read + cache_write_5m + cache_write_1h + audio_input + image_input"
_OF_ROWS = {
    "requests": "1",
    "input_tokens": _INPUT,
    "output_tokens": "output + reasoning + audio_output",
    "cache_read_tokens": "cache_read",
    "reasoning_tokens": "reasoning",
    "cost_pico_usd": "cost_pico_usd",
    "estimated_requests": "CASE WHEN usage_source = 'estimated' THEN 1 ELSE 0 END",
    "unpriced_requests": "CASE WHEN priced THEN 0 ELSE 1 END",
    "counted_requests": "CASE WHEN counted THEN 1 ELSE 0 END",
}
_ROW_COLUMNS = (
    "started_at", "admitted_at", "team_id", "key_id", "alias", "provider", "deployment", "model", "status",
    "team_name", "key_name", "input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "audio_input",
    "image_input", "reasoning", "audio_output", "cost_pico_usd", "usage_source", "priced", "counted", "ttft_us",
    "duration_us", "overhead_us", "mirror_of",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drift:
    """One figure that is not what the ledger's rows say."""

    table: str
    """`rollup`, `team hour`, `day` or `record`."""
    name: str
    column: str
    stored: str
    expected: str


@dataclass(slots=True)
class Report:
    """What a comparison found."""

    since: datetime
    """The first hour that was compared: rows of earlier ones are gone, or were not asked for."""
    until: datetime
    drifts: list[Drift] = field(default_factory=list)
    drifted: int = 0
    """Rows that differ, those that were repaired included."""
    repaired: int = 0

    @property
    def hours(self) -> int:
        return max(0, (self.until - self.since) // HOUR)

    @property
    def unrepaired(self) -> int:
        return self.drifted - self.repaired


def reconcile(
    *,
    since: datetime,
    until: datetime | None = None,
    repair: bool = False,
    attempts: bool = False,
    using: str = "default",
) -> Report:
    """Compares every hour from `since` on, and remembers the outcome. `attempts` compares rows with their attempts too.

    Raises:
        DatabaseError: the database is away; what was repaired by then stays so.
    """
    until = _hour(until or timezone.now()) + HOUR
    report = Report(max(_hour(since), _first_whole_hour(using) or until), until)
    connection = connections[using]
    begin = report.since
    while begin < until:
        end = min(begin + CHUNK, until)
        for hour in sorted(_suspicious(connection, begin, end)):
            _settle(connection, hour, report, repair=repair)
        if attempts:
            odd = list(_attempts_drift(using, begin, end))
            report.drifts += odd
            report.drifted += len(odd)
        begin = end
    _compare_days(connection, report, repair=repair)
    _remember(report, using)
    return report


def _remember(report: Report, using: str) -> None:
    made = Reconciliation.objects.using(using).create(
        finished_at=timezone.now(),
        since=report.since,
        hours=report.hours,
        drifted=report.unrepaired,
        repaired=report.repaired,
    )
    Reconciliation.objects.using(using).filter(id__lte=made.id - KEPT).delete()


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _first_whole_hour(using: str) -> datetime | None:
    """The first hour whose rows are all there: retention removes days. None: there are no rows at all."""
    oldest = UsageRecord.objects.using(using).order_by("started_at").values_list("started_at", flat=True).first()
    if oldest is None:
        return None
    midnight = oldest.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    # A request of the day before may have been admitted after midnight; its row went with that day.
    earlier = UsageRollup.objects.using(using).filter(~Q(status=REFUSED), hour__lt=midnight).exists()
    return midnight + HOUR if earlier else midnight


# The quick look.


def _suspicious(connection: BaseDatabaseWrapper, begin: datetime, end: datetime) -> set[datetime]:
    """Hours that differ, and perhaps some that do not: rows are added while we look."""
    hours = _rollups_off(connection, begin, end)
    counted: dict[tuple[datetime, int], dict[tuple[str, str], list[int]]] = {}
    histograms: dict[tuple[datetime, int], int] = {}
    rollups = UsageRollup.objects.using(connection.alias).filter(hour__gte=begin, hour__lt=end)
    columns = ("hour", "team_id", "model", "status", "duration_histogram", *_TEAM_SUMS)
    for hour, team_id, model, status, duration, *figures in rollups.values_list(*columns).iterator():
        if status != REFUSED and _count(duration) != figures[0]:
            hours.add(hour)
        of_team = counted.setdefault((hour, team_id), {})
        before = of_team.get((model, status), [0] * len(figures))
        of_team[model, status] = [a + b for a, b in zip(before, figures, strict=True)]
        histograms[hour, team_id] = histograms.get((hour, team_id), 0) + _count(duration)
    teams = TeamHour.objects.using(connection.alias).filter(hour__gte=begin, hour__lt=end)
    stored = {}
    for hour, team_id, by_model, duration in teams.values_list("hour", "team_id", "by_model", "duration_histogram"):
        stored[hour, team_id] = {
            (model, status): figures for model, statuses in by_model.items() for status, figures in statuses.items()
        }
        if _count(duration) != histograms.get((hour, team_id), 0):
            hours.add(hour)
    hours |= {name[0] for name in counted.keys() | stored.keys() if counted.get(name) != stored.get(name)}
    return hours


_TEAM_SUMS = ("requests", "input_tokens", "output_tokens", "cost_pico_usd", "estimated_requests", "unpriced_requests")


def _count(histogram: Histogram) -> int:
    return sum(histogram.values())


def _rollups_off(connection: BaseDatabaseWrapper, begin: datetime, end: datetime) -> set[datetime]:
    """One statement, so that it sees rows and rollups of one moment."""
    admitted = "COALESCE(admitted_at, started_at)"
    postgres = connection.vendor == "postgresql"
    hour = f"date_trunc('hour', {admitted}, 'UTC')" if postgres else f"substr({admitted}, 1, 13) || ':00:00'"
    key = ", ".join(KEY[1:8])
    moments = [connection.ops.adapt_datetimefield_value(moment) for moment in (begin, end, begin - LONGEST_ADMISSION)]
    days: list[Any] = [(begin - LONGEST_ADMISSION).date(), end.date()] if postgres else []
    of_rows = ", ".join(f"-({_OF_ROWS[name]}) AS {name}" for name in SUMS)
    off = " OR ".join(f"SUM({name}) <> 0" for name in SUMS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT hour FROM (SELECT hour, {key} FROM ("  # noqa: S608  # our own names
            f"SELECT hour, {key}, {', '.join(SUMS)} FROM billing_usagerollup "
            f"WHERE hour >= %s AND hour < %s AND status <> '{REFUSED}' UNION ALL "
            f"SELECT {hour} AS hour, {key}, {of_rows} FROM billing_usagerecord "
            f"WHERE started_at >= %s AND started_at < %s AND {admitted} >= %s AND {admitted} < %s"
            f"{' AND day >= %s AND day <= %s' if postgres else ''}) AS both_of_them "
            f"GROUP BY hour, {key} HAVING {off}) AS differing",
            [moments[0], moments[1], moments[2], moments[1], moments[0], moments[1], *days],
        )
        return {_moment(found) for (found,) in cursor.fetchall()}


def _moment(stored: Any) -> datetime:
    """SQLite gives text without a zone where it was computed; it is UTC."""
    moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# The exact one.


def _settle(connection: BaseDatabaseWrapper, hour: datetime, report: Report, *, repair: bool) -> None:
    """Compares one hour while nobody adds to it, and repairs it in the same transaction."""
    with transaction.atomic(using=connection.alias):
        if connection.vendor == "postgresql":  # SQLite's transaction is the only one that writes.
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE billing_usagerollup IN SHARE ROW EXCLUSIVE MODE")
        stored = _stored_sums(connection, hour)
        refused = {key: one for key, one in stored.items() if key[7] == REFUSED}
        expected = {**sums(_rows(connection, hour)), **refused}
        drifts = [*_rollup_drifts(stored, expected), *_team_drifts(connection, hour, expected)]
        if not drifts:
            return
        if repair:
            UsageRollup.objects.using(connection.alias).filter(hour=hour).delete()
            TeamHour.objects.using(connection.alias).filter(hour=hour).delete()
            add_rollups(connection, expected)
            sum_again(connection, hour)
    report.drifts += drifts
    rows = len({(drift.table, drift.name) for drift in drifts})
    report.drifted += rows
    if repair:
        report.repaired += rows
        for drift in drifts:
            log.warning(
                "Repaired %s %s: %s was %s, is %s", drift.table, drift.name, drift.column, drift.stored, drift.expected
            )


def _rows(connection: BaseDatabaseWrapper, hour: datetime) -> Iterator[Row]:
    """The hour's rows as the drain knew them."""
    rows = UsageRecord.objects.using(connection.alias).filter(
        started_at__gte=hour - LONGEST_ADMISSION, started_at__lt=hour + HOUR
    )
    if connection.vendor == "postgresql":
        rows = rows.filter(day__gte=(hour - LONGEST_ADMISSION).date(), day__lte=hour.date())
    for values in rows.order_by("started_at").values_list(*_ROW_COLUMNS).iterator():
        row = dict(zip(_ROW_COLUMNS, values, strict=True))
        admitted = row["admitted_at"] or row["started_at"]
        if hour <= admitted < hour + HOUR:
            row["started_at"] = row["admitted_at"] = admitted.timestamp()
            yield row_of({"id": "", **row})


def _stored_sums(connection: BaseDatabaseWrapper, hour: datetime) -> dict[Key, Sum]:
    columns = (*KEY[1:], "team_name", "key_name", *SUMS, *HISTOGRAMS)
    found: dict[Key, Sum] = {}
    for values in UsageRollup.objects.using(connection.alias).filter(hour=hour).values_list(*columns):
        team_id, key_id, alias, provider, deployment, model, status, code = values[:8]
        key = (int(hour.timestamp()), team_id, key_id, alias, provider, deployment, model, status, code)
        found[key] = Sum(*values[8:])
    return found


def _rollup_drifts(stored: dict[Key, Sum], expected: dict[Key, Sum]) -> Iterator[Drift]:
    for key in sorted(stored.keys() | expected.keys()):
        one, other = stored.get(key), expected.get(key)
        for column in (*SUMS, *HISTOGRAMS):
            is_there, should_be = (getattr(each, column) if each else None for each in (one, other))
            if is_there != should_be and (is_there or should_be):
                yield Drift("rollup", _name(key), column, _shown(is_there), _shown(should_be))


def _team_drifts(connection: BaseDatabaseWrapper, hour: datetime, expected: dict[Key, Sum]) -> Iterator[Drift]:
    should_be = {team_id: one for (_, team_id), one in team_hour_sums(expected).items()}
    columns = ("team_id", "by_model", *HISTOGRAMS)
    is_there = {
        team_id: TeamHourSum(by_model, tuple(histograms))
        for team_id, by_model, *histograms in TeamHour.objects.using(connection.alias)
        .filter(hour=hour)
        .values_list(*columns)
    }
    for team_id in sorted(is_there.keys() | should_be.keys()):
        one, other = is_there.get(team_id, TeamHourSum()), should_be.get(team_id, TeamHourSum())
        name = f"{hour:%Y-%m-%d %H}h team {team_id}"
        if one.models != other.models:
            yield Drift("team hour", name, "by_model", _shown(one.models), _shown(other.models))
        for column, before, after in zip(HISTOGRAMS, one.histograms, other.histograms, strict=True):
            if before != after:
                yield Drift("team hour", name, column, _shown(before), _shown(after))


def _compare_days(connection: BaseDatabaseWrapper, report: Report, *, repair: bool) -> None:
    """Days that are summed against their hours, which are right by now, or are known not to be."""
    mark = summed_until(connection.alias)
    day = report.since.replace(hour=0)
    while mark is not None and day < min(mark, report.until):
        for table, rows in differing(connection, day).items():
            report.drifts.append(Drift("day", f"{day:%Y-%m-%d}", table, f"{rows} rows", "what its hours add up to"))
            report.drifted += rows
            if repair:
                repair_day(connection, day)
                report.repaired += rows
                log.warning("Repaired day %s: %d rows of %s were not what its hours add up to", day.date(), rows, table)
        day += CHUNK


def _attempts_drift(using: str, begin: datetime, end: datetime) -> Iterator[Drift]:
    """Rows that cost something else than their attempts together. Which is right, only a person can say."""
    rows = UsageRecord.objects.using(using).filter(started_at__gte=begin, started_at__lt=end)
    for row_id, cost, attempts in rows.values_list("id", "cost_pico_usd", "attempts").iterator():
        together = sum(attempt.get("cost_pico_usd", 0) for attempt in attempts)
        if together != cost:
            yield Drift("record", row_id, "cost_pico_usd", str(cost), str(together))


def _name(key: Key) -> str:
    hour = datetime.fromtimestamp(key[0], UTC)
    _, team_id, key_id, alias, _, deployment, _, status, code = key
    parts = (f"team {team_id}", f"key {key_id}", alias, deployment, status, code)
    return f"{hour:%Y-%m-%d %H}h {' '.join(part for part in parts if part)}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return str(value) if isinstance(value, int) else to_json(value).decode()


__all__ = ["Drift", "Report", "reconcile"]
