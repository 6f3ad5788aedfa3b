"""Reads of the rollups and the ledger for pages: what a team's requests used, cost and took.

Sums come from the rollups, whose hours are whole UTC hours; single requests come from the ledger. Money is summed in
integers. Nothing here checks who asks: the caller has already found the team that the user may see.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, reduce
from operator import add
from typing import Any

import orjson
from django.db.models import F, Max, Q, QuerySet, Sum, TextField
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Cast

from billing.histogram import Histogram
from billing.holds import Holds
from billing.models import TOKEN_BUCKETS, Budget, Price, TeamHour, UsageRecord, UsageRollup
from billing.pricing import price_of_unit, priced_apart, units_cost
from billing.selectors import budget_tally, budget_window, leading
from billing.standing import used
from billing.unit_prices import unit_prices
from llmgateway.conf import conf

REFUSED = "refused"
OUTPUT_BUCKETS = ("output", "reasoning", "audio_output")
INPUT_BUCKETS = tuple(name for name in TOKEN_BUCKETS if name not in OUTPUT_BUCKETS)
ERRORS = (UsageRecord.Status.FAILED, UsageRecord.Status.INTERRUPTED)

# A sum of 64-bit integers may leave 64 bits, at which SQLite gives up: $9.2 million. So sums are of two halves.
_HALF = 10**6

HISTOGRAMS = ("duration_histogram", "ttft_histogram", "overhead_histogram")


@dataclass(slots=True)
class Usage:
    """Sums over some rollups, never changed: not frozen, for pages add up tens of thousands of them. `requests` are those in the ledger; the refused never reached a provider."""

    requests: int = 0
    refused: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_pico_usd: int = 0
    estimated_requests: int = 0
    unpriced_requests: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.refused + other.refused,
            self.errors + other.errors,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_pico_usd + other.cost_pico_usd,
            self.estimated_requests + other.estimated_requests,
            self.unpriced_requests + other.unpriced_requests,
        )

    @property
    def error_rate(self) -> float | None:
        """The share of requests that failed or were interrupted. None: there were no requests."""
        return self.errors / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class ModelHour:
    """What one model was used for in one hour. `model` is empty where a request was refused before one was chosen."""

    hour: datetime
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class KeyUsage:
    key_id: str
    key_name: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class HourLatency:
    """How long the requests of one hour took, as histograms of microseconds."""

    hour: datetime
    duration: Histogram
    ttft: Histogram
    overhead: Histogram


def usage_by_hour(team_id: int, start: datetime, end: datetime) -> tuple[list[ModelHour], list[HourLatency]]:
    """The team's hours in this span: what each model was used for, and how long requests took."""
    rows = TeamHour.objects.filter(team_id=team_id, hour__gte=start, hour__lt=end).order_by("hour")
    # As text: Django would decode each column by a slower way, which is most of what the page takes.
    texts = [Cast(name, TextField()) for name in ("by_model", *HISTOGRAMS)]
    models: list[ModelHour] = []
    latency: list[HourLatency] = []
    for hour, *columns in rows.values_list("hour", *texts):
        by_model, *histograms = map(orjson.loads, columns)
        models += [ModelHour(hour, model, _usage_of_statuses(by_status)) for model, by_status in by_model.items()]
        latency.append(HourLatency(hour, *histograms))
    return models, latency


def _usage_of_statuses(by_status: dict[str, list[int]]) -> Usage:
    return reduce(add, (_usage_of_status(status, sums) for status, sums in by_status.items()))


def _usage_of_status(status: str, sums: list[int]) -> Usage:
    requests, *others = sums
    if status == REFUSED:
        return Usage(0, requests, 0, *others)
    return Usage(requests, 0, requests if status in ERRORS else 0, *others)


def usage_by_key(team_id: int, start: datetime, end: datetime, *, limit: int) -> list[KeyUsage]:
    """The team's dearest keys, the dearest first; of equal cost, the busiest first. Tokens are left out.

    All that is read stands in the index `rollup_by_team`: a team with many keys has many rows.
    """
    rows: Any = _rollups(start, end).filter(team_id=team_id).order_by().values("key_id")
    whole, rest = F("cost") + F("cost_rest") / _HALF, F("cost_rest") % _HALF
    dearest = rows.annotate(**_COUNTS, name=Max("key_name")).order_by(whole.desc(), rest.desc(), "-admitted", "key_id")
    return [
        KeyUsage(row["key_id"], row["name"], Usage(row["admitted"], row["refused"], row["errors"], 0, 0, _cost(row)))
        for row in dearest[:limit]
    ]


def usage_by_team(team_ids: Collection[int], start: datetime, end: datetime) -> dict[int, Usage]:
    rows = _summed(_rollups(start, end).filter(team_id__in=team_ids), "team_id")
    return {row["team_id"]: _usage(row) for row in rows}


def team_usage(team_id: int, start: datetime, end: datetime) -> Usage:
    return _usage_of(_rollups(start, end).filter(team_id=team_id))


def refusals_by_code(team_id: int, start: datetime, end: datetime) -> dict[str, int]:
    """Why requests of the team were refused before any upstream call, the most frequent first. Empty: not known."""
    rows = _rollups(start, end).filter(team_id=team_id, status=REFUSED).order_by().values_list("code")
    counted: dict[str, int] = dict(rows.annotate(count=Sum("requests")).order_by("-count", "code"))
    return counted


def recent_requests(
    team_id: int, *, before: tuple[datetime, str] | None = None, limit: int = 50
) -> tuple[list[UsageRecord], bool]:
    """The newest requests that began before the given one (start, id), and whether there are still older ones."""
    rows: QuerySet[UsageRecord] = UsageRecord.objects.filter(team_id=team_id).order_by("-started_at", "-id")
    tokens: dict[str, Any] = {"input_tokens": _sum_of(INPUT_BUCKETS), "output_tokens": _sum_of(OUTPUT_BUCKETS)}
    rows = rows.defer("usage_raw", "attempts").annotate(**tokens)
    if before:
        started_at, record_id = before
        rows = rows.filter(Q(started_at__lt=started_at) | Q(started_at=started_at, id__lt=record_id))
        rows = rows.filter(started_at__lte=started_at)  # lets the database begin at the right place of its index
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def _sum_of(columns: tuple[str, ...]) -> CombinedExpression | F:
    return reduce(add, map(F, columns))


def request_record(record_id: str) -> UsageRecord | None:
    """One request of any team: the caller checks whether the user may see that team."""
    return UsageRecord.objects.filter(id=record_id).first()


def requests_since(team_id: int, since: datetime) -> int:
    return UsageRecord.objects.filter(team_id=team_id, started_at__gte=since).count()


def _rollups(start: datetime, end: datetime) -> QuerySet[UsageRollup]:
    return UsageRollup.objects.filter(hour__gte=start, hour__lt=end)


_ADMITTED = ~Q(status=REFUSED)
_COUNTS: dict[str, Any] = {
    "admitted": Sum("requests", filter=_ADMITTED, default=0),
    "refused": Sum("requests", filter=~_ADMITTED, default=0),
    "errors": Sum("requests", filter=Q(status__in=ERRORS), default=0),
    "cost": Sum(F("cost_pico_usd") / _HALF),
    "cost_rest": Sum(F("cost_pico_usd") % _HALF),
}


def _summed(rows: QuerySet[UsageRollup], *by: str) -> QuerySet[UsageRollup, dict[str, Any]]:
    summed: QuerySet[UsageRollup, dict[str, Any]] = (
        rows.order_by()
        .values(*by)
        .annotate(
            **_COUNTS,
            input=Sum("input_tokens"),
            output=Sum("output_tokens"),
            estimated=Sum("estimated_requests"),
            unpriced=Sum("unpriced_requests"),
        )
    )
    return summed


def _cost(row: dict[str, Any]) -> int:
    return int(row["cost"]) * _HALF + int(row["cost_rest"])


def _usage_of(rows: QuerySet[UsageRollup]) -> Usage:
    """Of rollups that all belong to one team."""
    return sum(map(_usage, _summed(rows, "team_id")), Usage())


def _usage(row: dict[str, Any]) -> Usage:
    return Usage(
        requests=row["admitted"],
        refused=row["refused"],
        errors=row["errors"],
        input_tokens=row["input"],
        output_tokens=row["output"],
        cost_pico_usd=_cost(row),
        estimated_requests=row["estimated"],
        unpriced_requests=row["unpriced"],
    )


@dataclass(frozen=True, slots=True)
class TokenCost:
    """One line of a request's bill: so many tokens of one kind at a price per token."""

    bucket: str
    tokens: int
    price: int | None
    """Pico-dollars per token. None: no price was in force, or its row is gone."""

    @property
    def label(self) -> str:
        """The kind for people: `cache write 5m`."""
        return self.bucket.replace("_", " ")

    @property
    def cost_pico_usd(self) -> int | None:
        return None if self.price is None else self.tokens * self.price


@dataclass(frozen=True, slots=True)
class UnitCost:
    """One line of a request's bill that is not counted in tokens."""

    label: str
    cost_pico_usd: int | None
    """None: there is no price for it."""


def token_costs(record: UsageRecord) -> list[TokenCost]:
    """The request's kinds of tokens that are not zero, at the price it was charged at."""
    price = Price.objects.filter(id=record.price_id).first() if record.price_id else None
    units = tuple((record.units or {}).items())
    apart = priced_apart(unit_prices(price.units), units) if price else 0
    buckets = {name: getattr(record, name) for name in TOKEN_BUCKETS}
    counted = [(name, count) for name, count in {**buckets, "output": record.output - apart}.items() if count]
    return [TokenCost(name, count, _price_of(name, price)) for name, count in counted]


def request_fee(record: UsageRecord) -> int:
    """What the request cost besides its tokens."""
    fee = Price.objects.filter(id=record.price_id).values_list("request", flat=True).first() if record.price_id else 0
    return fee or 0


def unit_costs(record: UsageRecord) -> list[UnitCost]:
    """What the request used beside tokens, at the price it was charged at."""
    if not record.units:
        return []
    price = Price.objects.filter(id=record.price_id).first() if record.price_id else None
    prices = unit_prices(price.units) if price else ()
    return [
        UnitCost(
            f"{amount:,} {name}",
            None if price_of_unit(prices, name) is None else units_cost(prices, ((name, amount),)),
        )
        for name, amount in record.units.items()
    ]


def _price_of(bucket: str, price: Price | None) -> int | None:
    if price is None:
        return None
    own: int | None = getattr(price, bucket)
    if own is not None:
        return own
    return price.output if bucket in OUTPUT_BUCKETS else price.input


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """How far a budget's current window is used."""

    name: str
    key_name: str
    """Empty: the budget is the whole team's."""
    window: str
    resets_at: datetime | None
    limit_pico_usd: int
    settled_pico_usd: int
    held_pico_usd: int

    @property
    def used_pico_usd(self) -> int:
        return self.settled_pico_usd + self.held_pico_usd


def budget_uses(team_id: int, time_zone: str, now: datetime, *, key_limit: int = 20) -> list[BudgetUse]:
    """The team's own budgets, then at most `key_limit` of its keys', with what is settled and held in their windows."""
    budgets = Budget.objects.filter(enabled=True).select_related("key").prefetch_related("credits")
    of_team = budgets.filter(team_id=team_id).order_by("name", "id")
    of_keys = budgets.filter(key__team_id=team_id).order_by("key__name", "name")[:key_limit]
    found = [*of_team, *of_keys]
    held = _holds().by_budget() if found else {}
    bounds = [budget_window(budget, now.timestamp(), time_zone) for budget in found]
    settled = used([budget_tally(budget, start) for budget, (start, _) in zip(found, bounds, strict=True)])
    return [
        BudgetUse(
            name=budget.name,
            key_name=budget.key.name if budget.key else "",
            window=budget.window,
            resets_at=datetime.fromtimestamp(end, UTC) if end is not None else None,
            limit_pico_usd=budget.whole_limit_pico_usd(now),
            settled_pico_usd=leading(by_subject)[1],
            held_pico_usd=0 if budget.each else held.get(budget.pk, 0),
        )
        for budget, (_, end), by_subject in zip(found, bounds, settled, strict=True)
    ]


@cache
def _holds() -> Holds:
    return Holds(conf.journal_dir)
