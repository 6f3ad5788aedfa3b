"""Which limits and budgets a request counts for: those of its key and of the model it asks for, bound to who asks."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import structs

from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Deployment, Key, Limit, parse_address

REMEMBERED = 20_000
"""Combinations of key and alias, or rules of one address or end user, that are kept; then all are forgotten and found again."""


class Rules(NamedTuple):
    """What binds the requests of one key for one alias."""

    key: Key
    alias: Alias
    limits: tuple[Limit, ...]
    budgets: tuple[BudgetRule, ...]
    each: bool
    """Some of them count for each address or end user, and must be bound to the request."""
    strict: bool
    """One of the budgets is strict."""
    sizes: tuple[Limit, ...] = ()
    """Limits on the bytes of one request: nothing is counted for them."""


class RuleBook:
    """Finds a request's rules without looking at all of them. One per process, used from the event loop alone."""

    def __init__(self) -> None:
        self._rules: dict[tuple[int, int], Rules] = {}
        self._limits: dict[tuple[Limit, str], Limit] = {}
        self._budgets: dict[tuple[BudgetRule, str], BudgetRule] = {}

    def forget(self) -> None:
        """The configuration has changed."""
        self._rules.clear()

    def of(self, request: ModelRequest, key: Key, alias: Alias) -> Rules:
        """The rules of the caller and of the alias; those of deployments are the deployments' own."""
        # By identity: comparing keys field by field would cost more than everything else here.
        rules = self._rules.get((id(key), id(alias)))
        if rules is None or rules.key is not key or rules.alias is not alias:
            if len(self._rules) >= REMEMBERED:
                self._rules.clear()
            rules = self._rules[id(key), id(alias)] = _compiled(key, alias)
        return self._bound(rules, request) if rules.each else rules

    def _bound(self, rules: Rules, request: ModelRequest) -> Rules:
        subjects = {
            "ip": address_subject(request.client_ip),
            "end_user": request.end_user or rules.key.user_id,
            "model": rules.alias.name,
        }
        return rules._replace(
            limits=tuple([self._bound_limit(limit, subjects) for limit in rules.limits if concerns(limit, subjects)]),
            budgets=tuple(
                [self._bound_budget(budget, subjects) for budget in rules.budgets if concerns(budget, subjects)]
            ),
        )

    def _bound_limit(self, limit: Limit, subjects: Mapping[str, str]) -> Limit:
        if not limit.each:
            return limit
        subject = subjects[limit.each]
        bound = self._limits.get((limit, subject))
        if bound is None:
            if len(self._limits) >= REMEMBERED:
                self._limits.clear()
            bound = self._limits[limit, subject] = bind_limit(limit, subject)
        return bound

    def _bound_budget(self, budget: BudgetRule, subjects: Mapping[str, str]) -> BudgetRule:
        if not budget.each:
            return budget
        subject = subjects[budget.each]
        bound = self._budgets.get((budget, subject))
        if bound is None:
            if len(self._budgets) >= REMEMBERED:
                self._budgets.clear()
            bound = self._budgets[budget, subject] = structs.replace(budget, scope_id=subject)
        return bound


def bind_limit(limit: Limit, subject: str) -> Limit:
    """`limit`, counted for one address, end user or model."""
    return structs.replace(limit, counter=f"{limit.counter}:{limit.each}:{subject}")


def concerns(rule: Limit | BudgetRule, subjects: Mapping[str, str]) -> bool:
    """A rule for each end user says nothing of a request that names none."""
    return not rule.each or bool(subjects[rule.each])


def address_subject(client_ip: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 one, for that much belongs to one caller."""
    address = parse_address(client_ip)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address) if address is not None else client_ip


def _compiled(key: Key, alias: Alias) -> Rules:
    found = (*_for_model(key.limits, alias.name), *alias.limits)
    limits = tuple([limit for limit in found if limit.metric != "request_bytes"])
    budgets = (*key.budgets, *alias.budgets)
    return Rules(
        key,
        alias,
        limits,
        budgets,
        each=any(limit.each for limit in limits) or any(budget.each for budget in budgets),
        strict=any(budget.strict for budget in budgets),
        sizes=tuple([limit for limit in found if limit.metric == "request_bytes"]),
    )


def _for_model(limits: tuple[Limit, ...], model: str) -> tuple[Limit, ...]:
    """Those that apply to `model`: one made for it stands in place of its owner's general one, unless it is on trial."""
    overridden = {_kind(limit) for limit in limits if limit.model == model and not limit.shadow}
    return tuple(
        [limit for limit in limits if limit.model == model or (not limit.model and _kind(limit) not in overridden)]
    )


def _kind(limit: Limit) -> tuple[str, str, str, str]:
    return limit.owner or limit.scope, limit.metric, limit.per, limit.each


class BudgetIndex:
    """Budgets by whom they bind. Built off the event loop whenever the snapshot's budgets change."""

    def __init__(self, budgets: Mapping[int, BudgetRule]) -> None:
        self.budgets = budgets
        self._by_scope: dict[tuple[str, str], tuple[BudgetRule, ...]] = {}
        for budget in budgets.values():
            scope = (budget.scope, budget.scope_id)
            self._by_scope[scope] = (*self._by_scope.get(scope, ()), budget)

    def of(self, key: Key, alias: Alias, deployment: Deployment | None) -> tuple[BudgetRule, ...]:
        """Those that one counter each is kept for: of the key, its team, the alias, the deployment, its provider, and all."""
        found = self._by_scope.get
        budgets = (
            *found(("key", key.id), ()),
            *found(("team", str(key.team_id)), ()),
            *found(("global", ""), ()),
            *found(("model", alias.name), ()),
        )
        if deployment is None:
            return budgets
        return (
            *budgets,
            *found(("deployment", deployment.name), ()),
            *found(("provider", deployment.provider), ()),
        )
