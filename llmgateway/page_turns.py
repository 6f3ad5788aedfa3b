"""Pages that are made in the server itself are made one after the other, for apps' requests share the interpreter.

That is while there is no process for them (`llmgateway.pages`). Each page is made in a thread. While several of them are at
work, the event loop waits for all of them in turn whenever it wants to go on, ten times in a request: four readers without
rest made requests 35 ms slower at the median, and one after the other 2 ms. They hardly wait for each other longer, for
only one of them can run at a time anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from llmgateway.api.asgi_types import Receive, Scope, Send

AT_ONCE = 1
PATIENCE_S = 0.5
"""A page that waits for a database or a provider must not keep the others from being made for longer."""

Application = Callable[[Scope, Receive, Send], Awaitable[Any]]


class PageTurns:
    """An ASGI application whose requests are given to another one in turn. Used from one event loop."""

    def __init__(self, application: Application, *, at_once: int = AT_ONCE, patience_s: float = PATIENCE_S) -> None:
        self._application = application
        self._turns = asyncio.Semaphore(at_once)
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_turn = await self._wait()

        def give_back() -> None:
            nonlocal has_turn
            if has_turn:
                has_turn = False
                self._turns.release()

        async def watched(message: Any) -> None:
            # It is made; what is left is its way to a client that may be slow, or a download as long as a table.
            give_back()
            await send(message)

        try:
            await self._application(scope, receive, watched)
        finally:
            give_back()

    async def _wait(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                return await self._turns.acquire()
        return False
