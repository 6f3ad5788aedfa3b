"""Limits and budgets: of keys, teams, providers, deployments and aliases, and for everyone at the top of the file."""

from __future__ import annotations

from collections.abc import Iterable

from billing.models import MAX_LIMIT, Budget
from billing.money import MAX_LIMIT_USD, pico_from_usd
from llmgateway.config_file.entries import BudgetEntry, CreditEntry, IncreaseEntry, LimitEntry
from llmgateway.config_file.fields import FieldReader, check_value
from llmgateway.limit_terms import reset_seconds
from llmgateway.models import RateLimit
from llmgateway.rate_limits import PERIODLESS
from llmgateway.validators import validate_name

EVERYONE, CALLER, PLACE = "everyone", "caller", "place"
"""Where rules stand: at the top of the file, below those who ask (keys, teams), or below where requests go."""

GLOBAL = "global"
_METRICS = [metric for metric in RateLimit.Metric.values if metric not in PERIODLESS]


def read_limits(parent: FieldReader, stands: str) -> list[LimitEntry]:
    """The `limits` of one owner."""
    found: dict[tuple[object, ...], LimitEntry] = {}
    for reader in parent.objects("limits"):
        entry = _read_limit(reader, stands)
        if entry is None:
            continue
        identity = (entry.each, entry.model, entry.metric, entry.per, entry.shadow)
        if identity in found:
            what = f"{entry.metric} per {entry.per}" if entry.per else entry.metric
            reader.add("", f"There is a limit on {what} above; leave one of them out.")
        found.setdefault(identity, entry)
    return list(found.values())


def _read_limit(reader: FieldReader, stands: str) -> LimitEntry | None:
    each = _read_scope(reader, stands, RateLimit.Each.values)
    model = ""
    if stands == PLACE:
        reader.refuse("model", because="Only limits of keys, teams and everyone are for one model.")
    else:
        model = reader.text("model", "") or ""
        if model:
            check_value(model, reader.at("model"), reader.problems, validate_name)
    metric = reader.choice("metric", RateLimit.Metric.values)
    per = _read_period(reader, metric)
    amount = reader.integer("amount", required=True)
    burst = reader.integer("burst")
    starts_on = reader.text("starts_on", "")
    reset = _read_reset(reader)
    reset_anchor = reader.moment("reset_anchor")
    oversize = reader.choice("oversize", RateLimit.Oversize.values, default=RateLimit.Oversize.REFUSE.value)
    shadow = reader.boolean("shadow", default=False)
    enabled = reader.boolean("enabled")
    reader.finish()
    if not reader.usable or metric is None or per is None or amount is None or oversize is None:
        return None
    return LimitEntry(
        place=reader.place,
        places=reader.places(),
        each=each,
        model=model,
        metric=metric,
        per=per,
        amount=amount,
        burst=burst,
        starts_on=starts_on or "",
        reset_seconds=reset,
        reset_anchor=reset_anchor,
        oversize=oversize,
        shadow=bool(shadow),
        enabled=enabled,
    )


def _read_scope(reader: FieldReader, stands: str, choices: Iterable[str]) -> str:
    """For each of whom a rule counts; empty: for all together."""
    if stands == PLACE:
        reader.refuse("scope", because="Only rules of keys, teams and everyone count for each address or end user.")
        return ""
    if stands == EVERYONE:
        scope = reader.choice("scope", (GLOBAL, *choices), default=GLOBAL)
    else:
        scope = reader.choice("scope", tuple(choices), default="") if reader.has("scope") else reader.text("scope", "")
    return "" if scope in {GLOBAL, None} else str(scope)


def _read_period(reader: FieldReader, metric: str | None) -> str | None:
    if metric is None:
        return reader.text("per")
    if metric in _METRICS:
        return reader.choice("per", RateLimit.Period.values)
    if reader.text("per", ""):
        reader.add("per", f"{RateLimit.Metric(metric).label} have no period; leave `per` out.")
    return ""


def _read_reset(reader: FieldReader) -> int | None:
    text = reader.text("reset", "")
    if not text:
        return None
    try:
        return reset_seconds(text)
    except ValueError as error:
        reader.add("reset", str(error))
        return None


def read_budgets(parent: FieldReader, stands: str) -> list[BudgetEntry]:
    """The `budgets` of one owner."""
    found: dict[str, BudgetEntry] = {}
    for reader in parent.objects("budgets"):
        entry = _read_budget(reader, stands)
        if entry is None:
            continue
        if entry.name in found:
            reader.add("name", f"There is a budget {entry.name} above; give this one another name.")
        found.setdefault(entry.name, entry)
    return list(found.values())


def _read_budget(reader: FieldReader, stands: str) -> BudgetEntry | None:
    each = _read_scope(reader, stands, Budget.Each.values)
    window = reader.choice("window", Budget.Window.values)
    name = reader.text("name", window)
    if reader.has("name") and name is not None:
        check_value(name, reader.at("name"), reader.problems, validate_name)
    starts_on = reader.text("starts_on", "")
    limit = _read_usd(reader, "limit_usd", required=True)
    mode = reader.choice("mode", Budget.Mode.values, default=Budget.Mode.EXPECTED.value)
    alerts = reader.integers("alerts")
    increase = _read_increase(reader)
    prepaid = _read_credits(reader)
    enabled = reader.boolean("enabled")
    reader.finish()
    if not reader.usable or window is None or name is None or limit is None or mode is None:
        return None
    places = reader.places()
    if increase is not None:
        places |= {f"increase.{field}": place for field, place in increase.places.items()}
    return BudgetEntry(
        place=reader.place,
        places=places,
        name=name,
        each=each,
        window=window,
        starts_on=starts_on or "",
        limit_pico_usd=limit,
        mode=mode,
        alerts=alerts,
        increase=increase,
        credits=prepaid,
        enabled=enabled,
    )


def _read_usd(reader: FieldReader, name: str, *, required: bool) -> int | None:
    amount = reader.money(name, pico_from_usd, required=required)
    if amount is not None and amount > MAX_LIMIT:
        reader.add(name, f"The largest budget is {MAX_LIMIT_USD} dollars.")
    return amount


def _read_increase(parent: FieldReader) -> IncreaseEntry | None:
    given = parent.has("increase")
    reader = parent.object("increase")
    amount = _read_usd(reader, "amount_usd", required=given)
    until = reader.moment("until")
    reason = reader.text("reason", "")
    reader.finish()
    if not given or not reader.usable or amount is None:
        return None
    return IncreaseEntry(
        place=reader.place, places=reader.places(), amount_pico_usd=amount, until=until, reason=reason or ""
    )


def _read_credits(parent: FieldReader) -> list[CreditEntry] | None:
    given = parent.has("credits")
    found = []
    for reader in parent.objects("credits"):
        amount = _read_usd(reader, "amount_usd", required=True)
        note = reader.text("note", "")
        expires_at = reader.moment("expires_at")
        reader.finish()
        if reader.usable and amount is not None:
            found.append(
                CreditEntry(
                    place=reader.place,
                    places=reader.places(),
                    amount_pico_usd=amount,
                    note=note or "",
                    expires_at=expires_at,
                )
            )
    return found if given else None
