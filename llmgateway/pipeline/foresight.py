"""Where a request would be sent, without its being sent, waiting for anybody, or taking anybody's turn."""

from __future__ import annotations

from typing import NamedTuple

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


async def foreseen(gateway: Gateway, request: ModelRequest, key: Key) -> Foreseen:
    """As `Gateway.routed` would decide: whoever would be tried by then is taken to be well again.

    Raises:
        GatewayError: what `Gateway.routed` raises.
    """
    used: BudgetUsed | None = None
    router, trial_in_s = gateway.router, None
    while True:
        now = gateway.clock.time()
        try:
            routed = router.route(gateway.snapshot, key, request, now=now, budget_used=used, dry_run=True)
            return Foreseen(held(routed, request), trial_in_s)
        except BudgetsNeededError:
            used = await gateway.budget_used(request, key)
        except AllOutError as error:
            trial = gateway.health.next_trial(error.deployments, gateway.snapshot.circuit.wait_s)
            if trial is None or trial_in_s is not None:
                raise gateway.health.refusal(error.alias.name, error.deployments) from None
            deployment, trial_in_s = trial
            router = Router(_BackAgain(gateway.health, deployment), gateway.traffic, gateway.desk.terms)


class _BackAgain:
    """Wellness as of the moment in which one deployment may be tried."""

    def __init__(self, health: Wellness, back: Deployment) -> None:
        self._health = health
        self._back = back

    def usable(self, candidates: tuple[Deployment, ...], *, bypass: bool = False) -> tuple[Deployment, ...]:
        well = self._health.usable(candidates, bypass=bypass)
        return tuple([each for each in candidates if each in well or each.id == self._back.id])
