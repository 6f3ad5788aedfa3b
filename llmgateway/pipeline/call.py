"""An admitted request while it runs: what it holds, how far it has come, and its one settlement."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import msgspec

from billing.pricing import in_force
from llmgateway.pipeline.exchanges import Exchange
from llmgateway.pipeline.metering import (
    Metered,
    Progress,
    attempt_record,
    default_figures,
    identity,
    ledger_row,
    metered,
)
from llmgateway.pipeline.protocols import Record, Reservation, Tokens
from llmgateway.pipeline.requests import ModelRequest, Presence
from llmgateway.pipeline.snapshot import Alias, Deployment, Key
from llmgateway.pipeline.upstream import has_reached_provider
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import JSONObject, Usage

if TYPE_CHECKING:
    from llmgateway.http import httpx
    from llmgateway.pipeline.admission import Admission
    from llmgateway.pipeline.gateway import Gateway
    from llmgateway.pipeline.reading_on import Unbroken
    from llmgateway.pipeline.rules import BudgetIndex
    from providers.adapters.dialects.base import StreamScanner


class Call:
    """Belongs to one request's task. `settle` may be called from every exit; the first call counts."""

    def __init__(
        self,
        request: ModelRequest,
        key: Key,
        alias: Alias,
        admission: Admission,
        *,
        gateway: Gateway,
        budget_index: BudgetIndex,
        presence: Presence,
        exchange: Exchange,
        admitted_at: float,
    ) -> None:
        self.request = request
        self.key = key
        self.alias = alias
        self.admission = admission
        self.exchange = exchange
        self.asked = identity(request, key, alias, admitted_at=admitted_at)
        self.asked |= {"input_estimate": admission.ask.demand.input, "input_bytes": len(request.body)}
        self.held_pico_usd = admission.held_pico_usd
        """The most that it has held so far."""
        self.progress = Progress()
        self.phases: dict[str, float] = {}
        """Seconds in the gateway itself, by phase."""
        self.running = False
        """An attempt has begun and not ended."""
        self.settled = False
        self.handed_over = False
        """It is settled elsewhere, when its stream has been read to the end."""
        self.outcome = Metered()
        self._gateway = gateway
        self._budget_index = budget_index
        self._presence = presence

    def now(self) -> float:
        return self._gateway.clock.monotonic()

    @property
    def reservation(self) -> Reservation:
        return self.admission.reservation

    @property
    def client_left(self) -> bool:
        return self._presence.client_left

    @property
    def affordable_output(self) -> float:
        """Tokens of output that what the request holds can pay for."""
        price = self.progress.price
        if not self.held_pico_usd or price is None or not price.dearest_output:
            return math.inf
        return self.held_pico_usd / price.dearest_output

    def read_on(self, scanner: StreamScanner, rest: Unbroken, stream: httpx.AsyncByteStream) -> None:
        """The client has left; what the stream used is learnt and settled without it."""
        self.handed_over = True
        self._gateway.reading_on.take(self, scanner, rest, stream)

    def take_timeout(self) -> bool:
        """Whether a deadline, and not the client's leaving, cancelled the task just now."""
        return not self._presence.client_left and self.exchange.take_timeout()

    def begin_attempt(self, deployment: Deployment) -> Record:
        """From now on `deployment` is being asked; what the journal must know of it."""
        progress, now = self.progress, self.now()
        self.running = True
        progress.upstream_status = 0
        progress.deployment = deployment
        progress.price = in_force(deployment.prices, self._gateway.clock.time())
        progress.attempt_started = now
        if not progress.sent:
            progress.sent = now
        timeouts = deployment.timeouts
        # An answer that is no stream says nothing until it is complete.
        self.exchange.wait(now, timeouts.first_token_s if self.request.head.stream else timeouts.total_s)
        return attempt_record(
            deployment,
            progress.price,
            strict_pico_usd=self.reservation.granted_pico_usd,
            units=self.admission.ask.units,
        )

    def end_attempt(self, status: int, cause: str, *, cost_pico_usd: int = 0) -> None:
        """Note how the present attempt ended: `status` is the provider's, 0 if it gave none."""
        progress = self.progress
        deployment = progress.deployment
        if deployment is None:
            raise RuntimeError("an attempt that ends has begun")
        self.running = False
        attempt: Record = {
            "deployment": deployment.name,
            "provider": deployment.provider,
            "model": deployment.model,
            "status": status,
            "cause": cause,
            "duration_us": int((self.now() - progress.attempt_started) * 1e6),
            "cost_pico_usd": cost_pico_usd,
        }
        if progress.price is not None and progress.price.is_default:
            attempt["default_price"] = default_figures(progress.price)
        progress.attempts.append(attempt)

    def meter(
        self, raw: JSONObject | None, *, output_estimate: int, response_model: str, begun: JSONObject | None = None
    ) -> None:
        """Decide what the present attempt used and cost: the provider's figures, or the estimate.

        `begun` is what the provider said at the start of a stream that it did not complete.
        """
        deployment = self.progress.deployment
        if deployment is None:
            raise RuntimeError("only an attempt can be metered")
        dialect = deployment.adapter.dialect_for(self.request.dialect)
        estimate = Usage(input=self.admission.ask.demand.input, output=output_estimate)
        if begun is not None and dialect is not None:
            with contextlib.suppress(MalformedUsageError):
                told = deployment.adapter.usage(begun, dialect)
                estimate = msgspec.structs.replace(told, output=output_estimate, reasoning=0)
        self.outcome = metered(
            deployment,
            self.progress.price,
            raw=raw,
            estimate=estimate,
            dialect=dialect,
            response_model=response_model,
            asked=self.admission.ask.units,
        )

    def settle(self, status: str, *, error_type: str = "", refund_limits: bool = False) -> None:
        """Write the ledger row, give back the hold, book the cost. Never waits, so no cancellation can come between.

        `refund_limits` gives back what rate limits took: no provider did any work for this request.
        """
        if self.settled:
            return
        self.settled = True
        gateway, progress, usage = self._gateway, self.progress, self.outcome.usage
        if self.running:
            self.end_attempt(progress.upstream_status, error_type or status, cost_pico_usd=self.outcome.cost_pico_usd)
        cost, granted = self.outcome.cost_pico_usd, self.reservation.granted_pico_usd
        row = ledger_row(
            self.asked,
            progress,
            self.outcome,
            status=status,
            error_type=error_type,
            held_pico_usd=self.held_pico_usd,
            over_hold=granted is not None and cost > granted,
            received=self.request.received,
            now=self.now(),
        )
        row["counted"] = not refund_limits
        try:
            gateway.ledger.close(row)
        finally:  # Whatever becomes of the row, the hold must not stay.
            gateway.store.settle(
                self.reservation,
                cost_pico_usd=cost,
                used=None if refund_limits else Tokens(usage.input_tokens, usage.output_tokens),
                budgets=gateway.budgets_since(self._budget_index, self.key, self.alias, progress.deployment),
            )
        if status == "completed" and self.outcome.source == "provider" and progress.deployment is not None:
            gateway.desk.terms.learner.learn(
                self.key.id, progress.deployment.model, usage.output_tokens // self.request.head.choices
            )
        if not self.outcome.usage.consistent:
            gateway.telemetry.figures.inconsistent_usage += 1
        gateway.telemetry.finished(self.request.path, row, self.phases)

    def settle_cancelled(self, error_type: str) -> None:
        """The client left, or the process stops. What the provider has done by then is estimated, never zero."""
        if self.handed_over:
            return
        reached = has_reached_provider() or bool(self.progress.upstream_status)
        if reached and self.outcome.source == "none" and not self.settled:
            count = self.exchange.output_tokens
            self.meter(None, output_estimate=count() if count else 0, response_model="")
        self.settle("cancelled", error_type=error_type, refund_limits=not reached)

    def abandon(self) -> None:
        """It was admitted but could not even be opened: give everything back, no row."""
        self.settled = True
        self._gateway.exchanges.end(self.exchange)
        self._gateway.store.settle(self.reservation, cost_pico_usd=0, used=None, budgets=())
