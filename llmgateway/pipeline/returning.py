"""Whom a request may ask when all others have failed it: deployments that were left alone until now and are back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmgateway.pipeline.call import Call
from llmgateway.pipeline.conditions import BudgetsNeededError
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.snapshot import Deployment

if TYPE_CHECKING:
    from llmgateway.pipeline.gateway import Gateway


class Returning:
    """For one request. It waits no longer in all than operators say, however often it is asked."""

    def __init__(self, gateway: Gateway, call: Call) -> None:
        self._gateway = gateway
        self._call = call
        self._until = asyncio.get_running_loop().time() + gateway.snapshot.circuit.wait_s

    async def more(self, out: list[Deployment]) -> list[Deployment]:
        """Those of `out`, whom it could not ask, and those that routing had left out, once one of them may be asked.

        Empty: none may in time. Where other aliases stand in, nobody waits.
        """
        call, health = self._call, self._gateway.health
        if call.reached.fallbacks:
            return []
        if back := self._let_in():
            return [*out, *back]
        bypass = call.key.may_bypass_health and call.request.bypass_health
        away = [each for each in (*out, *self._left_out()) if not health.usable((each,), bypass=bypass)]
        left_s = min(self._until - asyncio.get_running_loop().time(), call.exchange.left_s(call.now()))
        if not away:
            return []
        call.exchange.wait(call.now(), left_s + 1)
        return [*out, *self._let_in()] if await health.wait_for_any(away, left_s) else []

    def _left_out(self) -> list[Deployment]:
        """Those of its alias that the request knows nothing of."""
        known = {each.id for each in self._call.admission.ask.candidates}
        return [each for each in self._call.reached.deployments if each.id not in known]

    def _let_in(self) -> list[Deployment]:
        """Those that routing would find by now, as far as the request can pay for them."""
        if not self._left_out():
            return []
        call, gateway = self._call, self._gateway
        try:
            routed = gateway.route(call.request, call.key, dry_run=True)
        except (GatewayError, BudgetsNeededError):
            return []
        if routed.reached.name != call.reached.name:
            return []
        found = list(gateway.desk.extend(call.admission, call.request, routed))
        call.via = call.admission.rules.via
        return found
