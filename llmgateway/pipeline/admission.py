"""May this request run, and what does it hold meanwhile? Every billable route passes through here."""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec

from llmgateway.pipeline.errors import BudgetExceededError, RequestTooLargeError
from llmgateway.pipeline.protocols import AdmissionStore, BudgetRefusal, Clock, Refusal, Reservation
from llmgateway.pipeline.refusals import as_error
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.routing import Routed
from llmgateway.pipeline.rules import RuleBook, Rules
from llmgateway.pipeline.sizes import fitting
from llmgateway.pipeline.snapshot import AdmissionRules, Deployment, Limit
from llmgateway.pipeline.terms import Ask, Terms


class Admission(msgspec.Struct):
    """What an admitted request has taken, and where it may go with it."""

    ask: Ask
    rules: Rules
    reservation: Reservation
    deployment: Deployment
    """Where it may be sent now: the one whose counters it holds."""
    oversized: list[Limit]
    """Limits in shadow mode on the bytes of a request that it exceeds."""
    settings: AdmissionRules = AdmissionRules()
    """As of its admission."""
    held_pico_usd: int = 0
    """The largest hold; what would be held if there is no budget."""
    output_cap: int | None = None
    """The cap on output that a strict budget, or the caller's own largest price, pays for; None: it stays as it is."""

    def take(self, reservation: Reservation, place: int) -> None:
        """From now on it holds `reservation`, for the candidate at that place."""
        ask = self.ask
        self.reservation, self.deployment = reservation, ask.candidates[place]
        windows = reservation.windows
        self.held_pico_usd = reservation.held_pico_usd if windows else ask.targets[place].expected_pico_usd
        terms = ask.strict[place]
        self.output_cap = None if terms is None else terms.cap_within(reservation.granted_pico_usd)

    @property
    def in_order(self) -> tuple[Deployment, ...]:
        """All candidates, the one whose counters are held first."""
        first = self.deployment
        return (first, *[each for each in self.ask.candidates if each is not first])

    def request_for(self, deployment: Deployment, request: ModelRequest) -> ModelRequest:
        """`request` as `deployment` is to be asked it: with what the aliases on its way set."""
        return self.ask.requests.get(deployment.id, request)


class AdmissionDesk:
    """Admits requests and lets them move on to other deployments. One per process, used from the event loop alone."""

    def __init__(self, store: AdmissionStore, clock: Clock, book: RuleBook | None = None) -> None:
        self.terms = Terms()
        self._book = book or RuleBook()
        self._store = store
        self._clock = clock

    async def admit(
        self,
        request: ModelRequest,
        rules: Rules,
        candidates: tuple[Deployment, ...],
        settings: AdmissionRules,
    ) -> Admission:
        """Take what the request needs from every limit and budget, or nothing at all.

        Raises:
            RequestTooLargeError: it has more bytes than a limit allows.
            RateLimitError: a limit has no room; named with its scope, and when there will be room.
            BudgetExceededError: a budget cannot pay the hold; named with what is settled and held. Or no candidate's
                cost can be told.
            LimitsUnavailableError: the counters cannot be asked.
        """
        oversized: list[Limit] = []
        candidates = fitting(request, rules, candidates, oversized)
        ask = self.terms.ask(request, rules, candidates, settings, now=self._clock.time())
        decision = await self._decide(request, rules, ask)
        if isinstance(decision, BudgetRefusal) and decision.budget.strict and decision.held_pico_usd:
            decision = await self._decide_later(request, rules, ask, settings)
        if not isinstance(decision, Reservation):
            raise as_error(decision, rules, ask.demand, settings, now=self._clock.time())
        admission = Admission(ask, rules, decision, ask.candidates[decision.target], oversized, settings)
        admission.take(decision, decision.target)
        return admission

    def _decide(self, request: ModelRequest, rules: Rules, ask: Ask) -> Awaitable[Reservation | Refusal]:
        return self._store.admit(
            request.id, demand=ask.demand, limits=rules.limits, budgets=rules.budgets, targets=ask.targets
        )

    async def _decide_later(
        self, request: ModelRequest, rules: Rules, ask: Ask, settings: AdmissionRules
    ) -> Reservation | Refusal:
        """A strict budget holds the worst case, so most of what others hold returns: wait for it a little."""
        until = self._clock.monotonic() + settings.hold_wait_ms / 1000
        while True:
            left = until - self._clock.monotonic()
            returned = left > 0 and await self._store.hold_returned(left)
            decision = await self._decide(request, rules, ask)
            if isinstance(decision, Reservation) or not returned:
                return decision

    def extend(self, admission: Admission, request: ModelRequest, routed: Routed) -> tuple[Deployment, ...]:
        """Let an admitted request go on to the candidates of `routed` too, each by its way. Nothing is taken yet.

        Those that it may `move` to from now on, in order: neither those that it knew before nor those that are too small
        for it or whose cost cannot be told.
        """
        known = {each.id for each in admission.ask.candidates}
        fresh = tuple([each for each in routed.candidates if each.id not in known])
        if not fresh:
            return ()
        via = {each.id: aliases for each in fresh if (aliases := routed.via.get(each.id))}
        rules = self._book.through(admission.rules, request, via)
        try:
            fresh = fitting(request, rules, fresh, admission.oversized)
            more = self.terms.ask(request, rules, fresh, admission.settings, now=self._clock.time())
        except (RequestTooLargeError, BudgetExceededError):
            return ()
        ask = admission.ask
        admission.rules = rules
        admission.ask = msgspec.structs.replace(
            ask,
            candidates=ask.candidates + more.candidates,
            targets=ask.targets + more.targets,
            strict=ask.strict + more.strict,
            requests={**ask.requests, **more.requests},
        )
        return more.candidates

    async def move(self, admission: Admission, deployment: Deployment) -> bool:
        """Exchange the counters of the present deployment for those of `deployment`; False: it has no room."""
        if deployment is admission.deployment:
            return True
        place = admission.ask.candidates.index(deployment)
        decision = await self._store.move(admission.reservation, admission.ask.targets[place])
        if not isinstance(decision, Reservation):
            return False
        admission.take(decision, place)
        return True
