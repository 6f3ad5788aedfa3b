"""What was used and what budgets stand at, read from journals and database only: true beside a running server too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import QuerySet
from django.utils import timezone

from billing.adoption import open_requests
from billing.journal_files import CLOSE, START, Position, from_json, journal_folders, walk
from billing.ledger import settled_windows
from billing.models import Budget, JournalOffset, UsageRecord, UsageRollup
from billing.rollups import input_tokens, output_tokens
from billing.windows import window_bounds
from llmgateway.pipeline.protocols import Record

TRIES = 5


def usage_rows(*, key: str = "", since: datetime | None = None) -> QuerySet[UsageRecord]:
    """Ledger rows, oldest first; of the key named `key` and from `since` on, if given."""
    rows = UsageRecord.objects.order_by("started_at", "id")
    if key:
        rows = rows.filter(key_name=key)
    return rows.filter(started_at__gte=since) if since else rows


def usage_as_json(row: UsageRecord) -> dict[str, Any]:
    """A ledger row for scripts. Token counts are inclusive: cached tokens count as input, reasoning as output."""
    columns = vars(row)
    return {
        "request_id": row.id,
        "status": row.status,
        "http_status": row.http_status,
        "key": row.key_name,
        "team": row.team_name,
        "alias": row.alias,
        "provider": row.provider,
        "deployment": row.deployment,
        "model": row.model,
        "input_tokens": input_tokens(columns),
        "output_tokens": output_tokens(columns),
        "cache_read_input_tokens": row.cache_read,
        "cache_creation_input_tokens": row.cache_write_5m + row.cache_write_1h,
        "reasoning_output_tokens": row.reasoning,
        "usage_source": row.usage_source,
        "cost_pico_usd": row.cost_pico_usd,
        "price_id": row.price_id,
        "started_at": row.started_at.astimezone(UTC).isoformat(),
        "duration_ms": row.duration_us / 1000,
        "ttft_ms": None if row.ttft_us is None else row.ttft_us / 1000,
        "attempts": row.attempts,
    }


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What one day came to."""

    day: date
    requests: int
    refused: int
    input_tokens: int
    output_tokens: int
    cost_pico_usd: int


def key_usage_by_day(key_id: str, *, days: int = 14, time_zone: str = "UTC") -> list[DayUsage]:
    """The last `days` days of a key in `time_zone`, today last, days without requests included."""
    zone = ZoneInfo(time_zone)
    today = timezone.now().astimezone(zone).date()
    wanted = [today - timedelta(days=back) for back in reversed(range(days))]
    totals = {day: [0, 0, 0, 0, 0] for day in wanted}
    begin = datetime.combine(wanted[0], datetime.min.time(), zone)
    rollups = UsageRollup.objects.filter(key_id=key_id, hour__gte=begin - timedelta(hours=1))
    for rollup in rollups.only("hour", "status", "requests", "input_tokens", "output_tokens", "cost_pico_usd"):
        total = totals.get(rollup.hour.astimezone(zone).date())
        if total is not None:
            total[1 if rollup.status == "refused" else 0] += rollup.requests
            total[2] += rollup.input_tokens
            total[3] += rollup.output_tokens
            total[4] += rollup.cost_pico_usd
    return [DayUsage(day, *totals[day]) for day in wanted]


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """A budget's current window: what is settled, and what running requests hold."""

    budget: Budget
    window_start: float
    window_end: float | None
    settled_pico_usd: int
    held_pico_usd: int

    @property
    def scope(self) -> str:
        return budget_scope(self.budget)[0]

    @property
    def of(self) -> str:
        """The key's or team's name; empty for everyone's."""
        owner = self.budget.key or self.budget.team
        return owner.name if owner else ""

    @property
    def remaining_pico_usd(self) -> int:
        return max(0, self.budget.limit_pico_usd - self.settled_pico_usd - self.held_pico_usd)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.budget.name,
            "scope": self.scope,
            "of": self.of,
            "window": self.budget.window,
            "mode": self.budget.mode,
            "limit_pico_usd": self.budget.limit_pico_usd,
            "settled_pico_usd": self.settled_pico_usd,
            "held_pico_usd": self.held_pico_usd,
            "window_start": _iso(self.window_start),
            "window_end": None if self.window_end is None else _iso(self.window_end),
        }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def budget_scope(budget: Budget) -> tuple[str, str]:
    """(`key`, `team` or `global`; the row id of the key or team as text)."""
    if budget.key_id:
        return "key", str(budget.key_id)
    return ("team", str(budget.team_id)) if budget.team_id else ("global", "")


def budget_time_zone(budget: Budget) -> str:
    team = budget.key.team if budget.key else budget.team
    return team.time_zone if team else "UTC"


def budget_standings(
    root: Path, *, budgets: Iterable[Budget] | None = None, at: float | None = None
) -> list[BudgetStanding]:
    """What each enabled budget stands at now; `root` is the folder of the journals."""
    if budgets is None:
        budgets = Budget.objects.filter(enabled=True).select_related("key__team", "team").order_by("id")
    budgets = list(budgets)
    at = timezone.now().timestamp() if at is None else at
    bounds = [window_bounds(budget.window, budget_time_zone(budget), at) for budget in budgets]
    windows = [(*budget_scope(budget), start) for budget, (start, _) in zip(budgets, bounds, strict=True)]
    settled, journalled = _settled_and_journalled(root, windows)
    return [
        BudgetStanding(
            budget,
            start,
            end,
            settled_pico_usd=cost + sum(_cost(row, window) for row in journalled.closes),
            held_pico_usd=journalled.held.get(budget.pk, 0),
        )
        for budget, (start, end), window, cost in zip(budgets, bounds, windows, settled, strict=True)
    ]


@dataclass(slots=True)
class Journalled:
    """What journals say beyond the database."""

    closes: list[Record] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)
    """By budget id."""


def _settled_and_journalled(root: Path, windows: list[tuple[str, str, float]]) -> tuple[list[int], Journalled]:
    """Both at one moment: if a drain moved an offset between the two reads, they are read again."""
    for _ in range(TRIES):
        offsets = _offsets()
        settled = settled_windows(windows)
        journalled = _journalled(root, offsets)
        if _offsets() == offsets:
            break
    return settled, journalled


def _offsets() -> dict[str, Position]:
    rows = JournalOffset.objects.values_list("journal", "segment", "offset")
    return {journal: Position(segment, offset) for journal, segment, offset in rows}


def _journalled(root: Path, offsets: dict[str, Position]) -> Journalled:
    found = Journalled()
    for folder in journal_folders(root):
        try:
            found.closes += [
                from_json(step.payload)
                for step in walk(folder, offsets.get(folder.name, START), live=True)
                if step.kind == CLOSE
            ]
            for request in open_requests(folder, live=True).values():
                for _counter, budget_id, held in request.opened["windows"]:
                    found.held[budget_id] = found.held.get(budget_id, 0) + held
        except FileNotFoundError:
            continue  # Drained and deleted meanwhile; the offsets show it.
    return found


def _cost(row: Record, window: tuple[str, str, float]) -> int:
    scope, scope_id, start = window
    if row["started_at"] < start:
        return 0
    if scope == "key" and row["key_id"] != scope_id:
        return 0
    if scope == "team" and str(row.get("team_id", 0)) != scope_id:
        return 0
    cost: int = row.get("cost_pico_usd", 0)
    return cost


def journal_ends(root: Path) -> dict[Path, Position]:
    """How far each journal is written now."""
    ends: dict[Path, Position] = {}
    for folder in journal_folders(root):
        for segment in sorted(folder.glob("*.journal"), reverse=True):
            try:
                ends[folder] = Position(int(segment.stem), segment.stat().st_size)
            except FileNotFoundError:
                continue
            break
    return ends


def undrained(ends: dict[Path, Position]) -> dict[Path, int]:
    """How many rows of each journal, up to the given ends, are not in the database. Journals without any are left out."""
    offsets = _offsets()
    counts: dict[Path, int] = {}
    for folder, end in ends.items():
        start = offsets.get(folder.name, START)
        try:
            count = sum(step.kind == CLOSE for step in walk(folder, start, end, live=True))
        except FileNotFoundError:
            continue
        if count:
            counts[folder] = count
    return counts


__all__ = [
    "BudgetStanding",
    "DayUsage",
    "budget_scope",
    "budget_standings",
    "budget_time_zone",
    "journal_ends",
    "key_usage_by_day",
    "undrained",
    "usage_as_json",
    "usage_rows",
]
