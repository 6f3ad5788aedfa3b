"""Limit rows to rules. What cannot be kept must not be dropped: that would let everything through, so it lets nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from django.db.models import Q

from llmgateway.config_loader._quotas import (
    OwnerNames,
    PlaceQuotas,
    Quotas,
    TeamFacts,
    no_pause,
    of_callers,
    of_places,
    scope_of,
)
from llmgateway.config_loader._values import as_number, as_text, epoch, in_slices
from llmgateway.limit_terms import limit_name, start_number
from llmgateway.models import RateLimit
from llmgateway.pipeline.snapshot import ConfigProblem, Key, KeyDigest, Limit
from llmgateway.rate_limits import PERIODLESS

METRICS = frozenset(RateLimit.Metric.values)
EACH = frozenset(RateLimit.Each.values)
PERIODS = frozenset(RateLimit.Period.values)
CALENDAR = frozenset({"hour", "day", "week", "month"})
"""Periods whose begin depends on a time zone."""

TeamsById = Mapping[int, TeamFacts]


class LimitRow(NamedTuple):
    """The columns of a limit, in the order in which they are read."""

    id: int
    key_id: int | None
    team_id: int | None
    provider_id: int | None
    deployment_id: int | None
    alias_id: int | None
    key_team_id: int | None
    each: str
    model: str
    metric: str
    per: str
    amount: int
    burst: int | None
    starts_on: str
    reset_seconds: int | None
    reset_anchor: str | None
    oversize: str
    shadow: int
    created_at: str | None


COLUMNS = (
    "id", "key_id", "team_id", "provider_id", "deployment_id", "alias_id", "key__team_id", "each", "model", "metric",
    "per", "amount", "burst", "starts_on", "reset_seconds", as_text("reset_anchor"), "oversize", as_number("shadow"),
    as_text("created_at"),
)  # fmt: skip


def load_limits(
    problems: list[ConfigProblem],
    teams: TeamsById,
    key_ids: Collection[int] | None = None,
    *,
    before: Mapping[bytes, KeyDigest],
    names: OwnerNames,
    pause: Callable[[], None],
) -> Quotas[Limit]:
    """Enabled limits of those who ask; with `key_ids`, of no other keys. Those that the keys `before` have the same are
    taken from there."""
    found = _limits(of_callers(key_ids), teams, problems, names, pause)
    if not before:
        return Quotas[Limit].of(found)
    # By the texts that their limits have already.
    owners = {entry.key.limits[0].owner: entry.key for entry in before.values() if entry.key.limits}
    return Quotas[Limit].of(_known(owners.get(limit.owner), limit) for limit in found)


def _known(key: Key | None, limit: Limit) -> Limit:
    """The limit that the key had before, where it is the same: a hundred thousand keys' would not fit in memory twice."""
    if key is not None:
        for was in key.limits:
            if was == limit:
                return was
    return limit


def load_place_limits(problems: list[ConfigProblem]) -> PlaceQuotas[Limit]:
    """Enabled limits of providers, deployments and aliases."""
    return PlaceQuotas[Limit].of(_limits(of_places(), {}, problems, OwnerNames({}), no_pause))


def _limits(
    which: Q, teams: TeamsById, problems: list[ConfigProblem], names: OwnerNames, pause: Callable[[], None]
) -> Iterator[Limit]:
    rows = (
        RateLimit.objects.filter(which, enabled=True)
        .exclude(key__revoked_at__isnull=False)
        .order_by("id")
        .values_list(*COLUMNS)
    )
    for values in in_slices(rows, pause):
        row = LimitRow._make(values)
        kind, owner = names.of(row[1:6])
        team = teams.get(row.team_id or row.key_team_id or 0)
        zone = team.time_zone if team else "UTC"
        try:
            yield limit_of(row, kind=kind, owner=owner, counter=f"limit:{row.id}", time_zone=zone)
        except (ValueError, TypeError) as error:
            name = f"{row.amount} {row.metric} per {row.per}"
            message = f"{error} It lets nothing through. Correct or delete it."
            problems.append(ConfigProblem("llmgateway_ratelimit", str(row.id), f"limit {row.id}", message))
            yield Limit(f"limit:{row.id}", name, scope_of(kind, ""), 0, 0, owner=owner)


def limit_of(row: LimitRow, *, kind: str, owner: str, counter: str, time_zone: str) -> Limit:
    """The rule that a row says.

    Raises:
        ValueError: this version does not know such a limit.
    """
    if row.reset_seconds is not None and row.reset_anchor is None:
        row = row._replace(reset_anchor=row.created_at)
    values = (counter, *_terms(kind, time_zone, row[7:-1]), owner)
    return Limit(*values)


@lru_cache(maxsize=16_384)
def _terms(kind: str, time_zone: str, columns: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a limit says besides its counter and whose it is, in the order of `Limit`.

    A hundred thousand keys say the same few things: those that are equal are made once, and share texts and numbers.
    """
    each, model, metric, per, amount, burst, starts_on, reset_seconds, anchor, oversize, shadow = columns
    _check(metric, per, each)
    reset_s = reset_seconds or 0 if per == "total" else 0
    return (
        limit_name(metric, per, amount, model=model, each=each, reset_s=reset_s),
        scope_of(kind, each),
        amount,
        amount if burst is None else burst,
        metric,
        per,
        time_zone if per in CALENDAR else "UTC",
        start_number(per, starts_on),
        reset_s,
        int(epoch(anchor) or 0) if reset_s else 0,
        model,
        each,
        oversize == RateLimit.Oversize.FIRST_IN_WINDOW,
        bool(shadow),
    )


def _check(metric: str, per: str, each: str) -> None:
    has_period = per in PERIODS if metric not in PERIODLESS else not per
    if metric not in METRICS or not has_period:
        raise ValueError(f"{metric} per {per} is not a limit this version knows.")
    if each and each not in EACH:
        raise ValueError(f"This version does not know limits for each {each}.")
