"""The models of providers by their own names, for requests under a native prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from llmgateway.pipeline.snapshot import Alias, Deployment, Key, Target


def reachable(alias: Alias, key: Key, *, now: float) -> Iterator[Deployment]:
    """The deployments to which `alias`, which the key may call, leads it: through aliases that it may call as well."""
    for target in alias.targets:
        nested = target.alias
        if target.deployment is not None:
            yield target.deployment
        elif nested is not None and not nested.is_retired(now) and (key.models is None or nested.name in key.models):
            yield from reachable(nested, key, now=now)


class Natives:
    """Aliases that nobody wrote down, made of one snapshot's deployments."""

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
        parts = (self._part(aliases[name], found) for name in allowed)
        return next((part for part in parts if part is not None and any(reachable(part, key, now=now))), None)

    def _part(self, alias: Alias, native: Alias) -> Alias | None:
        """`alias` as far as it leads to `native`. The same object every time: rules are kept by it.

        Without routing rules and fallbacks: who names a provider's own model means this one.
        """
        place = alias.name, native.name
        kept = self._parts.get(place)
        if kept is None or kept[0] is not alias:
            there = {deployment.id for deployment in native.deployments}
            targets = tuple([hit for each in alias.targets if (hit := self._within(each, native, there)) is not None])
            part = replace(alias, targets=targets, rules=(), fallbacks=()) if targets else None
            kept = self._parts[place] = alias, part
        return kept[1]

    def _within(self, target: Target, native: Alias, there: set[int]) -> Target | None:
        if target.alias is None:
            return target if target.deployment and target.deployment.id in there else None
        nested = self._part(target.alias, native)
        return None if nested is None else replace(target, alias=nested)

    def _add(self, deployment: Deployment, model: str) -> None:
        place = deployment.provider, model
        known = self._aliases.get(place)
        targets = (*(known.targets if known else ()), Target(deployment))
        name = f"{deployment.provider}/{model or '*'}"
        self._aliases[place] = Alias(id=0, name=name, created=0, strategy="priority", targets=targets)
