"""An admitted request while it runs: what it holds, how far it has come, and its one settlement."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from billing.pricing import in_force
from llmgateway.pipeline.errors import LedgerUnavailableError
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
from llmgateway.pipeline.route_rules import HedgeRule, with_patience
from llmgateway.pipeline.rules import NO_VIA
from llmgateway.pipeline.snapshot import Alias, Deployment, Key, Timeouts
from llmgateway.pipeline.upstream import has_reached_provider
from providers.adapters.dialects.partial_usage import begun_usage
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import JSONObject, Usage

if TYPE_CHECKING:
    from llmgateway.http import httpx
    from llmgateway.pipeline.admission import Admission
    from llmgateway.pipeline.express import Sent, Unsent
    from llmgateway.pipeline.gateway import Gateway
    from llmgateway.pipeline.reading_on import Unbroken
    from llmgateway.pipeline.rules import BudgetIndex
    from llmgateway.pipeline.streaming import Answer
    from providers.adapters.dialects.base import StreamScanner

CLOCK_ERROR_S = 0.001
"""A deadline that is worked out in two ways is not the same to the last digit."""
STALE = "stale_connection"
"""Why an attempt ended that went out on a kept connection which was dead."""
STALE_WITHIN_S = 2.0
"""A dead connection shows itself within a round trip. One that ends later may have had its provider at work."""


class Call:
    """Belongs to one request's task. `settle` may be called from every exit; the first call counts."""

    sent: Sent | Unsent | None = None
    """Its first attempt, where that has been sent already, or its connection is being opened."""
    begun: Answer | None = None
    """The answer of its first attempt, where the client has got some of it already."""
    others: tuple[Deployment, ...] = ()
    """Targets that it may go on to besides those that it was admitted for."""
    of_fallbacks = False
    """None of the alias's own targets could be asked, so it was sent to its fallbacks at once."""

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
        via: Mapping[int, tuple[Alias, ...]] = NO_VIA,
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
        self.via = via
        """By id of a deployment: the aliases between the one asked for and it."""
        self.reached = alias
        """The alias whose fallbacks count: the one asked for, unless its rules led to another."""
        self.stands_in_for = ""
        """The alias that was asked for, where another was admitted in its place."""
        self.retry = 0
        """How often targets have been gone through before."""
        self.fallback = ""
        """The alias that is asked in place of the one asked for; empty: none is."""
        self.rival: Rival | None = None
        """The other attempt of a race, which holds something of its own."""
        self._lost = Metered()
        """The latest attempt that cost something and brought nothing."""
        self._lost_pico_usd = 0
        """What all of them cost."""
        self._gateway = gateway
        self._budget_index = budget_index
        self._presence = presence

    def now(self) -> float:
        return self._gateway.clock.monotonic()

    def wall_time(self) -> float:
        return self._gateway.clock.time()

    def timeouts(self, deployment: Deployment) -> Timeouts:
        """Those of the deployment, as far as the aliases that led there say nothing else. The nearest one decides."""
        if not self.via and self.alias.patience is None:
            return deployment.timeouts
        for alias in self.deciding(deployment):
            if alias.patience is not None:
                return with_patience(deployment.timeouts, alias.patience)
        return deployment.timeouts

    def deciding(self, deployment: Deployment) -> Sequence[Alias]:
        """The aliases that led to a deployment, the nearest first, the one asked for last."""
        if not self.via:
            return (self.alias,)
        return (*reversed(self.via.get(deployment.id, ())), self.alias)

    def hedge_rule(self, deployment: Deployment) -> HedgeRule | None:
        """What the nearest alias says that says anything of a second target."""
        return next((alias.hedge for alias in self.deciding(deployment) if alias.hedge is not None), None)

    @property
    def cost_pico_usd(self) -> int:
        """Of all attempts so far."""
        return self.outcome.cost_pico_usd + self._lost_pico_usd

    @property
    def has_spent(self) -> bool:
        """Attempts that brought nothing have cost something all the same."""
        return self._lost_pico_usd > 0

    def blame_target(self, kind: str) -> None:
        """Its stream broke off: too late for another target, but not for the requests that come after."""
        self._gateway.health.record(self.progress.target, ok=False, kind=kind)

    @property
    def is_impatient(self) -> bool:
        """The time that the caller itself has set is over, which may be less than any target needs."""
        timeout_s = self.request.timeout_s
        return timeout_s is not None and self.now() >= self.request.received + timeout_s - CLOCK_ERROR_S

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

    def go_on_in(self, presence: Presence) -> None:
        """From now on it has a task, that of `presence`."""
        self._presence = self.exchange.presence = presence
        self.exchange.task, self.exchange.watched = presence.task, False

    def take_sent(self) -> Sent | Unsent | None:
        """The attempt that has been begun already, once."""
        sent, self.sent = self.sent, None
        return sent

    def request_for(self, deployment: Deployment) -> ModelRequest:
        """The request as `deployment` is asked it: aliases on the way may set something in it."""
        return self.admission.request_for(deployment, self.request)

    def take_timeout(self) -> bool:
        """Whether a deadline, and not the client's leaving, cancelled the task just now."""
        return not self._presence.client_left and self.exchange.take_timeout()

    def begin_attempt(self, deployment: Deployment) -> Record:
        """From now on `deployment` is being asked; what the journal must know of it."""
        progress, now = self.progress, self._gateway.clock.monotonic()
        self.running = True
        progress.begin(deployment, in_force(deployment.prices, self._gateway.clock.time()), now)
        self._gateway.traffic.began(deployment)
        timeouts = self.timeouts(deployment)
        # An answer that is no stream says nothing until it is complete.
        self.exchange.wait(now, timeouts.first_token_s if self.request.head.stream else timeouts.total_s)
        return self._attempt_record(progress, self.admission)

    def _attempt_record(self, progress: Progress, admission: Admission) -> Record:
        record = attempt_record(
            progress.target,
            progress.price,
            strict_pico_usd=admission.reservation.granted_pico_usd,
            units=admission.ask.units,
        )
        if self._lost_pico_usd:
            record["lost_pico_usd"] = self._lost_pico_usd
        return record | self._way(progress.target) if self.via else record

    def _way(self, deployment: Deployment | None) -> Record:
        """The aliases that led to a deployment, for their limits and budgets are found in the ledger by them."""
        aliases = self.via.get(deployment.id, ()) if self.via and deployment is not None else ()
        return {"via": " ".join([alias.name for alias in aliases])} if aliases else {}

    def race_record(self) -> Record:
        """What the journal must know when one of two has won: the process may die while the answer comes."""
        return self._attempt_record(self.progress, self.admission) | {"won": True}

    def repeat_attempt(self) -> bool:
        """The present attempt met a kept connection that was dead: it is made again, and counted. False: once is enough.

        Not while another races with it, which may answer instead.
        """
        progress, now = self.progress, self.now()
        attempts = progress.attempts
        is_repeated = bool(attempts) and attempts[-1]["cause"] == STALE
        is_late = now - progress.attempt_started > STALE_WITHIN_S or self.exchange.left_s(now) <= 0
        if is_repeated or is_late or self.rival is not None:
            return False
        try:
            self._gateway.ledger.attempt(self.request.id, self._attempt_record(progress, self.admission))
        except LedgerUnavailableError:
            return False
        attempts.append(self.attempt_entry(progress, 0, STALE, spent=None))
        progress.attempt_started = now
        return True

    def withdraw_attempt(self) -> None:
        """The attempt that was begun, if there is one, is not made after all."""
        if self.running and self.progress.deployment is not None:
            self._gateway.traffic.ended(self.progress.deployment)
        self.running = False

    def end_attempt(self, status: int, cause: str, *, spent: Metered | None = None) -> None:
        """Note how the present attempt ended, which brought no answer: `status` is the provider's, 0 if it gave none."""
        self._end(status, cause, spent)
        if spent is not None:
            self.lose(spent)

    def lose(self, spent: Metered) -> None:
        """An attempt that brought nothing has used this."""
        self._lost = spent
        self._lost_pico_usd += spent.cost_pico_usd

    def _end(self, status: int, cause: str, spent: Metered | None) -> None:
        self.running = False
        progress = self.progress
        if progress.deployment is not None:
            self._gateway.traffic.ended(progress.deployment)
        progress.attempts.append(self.attempt_entry(progress, status, cause, spent=spent))

    # ── the other attempt of a race ──

    def begin_hedge(self, progress: Progress, admission: Admission) -> Record:
        """Another deployment is being asked too; what the journal must know of it."""
        deployment, now = admission.deployment, self.now()
        progress.begin(deployment, in_force(deployment.prices, self._gateway.clock.time()), now)
        progress.is_hedge = True
        self._gateway.traffic.began(deployment)
        timeouts = self.timeouts(deployment)
        self.exchange.wait(now, timeouts.first_token_s if self.request.head.stream else timeouts.total_s)
        return self._attempt_record(progress, admission) | {"hedge": True}

    def end_hedge(self, progress: Progress, status: int, cause: str, spent: Metered | None) -> None:
        """The other attempt is over without an answer."""
        self._gateway.traffic.ended(progress.target)
        self.progress.attempts.append(self.attempt_entry(progress, status, cause, spent=spent))
        if spent is not None:
            self.lose(spent)

    def take_over(
        self, progress: Progress, admission: Admission, *, status: int, cause: str, spent: Metered | None
    ) -> None:
        """The other attempt has brought the answer; from now on it is the present one, and the first is over."""
        former = self.progress
        self._gateway.traffic.ended(former.target)
        former.attempts.append(self.attempt_entry(former, status, cause, spent=spent))
        if spent is not None:
            self.lose(spent)
        progress.attempts, progress.sent = former.attempts, former.sent
        self.rival = Rival(self.reservation, self.held_pico_usd)
        self.progress, self.admission, self.held_pico_usd = progress, admission, admission.held_pico_usd

    def attempt_entry(self, progress: Progress, status: int, cause: str, *, spent: Metered | None) -> Record:
        """What the row says of an attempt."""
        deployment = progress.target
        attempt: Record = {
            "deployment": deployment.name,
            "provider": deployment.provider,
            "model": deployment.model,
            "status": status,
            "cause": cause,
            "duration_us": int((self._gateway.clock.monotonic() - progress.attempt_started) * 1e6),
            "cost_pico_usd": 0 if spent is None else spent.cost_pico_usd,
        }
        if spent is not None and spent.source == "estimated":
            attempt["estimated"] = True
        if self.via and (aliases := self.via.get(deployment.id)):
            attempt["alias"] = aliases[-1].name
        if self.stands_in_for:
            attempt.setdefault("alias", self.alias.name)
        if self.retry:
            attempt["retry"] = self.retry
        if progress.is_hedge:
            attempt["hedge"] = True
        if progress.price is not None and progress.price.is_default:
            attempt["default_price"] = default_figures(progress.price)
        return attempt

    def meter(
        self, raw: JSONObject | None, *, output_estimate: int, response_model: str, begun: JSONObject | None = None
    ) -> None:
        """Decide what the present attempt used and cost; see `metered`."""
        self.outcome = self.metered(
            self.progress, raw, output_estimate=output_estimate, response_model=response_model, begun=begun
        )

    def metered(
        self,
        progress: Progress,
        raw: JSONObject | None,
        *,
        output_estimate: int,
        response_model: str,
        begun: JSONObject | None = None,
    ) -> Metered:
        """What an attempt used and cost: the provider's figures, or the estimate.

        `begun` is what the provider said at the start of a stream that it did not complete.
        """
        if self.request.verbatim is not None and self.request.verbatim.is_free:
            return Metered()
        deployment = progress.target
        dialect = deployment.adapter.dialect_for(self.request.dialect)
        demand = self.admission.ask.demand
        input_estimate = demand.input if raw is not None or begun is not None else self._unreported_input(deployment)
        estimate = Usage(input=input_estimate, output=output_estimate)
        if begun is not None and dialect is not None:
            with contextlib.suppress(MalformedUsageError):
                told = deployment.adapter.usage(begun, dialect)
                estimate = msgspec.structs.replace(told, output=output_estimate, reasoning=0)
        return metered(
            deployment,
            progress.price,
            raw=raw,
            estimate=estimate,
            dialect=dialect,
            response_model=response_model,
            asked=self.admission.ask.units,
            body=self.request.body,
        )

    def _unreported_input(self, deployment: Deployment) -> int:
        """Tokens of input of which no provider said anything: counted where somebody can, else as they were admitted."""
        counter, request = deployment.estimation.counter, self.request
        counted = None
        if counter is not None and request.input_estimate is None and request.dialect.json_requests:
            counted = counter.request(request.body)
        return self.admission.ask.demand.input if counted is None else counted

    def heard(self, progress: Progress) -> Metered | None:
        """What an attempt that is given up has used, as far as its provider said so; None: it said nothing."""
        scanner = progress.scanner
        if scanner is None:
            return None
        raw, begun = scanner.usage_raw, begun_usage(scanner)
        if raw is None and begun is None:
            return None
        return self.metered(progress, raw, output_estimate=0, response_model=scanner.response_model, begun=begun)

    def worked_in_vain(self, progress: Progress, reservation: Reservation) -> Metered:
        """What an attempt has used whose provider was at work when nobody wanted its answer any more.

        What it said, or else its input as it was estimated; never more than a strict budget has paid for it.
        """
        spent = self.heard(progress)
        if spent is None:
            spent = self.metered(progress, None, output_estimate=0, response_model="")
        granted = reservation.granted_pico_usd
        if granted is not None and spent.cost_pico_usd > granted:
            return msgspec.structs.replace(spent, cost_pico_usd=granted)
        return spent

    def settle(
        self,
        status: str,
        *,
        error_type: str = "",
        refund_limits: bool = False,
        written: Callable[[], None] | None = None,
    ) -> None:
        """Write the ledger row, give back the hold, book the cost. Never waits, so no cancellation can come between.

        `refund_limits` gives back what rate limits took: no provider did any work for this request. `written` is called
        once the row is: an answer need not wait for the rest.
        """
        if self.settled:
            return
        self.settled = True
        gateway, progress = self._gateway, self.progress
        if self.running:
            self._end(progress.upstream_status, error_type or status, self.outcome)
        cost = self.outcome.cost_pico_usd + self._lost_pico_usd
        if self._lost.source != "none" and self.outcome.source == "none":
            self.outcome = self._lost
        usage, granted = self.outcome.usage, self.reservation.granted_pico_usd
        held = self.held_pico_usd
        if self.rival is not None:
            held += self.rival.held_pico_usd
            granted = None if granted is None else granted + (self.rival.reservation.granted_pico_usd or 0)
        row = ledger_row(
            self.asked,
            progress,
            self.outcome,
            status=status,
            error_type=error_type,
            held_pico_usd=held,
            over_hold=granted is not None and cost > granted,
            received=self.request.received,
            now=gateway.clock.monotonic(),
        )
        row["counted"] = not refund_limits
        row["cost_pico_usd"] = cost
        if self.via:
            row |= self._way(progress.deployment)
        try:
            gateway.ledger.close(row)
            if written is not None:
                written()
        finally:  # Whatever becomes of the row, the hold must not stay.
            self._give_back(cost, None if refund_limits else Tokens(usage.input_tokens, usage.output_tokens))
        if status == "completed" and self.outcome.source == "provider" and progress.deployment is not None:
            gateway.desk.terms.learner.learn(
                self.key.id, progress.deployment.model, usage.output_tokens // self.request.head.choices
            )
        if not self.outcome.usage.consistent:
            gateway.telemetry.figures.inconsistent_usage += 1
        gateway.telemetry.finished(self.request.path, row, self.phases)

    def _give_back(self, cost_pico_usd: int, used: Tokens | None) -> None:
        """Book the cost where the answer's hold is, which is where the row says, and only then free the other one's."""
        store = self._gateway.store
        deployment = self.progress.deployment
        via = self.via.get(deployment.id, ()) if deployment is not None else ()
        budgets = self._gateway.budgets_since(self._budget_index, self.key, self.alias, deployment, via)
        store.settle(self.reservation, cost_pico_usd=cost_pico_usd, used=used, budgets=budgets)
        if self.rival is not None:
            store.settle(self.rival.reservation, cost_pico_usd=0, used=used, budgets=())

    def settle_cancelled(self, error_type: str) -> None:
        """The client left, or the process stops. What the provider has done by then is estimated, never zero."""
        if self.handed_over:
            return
        reached = has_reached_provider() or bool(self.progress.upstream_status)
        if reached and self.outcome.source == "none" and self.running and not self.settled:
            count, scanner = self.exchange.output_tokens, self.progress.scanner
            self.meter(None, output_estimate=count() if count else 0, response_model="", begun=begun_usage(scanner))
        self.settle("cancelled", error_type=error_type, refund_limits=not reached)

    def abandon(self) -> None:
        """It was admitted but could not even be opened: give everything back, no row."""
        self.settled = True
        self.withdraw_attempt()
        self._gateway.exchanges.end(self.exchange)
        self._gateway.store.settle(self.reservation, cost_pico_usd=0, used=None, budgets=())


class Rival(msgspec.Struct):
    """What the other attempt of a race holds, until the request ends."""

    reservation: Reservation
    held_pico_usd: int
