"""Which limits and budgets a request counts for: those of its key and of the model it asks for, bound to who asks."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from msgspec import structs

from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Deployment, Key, Limit, parse_address

REMEMBERED = 20_000
"""Combinations of key and alias, or rules of one address or end user, that are kept; then all are forgotten and found again."""


class Added(NamedTuple):
    """What counts for a candidate besides the caller's and its own: the rules of the aliases that led there."""

    limits: tuple[Limit, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()
    sizes: tuple[Limit, ...] = ()


NOTHING_ADDED = Added()
NO_VIA: Mapping[int, tuple[Alias, ...]] = MappingProxyType({})
NO_ADDED: Mapping[int, Added] = MappingProxyType({})


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
    via: Mapping[int, tuple[Alias, ...]] = NO_VIA
    """By id of a deployment: the aliases between the one asked for and it."""
    added: Mapping[int, Added] = NO_ADDED
    """By the same id, what counts for them."""

    def keeping(
        self, limit: Callable[[Limit], bool], budget: Callable[[BudgetRule], BudgetRule | None] = lambda rule: rule
    ) -> Rules:
        """With those limits alone, and what `budget` makes of budgets, those of the way included; None: it goes."""

        def budgets(rules: tuple[BudgetRule, ...]) -> tuple[BudgetRule, ...]:
            return tuple([made for rule in rules if (made := budget(rule)) is not None])

        added = {
            number: each._replace(limits=tuple(filter(limit, each.limits)), budgets=budgets(each.budgets))
            for number, each in self.added.items()
        }
        kept = budgets(self.budgets)
        return self._replace(
            limits=tuple(filter(limit, self.limits)),
            budgets=kept,
            strict=any(rule.strict for rule in kept),
            added=added or NO_ADDED,
        )

    def model_of(self, rule: Limit | BudgetRule) -> str:
        """The name of the alias whose rule it is."""
        if isinstance(rule, BudgetRule) and rule.scope == "model":
            return rule.scope_id
        ways = (alias for aliases in self.via.values() for alias in aliases)
        return next((alias.name for alias in ways if rule.owner == f"alias:{alias.id}"), self.alias.name)


class RuleBook:
    """Finds a request's rules without looking at all of them. One per process, used from the event loop alone."""

    def __init__(self) -> None:
        self._rules: dict[tuple[int, int], Rules] = {}
        self._of_ways: dict[tuple[int, int], tuple[Key, Alias, Added]] = {}
        self._limits: dict[tuple[Limit, str], Limit] = {}
        self._budgets: dict[tuple[BudgetRule, str], BudgetRule] = {}

    def forget(self) -> None:
        """The configuration has changed."""
        self._rules.clear()
        self._of_ways.clear()

    def of(self, request: ModelRequest, key: Key, alias: Alias) -> Rules:
        """The rules of the caller and of the alias; those of deployments are the deployments' own."""
        rules = self.plain(key, alias)
        return self._bound(rules, request) if rules.each else rules

    def plain(self, key: Key, alias: Alias) -> Rules:
        """The same before it is known who asks: rules for each address, end user or model are not bound yet."""
        # By identity: comparing keys field by field would cost more than everything else here.
        rules = self._rules.get((id(key), id(alias)))
        if rules is None or rules.key is not key or rules.alias is not alias:
            if len(self._rules) >= REMEMBERED:
                self._rules.clear()
            rules = self._rules[id(key), id(alias)] = _compiled(key, alias)
        return rules

    def through(self, rules: Rules, request: ModelRequest, via: Mapping[int, tuple[Alias, ...]]) -> Rules:
        """`rules` with what the ways to candidates add, each counter once."""
        if not via:
            return rules
        added = {number: self._added(rules, request, aliases) for number, aliases in via.items() if aliases}
        return rules._replace(via={**rules.via, **via}, added={**rules.added, **added})

    def _added(self, rules: Rules, request: ModelRequest, aliases: tuple[Alias, ...]) -> Added:
        counted = {limit.counter for limit in rules.limits}
        paid = {(budget.id, budget.scope_id) for budget in rules.budgets}
        limits: list[Limit] = []
        budgets: list[BudgetRule] = []
        sizes: list[Limit] = []
        for alias in aliases:
            if alias is rules.alias:
                continue
            way, subjects = self._of_way(rules.key, alias), _subjects(request, rules.key, alias)
            sizes.extend(way.sizes)
            for limit in way.limits:
                bound = self._bound_limit(limit, subjects)
                if concerns(limit, subjects) and bound.counter not in counted:
                    counted.add(bound.counter)
                    limits.append(bound)
            for budget in way.budgets:
                payer = self._bound_budget(budget, subjects)
                if concerns(budget, subjects) and (payer.id, payer.scope_id) not in paid:
                    paid.add((payer.id, payer.scope_id))
                    budgets.append(payer)
        return Added(tuple(limits), tuple(budgets), tuple(sizes))

    def _of_way(self, key: Key, alias: Alias) -> Added:
        """What an alias on the way adds for a key: its own rules, and the key's for this model alone."""
        known = self._of_ways.get((id(key), id(alias)))
        if known is not None and known[0] is key and known[1] is alias:
            return known[2]
        if len(self._of_ways) >= REMEMBERED:
            self._of_ways.clear()
        keys = [limit for limit in _for_model(key.limits, alias.name) if limit.model or limit.each == "model"]
        found = (*keys, *alias.limits)
        added = Added(
            tuple([limit for limit in found if limit.metric != "request_bytes"]),
            alias.budgets,
            tuple([limit for limit in found if limit.metric == "request_bytes"]),
        )
        self._of_ways[id(key), id(alias)] = key, alias, added
        return added

    def _bound(self, rules: Rules, request: ModelRequest) -> Rules:
        subjects = _subjects(request, rules.key, rules.alias)
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


def _subjects(request: ModelRequest, key: Key, alias: Alias) -> dict[str, str]:
    return {
        "ip": address_subject(request.client_ip),
        "end_user": request.end_user or key.user_id,
        "model": alias.name,
    }


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

    def of(
        self, key: Key, alias: Alias, deployment: Deployment | None, via: tuple[Alias, ...] = ()
    ) -> tuple[BudgetRule, ...]:
        """Those that one counter each is kept for: of the key, its team, the alias, the deployment, its provider, and all.

        Those of the aliases that led to the deployment as well, each once.
        """
        found = self._by_scope.get
        budgets = (
            *found(("key", key.id), ()),
            *found(("team", str(key.team_id)), ()),
            *found(("global", ""), ()),
            *found(("model", alias.name), ()),
        )
        if via:
            names = dict.fromkeys(each.name for each in via if each.name != alias.name)
            budgets = (*budgets, *[budget for name in names for budget in found(("model", name), ())])
        if deployment is None:
            return budgets
        return (
            *budgets,
            *found(("deployment", deployment.name), ()),
            *found(("provider", deployment.provider), ()),
        )
