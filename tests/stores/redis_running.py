"""The Redis store as a worker runs it, and rules to ask it with."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from billing.windows import load_zone
from llmgateway.pipeline.protocols import Refusal, Reservation, StrictHold, TargetTerms, Tokens
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_epoch import Recount, Totals
from llmgateway.stores.redis_fallback import Policy
from llmgateway.stores.redis_store import RedisStore
from tests.stores.redis_server import RedisServer

load_zone("UTC")

RATE = Limit("limit:1", "1000 requests per minute", "key", 1000, 1000)
AT_ONCE = Limit("limit:2", "2 at once", "key", 2, 2, metric="concurrency", per="")
QUOTA = Limit("limit:3", "1000 tokens in total", "key", 1000, 1000, metric="tokens", per="total")
DAILY = Limit("limit:4", "100 requests per day", "key", 100, 100, per="day")
TOTAL = BudgetRule(1, "total", "global", "", "total", 1000, "UTC")
STRICT = BudgetRule(2, "strict", "key", "1", "total", 1000, "UTC", strict=True)


class Soon(RedisStore):
    """Asks without a task that waits wherever it can, and goes on as the short way of requests does."""

    async def admit(
        self,
        request_id: str,
        *,
        demand: Tokens,
        limits: tuple[Limit, ...],
        budgets: tuple[BudgetRule, ...],
        targets: Sequence[TargetTerms],
    ) -> Reservation | Refusal:
        first = targets[0]
        if self.can_ask and len(targets) == 1 and not first.limits and not first.budgets:
            answer: asyncio.Future[Reservation | None] = asyncio.get_running_loop().create_future()
            self.admit_soon(
                request_id, demand=demand, limits=limits, budgets=budgets, terms=first, decided=answer.set_result
            )
            if (taken := await answer) is not None:
                return taken
        return await super().admit(request_id, demand=demand, limits=limits, budgets=budgets, targets=targets)


class WallClock:
    """This machine's time."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


@asynccontextmanager
async def running(
    server: RedisServer,
    *,
    policy: Policy = "local",
    recount: Recount | None = None,
    timeout_s: float = 0.075,
    lease_s: float = 30.0,
    kind: type[RedisStore] = RedisStore,
) -> AsyncIterator[RedisStore]:
    store = kind(server.url, WallClock(), policy=policy, recount=recount, timeout_s=timeout_s, lease_s=lease_s)
    store.start()
    assert await store.ready()
    yield store
    await store.stop()


_numbers = iter(range(10**9))


async def ask(
    store: RedisStore,
    limits: tuple[Limit, ...] = (),
    budgets: tuple[BudgetRule, ...] = (),
    *,
    hold: int = 0,
    strict: StrictHold | None = None,
) -> Reservation | Refusal:
    return await store.admit(
        f"req_{os.getpid()}_{next(_numbers)}",
        demand=Tokens(1, 1),
        limits=limits,
        budgets=budgets,
        targets=(TargetTerms(expected_pico_usd=hold, strict=strict),),
    )


async def admitted(store: RedisStore, *args: Any, **kwargs: Any) -> Reservation:
    decision = await ask(store, *args, **kwargs)
    assert isinstance(decision, Reservation), decision
    return decision


async def until(store: RedisStore, *modes: str, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while store.mode not in modes:  # noqa: ASYNC110  # Of modes there is no event.
            await asyncio.sleep(0.005)


class Ledger:
    """What a ledger and one journal would say."""

    def __init__(self, settled: int = 0, *, idle: bool = False) -> None:
        self.settled = settled
        self.own = 0
        self.idle = idle
        self.failing = 0
        self.asked = 0

    async def totals(self) -> Totals:
        self.asked += 1
        if self.failing:
            self.failing -= 1
            raise ConnectionError("the database is away")
        return Totals([(TOTAL, 0.0, self.settled), (STRICT, 0.0, self.settled)], [], "{}", self.idle)

    def mark(self) -> int:
        return self.own

    async def beyond(self, offsets: str, mark: int) -> Totals:
        return Totals([(TOTAL, 0.0, mark)])
