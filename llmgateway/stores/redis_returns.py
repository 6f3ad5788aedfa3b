"""Wakes those who wait for a hold to return, whichever worker returned it."""

from __future__ import annotations

import asyncio

from llmgateway.stores.redis_link import EpochChangedError, LinkLostError, RedisLink
from llmgateway.stores.waiting import Waiters

LOOK_S = 0.01
"""How often Redis is asked, while somebody waits."""
MOST = 64
"""Waiters that one look wakes for a window."""


class Returns:
    """Looks at the windows that somebody waits for; sleeps while nobody does."""

    def __init__(self, link: RedisLink, waiters: Waiters) -> None:
        self._link = link
        self._waiters = waiters
        self._counts: dict[str, int] = {}
        """How often something of a window had returned when it was looked at last."""
        self._looking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Somebody waits from now on."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        self._counts.clear()
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._waiters:
                return
            windows = self._waiters.windows()
            if not windows or not self._link.open:
                continue
            try:
                found = await self._link.ask(("returned", windows))
            except (LinkLostError, EpochChangedError):
                continue
            for window, count in zip(windows, found, strict=True):
                for _ in range(min(MOST, count - self._counts.get(window, 0))):
                    self._waiters.returned(window)
                self._counts[window] = count
