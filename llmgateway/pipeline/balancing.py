"""Whose turn it is among the targets of an alias.

Every order is first foreseen and then taken, so that a nested alias moves on only when a request really begins there,
and so that what would happen can be told without making it happen. Targets are known by their number in the alias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Protocol

from llmgateway.pipeline.snapshot import Alias, Deployment, Target
from llmgateway.pipeline.traffic import Traffic
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import Operation

EXPLORED_ONE_IN = 20
"""Lowest latency: one request in so many goes to the target that was measured longest ago, or a slow one stays slow."""
PRESUMED_S = 10.0
"""What one counts as that is being measured: slower than nearly all that are known, quicker than those that fail."""
_MILLION = 1_000_000

Heads = Mapping[int, Deployment]
"""By number of a target that can answer, in order: the deployment that it would ask first."""


class Costs(Protocol):
    """What a request would probably cost."""

    def __call__(self, deployment: Deployment, /) -> int | None:
        """Pico-dollars; None: nobody knows."""


class Policy(Protocol):
    """A strategy and what it remembers of one alias."""

    def order(self, heads: Heads, costs: Costs) -> list[int]:
        """The targets in the order in which to try them. Changes nothing."""

    def take(self, heads: Heads, first: int) -> None:
        """A request goes to `first`, whose turn it was."""


class Memoryless:
    """What policies have in common that look at the moment alone."""

    def take(self, heads: Heads, first: int) -> None:
        """Nothing is remembered."""


class Priority(Memoryless):
    """Always the first that can answer."""

    def order(self, heads: Heads, costs: Costs) -> list[int]:
        return list(heads)


class RoundRobin:
    """A, B, C, A, B, C over those that can answer: the next is who has waited longest."""

    def __init__(self, size: int) -> None:
        self._last = [0] * size
        self._turn = 0

    def order(self, heads: Heads, costs: Costs) -> list[int]:
        return sorted(heads, key=self._last.__getitem__)

    def take(self, heads: Heads, first: int) -> None:
        self._turn += 1
        self._last[first] = self._turn


class SmoothWeighted:
    """nginx's smooth weighted round robin: in proportion to the weights, without long runs of one target."""

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = weights
        self._current = [0] * len(weights)

    def order(self, heads: Heads, costs: Costs) -> list[int]:
        weights, current = self._weights, self._current
        first = max(heads, key=lambda target: current[target] + weights[target])
        others = sorted([target for target in heads if target != first], key=lambda target: -weights[target])
        return [first, *others]

    def take(self, heads: Heads, first: int) -> None:
        total = 0
        for target in heads:
            weight = self._weights[target]
            self._current[target] += weight
            total += weight
        self._current[first] -= total


class LeastInFlight(Memoryless):
    """The one with the fewest attempts that run, streams to their end; the first of those that are equally busy."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def order(self, heads: Heads, costs: Costs) -> list[int]:
        return sorted(heads, key=lambda target: self._traffic.in_flight(heads[target].id))


class LowestLatency:
    """The one with the lowest mean time to first token.

    One that was never measured is tried at once, by a single request at a time while others are known.
    """

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._turn = 0

    def order(self, heads: Heads, costs: Costs) -> list[int]:
        ordered = sorted(heads, key=lambda target: self._rank(heads[target].id))
        if (self._turn + 1) % EXPLORED_ONE_IN:
            return ordered
        explored = min(heads, key=lambda target: self._traffic.moment(heads[target].id))
        return [explored, *[target for target in ordered if target != explored]]

    def take(self, heads: Heads, first: int) -> None:
        self._turn += 1

    def _rank(self, deployment_id: int) -> tuple[float, int]:
        latency_s, in_flight = self._traffic.latency_s(deployment_id), self._traffic.in_flight(deployment_id)
        if latency_s is None:
            latency_s = PRESUMED_S if in_flight else -1.0
        return latency_s, in_flight


class LowestCost(Memoryless):
    """The one that would cost least; those whose cost nobody knows come last."""

    def order(self, heads: Heads, costs: Costs) -> list[int]:
        return sorted(heads, key=lambda target: _known_first(costs(heads[target])))


def _known_first(cost: int | None) -> tuple[bool, int]:
    return cost is None, cost or 0


class Canaries:
    """Sends exact shares of the requests to targets on trial: whoever is owed a whole request gets it."""

    def __init__(self, targets: tuple[Target, ...]) -> None:
        # In millionths: twenty times 0.05 of a float is not always one.
        self._shares = {
            number: min(_MILLION, round(target.canary * _MILLION))
            for number, target in enumerate(targets)
            if target.canary > 0
        }
        self._owed = dict.fromkeys(self._shares, 0)

    def __bool__(self) -> bool:
        return bool(self._shares)

    def __contains__(self, target: int) -> bool:
        return target in self._shares

    def due(self, heads: Heads) -> int | None:
        """Whose turn it is; None: nobody's on trial."""
        owed = {target: self._owed[target] + share for target, share in self._shares.items() if target in heads}
        due = max(owed, key=owed.__getitem__, default=None)
        return due if due is not None and owed[due] >= _MILLION else None

    def take(self, heads: Heads, first: int) -> None:
        for target, share in self._shares.items():
            if target in heads:
                self._owed[target] += share
        if first in self._owed and self._owed[first] >= _MILLION:
            self._owed[first] -= _MILLION

    def of(self, subject: str, heads: Heads) -> int | None:
        """The same for whoever sticks: the share is one of subjects, and each stays where it is."""
        place, upper = _fraction(subject, "canary") * _MILLION, 0
        for target, share in self._shares.items():
            if place < (upper := upper + share):
                return target if target in heads else None
        return None


class Balancer:
    """What is remembered of one alias between requests."""

    def __init__(self, alias: Alias, traffic: Traffic) -> None:
        self.targets = alias.targets
        self.by_cost = alias.strategy == "lowest_cost"
        """Its order depends on what a request would cost."""
        self._strategy = alias.strategy
        self._flat: dict[str, tuple[Heads, tuple[Deployment, ...]] | None] = {}
        self._policy = _policy(alias, traffic)
        self._canaries = Canaries(alias.targets)

    def flat(self, dialect: Dialect, provider: str) -> tuple[Heads, tuple[Deployment, ...]] | None:
        """Those that understand `dialect` and can be called, as far as configuration goes; None: aliases are among them."""
        try:
            return self._flat[dialect.name]
        except KeyError:
            found = self._flat[dialect.name] = self._flattened(dialect, provider)
            return found

    def _flattened(self, dialect: Dialect, provider: str) -> tuple[Heads, tuple[Deployment, ...]] | None:
        heads: dict[int, Deployment] = {}
        for number, target in enumerate(self.targets):
            deployment = target.deployment
            if deployment is None:
                return None
            opaque = dialect.operation is Operation.PASSTHROUGH
            if deployment.problem or (opaque and deployment.provider != provider):
                continue
            if deployment.adapter.dialect_for(dialect) is not None and all(
                each.id != deployment.id for each in heads.values()
            ):
                heads[number] = deployment
        return heads, tuple(heads.values())

    def order(self, heads: Heads, costs: Costs, subject: str) -> list[int]:
        """The targets that can answer in the order in which to try them. `subject`: who sticks; empty: nobody."""
        if len(heads) < 2:
            return list(heads)
        if not self._canaries:
            return self._balanced(heads, costs, subject)
        due = self._canaries.of(subject, heads) if subject else self._canaries.due(heads)
        steady = {target: head for target, head in heads.items() if target not in self._canaries}
        ordered = self._balanced(steady, costs, subject) if steady else []
        on_trial = [target for target in heads if target in self._canaries and target != due]
        return [*([] if due is None else [due]), *ordered, *on_trial]

    def take(self, heads: Heads, first: int, subject: str) -> None:
        """A request begins at `first`. Those who stick take nobody's turn: they would go there anyway."""
        if subject or len(heads) < 2:
            return
        if self._canaries:
            self._canaries.take(heads, first)
            if first in self._canaries:
                return
            heads = {target: head for target, head in heads.items() if target not in self._canaries}
        self._policy.take(heads, first)

    def _balanced(self, heads: Heads, costs: Costs, subject: str) -> list[int]:
        if subject and self._strategy != "priority":
            return sorted(heads, key=lambda target: -self._draw(target, subject))
        return self._policy.order(heads, costs)

    def _draw(self, target: int, subject: str) -> float:
        """Rendezvous hashing: each target draws for each subject, the heavier the luckier, and the best draw has it.

        Nobody but those who were at a target that is gone move, and every worker draws the same.
        """
        where = self.targets[target]
        name = where.deployment.name if where.deployment else where.alias.name if where.alias else ""
        return -max(where.weight, 1e-9) / math.log(_fraction(subject, name))


def _policy(alias: Alias, traffic: Traffic) -> Policy:
    match alias.strategy:
        case "round_robin":
            return RoundRobin(len(alias.targets))
        case "least_in_flight":
            return LeastInFlight(traffic)
        case "lowest_latency":
            return LowestLatency(traffic)
        case "lowest_cost":
            return LowestCost()
        case "priority":
            return Priority()
        case _:
            return SmoothWeighted([target.weight for target in alias.targets])


def _fraction(subject: str, name: str) -> float:
    """Between 0 and 1, both left out, the same for the same words everywhere."""
    drawn = blake2b(f"{subject}\0{name}".encode("utf-8", "replace"), digest_size=7).digest()
    return ((int.from_bytes(drawn) >> 4) + 0.5) / 2**52
