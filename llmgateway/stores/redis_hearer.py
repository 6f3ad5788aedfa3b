"""Who goes on with a request as soon as Redis has decided, without a task that waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from llmgateway.pipeline.protocols import Reservation
from llmgateway.stores.redis_terms import Asked, Frame

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """Who knows what an answer means, and tells it to `Hearer.decided`."""

    def hear(self, hearer: Hearer, answer: list[Any]) -> None: ...

    def hear_nothing(self, hearer: Hearer, error: BaseException) -> None: ...


class Hearer:
    """In the place of a future, of which `redis_link` uses these three."""

    __slots__ = ("_is_done", "_reader", "asked", "budgets", "decided", "limits", "now")

    def __init__(
        self,
        reader: Reader,
        asked: Asked,
        *,
        limits: Sequence[Frame],
        budgets: Sequence[Frame],
        now: float,
        decided: Callable[[Reservation | None], None],
    ) -> None:
        self._reader = reader
        self._is_done = False
        self.asked = asked
        self.limits = limits
        self.budgets = budgets
        self.now = now
        self.decided = decided

    def done(self) -> bool:
        return self._is_done

    def set_result(self, answer: list[Any]) -> None:
        """Goes on at once; others whose answers came with this one wait for that as they would for a task."""
        self._is_done = True
        try:
            self._reader.hear(self, answer)
        except Exception:
            logger.exception("a request could not go on from what Redis said", extra={"request_id": self.asked.id})

    def set_exception(self, error: BaseException) -> None:
        """Goes on a moment later, for the connection is just being given up."""
        self._is_done = True
        asyncio.get_running_loop().call_soon(self._reader.hear_nothing, self, error)
