"""Sums per hour, kept equal to the ledger: they are added in the transaction that adds the rows.

Rows are locked in the order of their keys, so that drains of several workers never deadlock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from billing.day_sums import add_late
from billing.histogram import Histogram, add, merge
from billing.journal_files import from_json, to_json
from billing.models import UsageRecord
from billing.statement_sizes import padded
from billing.team_hours import add_team_hours
from billing.usage_columns import Columns, by_column
from billing.usage_rows import Row
from llmgateway.pipeline.protocols import Record

KEY = ("hour", "team_id", "key_id", "alias", "provider", "deployment", "model", "status", "code")
SUMS = (
    "requests",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "reasoning_tokens",
    "cost_pico_usd",
    "estimated_requests",
    "unpriced_requests",
    "counted_requests",
)
NAMES = ("team_name", "key_name")
HISTOGRAMS = ("ttft_histogram", "duration_histogram", "overhead_histogram")
INPUTS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_input", "image_input")
OUTPUTS = ("output", "reasoning", "audio_output")
_SUMMED = (
    *INPUTS, *OUTPUTS, "counted", "cost_pico_usd", "priced", "usage_source", "ttft_us", "duration_us", "overhead_us",
)  # fmt: skip
ROWS_AT_ONCE = 1000
"""Rows that are looked at together: an hour that is summed anew may have millions."""
REFUSED = "refused"
MIRRORED = "mirror"
"""The code of rollups of mirrored requests, which so stand apart from those that somebody sent."""
ESTIMATED = UsageRecord.UsageSource.ESTIMATED.value
CHUNK = 512
"""Keys per statement: eleven parameters each stay below SQLite's limit."""

Key = tuple[int, int, str, str, str, str, str, str, str]
"""`KEY`, with the hour in seconds since the epoch."""


@dataclass(slots=True)
class Sum:
    """What one batch adds to one rollup row."""

    team_name: str
    key_name: str
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    reasoning_tokens: int = 0
    cost_pico_usd: int = 0
    estimated_requests: int = 0
    unpriced_requests: int = 0
    counted_requests: int = 0
    ttft_histogram: Histogram = field(default_factory=dict)
    duration_histogram: Histogram = field(default_factory=dict)
    overhead_histogram: Histogram = field(default_factory=dict)

    def count(self, rows: Columns) -> None:
        """Adds rows of this rollup."""
        self.requests += rows.count
        self.counted_requests += rows.total("counted")
        self.cache_read_tokens += rows.total("cache_read")
        self.reasoning_tokens += rows.total("reasoning")
        self.input_tokens += sum(map(rows.total, INPUTS))
        self.output_tokens += sum(map(rows.total, OUTPUTS))
        self.cost_pico_usd += rows.total("cost_pico_usd")
        self.estimated_requests += rows.how_many("usage_source", ESTIMATED)
        self.unpriced_requests += rows.count - rows.total("priced")
        add(self.ttft_histogram, [each for each in rows.column("ttft_us") if each is not None])
        add(self.duration_histogram, rows.column("duration_us"))
        add(self.overhead_histogram, rows.column("overhead_us"))


def input_tokens(row: Record) -> int:
    """All input buckets, as we report them: cached tokens included."""
    total: int = sum(row[name] for name in INPUTS)
    return total


def output_tokens(row: Record) -> int:
    """All output buckets: reasoning included."""
    total: int = sum(row[name] for name in OUTPUTS)
    return total


def sums(rows: Iterable[Row], refused: Iterable[Record] = ()) -> dict[Key, Sum]:
    """What completed ledger rows and counts of refusals add up to, by rollup."""
    remaining, parts = iter(rows), []
    while some := list(islice(remaining, ROWS_AT_ONCE)):
        parts.append(by_column(some))
    return column_sums(parts, refused)


def column_sums(parts: Iterable[Columns], refused: Iterable[Record] = ()) -> dict[Key, Sum]:
    """As `sums`, for who has the columns."""
    total: dict[Key, Sum] = {}
    for rows in parts:
        for key, place, group in _by_key(rows):
            if key not in total:
                total[key] = Sum(rows.at(place, "team_name"), rows.at(place, "key_name"))
            total[key].count(group)
    for count in refused:
        key = (int(count["hour"]), *_texts(count), "", "", "", REFUSED, str(count.get("code", ""))[:64])
        total.setdefault(key, Sum(count["team_name"], count["key_name"])).requests += count["count"]
    return total


def _by_key(rows: Columns) -> Iterator[tuple[Key, int, Columns]]:
    """The rows of each rollup: its key, the place of the first, and what there is to sum."""
    if not rows.count:
        return
    hours = _hours(rows)
    columns = [rows.differing[name] for name in KEY[1:-1] if name in rows.differing]
    if len(hours) > 1:
        columns.append(hours)
    if "mirror_of" in rows.differing:
        columns.append([bool(original) for original in rows.differing["mirror_of"]])
    if not columns:
        yield _key(rows, 0, hours), 0, rows
        return
    places: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, group in enumerate(zip(*columns, strict=True)):
        places[group].append(place)
    for found in places.values():
        yield _key(rows, found[0], hours), found[0], rows.picked(found, _SUMMED)


def _hours(rows: Columns) -> Sequence[int]:
    """When each row counts, or one hour for all."""
    admitted = rows.column("admitted_at")
    if None in admitted:
        pairs = zip(rows.column("started_at"), admitted, strict=True)
        admitted = [first if second is None else second for first, second in pairs]
    first, last = int(min(admitted) // 3600), int(max(admitted) // 3600)
    return [first * 3600] if first == last else [int(moment // 3600) * 3600 for moment in admitted]


def _key(rows: Columns, place: int, hours: Sequence[int]) -> Key:
    code = MIRRORED if rows.at(place, "mirror_of") else ""
    names = (rows.at(place, name) for name in KEY[1:-1])
    return (hours[place if len(hours) > 1 else 0], *names, code)


def _texts(count: Record) -> tuple[int, str, str]:
    return count["team_id"], count["key_id"], count["alias"]


def add_rollups(connection: BaseDatabaseWrapper, added: dict[Key, Sum]) -> None:
    """Adds to the stored rollups. Must run inside the transaction that adds the rows."""
    keys = sorted(added)
    # Even where nothing is missing: this locks the table as updates do, before any row; whoever locks rows first and
    # updates them later waits in a circle with a repair.
    for start in range(0, len(keys), CHUNK):
        _create_missing(connection, keys[start : start + CHUNK], added)
    for start in range(0, len(keys), CHUNK):
        _add(connection, keys[start : start + CHUNK], added)
    add_team_hours(connection, added)
    add_late(connection, added)


def _parameters(connection: BaseDatabaseWrapper, key: Key) -> tuple[Any, ...]:
    hour = datetime.fromtimestamp(key[0], UTC)
    return (connection.ops.adapt_datetimefield_value(hour), *key[1:])


def _create_missing(connection: BaseDatabaseWrapper, keys: Sequence[Key], added: dict[Key, Sum]) -> None:
    columns = (*KEY, *NAMES, *SUMS, *HISTOGRAMS)
    row = ["%s"] * (len(KEY) + len(NAMES)) + ["0"] * len(SUMS) + ["'{}'"] * len(HISTOGRAMS)
    wanted = padded(keys)
    marks = ", ".join([f"({', '.join(row)})"] * len(wanted))
    parameters: list[Any] = []
    for key in wanted:
        parameters += (*_parameters(connection, key), added[key].team_name, added[key].key_name)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO billing_usagerollup ({', '.join(columns)}) VALUES {marks} "  # noqa: S608  # our own names
            "ON CONFLICT DO NOTHING",
            parameters,
        )


def _add(connection: BaseDatabaseWrapper, keys: Sequence[Key], added: dict[Key, Sum]) -> None:
    assignments = ", ".join(
        [*(f"{name} = {name} + %s" for name in SUMS), *(f"{name} = %s" for name in (*HISTOGRAMS, *NAMES))]
    )
    stored = _locked(connection, keys)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE billing_usagerollup SET {assignments} WHERE id = %s",  # noqa: S608  # our own names
            [_update(added[key], *stored[key]) for key in keys],
        )


def _update(added: Sum, row_id: int, histograms: Sequence[Any]) -> tuple[Any, ...]:
    merged = [
        to_json(merge((_histogram(stored), getattr(added, name)))).decode()
        for name, stored in zip(HISTOGRAMS, histograms, strict=True)
    ]
    return (*(getattr(added, name) for name in SUMS), *merged, added.team_name, added.key_name, row_id)


def _histogram(stored: Any) -> Histogram:
    """SQLite gives JSON as text, PostgreSQL may give it decoded."""
    histogram: Histogram = from_json(stored.encode()) if isinstance(stored, str) else stored
    return histogram


def _locked(connection: BaseDatabaseWrapper, keys: Sequence[Key]) -> dict[Key, tuple[int, Sequence[Any]]]:
    """The stored rows of `keys`, locked until the transaction ends: (row id, histograms)."""
    columns = ", ".join(KEY)
    wanted = [_parameters(connection, key) for key in padded(keys)]
    marks = ", ".join([f"({', '.join(['%s'] * len(KEY))})"] * len(wanted))
    # SQLite's writers are alone; FOR UPDATE exists on PostgreSQL only.
    lock = " FOR UPDATE" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id, {', '.join(HISTOGRAMS)}, {columns} FROM billing_usagerollup "  # noqa: S608  # our own names
            f"WHERE ({columns}) IN (VALUES {marks}) ORDER BY {columns}{lock}",
            [parameter for parameters in wanted for parameter in parameters],
        )
        return {(_epoch(row[4]), *row[5:]): (row[0], row[1:4]) for row in cursor.fetchall()}


def _epoch(hour: datetime) -> int:
    """SQLite's moments come without a zone; they are UTC."""
    return int((hour if hour.tzinfo else hour.replace(tzinfo=UTC)).timestamp())
