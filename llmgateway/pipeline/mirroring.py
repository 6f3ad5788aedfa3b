"""Copies of requests for another alias, to compare models on real traffic. Nobody gets their answers.

A copy is admitted and settled as any request, under an account of its own: it counts for what binds everybody and for
the alias that is asked, never for the caller. It neither delays nor fails the request that it copies.
"""

from __future__ import annotations

import asyncio
import logging
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.hedging import HEDGED
from llmgateway.pipeline.recorder import Nobody
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import BudgetRule, ForeignKey, Key, Limit

if TYPE_CHECKING:
    from llmgateway.pipeline.call import Call
    from llmgateway.pipeline.gateway import Gateway

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 64
"""Of one worker; beyond it copies are left out and counted."""
ACCOUNT = "mirror"
"""The key that rows of copies name. The row of the request that is copied says whose it was."""
SUFFIX = "_mir"
"""What the id of a copy ends with."""
LAST_PRIORITY = -1000
"""Everybody else comes first."""


class _Unwatched:
    """The presence of nobody, who never leaves."""

    client_left = False

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task

    def watch(self) -> None:
        """There is nothing to see."""


class Mirroring:
    """Sends copies. One per process, used from the event loop alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._running: set[asyncio.Task[None]] = set()
        self._due: dict[int, float] = {}
        """How much of a copy each alias has saved up."""

    def __len__(self) -> int:
        return len(self._running)

    def copy(self, call: Call) -> None:
        """Ask another alias what this request asks, if it is its turn. Returns at once."""
        rule, request = call.alias.mirror, call.request
        if rule is None or not self._may_be_copied(call) or not self._is_due(call.alias.id, rule.share):
            return
        figures = self._gateway.telemetry.figures
        if len(self._running) >= MOST_AT_ONCE or self._gateway.turns.queued:
            figures.mirrors["dropped"] += 1
            return
        figures.mirrors["asked"] += 1
        task = asyncio.create_task(self._ask(_copy(request), _account(call.key), rule.alias))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        """The process ends: copies that run are settled by what is known of them."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @staticmethod
    def _may_be_copied(call: Call) -> bool:
        """Not what leaves anything behind, what goes on from something, what is paid elsewhere, nor copies."""
        request = call.request
        if request.mirror_of or request.dialect.operation not in HEDGED or isinstance(call.key, ForeignKey):
            return False
        return request.state is None or not (request.state.follows or request.state.held_by)

    def _is_due(self, alias_id: int, share: float) -> bool:
        """The share is kept exactly, by counting: of 0.25 every fourth."""
        due = self._due.get(alias_id, 0.0) + share
        # A tenth ten times is a little less than one.
        is_due = due > 1.0 - 1e-9
        self._due[alias_id] = due - 1.0 if is_due else due
        return is_due

    async def _ask(self, request: ModelRequest, account: Key, alias: str) -> None:
        gateway = self._gateway
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a copy is asked in a task")
        now = gateway.clock.monotonic()
        request = msgspec.structs.replace(request, received=now, authenticated=now, started_at=gateway.clock.time())
        try:
            named = msgspec.structs.replace(request, head=msgspec.structs.replace(request.head, model=alias))
            routed = await gateway.routed(named, account)
            await gateway.ask(request, account, Nobody(), _Unwatched(task), routed=routed)
        except GatewayError as error:
            gateway.telemetry.figures.mirrors["refused"] += 1
            logger.info("a copy of a request for '%s' was refused: %s", alias, error.message)
        except Exception:
            gateway.telemetry.figures.mirrors["failed"] += 1
            logger.exception("a copy of a request for '%s' could not be asked", alias)


def _copy(request: ModelRequest) -> ModelRequest:
    """The same for a model, without anything that says who asked."""
    return msgspec.structs.replace(
        request,
        id=request.id + SUFFIX,
        mirror_of=request.id,
        client_ip="",
        client_request_id="",
        end_user="",
        provider="",
        verbatim=None,
        timeout_s=None,
        queued_s=0.0,
        state=None,
        spending=None,
    )


def _account(key: Key) -> Key:
    """Who pays for copies: nobody but those whose budgets are everybody's."""
    return _account_of(
        tuple([limit for limit in key.limits if not limit.owner and limit.scope == "global"]),
        tuple([budget for budget in key.budgets if not budget.owner and budget.scope == "global"]),
    )


@lru_cache(maxsize=64)
def _account_of(limits: tuple[Limit, ...], budgets: tuple[BudgetRule, ...]) -> Key:
    """The same object every time: what binds a key is remembered by it."""
    return Key(
        id=ACCOUNT,
        public_id="",
        name=ACCOUNT,
        team_id=0,
        team_name="",
        limits=limits,
        budgets=budgets,
        priority=LAST_PRIORITY,
    )
