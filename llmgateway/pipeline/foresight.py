"""Where a request would be sent, without its being sent, waiting for anybody, or taking anybody's turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llmgateway.pipeline.circuits import CircuitState
from llmgateway.pipeline.conditions import BudgetsNeededError, BudgetUsed
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.response_state import held
from llmgateway.pipeline.routing import AllOutError, Routed, Router, Wellness
from llmgateway.pipeline.snapshot import Deployment, Key


class Foreseen(NamedTuple):
    """What would become of it."""

    routed: Routed
    trial_in_s: float | None = None
    """Everybody is out, and it would try whether one of them is well again after so many seconds."""
    awaits_s: float | None = None
    """Everybody is out, and it would wait so long at most for another request that is trying one of them."""


async def foreseen(gateway: Gateway, request: ModelRequest, key: Key) -> Foreseen:
    """As `Gateway.routed` would decide: whoever is tried, or would be by then, is taken to be well again.

    Raises:
        GatewayError: what `Gateway.routed` raises.
    """
    used: BudgetUsed | None = None
    router, chance = gateway.router, _Chance(None)
    while True:
        now = gateway.clock.time()
        try:
            routed = router.route(gateway.snapshot, key, request, now=now, budget_used=used, dry_run=True)
            return Foreseen(held(routed, request), chance.trial_in_s, chance.awaits_s)
        except BudgetsNeededError:
            used = await gateway.budget_used(request, key)
        except AllOutError as error:
            found = _chance(gateway, error.deployments)
            if found.of is None or chance.of is not None:
                raise gateway.health.refusal(error.alias.name, error.deployments) from None
            chance = found
            router = Router(_BackAgain(gateway.health, found.of), gateway.traffic, gateway.desk.terms)


class _Chance(NamedTuple):
    """Of those who are all out, the one that may be well again; None: there is none in time."""

    of: Deployment | None
    trial_in_s: float | None = None
    awaits_s: float | None = None


def _chance(gateway: Gateway, out: Sequence[Deployment]) -> _Chance:
    wait_s = gateway.snapshot.circuit.wait_s
    if trial := gateway.health.next_trial(out, wait_s):
        return _Chance(trial[0], trial_in_s=trial[1])
    half_open = (each for each in out if gateway.health.state_of(each).state == CircuitState.HALF_OPEN.value)
    return _Chance(next(half_open, None) if wait_s > 0 else None, awaits_s=wait_s)


class _BackAgain:
    """Wellness as of the moment in which one deployment may be tried."""

    def __init__(self, health: Wellness, back: Deployment) -> None:
        self._health = health
        self._back = back

    def usable(self, candidates: tuple[Deployment, ...], *, bypass: bool = False) -> tuple[Deployment, ...]:
        well = self._health.usable(candidates, bypass=bypass)
        return tuple([each for each in candidates if each in well or each.id == self._back.id])
