"""Limits and budgets, which stand under keys, under teams, and for everyone at the top of the file."""

from __future__ import annotations

from billing.models import Budget
from billing.money import MAX_LIMIT_USD, PICO_PER_USD, pico_from_usd
from llmgateway.config_file.entries import BudgetEntry, LimitEntry
from llmgateway.config_file.fields import FieldReader, check_value
from llmgateway.models import RateLimit
from llmgateway.validators import validate_name

LATER_METRICS = ("tokens", "input_tokens", "output_tokens", "concurrency")
LATER_PERIODS = ("hour", "day", "week", "month", "total")
LATER_SCOPES = ("ip", "end_user", "model")


def read_limits(parent: FieldReader, *, scoped: bool = False) -> list[LimitEntry]:
    """The `limits` of a key, a team or, with `scoped`, of everyone."""
    found: dict[tuple[str, str], LimitEntry] = {}
    for reader in parent.objects("limits"):
        entry = _read_limit(reader, scoped=scoped)
        if entry is None:
            continue
        if (entry.metric, entry.per) in found:
            reader.add("", f"There is a limit on {entry.metric} per {entry.per} above; leave one of them out.")
        found.setdefault((entry.metric, entry.per), entry)
    return list(found.values())


def _read_limit(reader: FieldReader, *, scoped: bool) -> LimitEntry | None:
    if scoped:
        reader.choice("scope", ("global",), later=LATER_SCOPES, default="global")
    else:
        reader.refuse("scope", because="`scope` stands in the limits at the top of the file only.")
    metric = reader.choice("metric", RateLimit.Metric.values, later=LATER_METRICS)
    # The metrics that are still to come bring periods of their own (concurrency has none).
    per = reader.choice("per", RateLimit.Period.values, later=LATER_PERIODS) if metric else reader.text("per")
    amount = reader.integer("amount", required=True)
    burst = reader.integer("burst")
    enabled = reader.boolean("enabled")
    reader.refuse("model", "shadow", "reset", "starts_on", "oversize")
    reader.finish()
    if not reader.usable or metric is None or per is None or amount is None:
        return None
    return LimitEntry(
        place=reader.place,
        places=reader.places(),
        metric=metric,
        per=per,
        amount=amount,
        burst=burst,
        enabled=enabled,
    )


def read_budgets(parent: FieldReader) -> list[BudgetEntry]:
    """The `budgets` of a key, a team or everyone."""
    found: dict[str, BudgetEntry] = {}
    for reader in parent.objects("budgets"):
        entry = _read_budget(reader)
        if entry is None:
            continue
        if entry.name in found:
            reader.add("name", f"There is a budget {entry.name} above; give this one another name.")
        found.setdefault(entry.name, entry)
    return list(found.values())


def _read_budget(reader: FieldReader) -> BudgetEntry | None:
    window = reader.choice("window", Budget.Window.values)
    name = reader.text("name", window)
    if reader.has("name") and name is not None:
        check_value(name, reader.at("name"), reader.problems, validate_name)
    limit = reader.money("limit_usd", pico_from_usd, required=True)
    if limit is not None and limit > MAX_LIMIT_USD * PICO_PER_USD:
        reader.add("limit_usd", f"The largest budget is {MAX_LIMIT_USD} dollars.")
    mode = reader.choice("mode", Budget.Mode.values, later=("strict",), default=Budget.Mode.EXPECTED.value)
    enabled = reader.boolean("enabled")
    reader.refuse("alerts", "starts_on", "reset", "scope", "model")
    reader.finish()
    if not reader.usable or window is None or name is None or limit is None or mode is None:
        return None
    return BudgetEntry(
        place=reader.place,
        places=reader.places(),
        name=name,
        window=window,
        limit_pico_usd=limit,
        mode=mode,
        enabled=enabled,
    )
