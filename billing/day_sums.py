"""Sums of whole days that are over, made once from the sums of hours, so that a month is thirty days and not 720 hours.

Every day before the mark is summed. The mark only moves forward, and the hours stay: a reader who knows an older mark
reads more hours, and finds the same. Two tables hold each day, one by key and a much smaller one without keys.

What arrives for a day before the mark (a journal that was adopted late, a database that was away) is added to the day
in the transaction that adds it to its hour. Whoever adds has locked the hours' table against `sum_days` by then, so no
row is added to an hour and missed by its day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

DAY = timedelta(days=1)
HOURS_TABLE = "billing_usagerollup"
GROUPS = {
    "billing_keyday": ("team_id", "key_id", "alias", "provider", "deployment", "model", "status", "code"),
    "billing_teamday": ("team_id", "alias", "provider", "deployment", "model", "status", "code"),
}
"""What tells the rows of one day apart, by table."""
NAMES = {"billing_keyday": ("team_name", "key_name"), "billing_teamday": ("team_name",)}
SUMS = (
    "requests",
    "input_tokens",
    "output_tokens",
    "cost_pico_usd",
    "estimated_requests",
    "unpriced_requests",
    "counted_requests",
)
_KEY = ("hour", *GROUPS["billing_keyday"])
CHUNK = 500

RollupKey = tuple[int, int, str, str, str, str, str, str, str]
"""Hour in seconds since the epoch, team, key, alias, provider, deployment, model, status, refusal's code."""
Range = tuple[datetime, datetime]
END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)


class RollupSum(Protocol):
    """What a rollup is added (`billing.rollups.Sum`): `SUMS` and these."""

    team_name: str
    key_name: str


@dataclass(frozen=True, slots=True)
class Parts:
    """A span of hours as days that are summed, and the hours before and after them."""

    days: Range | None
    hours: tuple[Range, ...]

    @classmethod
    def of(cls, since: datetime, until: datetime, mark: datetime | None) -> Parts:
        """`since` and `until` are whole hours."""
        first, end = _midnight(since + DAY - timedelta(microseconds=1)), _midnight(until)
        end = first if mark is None else min(end, mark)
        if end <= first:
            return cls(None, ((since, until),))
        around = ((since, first), (end, until))
        return cls((first, end), tuple((start, stop) for start, stop in around if start < stop))


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def summed_until(using: str = "default") -> datetime | None:
    """The mark: every day before it is summed. None: no day is."""
    return _mark(connections[using])


def _mark(connection: BaseDatabaseWrapper) -> datetime | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT summed_until FROM billing_daymark")
        row = cursor.fetchone()
    return _moment(row[0]) if row else None


def _moment(stored: Any) -> datetime:
    """SQLite's moments come as text without a zone; they are UTC."""
    moment: datetime = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def sum_days(now: datetime, *, using: str = "default") -> int:
    """Sums every day that is over and not summed yet, the oldest first. Returns how many.

    Raises:
        DatabaseError: the database is away; the next run goes on.
    """
    count = 0
    while _sum_next_day(connections[using], now):
        count += 1
    return count


def _sum_next_day(connection: BaseDatabaseWrapper, now: datetime) -> bool:
    with transaction.atomic(using=connection.alias):
        _lock(connection)
        mark = _mark(connection)
        day = mark or _first_day(connection)
        if day is None or day + DAY > now:
            return False
        _sum(connection, day)
        with connection.cursor() as cursor:
            sql = (
                "UPDATE billing_daymark SET summed_until = %s" if mark else "INSERT INTO billing_daymark VALUES (1, %s)"
            )
            cursor.execute(sql, [_parameter(connection, day + DAY)])
    return True


def _lock(connection: BaseDatabaseWrapper) -> None:
    """Nobody adds to an hour until the transaction ends. SQLite's transaction is the only one that writes."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {HOURS_TABLE} IN SHARE ROW EXCLUSIVE MODE")


def _first_day(connection: BaseDatabaseWrapper) -> datetime | None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT MIN(hour) FROM {HOURS_TABLE}")  # noqa: S608  # our own name
        (hour,) = cursor.fetchone()
    return _midnight(_moment(hour)) if hour else None


def _sum(connection: BaseDatabaseWrapper, day: datetime) -> None:
    """By key from the hours, and without keys from that."""
    begin, end = _parameter(connection, day), _parameter(connection, day + DAY)
    _insert(connection, "billing_keyday", f"{HOURS_TABLE} WHERE hour >= %s AND hour < %s", [begin, begin, end])
    _insert(connection, "billing_teamday", "billing_keyday WHERE day = %s", [begin, begin])


def _insert(connection: BaseDatabaseWrapper, table: str, source: str, parameters: list[Any]) -> None:
    group, names = GROUPS[table], NAMES[table]
    made = [*(f"MAX({name})" for name in names), *(f"SUM({name})" for name in SUMS)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (day, {', '.join((*group, *names, *SUMS))}) "  # noqa: S608  # our own names
            f"SELECT {_day_of(connection)}, {', '.join((*group, *made))} FROM {source} GROUP BY {', '.join(group)}",
            parameters,
        )


def _day_of(connection: BaseDatabaseWrapper) -> str:
    return "CAST(%s AS timestamptz)" if connection.vendor == "postgresql" else "%s"


def _parameter(connection: BaseDatabaseWrapper, moment: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(moment)


def sum_again(connection: BaseDatabaseWrapper, hour: datetime) -> None:
    """Makes the day of `hour` anew, if it is summed. Must run in a transaction that has locked the hours' table."""
    day, mark = _midnight(hour), _mark(connection)
    if mark is None or day >= mark:
        return
    with connection.cursor() as cursor:
        for table in GROUPS:
            cursor.execute(f"DELETE FROM {table} WHERE day = %s", [_parameter(connection, day)])  # noqa: S608
    _sum(connection, day)


def repair_day(connection: BaseDatabaseWrapper, day: datetime) -> None:
    with transaction.atomic(using=connection.alias):
        _lock(connection)
        sum_again(connection, day)


def differing(connection: BaseDatabaseWrapper, day: datetime) -> dict[str, int]:
    """By table, how many of a summed day's rows are not what its hours add up to. One statement sees one moment."""
    found = {}
    begin, end = _parameter(connection, day), _parameter(connection, day + DAY)
    off = " OR ".join(f"SUM({name}) <> 0" for name in SUMS)
    with connection.cursor() as cursor:
        for table, group in GROUPS.items():
            columns = ", ".join(group)
            cursor.execute(
                f"SELECT COUNT(*) FROM (SELECT {columns} FROM ("  # noqa: S608  # our own names
                f"SELECT {columns}, {', '.join(SUMS)} FROM {table} WHERE day = %s UNION ALL "
                f"SELECT {columns}, {', '.join(f'-{name} AS {name}' for name in SUMS)} FROM {HOURS_TABLE} "
                f"WHERE hour >= %s AND hour < %s) AS both_of_them GROUP BY {columns} HAVING {off}) AS differing",
                [begin, begin, end],
            )
            (count,) = cursor.fetchone()
            if count:
                found[table] = count
    return found


def add_late(connection: BaseDatabaseWrapper, added: Mapping[RollupKey, RollupSum]) -> None:
    """Adds to days before the mark what was added to their hours, in that transaction and after it."""
    mark = _mark(connection)
    if mark is None:
        return
    before = int(mark.timestamp())
    late = {key: one for key, one in added.items() if key[0] < before}
    for table, group in GROUPS.items() if late else ():
        rows = _rows(late, table, group)
        keys = sorted(rows)
        for start in range(0, len(keys), CHUNK):
            _add(connection, table, [(*key, *rows[key]) for key in keys[start : start + CHUNK]])


def _rows(late: Mapping[RollupKey, RollupSum], table: str, group: Sequence[str]) -> dict[tuple[Any, ...], list[Any]]:
    """Names and sums, by day and group."""
    rows: dict[tuple[Any, ...], list[Any]] = {}
    places = [_KEY.index(name) for name in group]
    for key, one in late.items():
        names, sums = [getattr(one, name) for name in NAMES[table]], [getattr(one, name) for name in SUMS]
        name = (key[0] // 86_400, *(key[place] for place in places))
        before = rows.get(name)
        if before is not None:
            sums = [a + b for a, b in zip(before[len(names) :], sums, strict=True)]
        rows[name] = [*names, *sums]
    return rows


def _add(connection: BaseDatabaseWrapper, table: str, rows: Iterable[Sequence[Any]]) -> None:
    group, names = GROUPS[table], NAMES[table]
    columns = ("day", *group, *names, *SUMS)
    values = [(_parameter(connection, datetime.fromtimestamp(row[0] * 86_400, UTC)), *row[1:]) for row in rows]
    marks = ", ".join([f"({', '.join(['%s'] * len(columns))})"] * len(values))
    changes = [*(f"{name} = excluded.{name}" for name in names)]
    changes += [f"{name} = {table}.{name} + excluded.{name}" for name in SUMS]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES {marks} "  # noqa: S608  # our own names
            f"ON CONFLICT (day, {', '.join(group)}) DO UPDATE SET {', '.join(changes)}",
            [value for row in values for value in row],
        )


__all__ = ["END_OF_TIME", "Parts", "add_late", "differing", "repair_day", "sum_again", "sum_days", "summed_until"]
