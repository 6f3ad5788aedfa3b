"""Budget rows, with their prepaid credit, to rules. What cannot be kept lets nothing through."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from django.db.models import Q

from billing.models import MAX_LIMIT, Budget, BudgetCredit
from billing.money import MAX_LIMIT_USD
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
from llmgateway.config_loader._values import as_text, epoch, in_slices, shared
from llmgateway.limit_terms import start_number
from llmgateway.pipeline.snapshot import BudgetRule, ConfigProblem

WINDOWS, MODES, EACH = (frozenset(kinds.values) for kinds in (Budget.Window, Budget.Mode, Budget.Each))

TeamsById = Mapping[int, TeamFacts]


class Credit(NamedTuple):
    """Money paid in advance."""

    amount_pico_usd: int
    expires_at: float | None
    """Seconds since the epoch; None: never."""


class BudgetRow(NamedTuple):
    """The columns of a budget, in the order in which they are read."""

    id: int
    key_id: int | None
    team_id: int | None
    provider_id: int | None
    deployment_id: int | None
    alias_id: int | None
    key_team_id: int | None
    place: str | None
    """The name of its provider, deployment or alias."""
    each: str
    name: str
    window: str
    starts_on: str
    limit_pico_usd: int
    mode: str
    increase_pico_usd: int
    increase_until: str | None


COLUMNS = (
    "id", "key_id", "team_id", "provider_id", "deployment_id", "alias_id", "key__team_id", "provider__name",
    "deployment__name", "alias__name", "each", "name", "window", "starts_on", "limit_pico_usd", "mode",
    "increase_pico_usd", as_text("increase_until"),
)  # fmt: skip


def load_budgets(
    problems: list[ConfigProblem],
    teams: TeamsById,
    key_ids: Collection[int] | None = None,
    *,
    before: Mapping[int, BudgetRule],
    names: OwnerNames,
    pause: Callable[[], None],
) -> Quotas[BudgetRule]:
    """Enabled budgets of those who ask; with `key_ids`, of no other keys. Those that are the same in `before` are taken
    from there."""
    found = _budgets(of_callers(key_ids), teams, problems, names, pause)
    return Quotas[BudgetRule].of(was if (was := before.get(rule.id)) == rule and was else rule for rule in found)


def load_place_budgets(problems: list[ConfigProblem]) -> PlaceQuotas[BudgetRule]:
    """Enabled budgets of providers, deployments and aliases."""
    return PlaceQuotas[BudgetRule].of(_budgets(of_places(), {}, problems, OwnerNames({}), no_pause))


def _budgets(
    which: Q, teams: TeamsById, problems: list[ConfigProblem], names: OwnerNames, pause: Callable[[], None]
) -> Iterator[BudgetRule]:
    prepaid = _load_credits(which, problems)
    rows = (
        Budget.objects.filter(which, enabled=True)
        .exclude(key__revoked_at__isnull=False)
        .order_by("id")
        .values_list(*COLUMNS)
    )
    for values in in_slices(rows, pause):
        places = values[7:10]
        row = BudgetRow._make((*values[:7], next((name for name in places if name is not None), None), *values[10:]))
        kind, owner = names.of(row[1:6])
        team = teams.get(row.team_id or row.key_team_id or 0)
        zone = team.time_zone if team else "UTC"
        scope_id = row.place or str(row.key_id or row.team_id or "")
        try:
            rule = budget_of(row, prepaid.get(row.id, ()), kind=kind, owner=owner, scope_id=scope_id, time_zone=zone)
        except (ValueError, TypeError) as error:
            message = f"{error} The budget lets nothing through. Correct it in the admin."
            problems.append(ConfigProblem("billing_budget", str(row.id), f"budget {row.name}", message))
            window = Budget.Window.TOTAL.value
            rule = BudgetRule(row.id, row.name, scope_of(kind, ""), scope_id, window, 0, zone, owner=owner)
        yield rule


def _load_credits(which: Q, problems: list[ConfigProblem]) -> dict[int, tuple[Credit, ...]]:
    found: dict[int, tuple[Credit, ...]] = {}
    now = time.time()
    budgets = Budget.objects.filter(which, enabled=True, window=Budget.Window.TOTAL).values("id")
    rows = BudgetCredit.objects.filter(budget__in=budgets).order_by("id")
    for row_id, budget_id, amount, expires_at, used in rows.values_list(
        "id", "budget_id", "amount_pico_usd", as_text("expires_at"), "used_pico_usd"
    ):
        try:
            credit = Credit(amount, epoch(expires_at))
        except ValueError:
            message = "when it expires cannot be read, so it does not count; enter it again."
            problems.append(ConfigProblem("billing_budgetcredit", str(row_id), f"credit {row_id}", message))
            continue
        if credit.expires_at is not None and credit.expires_at <= now:
            credit = Credit(used or 0, None)  # What was spent of it stays part of the limit.
        if credit.amount_pico_usd:
            found[budget_id] = (*found.get(budget_id, ()), credit)
    return found


def _check(row: BudgetRow) -> None:
    if row.window not in WINDOWS:
        raise ValueError(f"{row.window!r} is not a window this version knows.")
    if row.mode not in MODES:
        raise ValueError(f"{row.mode!r} is not a mode this version knows.")
    if row.each and row.each not in EACH:
        raise ValueError(f"This version does not know budgets for each {row.each}.")


def budget_of(
    row: BudgetRow, prepaid: tuple[Credit, ...], *, kind: str, owner: str, scope_id: str, time_zone: str
) -> BudgetRule:
    """The rule that a row says.

    Raises:
        ValueError: this version does not know such a budget, or its parts together are more than can be counted.
    """
    _check(row)
    lasting = row.limit_pico_usd + sum(credit.amount_pico_usd for credit in prepaid if credit.expires_at is None)
    expiring = tuple((credit.expires_at, credit.amount_pico_usd) for credit in prepaid if credit.expires_at is not None)
    if lasting + row.increase_pico_usd + sum(amount for _, amount in expiring) > MAX_LIMIT:
        raise ValueError(f"Its limit, credit and increase add up to more than {MAX_LIMIT_USD:,} USD.")
    return BudgetRule(
        id=row.id,
        name=shared(row.name),
        scope=scope_of(kind, row.each),
        scope_id="" if row.each else scope_id,
        window=shared(row.window),
        limit_pico_usd=shared(lasting),
        time_zone=time_zone,
        strict=row.mode == Budget.Mode.STRICT,
        starts_on=start_number(row.window, row.starts_on),
        increase_pico_usd=row.increase_pico_usd,
        increase_until=epoch(row.increase_until) or 0.0,
        each=shared(row.each),
        owner=owner,
        credits=expiring,
    )
