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
from billing.models import Budget, JournalOffset, UsageRecord, UsageRollup
from billing.rollups import input_tokens, output_tokens
from billing.standing import BySubject, Tally, used
from billing.usage_rows import completed
from billing.windows import Bounds, window_bounds
from llmgateway.limit_terms import OWNERS, start_number
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
        "units": row.units or {},
        "usage_source": row.usage_source,
        "cost_pico_usd": row.cost_pico_usd,
        "reported_cost_pico_usd": row.reported_cost_pico_usd,
        "price_id": row.price_id,
        "priced": row.priced,
        "default_price": row.default_price,
        "started_at": row.started_at.astimezone(UTC).isoformat(),
        "duration_ms": row.duration_us / 1000,
        "ttft_ms": None if row.ttft_us is None else row.ttft_us / 1000,
        "cache": row.cache,
        "saved_pico_usd": row.saved_pico_usd,
        "mirror_of": row.mirror_of,
        "via": row.via.split(),
        "own_key": row.own_key,
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
    """A budget's current window: what is settled, and what running requests hold.

    One that counts for each address or end user stands where the one stands that has spent most.
    """

    budget: Budget
    window_start: float
    window_end: float | None
    settled_pico_usd: int
    held_pico_usd: int
    subject: str = ""
    """Of a budget for each address or end user: whose figures these are."""

    @property
    def scope(self) -> str:
        return budget_scope(self.budget)[0]

    @property
    def of(self) -> str:
        """The owner's name; empty for everyone's."""
        owner = budget_owner(self.budget)
        return owner.name if owner else ""

    @property
    def limit_pico_usd(self) -> int:
        """With prepaid credit, and the temporary increase while it lasts."""
        return self.budget.whole_limit_pico_usd()

    @property
    def remaining_pico_usd(self) -> int:
        return max(0, self.limit_pico_usd - self.settled_pico_usd - self.held_pico_usd)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.budget.name,
            "scope": self.scope,
            "of": self.of,
            "each": self.budget.each,
            "subject": self.subject,
            "window": self.budget.window,
            "mode": self.budget.mode,
            "limit_pico_usd": self.limit_pico_usd,
            "settled_pico_usd": self.settled_pico_usd,
            "held_pico_usd": self.held_pico_usd,
            "window_start": _iso(self.window_start),
            "window_end": None if self.window_end is None else _iso(self.window_end),
        }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def budget_owner(budget: Budget) -> Any:
    """The key, team, provider, deployment or alias; None: everyone's."""
    return next((getattr(budget, kind) for kind in OWNERS if getattr(budget, f"{kind}_id") is not None), None)


def budget_scope(budget: Budget) -> tuple[str, str]:
    """(`key`, `team`, `provider`, `deployment`, `model` or `global`; the row id of a key or team, otherwise the name)."""
    if budget.key_id or budget.team_id:
        return ("key", str(budget.key_id)) if budget.key_id else ("team", str(budget.team_id))
    for kind in ("provider", "deployment", "alias"):
        owner = getattr(budget, kind)
        if owner is not None:
            return ("model" if kind == "alias" else kind), owner.name
    return "global", ""


_COLUMNS = {
    "key": "key_id", "team": "team_id", "provider": "provider", "deployment": "deployment", "model": "alias",
    "global": "",
}  # fmt: skip
_SUBJECTS = {"": "", "ip": "client_ip", "end_user": "end_user"}


def budget_tally(budget: Budget, start: float) -> Tally:
    """Which requests count for the budget's window from `start` on."""
    scope, owner = budget_scope(budget)
    strict = budget.mode == Budget.Mode.STRICT
    return Tally(start, _COLUMNS[scope], owner, each=_SUBJECTS[budget.each], reserved=strict)


def budget_time_zone(budget: Budget) -> str:
    team = budget.key.team if budget.key else budget.team
    return team.time_zone if team else "UTC"


def budget_window(budget: Budget, at: float, time_zone: str = "") -> Bounds:
    """The window of the budget that contains `at`, in the time zone of its team."""
    zone = time_zone or budget_time_zone(budget)
    return window_bounds(budget.window, zone, at, starts_on=start_number(budget.window, budget.starts_on))


def leading(found: BySubject) -> tuple[str, int]:
    """Who has spent most, and how much; nobody has: nothing."""
    spent = {subject: one.cost_pico_usd for subject, one in found.items()}
    return max(spent.items(), key=lambda item: item[1], default=("", 0))


def budget_standings(
    root: Path, *, budgets: Iterable[Budget] | None = None, at: float | None = None
) -> list[BudgetStanding]:
    """What each enabled budget stands at now; `root` is the folder of the journals."""
    if budgets is None:
        budgets = (
            Budget.objects.filter(enabled=True)
            .select_related("key__team", "team", "provider", "deployment", "alias")
            .prefetch_related("credits")
            .order_by("id")
        )
    budgets = list(budgets)
    at = timezone.now().timestamp() if at is None else at
    bounds = [budget_window(budget, at) for budget in budgets]
    tallies = [budget_tally(budget, start) for budget, (start, _) in zip(budgets, bounds, strict=True)]
    settled, held = _settled_and_held(root, tallies)
    return [
        BudgetStanding(budget, start, end, cost, held.get(budget.pk, 0), subject)
        for budget, (start, end), (subject, cost) in zip(budgets, bounds, map(leading, settled), strict=True)
    ]


@dataclass(slots=True)
class Journalled:
    """What journals say beyond the database."""

    closes: list[Record] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)
    """By budget id."""


def _settled_and_held(root: Path, tallies: list[Tally]) -> tuple[list[BySubject], dict[int, int]]:
    """Both at one moment: if a drain moved an offset between the reads, they are read again."""
    for _ in range(TRIES):
        offsets = _offsets()
        journalled = _journalled(root, offsets)
        settled = used(tallies, records=journalled.closes)
        if _offsets() == offsets:
            break
    return settled, journalled.held


def _offsets() -> dict[str, Position]:
    rows = JournalOffset.objects.values_list("journal", "segment", "offset")
    return {journal: Position(segment, offset) for journal, segment, offset in rows}


def _journalled(root: Path, offsets: dict[str, Position]) -> Journalled:
    found = Journalled()
    for folder in journal_folders(root):
        try:
            found.closes += [
                completed(from_json(step.payload))
                for step in walk(folder, offsets.get(folder.name, START), live=True)
                if step.kind == CLOSE
            ]
            for request in open_requests(folder, live=True).values():
                for _counter, budget_id, held in request.opened["windows"]:
                    found.held[budget_id] = found.held.get(budget_id, 0) + held
        except FileNotFoundError:
            continue  # Drained and deleted meanwhile; the offsets show it.
    return found


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
