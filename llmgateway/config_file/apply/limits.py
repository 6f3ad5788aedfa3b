"""Limits and budgets of one owner: a key, a team, a provider, a deployment, an alias, or everyone."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Model

from billing.models import Budget, BudgetCredit
from billing.money import plain, usd
from llmgateway.config_file.apply.session import Session, is_new
from llmgateway.config_file.entries import BudgetEntry, CreditEntry, LimitEntry
from llmgateway.config_file.report import as_text
from llmgateway.limit_terms import reset_text
from llmgateway.models import ApiKey, RateLimit, Team
from providers.models import Deployment, ModelAlias, Provider

Owner = ApiKey | Team | Provider | Deployment | ModelAlias | None
OWNER_COLUMNS: dict[type[Model], str] = {
    ApiKey: "key",
    Team: "team",
    Provider: "provider",
    Deployment: "deployment",
    ModelAlias: "alias",
}
Identity = tuple[str, str, str, str, bool]
LIMIT_FIELDS = {"each": "scope", "reset_seconds": "reset"}
BUDGET_FIELDS = {
    "each": "scope",
    "limit_pico_usd": "limit_usd",
    "increase_pico_usd": "increase.amount_usd",
    "increase_until": "increase.until",
    "increase_reason": "increase.reason",
}


def apply_limits(session: Session, owner: Owner, stored: Iterable[RateLimit], entries: Iterable[LimitEntry]) -> None:
    """Limits that the file does not name stay, unless it prunes: to lift one by forgetting it would be no choice."""
    rows = {_identity(row): row for row in stored}
    entries = list(entries)
    named = {_identity(entry) for entry in entries}
    for entry in entries:
        row = _taken(rows, named, entry)
        if row is None and not _model_exists(session, entry):
            continue
        row = row or RateLimit(**_scope(owner), metric=entry.metric, per=entry.per)
        wanted: dict[str, object] = {
            "each": entry.each,
            "model": entry.model,
            "amount": entry.amount,
            "burst": entry.burst,
            "starts_on": entry.starts_on,
            "reset_seconds": entry.reset_seconds,
            "reset_anchor": entry.reset_anchor,
            "oversize": entry.oversize,
            "shadow": entry.shadow,
            **_enabled(entry.enabled),
        }
        session.put(
            row,
            "limit",
            _label(owner, _terms(_identity(entry))),
            entry,
            _worth_telling(row, wanted),
            names=LIMIT_FIELDS,
            show={"reset_seconds": _time_span},
            unique=True,
        )
    for identity, row in rows.items():
        session.unnamed(row, "limit", _label(owner, _terms(identity)))


def _model_exists(session: Session, entry: LimitEntry) -> bool:
    """Whether the alias is there that the limit is for alone; otherwise that has been told."""
    return not entry.model or session.aliases.referred(entry.model, entry.at("model"), session.problems) is not None


def _identity(limit: RateLimit | LimitEntry) -> Identity:
    return limit.each, limit.model, limit.metric, limit.per, limit.shadow


def _taken(rows: dict[Identity, RateLimit], named: set[Identity], entry: LimitEntry) -> RateLimit | None:
    """The row that the entry means. One that goes into shadow or comes out of it keeps what it has counted."""
    identity = _identity(entry)
    turned = (*identity[:4], not entry.shadow)
    return rows.pop(identity, None) or (rows.pop(turned, None) if turned not in named else None)


def _terms(identity: Identity) -> str:
    """`requests per day of coder for each ip (shadow)`."""
    each, model, metric, per, shadow = identity
    words = [metric, f"per {per}" if per else "", f"of {model}" if model else "", f"for each {each}" if each else ""]
    return " ".join([word for word in words if word] + (["(shadow)"] if shadow else []))


def apply_budgets(session: Session, owner: Owner, stored: Iterable[Budget], entries: Iterable[BudgetEntry]) -> None:
    """As with limits: what the file does not name stays, unless it prunes."""
    rows = {row.name: row for row in stored}
    for entry in entries:
        row = rows.pop(entry.name, None) or Budget(**_scope(owner), name=entry.name)
        wanted: dict[str, object] = {
            "each": entry.each,
            "window": entry.window,
            "starts_on": entry.starts_on,
            "limit_pico_usd": entry.limit_pico_usd,
            "mode": entry.mode,
            "alerts": entry.alerts,
            **_increase(entry),
            **_enabled(entry.enabled),
        }
        saved = session.put(
            row,
            "budget",
            _label(owner, entry.name),
            entry,
            _worth_telling(row, wanted),
            names=BUDGET_FIELDS,
            show={"limit_pico_usd": _dollars, "increase_pico_usd": _dollars},
            unique=True,
        )
        if saved and entry.credits is not None:
            _apply_credits(session, row, _label(owner, entry.name), entry.credits)
    for row in rows.values():
        session.unnamed(row, "budget", _label(owner, row.name))


def _increase(entry: BudgetEntry) -> dict[str, object]:
    if entry.increase is None:
        return {}
    return {
        "increase_pico_usd": entry.increase.amount_pico_usd,
        "increase_until": entry.increase.until,
        "increase_reason": entry.increase.reason,
    }


def _apply_credits(session: Session, budget: Budget, label: str, entries: Iterable[CreditEntry]) -> None:
    """Credit that stands there already is not paid twice; money is told apart by its amount, note and end."""
    rows = list(budget.credits.all())
    for entry in entries:
        same = (entry.amount_pico_usd, entry.note, entry.expires_at)
        row = next((row for row in rows if (row.amount_pico_usd, row.note, row.expires_at) == same), None)
        if row is not None:
            rows.remove(row)
        else:
            row = BudgetCredit(budget=budget, created_by="configuration file")
        wanted: dict[str, object] = {
            "amount_pico_usd": entry.amount_pico_usd,
            "note": entry.note,
            "expires_at": entry.expires_at,
        }
        names, show = {"amount_pico_usd": "amount_usd"}, {"amount_pico_usd": _dollars}
        session.put(row, "credit", label, entry, wanted, names=names, show=show, unique=True)
    for row in rows:
        session.unnamed(row, "credit", f"{plain(usd(row.amount_pico_usd))} of {label}")


def _worth_telling(row: Model, wanted: dict[str, object]) -> dict[str, object]:
    """A new row is not described by what it would be anyway."""
    if not is_new(row):
        return wanted
    return {
        column: value
        for column, value in wanted.items()
        if column in {"amount", "limit_pico_usd", "window", "mode", "enabled"} or getattr(row, column) != value
    }


def _enabled(enabled: bool | None) -> dict[str, object]:
    return {} if enabled is None else {"enabled": enabled}


def _scope(owner: Owner) -> dict[str, Model]:
    return {} if owner is None else {OWNER_COLUMNS[type(owner)]: owner}


def _label(owner: Owner, what: str) -> str:
    if owner is None:
        return f"{what} (everyone)"
    return f"{what} ({OWNER_COLUMNS[type(owner)]} {owner.name})"


def _dollars(value: object) -> str:
    assert isinstance(value, int)
    return plain(usd(value))


def _time_span(value: object) -> str:
    return reset_text(value) if isinstance(value, int) else as_text(value)
