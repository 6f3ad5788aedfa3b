"""Delivers what is due, to all reporters at once: a slow or dead receiver keeps nobody else waiting.

Network I/O runs on an event loop of its own, everything with our database in one thread beside it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from billing.reporters import claims
from billing.reporters.claims import Outcome, Result
from billing.reporters.database import UsageTable
from billing.reporters.models import Delivery, UsageReporter
from billing.reporters.webhook import Webhook
from llmgateway.http import httpx

T = TypeVar("T")

CONCURRENCY = 16
"""Requests to one receiver at once."""
REQUESTS_PER_ROUND = 64
"""Taken at once. Four turns of ten seconds stay below the lease."""
ROWS_PER_ROUND = 1000
"""Of a database, or of a webhook in batches."""
LOOK_AGAIN_S = 1.0
MAX_RUN_S = 30.0

NOT_TRIED = Outcome(tried=False)

SendAll = Callable[[list[Delivery]], Awaitable[list[Result]]]


def _now() -> datetime:
    return datetime.now(UTC)


class Courier:
    """One run over the outbox. `stop` ends it early; what is under way is finished first."""

    def __init__(
        self,
        *,
        using: str = "default",
        stop: threading.Event | None = None,
        now: Callable[[], datetime] = _now,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._using = using
        self._stop = stop or threading.Event()
        self._now = now
        self._transport = transport
        self._delivered = 0
        self._ends_at = 0.0

    def run(self, *, for_s: float = MAX_RUN_S) -> int:
        """Delivers until nothing is due, or for about so many seconds. Returns how many events were delivered."""
        self._ends_at = time.monotonic() + for_s
        with ThreadPoolExecutor(1, thread_name_prefix="outbox") as thread:
            self._thread = thread
            try:
                if thread.submit(self._due).result():
                    asyncio.run(self._run())
            finally:
                thread.submit(connections.close_all).result()
        return self._delivered

    def _due(self) -> list[UsageReporter]:
        return claims.due_reporters(self._now(), using=self._using)

    @property
    def _over(self) -> bool:
        return self._stop.is_set() or time.monotonic() >= self._ends_at

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _run(self) -> None:
        running: dict[int, asyncio.Task[None]] = {}
        failure: BaseException | None = None
        while True:
            if not self._over and failure is None:
                # Others may have become due while somebody is slow.
                for reporter in await self._in_thread(self._due):
                    if reporter.pk not in running:
                        running[reporter.pk] = asyncio.create_task(self._serve(reporter))
            if not running:
                break
            done, _ = await asyncio.wait(running.values(), timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            running = {pk: task for pk, task in running.items() if task not in done}
            failure = failure or next((task.exception() for task in done if task.exception()), None)
        # Only now: what others had under way must be written down, or it would be sent again.
        if failure is not None:
            raise failure

    async def _serve(self, reporter: UsageReporter) -> None:
        """Round after round to one receiver, while something arrives."""
        try:
            if reporter.is_webhook:
                async with Webhook(reporter, transport=self._transport) as webhook:
                    await self._rounds(reporter, lambda deliveries: self._post_all(reporter, webhook, deliveries))
            else:
                table = UsageTable(reporter)
                await self._rounds(reporter, lambda deliveries: self._write_all(table, deliveries))
        except ImproperlyConfigured as error:
            text = str(error)
            await self._in_thread(lambda: claims.note_unusable(reporter, text, self._now(), using=self._using))

    async def _rounds(self, reporter: UsageReporter, send_all: SendAll) -> None:
        most = REQUESTS_PER_ROUND if reporter.is_webhook and reporter.batch_size == 1 else ROWS_PER_ROUND
        while not self._over:
            deliveries = await self._in_thread(
                lambda: claims.claim(reporter, self._now(), most=most, using=self._using)
            )
            if not deliveries:
                return
            results = await send_all(deliveries)
            await self._in_thread(lambda: claims.settle(reporter, results, self._now(), using=self._using))  # noqa: B023  # awaited at once
            delivered = sum(outcome.ok for _, outcome in results)
            self._delivered += delivered
            if not delivered:
                return

    async def _post_all(
        self, reporter: UsageReporter, webhook: Webhook, deliveries: Sequence[Delivery]
    ) -> list[Result]:
        """In batches, so many at once. Once the receiver proves to be away, those that have not begun are left."""
        size = reporter.batch_size
        batches = [deliveries[start : start + size] for start in range(0, len(deliveries), size)]
        slots = asyncio.Semaphore(CONCURRENCY)
        away = asyncio.Event()

        async def post(batch: Sequence[Delivery]) -> list[Result]:
            async with slots:
                outcome = NOT_TRIED if away.is_set() else await webhook.send(batch)
            if outcome.unavailable or outcome.gone:
                away.set()
            return [(delivery, outcome) for delivery in batch]

        return [result for results in await asyncio.gather(*map(post, batches)) for result in results]

    async def _write_all(self, table: UsageTable, deliveries: Sequence[Delivery]) -> list[Result]:
        outcome = await asyncio.to_thread(table.write, deliveries)
        return [(delivery, outcome) for delivery in deliveries]
