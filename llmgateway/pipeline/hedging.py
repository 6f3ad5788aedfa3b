"""A second target for requests whose first one is slow: who says a word first wins, the other is cancelled at once.

The second attempt is admitted by a hold of its own in the same budgets, so that a strict one pays for both. Until the
request ends both holds stay; the one of who lost is as large as what it cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING

import msgspec

from billing.pricing import in_force
from llmgateway.pipeline.admission import Admission
from llmgateway.pipeline.call import Call, Rival
from llmgateway.pipeline.departure import was_sent
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.failures import Failure
from llmgateway.pipeline.metering import Metered, Progress
from llmgateway.pipeline.obtaining import obtain
from llmgateway.pipeline.protocols import Reservation, StrictHold, TargetTerms
from llmgateway.pipeline.reading_on import Unbroken
from llmgateway.pipeline.route_rules import HedgeRule
from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.streaming import Answer
from llmgateway.pipeline.upstream import FailureCause
from providers.adapters.types import Operation

if TYPE_CHECKING:
    from llmgateway.pipeline.gateway import Gateway

SHARE = 0.95
"""The percentile of the time to first token after which a target counts as slow."""
HEDGED = frozenset({Operation.CHAT, Operation.TEXT_COMPLETION, Operation.EMBEDDINGS})
"""Operations that may be asked twice: nothing stays behind of an answer that nobody gets."""
OUTPACED = "outpaced"
"""Why the attempt ended that lost."""
SUFFIX = "#h"
"""What the id of the second hold ends with."""

Outcome = Answer | Failure


class Runner:
    """One of the two attempts while they run."""

    def __init__(self, call: Call, deployment: Deployment, progress: Progress, admission: Admission) -> None:
        self.deployment = deployment
        self.progress = progress
        self.admission = admission
        self.context = contextvars.copy_context()
        self.is_over = False
        """How it ended is noted."""
        self._call = call
        self._task: asyncio.Task[Outcome] | None = None

    def start(self, gateway: Gateway) -> None:
        asking = obtain(
            self._call, self.deployment, gateway.upstream, self.progress, output_cap=self.admission.output_cap
        )
        self._task = asyncio.create_task(asking, context=self.context)

    @property
    def task(self) -> asyncio.Task[Outcome]:
        if self._task is None:
            raise RuntimeError("it has not been started")
        return self._task

    @property
    def reached(self) -> bool:
        """Whether the provider can have worked for it."""
        return self.context.get(was_sent, False) or bool(self.progress.upstream_status)

    async def stop(self) -> None:
        """Its connection is closed; an answer that came in the same moment is not taken."""
        self.task.cancel()
        await asyncio.wait([self.task])
        if self.task.cancelled() or self.task.exception() is not None:
            return
        result = self.task.result()
        if isinstance(result, Answer):
            if isinstance(result.rest, Unbroken):
                await result.rest.aclose()
            await result.upstream.stream.aclose()

    def used(self) -> Metered | None:
        """What it has cost although nobody gets its answer: what the provider said, or its input as it was estimated."""
        if not self.reached:
            return None
        return self._call.worked_in_vain(self.progress, self.admission.reservation)


class Hedging:
    """Runs races. One per process, used from the event loop alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def after_s(self, call: Call, deployment: Deployment) -> float | None:
        """Seconds after which another target is asked too; None: this request has one target at a time."""
        rule, request = call.hedge_rule(deployment), call.request
        if rule is None or not rule.max_pico_usd or call.rival is not None or call.has_spent:
            return None
        if request.spending is not None:
            return None  # Both would be billed, and the caller's largest price pays for one.
        operation = request.dialect.operation
        if operation not in HEDGED or (request.state is not None and request.state.held_by):
            return None
        if rule.after_s is not None:
            return rule.after_s
        # Of an answer that is no stream the first token is never seen.
        is_seen = request.head.stream or operation is Operation.EMBEDDINGS
        return self._gateway.traffic.percentile_s(deployment.id, SHARE) if is_seen else None

    async def race(
        self, call: Call, deployment: Deployment, others: list[Deployment], after_s: float
    ) -> tuple[Outcome, Failure | None]:
        """The answer of who is first, or why `deployment` has none; and why the other has none, if it was asked too.

        The attempt at `deployment` has begun. The other is taken out of `others`.
        """
        first = Runner(call, deployment, call.progress, call.admission)
        second: Runner | None = None
        first.start(self._gateway)
        try:
            await asyncio.wait([first.task], timeout=after_s)
            if not first.task.done():
                second = await self._second(call, deployment, others)
            return await self._finish(call, first, second)
        except BaseException:
            await first.stop()
            was_sent.set(first.context.get(was_sent, False))
            if second is not None:
                await second.stop()
                self._give_up(call, second)
            raise

    def _give_up(self, call: Call, second: Runner) -> None:
        """Time is over, or nobody waits for an answer any more."""
        if second.is_over or call.progress is second.progress:
            return
        if call.exchange.timed_out and not call.client_left and not call.is_impatient:
            failure = Failure(FailureCause.TIMEOUT, second.deployment, spent=call.heard(second.progress))
            self._judge(second, failure)
            self._end(call, second, failure.label, failure.spent)
            self._free_unless_spent(call)
        else:
            cause = "client_left" if call.client_left else "timeout" if call.exchange.timed_out else "shutdown"
            self._judge(second, None)
            self._end(call, second, cause, second.used())

    async def _second(self, call: Call, deployment: Deployment, others: list[Deployment]) -> Runner | None:
        """The other attempt, if somebody may be asked and the budgets can pay for it."""
        rule = call.hedge_rule(deployment)
        if rule is None:
            return None
        for other in others:
            if self._is_affordable(call, deployment, other, rule) and self._gateway.health.claim(other):
                try:
                    runner = await self._admitted(call, other)
                except BaseException:
                    self._gateway.health.release(other)
                    raise
                if runner is None:
                    self._gateway.health.release(other)
                    self._gateway.telemetry.figures.hedges["refused"] += 1
                else:
                    others.remove(other)
                return runner
        return None

    def _is_affordable(self, call: Call, deployment: Deployment, other: Deployment, rule: HedgeRule) -> bool:
        ask = call.admission.ask
        terms, present = (ask.targets[ask.candidates.index(each)] for each in (other, deployment))
        if in_force(other.prices, call.wall_time()) is None or terms.expected_pico_usd > rule.max_pico_usd:
            return False
        # The row is booked where the answer came from, with what the other attempt cost: more than was held there.
        return not any(budget.strict for budget in (*terms.budgets, *present.budgets))

    async def _admitted(self, call: Call, other: Deployment) -> Runner | None:
        """The attempt at `other`, begun and written down; None: a limit or budget has no room, or it was too late."""
        gateway, admission = self._gateway, call.admission
        ask, rules = admission.ask, admission.rules
        decision = await gateway.store.admit(
            call.request.id + SUFFIX,
            demand=ask.demand,
            limits=(),
            budgets=rules.budgets,
            targets=(ask.targets[ask.candidates.index(other)],),
        )
        if not isinstance(decision, Reservation):
            return None
        headroom = admission.reservation
        decision = msgspec.structs.replace(decision, requests=headroom.requests, tokens=headroom.tokens)
        own = msgspec.structs.replace(admission)
        own.take(decision, ask.candidates.index(other))
        call.rival = Rival(decision, decision.held_pico_usd)
        runner = Runner(call, other, Progress(), own)
        with contextlib.suppress(LedgerUnavailableError):  # The first attempt goes on as if there were no other.
            gateway.ledger.attempt(call.request.id, call.begin_hedge(runner.progress, own))
            runner.start(gateway)
            gateway.telemetry.figures.hedges["begun"] += 1
            return runner
        gateway.traffic.ended(other)
        self._free(call)
        return None

    async def _finish(self, call: Call, first: Runner, second: Runner | None) -> tuple[Outcome, Failure | None]:
        if second is None:
            result = await first.task
            was_sent.set(first.context.get(was_sent, False))
            return result, None
        running = {first.task: first, second.task: second}
        failed: dict[asyncio.Task[Outcome], Failure] = {}
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in [each for each in running if each in done]:
                runner = running.pop(task)
                result = task.result()
                if isinstance(result, Answer):
                    await self._win(call, runner, second if runner is first else first, failed)
                    return result, None
                failed[task] = result
        lost = failed[second.task]
        self._judge(second, lost)
        self._end(call, second, lost.label, lost.spent, status=lost.status)
        self._free_unless_spent(call)
        was_sent.set(first.context.get(was_sent, False))
        return failed[first.task], lost

    async def _win(
        self, call: Call, winner: Runner, loser: Runner, failed: dict[asyncio.Task[Outcome], Failure]
    ) -> None:
        """From here on the call goes on with the winner's attempt, and the loser's is over."""
        failure = failed.get(loser.task)
        if failure is None:
            await loser.stop()
            spent, cause, status = loser.used(), OUTPACED, loser.progress.upstream_status
        else:
            spent, cause, status = failure.spent, failure.label, failure.status
        was_sent.set(True)
        self._judge(loser, failure)
        if winner.progress is not call.progress:
            if failure is None:  # It would have taken longer still; without it slow targets would look quick.
                self._gateway.traffic.first_token(loser.deployment, call.now() - loser.progress.attempt_started)
            call.take_over(winner.progress, winner.admission, cause=cause, status=status, spent=spent)
        else:
            self._end(call, loser, cause, spent, status=status)
        figures = self._gateway.telemetry.figures
        figures.hedges["won" if winner.progress.is_hedge else "lost"] += 1
        figures.hedge_cost_pico_usd += 0 if spent is None else spent.cost_pico_usd
        with contextlib.suppress(LedgerUnavailableError):  # Then a death of the process is estimated as if both ran on.
            self._gateway.ledger.attempt(call.request.id, call.race_record())
        await self._shrink(call, 0 if spent is None else spent.cost_pico_usd)

    def _judge(self, loser: Runner, failure: Failure | None) -> None:
        """Being slow is no failure: probes and other requests say whether it is well."""
        health = self._gateway.health
        if failure is None:
            health.release(loser.deployment)
        else:
            health.record(
                loser.deployment,
                ok=not failure.blames_provider,
                kind=failure.label,
                retry_after_s=failure.retry_after_s,
            )

    def _end(self, call: Call, runner: Runner, cause: str, spent: Metered | None, *, status: int | None = None) -> None:
        """The second attempt is over without an answer."""
        runner.is_over = True
        call.end_hedge(runner.progress, runner.progress.upstream_status if status is None else status, cause, spent)

    async def _shrink(self, call: Call, cost_pico_usd: int) -> None:
        """Who lost holds what it cost from now on, and nothing of its deployment's limits."""
        rival = call.rival
        if rival is None:
            return
        if not cost_pico_usd and rival.reservation.id.endswith(SUFFIX):
            self._free(call)
            return
        cost = StrictHold(wanted=cost_pico_usd, least=cost_pico_usd)
        smaller = await self._gateway.store.move(rival.reservation, TargetTerms((), (), cost_pico_usd, cost))
        if isinstance(smaller, Reservation):
            rival.reservation = smaller

    def _free_unless_spent(self, call: Call) -> None:
        if not call.has_spent:
            self._free(call)

    def _free(self, call: Call) -> None:
        """The second hold is not needed."""
        if call.rival is not None:
            self._gateway.store.settle(call.rival.reservation, cost_pico_usd=0, used=None, budgets=())
            call.rival = None
