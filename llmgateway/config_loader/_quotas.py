"""Limits and budgets, flattened: each key carries its own, its team's and the global ones.

Keys share what is equal: a key without quotas of its own has its team's very tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, TypeVar
from zoneinfo import ZoneInfo

from django.db.models import Q

from billing.models import Budget
from llmgateway.config_loader._values import in_slices
from llmgateway.models import RateLimit, Team
from llmgateway.pipeline.snapshot import BudgetRule, ConfigProblem, Limit

METRICS = frozenset(RateLimit.Metric.values)
PERIODS = frozenset(RateLimit.Period.values)
WINDOWS = frozenset(Budget.Window.values)

T = TypeVar("T", bound=Limit | BudgetRule)


@dataclass(frozen=True, slots=True)
class TeamFacts:
    name: str
    time_zone: str


@dataclass(slots=True)
class Quotas(Generic[T]):
    """Rules by whom they bind."""

    everyone: tuple[T, ...] = ()
    by_team: dict[int, tuple[T, ...]] = field(default_factory=dict)
    """The team's and the global ones."""
    by_key: dict[int, tuple[T, ...]] = field(default_factory=dict)
    """The key's own alone."""

    @classmethod
    def of(cls, rules: Iterable[tuple[int | None, int | None, T]]) -> Quotas[T]:
        """From (key id, team id, rule); neither id means everyone."""
        by_key: dict[int, tuple[T, ...]] = {}
        by_team: dict[int, tuple[T, ...]] = {}
        everyone: tuple[T, ...] = ()
        for key_id, team_id, rule in rules:
            if key_id is not None:
                by_key[key_id] = (*by_key.get(key_id, ()), rule)
            elif team_id is not None:
                by_team[team_id] = (*by_team.get(team_id, ()), rule)
            else:
                everyone = (*everyone, rule)
        return cls(everyone, {team_id: own + everyone for team_id, own in by_team.items()}, by_key)

    def shared(self, team_id: int) -> tuple[T, ...]:
        """What binds every key of the team."""
        return self.by_team.get(team_id, self.everyone)

    def all_of(self, key_id: int, team_id: int) -> tuple[T, ...]:
        own = self.by_key.get(key_id)
        shared = self.shared(team_id)
        return own + shared if own else shared


def load_teams(problems: list[ConfigProblem]) -> dict[int, TeamFacts]:
    teams = {}
    for team_id, name, time_zone in Team.objects.order_by().values_list("id", "name", "time_zone"):
        if not _is_time_zone(time_zone):
            problems.append(
                ConfigProblem(
                    "llmgateway_team",
                    str(team_id),
                    f"team {name}",
                    f"{time_zone!r} is not a time zone; its budgets follow UTC until you choose another.",
                )
            )
            time_zone = "UTC"  # noqa: PLW2901  # The name stays what it is.
        teams[team_id] = TeamFacts(name, time_zone)
    return teams


@lru_cache(maxsize=1024)
def _is_time_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return False
    return True


def _binding(key_ids: Collection[int] | None) -> Q:
    """Rows that bind the keys, or everybody's; those of teams and everyone come along, for they are few."""
    return Q() if key_ids is None else Q(key_id__in=key_ids) | Q(key_id__isnull=True)


def _scope(key_id: int | None, team_id: int | None) -> str:
    if key_id is not None:
        return "key"
    return "global" if team_id is None else "team"


def load_limits(
    problems: list[ConfigProblem], key_ids: Collection[int] | None = None, *, pause: Callable[[], None]
) -> Quotas[Limit]:
    """Enabled limits; with `key_ids`, of no other keys."""
    rows = (
        RateLimit.objects.filter(_binding(key_ids), enabled=True)
        .exclude(key__revoked_at__isnull=False)
        .order_by("id")
        .values_list("id", "key_id", "team_id", "metric", "per", "amount", "burst")
    )
    return Quotas[Limit].of((row[1], row[2], _limit(row, problems)) for row in in_slices(rows, pause))


def _limit(row: tuple[int, int | None, int | None, str, str, int, int | None], problems: list[ConfigProblem]) -> Limit:
    row_id, key_id, team_id, metric, per, amount, burst = row
    counter, scope = f"limit:{row_id}", _scope(key_id, team_id)
    if metric not in METRICS or per not in PERIODS:
        # A rule that cannot be kept must not be dropped: that would let everything through.
        name = f"limit {row_id}"
        message = (
            f"{metric} per {per} is not a limit this version knows; it lets nothing through. Correct or delete it."
        )
        problems.append(ConfigProblem("llmgateway_ratelimit", str(row_id), name, message))
        return Limit(counter, f"{amount} {metric} per {per}", scope, 0, 0)
    return Limit(counter, limit_name(amount), scope, amount, amount if burst is None else burst)


def limit_name(amount: int) -> str:
    """As people read it in errors and headers."""
    return f"{amount} requests per minute"


def load_budgets(
    problems: list[ConfigProblem],
    teams: dict[int, TeamFacts],
    key_ids: Collection[int] | None = None,
    *,
    pause: Callable[[], None],
) -> Quotas[BudgetRule]:
    """Enabled budgets; with `key_ids`, of no other keys."""
    rows = (
        Budget.objects.filter(_binding(key_ids), enabled=True)
        .exclude(key__revoked_at__isnull=False)
        .order_by("id")
        .values_list("id", "key_id", "team_id", "name", "window", "limit_pico_usd", "key__team_id")
    )
    return Quotas[BudgetRule].of((row[1], row[2], _budget(row, teams, problems)) for row in in_slices(rows, pause))


def _budget(
    row: tuple[int, int | None, int | None, str, str, int, int | None],
    teams: dict[int, TeamFacts],
    problems: list[ConfigProblem],
) -> BudgetRule:
    row_id, key_id, team_id, name, window, limit, key_team_id = row
    if window not in WINDOWS:
        message = f"{window!r} is not a window; the budget lets nothing through. Choose one in the admin."
        problems.append(ConfigProblem("billing_budget", str(row_id), f"budget {name}", message))
        window, limit = Budget.Window.TOTAL.value, 0
    team = teams.get(team_id or key_team_id or 0)
    return BudgetRule(
        id=row_id,
        name=name,
        scope=_scope(key_id, team_id),
        scope_id=str(key_id or team_id or ""),
        window=window,
        limit_pico_usd=limit,
        time_zone=team.time_zone if team else "UTC",
    )
