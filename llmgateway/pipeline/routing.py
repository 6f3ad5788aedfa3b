"""From a model name to the deployments that may answer, best first. Pure and cheap: no I/O, no waiting."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from llmgateway.pipeline.balancing import Balancer, Costs, Heads
from llmgateway.pipeline.conditions import BudgetUsed, Conditions, Facts
from llmgateway.pipeline.errors import BadRequestError, NoTargetAvailableError, NotFoundError, PermissionDeniedError
from llmgateway.pipeline.expected_costs import ExpectedCosts, nobody_knows
from llmgateway.pipeline.foreign_keys import on_own_account
from llmgateway.pipeline.natives import Natives, reachable
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.route_rules import FallbackCause
from llmgateway.pipeline.rules import NO_VIA
from llmgateway.pipeline.snapshot import Alias, Deployment, ForeignKey, Key, Snapshot
from llmgateway.pipeline.terms import Terms
from llmgateway.pipeline.traffic import Traffic
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import Operation

MOST_HOPS = 10
"""Aliases between the one that is asked for and a deployment. Whoever saves aliases sees to it that none leads back."""
_SERVED_BY = {
    FallbackCause.ERROR: (FallbackCause.ERROR,),
    FallbackCause.RATE_LIMIT: (FallbackCause.RATE_LIMIT, FallbackCause.ERROR),
}
"""Which fallbacks are asked for a cause; for every other its own alone."""


class Routed(NamedTuple):
    """Where a request may go."""

    alias: Alias
    """The one that was asked for."""
    candidates: tuple[Deployment, ...]
    """Those that can answer, in the order in which to try them."""
    via: Mapping[int, tuple[Alias, ...]] = NO_VIA
    """By id of a deployment: the aliases between the one asked for and it, in the order in which they led there."""
    hops: tuple[Alias, ...] = ()
    """The aliases that rules led through, which are the first of every `via`."""
    of_fallbacks: bool = False
    """None of its own targets may be asked now: these are its fallbacks'."""

    @property
    def reached(self) -> Alias:
        """The alias whose targets these are: the one asked for, unless rules led to another."""
        return self.hops[-1] if self.hops else self.alias


class AllOutError(NoTargetAvailableError):
    """Whoever could answer is left alone for a while; in a moment one of them may be back."""

    def __init__(self, alias: Alias, deployments: tuple[Deployment, ...]) -> None:
        super().__init__(
            f"All deployments of the model '{alias.name}' are out at present. Try again in a moment.",
            headers=((b"retry-after", b"5"),),
        )
        self.alias = alias
        self.deployments = deployments


class Wellness(Protocol):
    """Knows who may be asked now; `Health` does."""

    def usable(self, candidates: tuple[Deployment, ...], *, bypass: bool = False) -> tuple[Deployment, ...]:
        """Those that may be asked, in their order; the same object if all may."""


class AllWell:
    """Everybody may be asked."""

    def usable(self, candidates: tuple[Deployment, ...], *, bypass: bool = False) -> tuple[Deployment, ...]:
        return candidates


class _Way(NamedTuple):
    """One way from the alias asked for to a deployment."""

    deployment: Deployment
    via: tuple[Alias, ...]


class _Level(NamedTuple):
    """What one alias comes to for a request."""

    ways: Sequence[_Way]
    steps: tuple[tuple[Balancer, Heads, int, str], ...] = ()
    """Whose turns are taken when the first way is."""


class _Asked:
    """One request that is being routed, and what is found out on the way."""

    def __init__(
        self, snapshot: Snapshot, key: Key, request: ModelRequest, *, now: float, costs: Costs, facts: Facts
    ) -> None:
        self.snapshot = snapshot
        self.key = key
        self.request = request
        self.now = now
        self.costs = costs
        self.facts = facts
        self.opaque = request.dialect.operation is Operation.PASSTHROUGH
        self.offered = False
        """Somebody understands the request, whether or not it can be asked now."""
        self.refused = False
        """Somebody does not."""
        self.out: list[Deployment] = []
        """Those that are left alone for a while."""

    def may_use(self, alias: Alias | None) -> bool:
        """Whether the key may call it now."""
        if alias is None or alias.is_retired(self.now):
            return False
        return self.key.models is None or alias.name in self.key.models

    def can_answer(self, deployment: Deployment) -> bool:
        """Whether it understands the request and can be called, as far as configuration goes."""
        if self.opaque and deployment.provider != self.request.provider:
            self.refused = True
            return False
        if deployment.adapter.dialect_for(self.request.dialect) is None:
            self.refused = True
            return False
        self.offered = True
        return not deployment.problem


class Router:
    """Remembers whose turn it is for each alias. One per process, used from the event loop alone."""

    def __init__(
        self, health: Wellness | None = None, traffic: Traffic | None = None, terms: Terms | None = None
    ) -> None:
        self.conditions = Conditions()
        self._health = health or AllWell()
        self._traffic = traffic or Traffic()
        self._terms = terms or Terms()
        self._balancers: dict[tuple[str, str], Balancer] = {}
        self._natives = Natives(())

    def route(
        self,
        snapshot: Snapshot,
        key: Key,
        request: ModelRequest,
        *,
        now: float,
        budget_used: BudgetUsed | None = None,
        dry_run: bool = False,
    ) -> Routed:
        """Where `request` may go: the deployments of the alias that it names, as far as they can answer.

        Under the native prefix of a provider, what is no alias may be a model of its own, and a call that the gateway
        does not understand goes to this provider alone. With `dry_run` nobody's turn is taken.

        Raises:
            NotFoundError: there is no such alias, or it has retired by `now` (seconds since the epoch).
            PermissionDeniedError: the key may not call it.
            BadRequestError: none of its deployments can be asked for what comes in the request's dialect.
            AllOutError: those that could answer are left alone for a while, and there is no fallback.
            NoTargetAvailableError: none can be called now.
            BudgetsNeededError: a rule looks at `budget_used`, which was not said.
        """
        model, provider = request.head.model, request.provider
        alias = snapshot.aliases.get(model)
        if alias is None and provider:
            alias = self._natives_of(snapshot).alias(provider, model, key, snapshot.aliases, now=now)
        alias = allowed(alias, model, key, now=now)
        if isinstance(key, ForeignKey):
            return _on_own_account(key, alias, request, now=now)
        if not alias.rules:
            plain = self._plain(alias, key, request, now=now, dry_run=dry_run)
            if plain:
                return Routed(alias, plain)
        return self._looked_for(alias, self._asked(snapshot, key, request, now, budget_used), dry_run=dry_run)

    def plain_targets(self, alias: Alias, dialect: Dialect) -> tuple[Balancer, Heads, tuple[Deployment, ...]] | None:
        """Who chooses among the deployments of an alias, and which of them understand `dialect`; None: aliases are among them."""
        balancer = self._balancer_of(alias, "")
        flat = balancer.flat(dialect, "")
        return None if flat is None else (balancer, *flat)

    def fallbacks(
        self,
        snapshot: Snapshot,
        key: Key,
        request: ModelRequest,
        alias: Alias,
        cause: FallbackCause,
        *,
        now: float,
        tried: Collection[int] = (),
        dry_run: bool = False,
    ) -> Routed | None:
        """Who is asked in place of `alias`'s own targets after `cause`, without the deployments `tried`; None: nobody.

        First all fallbacks of `alias`, then theirs. Rules that look at `budget_used` do not apply to fallbacks.
        """
        if isinstance(key, ForeignKey):
            return None
        asked = self._asked(snapshot, key, request, now, BudgetUsed(None))
        return self._instead(alias, asked, cause, tried, dry_run=dry_run)

    # ── the way of nearly all requests: an alias of deployments, without rules ──

    def _plain(
        self, alias: Alias, key: Key, request: ModelRequest, *, now: float, dry_run: bool
    ) -> tuple[Deployment, ...]:
        """In order; empty: one must look more closely."""
        balancer = self._balancer_of(alias, request.provider)
        flat = balancer.flat(request.dialect, request.provider)
        if flat is None:
            return ()
        heads, able = flat
        bypass = key.may_bypass_health and request.bypass_health
        usable = self._health.usable(able, bypass=bypass)
        if len(usable) < 2:
            return usable
        if usable is not able:
            kept = {each.id for each in usable}
            heads = {number: each for number, each in heads.items() if each.id in kept}
        costs = ExpectedCosts(self._terms, request, key.id, now=now) if balancer.by_cost else nobody_knows
        subject = _subject(alias, key, request) if alias.sticky else ""
        order = balancer.order(heads, costs, subject)
        if not dry_run:
            balancer.take(heads, order[0], subject)
        return tuple([heads[number] for number in order])

    # ── rules, nested aliases, fallbacks ──

    def _asked(
        self, snapshot: Snapshot, key: Key, request: ModelRequest, now: float, budget_used: BudgetUsed | None
    ) -> _Asked:
        costs = ExpectedCosts(self._terms, request, key.id, now=now)
        facts = Facts(request, key, now=now, budget_used=budget_used)
        return _Asked(snapshot, key, request, now=now, costs=costs, facts=facts)

    def _looked_for(self, alias: Alias, asked: _Asked, *, dry_run: bool) -> Routed:
        hops = self._hops(alias, asked)
        reached = hops[-1] if hops else alias
        level = self._level(reached, asked, hops)
        if level.ways:
            return _routed(alias, [level], hops, dry_run=dry_run)
        if asked.refused and not asked.offered:
            raise _only_there(alias, asked.request) if asked.opaque else _not_offered(alias, asked.request.dialect)
        instead = self._instead(reached, asked, FallbackCause.ERROR, (), dry_run=dry_run)
        if instead is not None:
            return instead._replace(alias=alias, of_fallbacks=True)
        raise AllOutError(alias, tuple(asked.out)) if asked.out else _none_callable(alias)

    def _hops(self, alias: Alias, asked: _Asked) -> tuple[Alias, ...]:
        """The aliases that rules lead through, the one whose targets are asked last."""
        hops: list[Alias] = []
        current: Alias | None = alias
        while current is not None and current.rules and len(hops) < MOST_HOPS:
            current = self._redirected(current, asked)
            if current is not None:
                hops.append(current)
        return tuple(hops)

    def _redirected(self, alias: Alias, asked: _Asked) -> Alias | None:
        """Where the first rule leads that applies; those are passed over that lead where the key may not go."""
        for rule in alias.rules:
            there = asked.snapshot.aliases.get(rule.use)
            if asked.may_use(there) and self.conditions.hold(alias.name, rule, asked.facts):
                return there
        return None

    def _level(self, alias: Alias, asked: _Asked, via: tuple[Alias, ...]) -> _Level:
        """The ways through `alias`, to which `via` has led."""
        request = asked.request
        branches: dict[int, _Level] = {}
        for number, target in enumerate(alias.targets):
            if target.deployment is not None:
                direct = self._direct(target.deployment, asked, via)
                if direct:
                    branches[number] = _Level(direct)
            elif target.alias is not None:
                nested = self._reach(target.alias, asked, via)
                if nested.ways:
                    branches[number] = nested
        if not branches:
            return _Level(())
        balancer = self._balancer_of(alias, request.provider)
        heads = {number: level.ways[0].deployment for number, level in branches.items()}
        subject = _subject(alias, asked.key, request) if alias.sticky else ""
        order = balancer.order(heads, asked.costs, subject)
        ways = [way for number in order for way in branches[number].ways]
        return _Level(ways, ((balancer, heads, order[0], subject), *branches[order[0]].steps))

    def _direct(self, deployment: Deployment, asked: _Asked, via: tuple[Alias, ...]) -> tuple[_Way, ...]:
        if not asked.can_answer(deployment):
            return ()
        bypass = asked.key.may_bypass_health and asked.request.bypass_health
        if not self._health.usable((deployment,), bypass=bypass):
            asked.out.append(deployment)
            return ()
        return (_Way(deployment, via),)

    def _reach(self, alias: Alias, asked: _Asked, via: tuple[Alias, ...]) -> _Level:
        """The ways through an alias that is not the one asked for: after its own rules, and if the key may use it."""
        if len(via) >= MOST_HOPS or not asked.may_use(alias) or alias in via:
            return _Level(())
        hops = self._hops(alias, asked)
        return self._level(hops[-1] if hops else alias, asked, (*via, alias, *hops))

    def _instead(
        self, alias: Alias, asked: _Asked, cause: FallbackCause, tried: Collection[int], *, dry_run: bool
    ) -> Routed | None:
        levels, seen, waiting = [], {alias.name}, [alias]
        for each in waiting:
            if len(seen) > MOST_HOPS:
                break
            for name in _fallback_names(each, cause):
                there = asked.snapshot.aliases.get(name)
                if there is None or name in seen or not asked.may_use(there):
                    continue
                seen.add(name)
                waiting.append(there)
                level = self._reach(there, asked, ())
                ways = [way for way in level.ways if way.deployment.id not in tried]
                if ways:
                    levels.append(level if len(ways) == len(level.ways) else _Level(ways))
        return _routed(alias, levels, (), dry_run=dry_run) if levels else None

    # ── what is remembered ──

    def _natives_of(self, snapshot: Snapshot) -> Natives:
        if self._natives.deployments is not snapshot.deployments:
            self._natives = Natives(snapshot.deployments)
        return self._natives

    def _balancer_of(self, alias: Alias, provider: str) -> Balancer:
        balancer = self._balancers.get((alias.name, provider))
        if balancer is None or balancer.targets is not alias.targets:
            balancer = self._balancers[alias.name, provider] = Balancer(alias, self._traffic)
        return balancer


def answering(snapshot: Snapshot, key: Key, model: str, dialect: Dialect, *, now: float) -> tuple[Deployment, ...]:
    """Who could answer for `model`, in no order: for calls that ask nobody yet. Raises what `Router.route` raises."""
    alias = allowed(snapshot.aliases.get(model), model, key, now=now)
    return _able(alias, alias.deployments, dialect)


def allowed(alias: Alias | None, model: str, key: Key, *, now: float) -> Alias:
    """`alias`, which was asked for as `model`, if there is one and the key may call it now.

    Raises:
        NotFoundError, PermissionDeniedError: as `Router.route` says.
    """
    if alias is None:
        raise NotFoundError(
            f"The model '{model}' does not exist. GET /v1/models lists the models of this key.",
            code="model_not_found",
            param="model",
        )
    if not may_call(key, alias):
        raise PermissionDeniedError(
            f"API key '{key.name}' may not use the model '{model}'. Ask an admin to allow it.",
            code="model_not_allowed",
            param="model",
        )
    check_in_service(alias, now)
    return alias


def may_call(key: Key, alias: Alias) -> bool:
    """Whether the key's list of models, if it has one, names `alias`."""
    return key.models is None or alias.name in key.models


def check_in_service(alias: Alias, now: float) -> None:
    """Raises NotFoundError for an alias that has retired; the error names what replaces it."""
    if not alias.is_retired(now):
        return
    instead = (
        f"Call '{alias.replacement}' in its place."
        if alias.replacement
        else "GET /v1/models lists those that there are."
    )
    raise NotFoundError(f"The model '{alias.name}' has been retired. {instead}", code="model_retired", param="model")


def _subject(alias: Alias, key: Key, request: ModelRequest) -> str:
    """Whose requests go to the same target; empty: nobody's."""
    if alias.sticky == "session":
        return f"{key.id}/{request.session}" if request.session else ""
    return key.id


def _fallback_names(alias: Alias, cause: FallbackCause) -> Iterable[str]:
    for served in _SERVED_BY.get(cause, (cause,)):
        for fallback in alias.fallbacks:
            if fallback.cause == served:
                yield fallback.alias


def _routed(alias: Alias, levels: Sequence[_Level], hops: tuple[Alias, ...], *, dry_run: bool) -> Routed:
    """The ways of one level after the other, each deployment once, where it comes first."""
    via: dict[int, tuple[Alias, ...]] = {}
    candidates = []
    for level in levels:
        for way in level.ways:
            if way.deployment.id not in via:
                via[way.deployment.id] = way.via
                candidates.append(way.deployment)
    if not dry_run:
        for balancer, heads, first, subject in levels[0].steps:
            balancer.take(heads, first, subject)
    return Routed(alias, tuple(candidates), via if any(via.values()) else NO_VIA, hops)


def _on_own_account(key: ForeignKey, alias: Alias, request: ModelRequest, *, now: float) -> Routed:
    """One deployment of the provider that the caller's own key is for: neither rules nor fallbacks are for it."""
    free, own = on_own_account(key, alias, reachable(alias, key, now=now), request.provider)
    return Routed(free, _able(free, own, request.dialect))


def _able(alias: Alias, deployments: tuple[Deployment, ...], dialect: Dialect) -> tuple[Deployment, ...]:
    offering = [deployment for deployment in deployments if deployment.adapter.dialect_for(dialect) is not None]
    if deployments and not offering:
        raise _not_offered(alias, dialect)
    usable = tuple([deployment for deployment in offering if not deployment.problem])
    if not usable:
        raise _none_callable(alias)
    return usable


def _not_offered(alias: Alias, dialect: Dialect) -> BadRequestError:
    return BadRequestError(
        f"The model '{alias.name}' does not offer {dialect.operation.value.replace('_', ' ')}.", param="model"
    )


def _only_there(alias: Alias, request: ModelRequest) -> BadRequestError:
    return BadRequestError(
        f"The model '{alias.name}' is not at the provider '{request.provider}', and the gateway cannot translate this "
        "call for another one. Name a model that is there, or call this one on the gateway's own paths.",
        param="model",
    )


def _none_callable(alias: Alias) -> NoTargetAvailableError:
    return NoTargetAvailableError(
        f"No deployment of the model '{alias.name}' can be called now. Ask an admin to check its deployments.",
        headers=((b"retry-after", b"5"),),
    )
