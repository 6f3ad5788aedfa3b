"""Limits and budgets of keys in a static file: the same words as in the configuration file, checked by the same models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Model

from billing.models import Budget, BudgetCredit
from llmgateway.config_loader._budgets import BudgetRow, Credit, budget_of
from llmgateway.config_loader._limits import LimitRow, limit_of
from llmgateway.config_loader._static_fields import (
    Entry,
    EntryError,
    read_boolean,
    read_count,
    read_moment,
    read_objects,
    read_text,
    read_usd,
)
from llmgateway.limit_terms import OWNERS, reset_seconds
from llmgateway.models import RateLimit
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.rate_limits import PERIODLESS

LIMIT_FIELDS = (
    "metric", "per", "amount", "burst", "scope", "model", "starts_on", "reset", "reset_anchor", "oversize", "shadow",
    "enabled",
)  # fmt: skip
BUDGET_FIELDS = (
    "name", "window", "limit_usd", "mode", "scope", "starts_on", "alerts", "increase", "credits", "enabled",
)  # fmt: skip


def key_limits(entry: Entry, key_id: str, time_zone: str) -> Iterator[Limit]:
    """The limits of the key, without those that are switched off."""
    seen: set[str] = set()
    for item in read_objects(entry, "limits", LIMIT_FIELDS):
        row = _checked_limit(item)
        parts = (row.metric, row.per, row.model and f"model {row.model}", row.each and f"each {row.each}")
        counter = ":".join(["limit", key_id, *filter(None, parts), *(["shadow"] if row.shadow else [])])
        if counter in seen:
            raise EntryError(f"limits: {row} stands there twice")
        seen.add(counter)
        if row.enabled:
            yield limit_of(_limit_row(row), kind="key", owner=f"key:{key_id}", counter=counter, time_zone=time_zone)


def _checked_limit(item: Entry) -> RateLimit:
    with_period = item.get("metric") not in PERIODLESS
    row = RateLimit(
        each=read_text(item, "scope"),
        model=read_text(item, "model"),
        metric=read_text(item, "metric"),
        per=read_text(item, "per") if with_period or item.get("per") else "",
        amount=read_count(item, "amount"),
        burst=None if item.get("burst") is None else read_count(item, "burst"),
        starts_on=_start(item),
        reset_seconds=_reset(item),
        reset_anchor=_date(item, "reset_anchor"),
        oversize=read_text(item, "oversize") or RateLimit.Oversize.REFUSE,
        shadow=read_boolean(item, "shadow", default=False),
        enabled=read_boolean(item, "enabled", default=True),
    )
    _check(row, "limits", {"each": "scope", "reset_seconds": "reset"})
    return row


def _limit_row(row: RateLimit) -> LimitRow:
    anchor = row.reset_anchor.isoformat() if row.reset_anchor else None
    return LimitRow(
        0, None, None, None, None, None, None, row.each, row.model, row.metric, row.per, row.amount, row.burst,
        row.starts_on, row.reset_seconds, anchor, row.oversize, row.shadow, None,
    )  # fmt: skip


def key_budgets(entry: Entry, key_id: str, time_zone: str) -> Iterator[BudgetRule]:
    """The budgets of the key, without those that are switched off."""
    seen: set[str] = set()
    for item in read_objects(entry, "budgets", BUDGET_FIELDS):
        row = _checked_budget(item)
        if row.name in seen:
            raise EntryError("budgets: each needs a name of its own")
        seen.add(row.name)
        prepaid = tuple(_credit(row, credit) for credit in read_objects(item, "credits", CREDIT_FIELDS))
        if row.enabled:
            yield budget_of(
                _budget_row(row, key_id),
                prepaid,
                kind="key",
                owner=f"key:{key_id}",
                scope_id=key_id,
                time_zone=time_zone,
            )


def _checked_budget(item: Entry) -> Budget:
    increase = item.get("increase") or {}
    if not isinstance(increase, dict) or not set(increase) <= {"amount_usd", "until", "reason"}:
        raise EntryError("budgets: increase has amount_usd, until and reason")
    row = Budget(
        name=read_text(item, "name"),
        each=read_text(item, "scope"),
        window=read_text(item, "window"),
        starts_on=_start(item),
        limit_pico_usd=read_usd(item, "limit_usd"),
        mode=read_text(item, "mode") or Budget.Mode.EXPECTED,
        alerts=item.get("alerts") or [],
        increase_pico_usd=read_usd(increase, "amount_usd") if increase else 0,
        increase_until=_date(increase, "until"),
        increase_reason=read_text(increase, "reason"),
        enabled=read_boolean(item, "enabled", default=True),
    )
    _check(row, "budgets", {"each": "scope", "limit_pico_usd": "limit_usd"})
    return row


CREDIT_FIELDS = ("amount_usd", "note", "expires_at")


def _credit(budget: Budget, item: Entry) -> Credit:
    if budget.window != Budget.Window.TOTAL:
        raise EntryError("budgets: credits are for `window: total`")
    row = BudgetCredit(amount_pico_usd=read_usd(item, "amount_usd"), note=read_text(item, "note"))
    expires_at = read_moment(item, "expires_at")
    try:
        row.clean_fields(exclude={"budget"})
    except ValidationError as error:
        raise EntryError(f"budgets: credits: {' '.join(error.messages)}") from None
    return Credit(row.amount_pico_usd, expires_at)


def _budget_row(row: Budget, key_id: str) -> BudgetRow:
    until = row.increase_until.isoformat() if row.increase_until else None
    return BudgetRow(
        _budget_id(key_id, row.name), None, None, None, None, None, None, None, row.each, row.name, row.window,
        row.starts_on, row.limit_pico_usd, row.mode, row.increase_pico_usd, until,
    )  # fmt: skip


def _budget_id(key_id: str, name: str) -> int:
    """Stable and negative, so that it never meets a row's id."""
    return -1 - int.from_bytes(hashlib.sha256(f"{key_id}/{name}".encode()).digest()[:7])


def _check(row: Model, section: str, names: dict[str, str]) -> None:
    """Whether the models allow it; the row itself is never saved."""
    try:
        row.full_clean(exclude=set(OWNERS), validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        told = [f"{names.get(field, field)}: {' '.join(texts)}" for field, texts in error.message_dict.items()]
        raise EntryError(f"{section}: {' '.join(told).rstrip('.')}") from None


def _start(item: Entry) -> str:
    """A weekday, or a day of the month, which YAML reads as a number."""
    value = item.get("starts_on")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else read_text(item, "starts_on")


def _reset(item: Entry) -> int | None:
    text = read_text(item, "reset")
    if not text:
        return None
    try:
        return reset_seconds(text)
    except ValueError as error:
        raise EntryError(f"limits: reset: {str(error).rstrip('.')}") from None


def _date(item: Any, field: str) -> datetime | None:
    moment = read_moment(item, field)
    return None if moment is None else datetime.fromtimestamp(moment, UTC)
