"""The figures that change while a team page is open. Read from the database, so that any process can show them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypedDict

from billing import usage_selectors
from billing.money import format_usd
from billing.usage_selectors import BudgetUse
from dashboard.formats import count, share
from dashboard.periods import start_of_day
from dashboard.teams import ShownTeam


class LiveBudget(TypedDict):
    """One bar. `percent` is what the bar shows, `state` how it looks: `ok`, `near` (80 %) or `spent`."""

    name: str
    of: str
    window: str
    resets_at: str
    settled: str
    held: str
    limit: str
    used: str
    percent: float
    state: str


class LiveFigures(TypedDict):
    """Text as the page shows it, so that the socket, the polling answer and the first page cannot differ."""

    cost: str
    requests: str
    last_minute: str
    budgets: list[LiveBudget]


def live_figures(team: ShownTeam, now: datetime) -> LiveFigures:
    today = usage_selectors.team_usage(team.id, start_of_day(team.zone, now), now + timedelta(hours=1))
    last_minute = usage_selectors.requests_since(team.id, now - timedelta(minutes=1))
    uses = usage_selectors.budget_uses(team.id, team.zone.key, now)
    return LiveFigures(
        cost=format_usd(today.cost_pico_usd),
        requests=count(today.requests),
        last_minute=count(last_minute),
        budgets=[_budget(use, team) for use in uses],
    )


def _budget(use: BudgetUse, team: ShownTeam) -> LiveBudget:
    fraction = use.used_pico_usd / use.limit_pico_usd if use.limit_pico_usd else 1.0
    return LiveBudget(
        name=use.name,
        of=f"key {use.key_name}" if use.key_name else "team",
        window=use.window,
        resets_at=f"{use.resets_at.astimezone(team.zone):%b %d, %H:%M}" if use.resets_at else "",
        settled=format_usd(use.settled_pico_usd),
        held=format_usd(use.held_pico_usd),
        limit=format_usd(use.limit_pico_usd),
        used=share(fraction),
        percent=min(100.0, round(fraction * 100, 1)),
        state="spent" if fraction >= 1 else "near" if fraction >= 0.8 else "ok",
    )
