"""One row per team and hour, so that a team's page reads 2,160 rows for 90 days however many keys the team has.

Rows are added to in the transaction that adds the rollups they sum up, and locked in the order of their keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper

from billing.histogram import Histogram, merge
from billing.journal_files import from_json, to_json

HISTOGRAMS = ("ttft_histogram", "duration_histogram", "overhead_histogram")
SUMS = ("requests", "input_tokens", "output_tokens", "cost_pico_usd", "estimated_requests", "unpriced_requests")

Models = dict[str, dict[str, list[int]]]
"""Model, then status, then `SUMS`."""

RollupKey = tuple[int, int, str, str, str, str, str, str, str]
"""Hour in seconds since the epoch, team, key, alias, provider, deployment, model, status, refusal's code."""


class RollupSum(Protocol):
    """What a rollup is added (`billing.rollups.Sum`): `SUMS` and these."""

    ttft_histogram: Histogram
    duration_histogram: Histogram
    overhead_histogram: Histogram


@dataclass(slots=True)
class TeamHourSum:
    models: Models = field(default_factory=dict)
    histograms: tuple[Histogram, ...] = ({}, {}, {})

    def add(self, model: str, status: str, added: RollupSum) -> None:
        sums = [getattr(added, name) for name in SUMS]
        self.models = merged_models(self.models, {model: {status: sums}})
        new = [getattr(added, name) for name in HISTOGRAMS]
        self.histograms = tuple(map(_merged, self.histograms, new))


def merged_models(one: Models, other: Models) -> Models:
    """The sum of both, as a new value."""
    total = {model: dict(statuses) for model, statuses in one.items()}
    for model, statuses in other.items():
        found = total.setdefault(model, {})
        for status, sums in statuses.items():
            before = found.get(status, [0] * len(SUMS))
            found[status] = [a + b for a, b in zip(before, sums, strict=True)]
    return total


def _merged(one: Histogram, other: Histogram) -> Histogram:
    return merge((one, other))


def team_hour_sums(added: Mapping[RollupKey, RollupSum]) -> dict[tuple[int, int], TeamHourSum]:
    """What rollups add up to, by hour and team."""
    total: dict[tuple[int, int], TeamHourSum] = {}
    for (hour, team_id, *_, model, status, _code), one in added.items():
        total.setdefault((hour, team_id), TeamHourSum()).add(model, status, one)
    return total


def add_team_hours(connection: BaseDatabaseWrapper, added: Mapping[RollupKey, RollupSum]) -> None:
    """Adds to the stored rows what is added to the rollups. Must run inside that transaction."""
    total = team_hour_sums(added)
    for hour, team_id in sorted(total):
        _add(connection, hour, team_id, total[hour, team_id])


def _add(connection: BaseDatabaseWrapper, hour: int, team_id: int, added: TeamHourSum) -> None:
    key = (connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(hour, UTC)), team_id)
    # SQLite's writers are alone; FOR UPDATE exists on PostgreSQL only.
    lock = " FOR UPDATE" if connection.vendor == "postgresql" else ""
    columns = ("by_model", *HISTOGRAMS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO billing_teamhour (hour, team_id, {', '.join(columns)}) "  # noqa: S608  # our own names
            "VALUES (%s, %s, '{}', '{}', '{}', '{}') ON CONFLICT DO NOTHING",
            key,
        )
        cursor.execute(
            f"SELECT {', '.join(columns)} FROM billing_teamhour WHERE hour = %s AND team_id = %s{lock}",  # noqa: S608
            key,
        )
        models, *histograms = map(_decoded, cursor.fetchone())
        values = [merged_models(models, added.models), *map(_merged, histograms, added.histograms)]
        cursor.execute(
            f"UPDATE billing_teamhour SET {', '.join(f'{name} = %s' for name in columns)} "  # noqa: S608
            "WHERE hour = %s AND team_id = %s",
            [*(to_json(value).decode() for value in values), *key],
        )


def _decoded(stored: Any) -> Any:
    """SQLite gives JSON as text, PostgreSQL may give it decoded."""
    return from_json(stored.encode()) if isinstance(stored, str) else stored


__all__ = ["HISTOGRAMS", "SUMS", "Models", "add_team_hours", "merged_models", "team_hour_sums"]
