"""Limits and budgets of one owner: a key, a team, or everyone."""

from __future__ import annotations

from collections.abc import Iterable

from billing.models import Budget
from billing.money import plain, usd
from llmgateway.config_file.apply.session import Session
from llmgateway.config_file.entries import BudgetEntry, LimitEntry
from llmgateway.models import ApiKey, RateLimit, Team

Owner = ApiKey | Team | None


def apply_limits(session: Session, owner: Owner, stored: Iterable[RateLimit], entries: Iterable[LimitEntry]) -> None:
    """Limits that the file does not name stay, unless it prunes: to lift one by forgetting it would be no choice."""
    rows = {(row.metric, row.per): row for row in stored}
    for entry in entries:
        label = _label(owner, f"{entry.metric} per {entry.per}")
        row = rows.pop((entry.metric, entry.per), None)
        if row is None:
            row = RateLimit(**_scope(owner), metric=entry.metric, per=entry.per)
        wanted = {"amount": entry.amount, "burst": entry.burst, **_enabled(entry.enabled)}
        session.put(row, "limit", label, entry, wanted, unique=True)
    for (metric, per), row in rows.items():
        session.unnamed(row, "limit", _label(owner, f"{metric} per {per}"))


def apply_budgets(session: Session, owner: Owner, stored: Iterable[Budget], entries: Iterable[BudgetEntry]) -> None:
    """As with limits: what the file does not name stays, unless it prunes."""
    rows = {row.name: row for row in stored}
    for entry in entries:
        row = rows.pop(entry.name, None) or Budget(**_scope(owner), name=entry.name)
        wanted = {
            "window": entry.window,
            "limit_pico_usd": entry.limit_pico_usd,
            "mode": entry.mode,
            **_enabled(entry.enabled),
        }
        session.put(
            row,
            "budget",
            _label(owner, entry.name),
            entry,
            wanted,
            names={"limit_pico_usd": "limit_usd"},
            show={"limit_pico_usd": _dollars},
            unique=True,
        )
    for row in rows.values():
        session.unnamed(row, "budget", _label(owner, row.name))


def _enabled(enabled: bool | None) -> dict[str, object]:
    return {} if enabled is None else {"enabled": enabled}


def _scope(owner: Owner) -> dict[str, ApiKey | Team]:
    if owner is None:
        return {}
    return {"key": owner} if isinstance(owner, ApiKey) else {"team": owner}


def _label(owner: Owner, what: str) -> str:
    if owner is None:
        return f"{what} (everyone)"
    return f"{what} ({'key' if isinstance(owner, ApiKey) else 'team'} {owner.name})"


def _dollars(value: object) -> str:
    assert isinstance(value, int)
    return plain(usd(value))
