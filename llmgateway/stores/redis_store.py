"""Admission counters in Redis, for several processes or hosts. One script run takes everything or nothing.

`redis_link` shares one connection among concurrent requests, `redis_epoch` says which counters are valid,
`redis_fallback` decides while there are none, and `admission.lua` is what Redis runs.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from llmgateway.pipeline.protocols import (
    BudgetState,
    Clock,
    Refusal,
    Reservation,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_answers import Answers
from llmgateway.stores.redis_comparison import ComparedJournal, Comparisons
from llmgateway.stores.redis_debts import Debts, Numbers
from llmgateway.stores.redis_epoch import POLL_S, Epoch, Recount, Totals
from llmgateway.stores.redis_fallback import Fallback, Policy
from llmgateway.stores.redis_hearer import Hearer
from llmgateway.stores.redis_link import Call, EpochChangedError, LinkLostError, RedisLink, RoundTrips
from llmgateway.stores.redis_newcomers import Newcomers
from llmgateway.stores.redis_open import OpenRequest, OpenRequests, Orphan
from llmgateway.stores.redis_returns import Returns
from llmgateway.stores.redis_seen import Seen
from llmgateway.stores.redis_sowing import Sowing
from llmgateway.stores.redis_terms import (
    Asked,
    Frame,
    Frames,
    amount_text,
    limits_packed,
    used_by_metric,
)
from llmgateway.stores.waiting import Waiters

logger = logging.getLogger(__name__)

LEASE_S = 30.0
"""A concurrency slot returns by itself when its worker was not heard of for so long."""
WATCH_S = 1.0
RENEW_S = 10.0
LEAVE_S = 0.5


class RedisStore:
    """Implements `AdmissionStore`. Belongs to one event loop; `start` and `stop` it there."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        policy: Policy = "local",
        timeout_s: float = 0.075,
        namespace: str = "gateway",
        recount: Recount | None = None,
        journal: ComparedJournal | None = None,
        lease_s: float = LEASE_S,
        now_us: Callable[[], int] | None = None,
    ) -> None:
        """`journal`: what this worker settles is in it, so that counters can be compared with the ledger.

        `now_us` stands in for the server's clock in tests.
        """
        self._lease_us = int(lease_s * 1e6)
        self._clock = clock
        self._own_time = now_us is not None
        self._ahead_s = 0.0
        """How far the server's clock is ahead of ours."""
        self.frames = Frames()
        self._seen = Seen()
        self._waiters = Waiters()
        self._tasks: list[asyncio.Task[None]] = []
        self._link = RedisLink(
            url,
            namespace=namespace,
            timeout_s=timeout_s,
            on_connect=self._connected,
            on_lost=self._lost,
            now_us=now_us,
        )
        self._returns = Returns(self._link, self._waiters)
        self._answers = Answers(self.frames, self._seen, self._waiters)
        self._worker = secrets.token_hex(4)
        self._numbers = Numbers(self._worker)
        self._open = OpenRequests(self.frames, self._numbers, self._lease_us)
        self._debts = Debts(self.frames, self._numbers, seen=self._seen, workers=lambda: self._epoch.workers)
        self._sowing = Sowing(self.frames, self._numbers, self._now)
        self._epoch = Epoch(self._link, self, recount, self._worker, namespace)
        self._fallback = Fallback(
            policy,
            clock,
            frames=self.frames,
            seen=self._seen,
            workers=lambda: self._epoch.workers,
            now=self._now,
        )
        self.newcomers = Newcomers(self._link, self.frames, self._epoch, seeds=self.seeds, now=self._now)
        self.comparisons = Comparisons(
            self._link, worker=self._worker, prefix=self._epoch.prefix, journal=journal, told=self._knows_all
        )
        self._joining = False
        self._shares = False
        """Counts in Redis, or did before it was lost just now."""

    # Life.

    def start(self) -> None:
        """Begin to connect; requests are decided by the policy until Redis is there."""
        self._tasks = [asyncio.create_task(self._link.run()), asyncio.create_task(self._watch())]

    async def ready(self, timeout_s: float = 5.0) -> bool:
        """Wait until the counters can be asked; False: they cannot yet, and the policy decides."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._epoch.opened.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """After the last request: hand over what was not sent yet, and close."""
        try:
            async with asyncio.timeout(LEAVE_S):
                if self._link.open:
                    await self._link.ask(("returned", ()))
                    await self._epoch.leave()
        except (LinkLostError, EpochChangedError, TimeoutError) as error:
            logger.warning("Redis: left without saying so: %s", error or "no answer")
        await self._returns.stop()
        await self.comparisons.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What `/health` and metrics show.

    @property
    def mode(self) -> str:
        """`ok`; `rebuilding`: strict budgets and token quotas are closed; else the policy that decides meanwhile."""
        if self._link.open:
            return "ok" if self._epoch.opened.is_set() else "rebuilding"
        return "rebuilding" if self._joining else self._fallback.policy

    @property
    def errors(self) -> int:
        """How often Redis was lost or not reached."""
        return self._link.lost

    @property
    def workers(self) -> int:
        return self._epoch.workers

    @property
    def round_trips(self) -> RoundTrips:
        return self._link.round_trips

    @property
    def unsent(self) -> int:
        """Settlements and sums that Redis has to be told when it is back."""
        return self._link.waiting + len(self._debts)

    # Admission.

    async def admit(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: Sequence[TargetTerms],
    ) -> Reservation | Refusal:
        asked = Asked(request_id, demand, limits, budgets, targets)
        if self._link.open:
            now = self._now()
            limited, paid = self.frames.of_limits(limits, now), self.frames.of_budgets(budgets, now)
            answer = await self._asked(self._admission(asked, limited, paid, now), request_id)
            if answer is not None:
                return self._decision(answer, asked, limited, paid, now)
        return await self._admit_without(asked)

    @property
    def can_ask(self) -> bool:
        return self._link.open and not self._waiters

    def admit_soon(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        terms: TargetTerms,
        decided: Callable[[Reservation | None], None],
    ) -> None:
        asked, now = Asked(request_id, demand, limits, budgets, (terms,)), self._now()
        limited, paid = self.frames.of_limits(limits, now), self.frames.of_budgets(budgets, now)
        hearer = Hearer(self, asked, limits=limited, budgets=paid, now=now, decided=decided)
        self._link.ask_for(hearer, self._admission(asked, limited, paid, now))

    def _admission(self, asked: Asked, limits: Sequence[Frame], budgets: Sequence[Frame], now: float) -> Call:
        return (
            "admit",
            asked.id,
            limits_packed(limits, asked.demand),
            [frame.packed for frame in budgets],
            [self.frames.target(target, asked.demand, now) for target in asked.targets],
            self._lease_us,
        )

    async def _asked(self, call: Call, request_id: str) -> list[Any] | None:
        """The answer; None: there is none. Then what the call took, or takes later, is given back."""
        try:
            answer: list[Any] = await self._link.ask(call)
        except EpochChangedError:
            return None
        except LinkLostError:
            self._give_up(request_id)
            return None
        except asyncio.CancelledError:
            self._give_up(request_id)
            raise
        return answer

    def hear(self, hearer: Hearer, answer: list[Any]) -> None:
        """The answer to `admit_soon`."""
        reservation = None
        try:
            if answer[0] == "taken":
                decision = self._decision(answer, hearer.asked, hearer.limits, hearer.budgets, hearer.now)
                reservation = decision if isinstance(decision, Reservation) else None
        except Exception:
            logger.exception("Redis: an answer that says nothing")
            self._give_up(hearer.asked.id)
        hearer.decided(reservation)

    def hear_nothing(self, hearer: Hearer, error: BaseException) -> None:
        """There is no answer to `admit_soon`."""
        if not isinstance(error, EpochChangedError):
            self._give_up(hearer.asked.id)
        hearer.decided(None)

    def _give_up(self, request_id: str) -> None:
        self._link.post(("settle", request_id, "0", False, (), True))

    def _decision(
        self, answer: list[Any], asked: Asked, limits: Sequence[Frame], budgets: Sequence[Frame], now: float
    ) -> Reservation | Refusal:
        if self._waiters:
            self._waiters.tried(admitted=answer[0] == "taken")
        if answer[0] != "taken":
            return self._answers.refusal(answer, asked, now)
        reservation = self._answers.reservation(answer, asked, limits, budgets, now)
        self._open[asked.id] = OpenRequest(reservation, len(asked.budgets))
        return reservation

    async def _admit_without(self, asked: Asked) -> Reservation | Refusal:
        decision = await self._fallback.admit(asked)
        if not isinstance(decision, tuple):
            return decision
        reservation, local = decision
        self._open[asked.id] = OpenRequest(reservation, len(asked.budgets), local, outside=True)
        self._open.outside += 1
        return reservation

    async def move(self, reservation: Reservation, target: TargetTerms) -> Reservation | Refusal:
        opened = self._open.get(reservation.id)
        if opened is None:
            return reservation
        reservation = opened.reservation
        callers = tuple([window.budget for window in reservation.windows[: opened.callers]])
        if opened.outside or not self._link.open:
            return self._fallback.refuses_move(target, callers) or reservation
        now = self._now()
        windows = self._open.windows(opened, now)
        call = (
            "move",
            reservation.id,
            windows,
            self.frames.target(target, reservation.demand, now),
            self._lease_us,
        )
        try:
            answer = await self._link.ask(call)
        except (LinkLostError, EpochChangedError):
            # Whether it moved is unknown. What it holds stands in Redis, and its settling returns that.
            return self._fallback.refuses_move(target, callers) or reservation
        if answer[0] != "taken":
            asked = Asked(reservation.id, reservation.demand, (), callers, (target,))
            return self._answers.refusal(answer, asked, now)
        moved = self._answers.moved(opened, target, answer, now)
        opened.reservation = moved
        return moved

    # Settling.

    def settle(
        self,
        reservation: Reservation,
        *,
        cost_pico_usd: int,
        used: Tokens | None,
        budgets: tuple[BudgetRule, ...],
    ) -> None:
        opened = self._open.pop(reservation.id, None)
        if opened is None:
            return
        others = opened.others(budgets)
        if opened.outside:
            self._open.outside -= 1
            self._settle_outside(opened, cost_pico_usd, used, others)
            return
        now = self._now()
        self._link.post(
            (
                "settle",
                reservation.id,
                amount_text(cost_pico_usd),
                used_by_metric(used),
                self.frames.budgets(others, now) if others else (),
                False,
            )
        )

    def settle_orphans(self, orphans: Sequence[Orphan]) -> None:
        """Settle requests of workers that died, when Redis is there. Never waits."""
        for orphan in orphans:
            self._link.post(self._orphan(orphan))

    async def settle_orphan(self, orphan: Orphan) -> bool:
        """Settle a request of a worker that died, by what Redis holds for it; False: it holds nothing (any more).

        Raises:
            LinkLostError, EpochChangedError: Redis is away; ask again.
        """
        return bool(await self._link.ask(self._orphan(orphan)))

    @staticmethod
    def _orphan(orphan: Orphan) -> Call:
        cost, reserved = amount_text(orphan.cost_pico_usd), amount_text(orphan.reserved_pico_usd)
        return "settle", orphan.id, cost, used_by_metric(orphan.used), (), False, reserved

    def _settle_outside(
        self, opened: OpenRequest, cost_pico_usd: int, used: Tokens | None, others: Sequence[BudgetRule]
    ) -> None:
        """Redis does not know the request, so it is told what was used as soon as it is there."""
        if opened.local is not None:
            self._fallback.settle(opened.local, cost_pico_usd=cost_pico_usd, used=used)
        self._debts.add(opened.reservation, cost_pico_usd=cost_pico_usd, used=used, others=others, now=self._now())
        if self._link.open:
            self.resume()

    # Waiting for holds.

    async def hold_returned(self, timeout_s: float) -> bool:
        self._returns.look()
        return await self._waiters.wait(timeout_s)

    # What ledger and journals say.

    def seed(self, budget: BudgetRule, *, window_start: float, settled_pico_usd: int) -> None:
        for call in self._sowing.budget(budget, window_start, settled_pico_usd):
            self._link.post((*call, self._worker))

    def seed_limit(self, limit: Limit, *, window_start: float, used: int) -> None:
        for call in self._sowing.limit(limit, window_start, used):
            self._link.post(call)

    def restart(self, budget: BudgetRule) -> None:
        frame = self.frames.budget(budget, self._now())
        self._link.post(("restart", self._numbers.next(), frame.packed, self._worker))

    def count_anew(self, reason: str) -> None:
        """Make all counters anew from ledger and journals, now or when Redis is back."""
        self._epoch.end(reason)

    async def state(self, budget: BudgetRule) -> BudgetState:
        """Raises LinkLostError or EpochChangedError while Redis is away."""
        frame = self.frames.budget(budget, self._now())
        remaining, held = await self._link.ask(("state", frame.packed))
        return BudgetState(int(frame.packed[1]) - int(remaining) - int(held), int(held))

    async def limit_used(self, limit: Limit) -> int:
        """Raises LinkLostError or EpochChangedError while Redis is away."""
        used: int = await self._link.ask(("used", self.frames.limit(limit, self._now()).packed))
        return used

    # `redis_epoch.Counters`: what the epoch asks of the store.

    def seeds(self, totals: Totals) -> list[Call]:
        return self._sowing.all(totals)

    def begin(self) -> None:
        self._shares = True
        self._link.forget_posted()
        self._debts.forget()
        for call in self._open.kept(self._now()):
            self._link.post(call)

    def resume(self) -> None:
        self._shares = True
        for call in (*self._debts.take(self._now()), *self._open.let_in(self._now())):
            self._link.post(call)

    # For others that share what workers know.

    def command(self, *words: str | bytes | int) -> asyncio.Future[Any]:
        """The answer to an ordinary command on the same connection. Fails with `LinkLostError`."""
        return self._link.command(*words)

    # In the background.

    def sweep(self) -> None:
        """Forget what is as if never used, of what was counted without Redis. Called now and then."""
        self._fallback.sweep()

    def _knows_all(self) -> bool:
        """Whether Redis is told all that this worker settles, in the order in which it does."""
        return self._epoch.told and not self.unsent and not self._open.outside

    def _now(self) -> float:
        """The server's time, as far as it is known."""
        return self._clock.time() + self._ahead_s

    async def _connected(self) -> None:
        self._joining = True
        try:
            if not self._own_time:
                before = self._clock.time()
                server = await self._epoch.server_time_us() / 1e6
                self._ahead_s = server - (before + self._clock.time()) / 2
            await self.comparisons.register()
            await self._epoch.join()
        finally:
            self._joining = False

    def _lost(self) -> None:
        self._epoch.opened.clear()
        if self._shares:  # Else it was lost before, and what was left then is being used.
            self._shares = False
            self._fallback.begin()

    async def _watch(self) -> None:
        """Say that this worker lives and renew its slots, while there is Redis."""
        loop = asyncio.get_running_loop()
        watch_at = renew_at = loop.time()
        while True:
            await asyncio.sleep(POLL_S)
            if not self._link.open:
                continue
            try:
                if not self._epoch.opened.is_set():
                    await self._epoch.finish()
                if loop.time() >= watch_at:
                    watch_at = loop.time() + WATCH_S
                    await self._epoch.watch()
                    await self.comparisons.look()
                if loop.time() >= renew_at:
                    renew_at = loop.time() + RENEW_S
                    for call in self._open.renewals():
                        self._link.post(call)
            except (LinkLostError, EpochChangedError):
                continue  # The link has said so, and connects again.
            except Exception:  # Without this task the worker would be taken for dead.
                logger.exception("Redis: saying that this worker lives met an unexpected error")


__all__ = ["RedisStore"]
