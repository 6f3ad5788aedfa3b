"""From a model name to the deployments that may answer, best first. Pure and cheap: no I/O, no waiting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from llmgateway.pipeline.errors import BadRequestError, NoTargetAvailableError, NotFoundError, PermissionDeniedError
from llmgateway.pipeline.foreign_keys import on_own_account
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Alias, Deployment, ForeignKey, Key, Snapshot, Target
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import Operation

NO_VIA: Mapping[int, tuple[Alias, ...]] = MappingProxyType({})


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

    @property
    def reached(self) -> Alias:
        """The alias whose targets these are: the one asked for, unless rules led to another."""
        return self.hops[-1] if self.hops else self.alias


class SmoothWeighted:
    """nginx's smooth weighted round robin: in proportion to the weights, without long runs of one target."""

    def __init__(self, targets: tuple[Target, ...]) -> None:
        self.targets = targets
        self._current = [0] * len(targets)
        self._total = sum(target.weight for target in targets)

    def order(self) -> tuple[Deployment, ...]:
        """All deployments, the one whose turn it is first, the others by weight."""
        if len(self.targets) == 1:
            return deployments_of(self.targets)
        for index, target in enumerate(self.targets):
            self._current[index] += target.weight
        first = max(range(len(self.targets)), key=self._current.__getitem__)
        self._current[first] -= self._total
        others = sorted((index for index in range(len(self.targets)) if index != first), key=self._heavier)
        return deployments_of([self.targets[index] for index in (first, *others)])

    def _heavier(self, index: int) -> int:
        return -self.targets[index].weight


def deployments_of(targets: Iterable[Target]) -> tuple[Deployment, ...]:
    return tuple([target.deployment for target in targets if target.deployment is not None])


class Router:
    """Remembers whose turn it is for each alias. One per process, used from the event loop alone."""

    def __init__(self) -> None:
        self._balancers: dict[str, SmoothWeighted] = {}
        self._natives = Natives(())

    def route(self, snapshot: Snapshot, key: Key, request: ModelRequest, *, now: float) -> Routed:
        """Where `request` may go: the deployments of the alias that it names, as far as they can answer.

        Under the native prefix of a provider, what is no alias may be a model of its own, and a call that the gateway
        does not understand goes to this provider alone.

        Raises:
            NotFoundError: there is no such alias, or it has retired by `now` (seconds since the epoch).
            PermissionDeniedError: the key may not call it.
            BadRequestError: none of its deployments can be asked for what comes in the request's dialect.
            NoTargetAvailableError: none can be called now.
        """
        model, provider, dialect = request.head.model, request.provider, request.dialect
        alias = snapshot.aliases.get(model)
        if alias is None and provider:
            alias = self._natives_of(snapshot).alias(provider, model, key, snapshot.aliases, now=now)
        alias = allowed(alias, model, key, now=now)
        ordered = self._order(alias)
        if dialect.operation is Operation.PASSTHROUGH:
            ordered = tuple([deployment for deployment in ordered if deployment.provider == provider])
        if isinstance(key, ForeignKey):
            alias, ordered = on_own_account(key, alias, ordered, provider)
        return Routed(alias, _able(alias, ordered, dialect))

    def _natives_of(self, snapshot: Snapshot) -> Natives:
        if self._natives.deployments is not snapshot.deployments:
            self._natives = Natives(snapshot.deployments)
        return self._natives

    def _order(self, alias: Alias) -> tuple[Deployment, ...]:
        if alias.strategy == "priority" or len(alias.targets) < 2:
            return deployments_of(alias.targets)
        balancer = self._balancers.get(alias.name)
        if balancer is None or balancer.targets is not alias.targets:
            balancer = self._balancers[alias.name] = SmoothWeighted(alias.targets)
        return balancer.order()


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
    if key.models is not None and alias.name not in key.models:
        raise PermissionDeniedError(
            f"API key '{key.name}' may not use the model '{model}'. Ask an admin to allow it.",
            code="model_not_allowed",
            param="model",
        )
    check_in_service(alias, now)
    return alias


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


class Natives:
    """The models of providers by their own names, for requests under a native prefix."""

    def __init__(self, deployments: tuple[Deployment, ...]) -> None:
        self.deployments = deployments
        self._aliases: dict[tuple[str, str], Alias] = {}
        self._parts: dict[tuple[str, str], tuple[Alias, Alias | None]] = {}
        for deployment in deployments:
            for model in (deployment.model, ""):
                self._add(deployment, model)

    def alias(self, provider: str, model: str, key: Key, aliases: Mapping[str, Alias], *, now: float) -> Alias | None:
        """The deployments of `provider`'s `model` as an alias; of all its models, if the request names none.

        For a key whose models are listed it is one of those that are listed, as far as it leads there.
        """
        found = self._aliases.get((provider, model))
        if found is None or key.models is None:
            return found
        # One that has retired comes last: it would be refused though another leads there too.
        allowed = sorted(key.models & aliases.keys(), key=lambda name: (aliases[name].is_retired(now), name))
        return next((part for name in allowed if (part := self._part(aliases[name], found)) is not None), None)

    def _part(self, alias: Alias, native: Alias) -> Alias | None:
        """`alias` without the targets that are not in `native`. The same object every time: rules are kept by it."""
        place = alias.name, native.name
        kept = self._parts.get(place)
        if kept is None or kept[0] is not alias:
            there = {deployment.id for deployment in native.deployments}
            targets = tuple([target for target in alias.targets if target.deployment and target.deployment.id in there])
            kept = self._parts[place] = alias, replace(alias, targets=targets) if targets else None
        return kept[1]

    def _add(self, deployment: Deployment, model: str) -> None:
        place = deployment.provider, model
        known = self._aliases.get(place)
        targets = (*(known.targets if known else ()), Target(deployment))
        name = f"{deployment.provider}/{model or '*'}"
        self._aliases[place] = Alias(id=0, name=name, created=0, strategy="priority", targets=targets)


def _able(alias: Alias, ordered: tuple[Deployment, ...], dialect: Dialect) -> tuple[Deployment, ...]:
    offering = [deployment for deployment in ordered if deployment.adapter.dialect_for(dialect) is not None]
    if ordered and not offering:
        raise BadRequestError(
            f"The model '{alias.name}' does not offer {dialect.operation.value.replace('_', ' ')}.", param="model"
        )
    usable = tuple([deployment for deployment in offering if not deployment.problem])
    if not usable:
        raise NoTargetAvailableError(
            f"No deployment of the model '{alias.name}' can be called now. Ask an admin to check its deployments.",
            headers=((b"retry-after", b"5"),),
        )
    return usable
