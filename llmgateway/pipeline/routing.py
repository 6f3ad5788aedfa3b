"""From a model name to the deployments that may answer, best first. Pure and cheap: no I/O, no waiting."""

from __future__ import annotations

from llmgateway.pipeline.errors import BadRequestError, NoTargetAvailableError, NotFoundError, PermissionDeniedError
from llmgateway.pipeline.snapshot import Alias, Deployment, Key, Snapshot, Target
from providers.adapters.dialects.base import Dialect


class SmoothWeighted:
    """nginx's smooth weighted round robin: in proportion to the weights, without long runs of one target."""

    def __init__(self, targets: tuple[Target, ...]) -> None:
        self.targets = targets
        self._current = [0] * len(targets)
        self._total = sum(target.weight for target in targets)

    def order(self) -> tuple[Deployment, ...]:
        """All deployments, the one whose turn it is first, the others by weight."""
        if len(self.targets) == 1:
            return (self.targets[0].deployment,)
        for index, target in enumerate(self.targets):
            self._current[index] += target.weight
        first = max(range(len(self.targets)), key=self._current.__getitem__)
        self._current[first] -= self._total
        others = sorted((index for index in range(len(self.targets)) if index != first), key=self._heavier)
        return tuple(self.targets[index].deployment for index in (first, *others))

    def _heavier(self, index: int) -> int:
        return -self.targets[index].weight


class Router:
    """Remembers whose turn it is for each alias. One per process, used from the event loop alone."""

    def __init__(self) -> None:
        self._balancers: dict[str, SmoothWeighted] = {}

    def route(self, snapshot: Snapshot, key: Key, model: str, dialect: Dialect) -> tuple[Alias, tuple[Deployment, ...]]:
        """The alias called `model` and its deployments that can answer, in the order in which to try them.

        Raises:
            NotFoundError: there is no such alias.
            PermissionDeniedError: the key may not call it.
            BadRequestError: none of its deployments can be asked for what comes in `dialect`.
            NoTargetAvailableError: none can be called now.
        """
        alias = snapshot.aliases.get(model)
        if alias is None:
            raise NotFoundError(
                f"The model '{model}' does not exist. GET /v1/models lists the models of this key.",
                code="model_not_found",
                param="model",
            )
        if key.models is not None and model not in key.models:
            raise PermissionDeniedError(
                f"API key '{key.name}' may not use the model '{model}'. Ask an admin to allow it.",
                code="model_not_allowed",
                param="model",
            )
        return alias, _able(alias, self._order(alias), dialect)

    def _order(self, alias: Alias) -> tuple[Deployment, ...]:
        if alias.strategy == "priority" or len(alias.targets) < 2:
            return tuple([target.deployment for target in alias.targets])
        balancer = self._balancers.get(alias.name)
        if balancer is None or balancer.targets is not alias.targets:
            balancer = self._balancers[alias.name] = SmoothWeighted(alias.targets)
        return balancer.order()


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
