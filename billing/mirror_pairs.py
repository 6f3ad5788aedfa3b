"""Requests that were mirrored, each beside its copy: how two models did on the same traffic.

Figures alone: neither questions nor answers are kept. Nothing here checks who asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import QuerySet

from billing.models import TOKEN_BUCKETS, UsageRecord

MIRROR_KEY = "mirror"
"""The key that rows of copies name."""
MOST_PAIRS = 2_000
"""The newest of a period: what pages sum and list."""
_AT_ONCE = 500
"""Ids that one query asks for."""
_LONGEST_REQUEST = timedelta(days=1)
"""A copy begins when its request has ended."""
_OUTPUT = ("output", "reasoning", "audio_output")
_COLUMNS = (
    "id", "started_at", "status", "error_type", "key_name", "team_name", "alias", "provider", "model", "cost_pico_usd",
    "priced", "usage_source", "duration_us", "ttft_us", "stream", "mirror_of", *TOKEN_BUCKETS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Side:
    """One request, or its copy."""

    id: str
    started_at: datetime
    status: str
    error_type: str
    key_name: str
    team_name: str
    alias: str
    provider: str
    model: str
    cost_pico_usd: int
    priced: bool
    is_estimated: bool
    duration_us: int
    ttft_us: int | None
    stream: bool
    input_tokens: int
    output_tokens: int

    @property
    def is_failed(self) -> bool:
        return self.status in (UsageRecord.Status.FAILED, UsageRecord.Status.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Pair:
    copy: Side
    original: Side | None
    """None: it is in the ledger no longer, or not yet."""

    @property
    def names(self) -> tuple[str, str]:
        """The alias that was asked for, and the one that was asked too."""
        return (self.original.alias if self.original else "", self.copy.alias)

    @property
    def ends_differ(self) -> bool:
        return self.original is not None and self.original.is_failed != self.copy.is_failed


@dataclass(frozen=True, slots=True)
class Figures:
    """What one side's requests were like."""

    requests: int
    failed: int
    ttft_us: tuple[int | None, int | None]
    """Median and 95th percentile; None: nothing was measured."""
    duration_us: tuple[int | None, int | None]
    input_tokens: float
    """Of one request, on average."""
    output_tokens: float
    cost_pico_usd: int
    unpriced: int

    @property
    def cost_of_one(self) -> int:
        return self.cost_pico_usd // self.requests


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs of the same two aliases. Both sides are of the same requests."""

    alias: str
    mirror: str
    original: Figures
    copy: Figures


def mirror_pairs(since: datetime) -> tuple[list[Pair], bool]:
    """The newest copies since then with what they copy, the newest first, and whether there are older ones."""
    rows: Any = copies_since(since)
    found = list(rows.values(*_COLUMNS)[: MOST_PAIRS + 1])
    copies = found[:MOST_PAIRS]
    originals = _originals(copies)
    return [Pair(_side(row), originals.get(row["mirror_of"])) for row in copies], len(found) > MOST_PAIRS


def copies_since(since: datetime) -> QuerySet[UsageRecord]:
    """The newest first. By day as well: PostgreSQL then leaves the partitions of earlier days alone."""
    rows = UsageRecord.objects.filter(key_id=MIRROR_KEY, started_at__gte=since, day__gte=since.astimezone(UTC).date())
    return rows.exclude(mirror_of="").order_by("-started_at", "-id")


def _originals(copies: Sequence[dict[str, Any]]) -> dict[str, Side]:
    found: dict[str, Side] = {}
    for start in range(0, len(copies), _AT_ONCE):
        some = copies[start : start + _AT_ONCE]
        first, last = some[-1]["started_at"] - _LONGEST_REQUEST, some[0]["started_at"]
        rows: Any = UsageRecord.objects.filter(
            pk__in=[row["mirror_of"] for row in some],
            day__gte=first.astimezone(UTC).date(),
            day__lte=last.astimezone(UTC).date(),
        )
        found.update((row["id"], _side(row)) for row in rows.order_by().values(*_COLUMNS))
    return found


def _side(row: dict[str, Any]) -> Side:
    output = sum(row[name] for name in _OUTPUT)
    return Side(
        id=row["id"],
        started_at=row["started_at"],
        status=row["status"],
        error_type=row["error_type"],
        key_name=row["key_name"],
        team_name=row["team_name"],
        alias=row["alias"],
        provider=row["provider"],
        model=row["model"],
        cost_pico_usd=row["cost_pico_usd"],
        priced=row["priced"],
        is_estimated=row["usage_source"] == UsageRecord.UsageSource.ESTIMATED,
        duration_us=row["duration_us"],
        ttft_us=row["ttft_us"],
        stream=row["stream"],
        input_tokens=sum(row[name] for name in TOKEN_BUCKETS) - output,
        output_tokens=output,
    )


def comparisons(pairs: Iterable[Pair]) -> list[Comparison]:
    """Both sides of each two aliases in sums, the busiest first. Copies whose request is not there are left out."""
    by_names: dict[tuple[str, str], list[tuple[Side, Side]]] = {}
    for pair in pairs:
        if pair.original is not None:
            by_names.setdefault(pair.names, []).append((pair.original, pair.copy))
    busiest = sorted(by_names.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        Comparison(alias, mirror, _figures([first for first, _ in both]), _figures([second for _, second in both]))
        for (alias, mirror), both in busiest
    ]


def _figures(sides: Sequence[Side]) -> Figures:
    return Figures(
        requests=len(sides),
        failed=sum(side.is_failed for side in sides),
        ttft_us=_percentiles(sides, lambda side: side.ttft_us),
        duration_us=_percentiles(sides, lambda side: side.duration_us),
        input_tokens=sum(side.input_tokens for side in sides) / len(sides),
        output_tokens=sum(side.output_tokens for side in sides) / len(sides),
        cost_pico_usd=sum(side.cost_pico_usd for side in sides),
        unpriced=sum(not side.priced for side in sides),
    )


def _percentiles(sides: Sequence[Side], value: Callable[[Side], int | None]) -> tuple[int | None, int | None]:
    """Of those that did not fail: a quick refusal is no quick answer."""
    found = sorted(each for side in sides if not side.is_failed and (each := value(side)) is not None)
    if not found:
        return None, None
    return found[math.ceil(0.5 * len(found)) - 1], found[math.ceil(0.95 * len(found)) - 1]
