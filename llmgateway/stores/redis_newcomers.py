"""Rules that are new while requests run: shared counters begin with what was really used, each request counted once.

Every worker learns of a rule at its own moment. Whoever comes first sums up the ledger; what of a worker's journal was
not in the ledger then, up to the moment from which that worker counts for the rule, it adds itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_epoch import POLL_S, Epoch, Totals
from llmgateway.stores.redis_link import Call, EpochChangedError, LinkLostError, RedisLink
from llmgateway.stores.redis_terms import Frames

AT_ONCE = 200
"""Rules in one call: Redis does nothing else meanwhile."""
SUMMED_S = 8.0
"""How long the others wait for the sums of whoever came first."""
ALL_SAID_S = 1.5
"""How long strict budgets wait for the other workers, one of which may have died."""
KEPT_MS = 120_000

Rule = BudgetRule | Limit


@dataclass(frozen=True, slots=True)
class Claim:
    """What this worker asked to sum up, before it counted for these rules."""

    id: str
    epoch: str
    rules: Sequence[Rule]
    answers: Sequence[asyncio.Future[list[str]]]


class Newcomers:
    """This worker's part in beginning counters of new rules. Everything runs on the event loop."""

    def __init__(
        self,
        link: RedisLink,
        frames: Frames,
        epoch: Epoch,
        *,
        seeds: Callable[[Totals], list[Call]],
        now: Callable[[], float],
    ) -> None:
        self._link = link
        self._frames = frames
        self._epoch = epoch
        self._seeds = seeds
        self._now = now
        self._claims = 0

    def claim(self, rules: Sequence[Rule]) -> Claim:
        """Never waits: what is counted from here on reaches Redis after it."""
        self._claims += 1
        name = f"{self._epoch.worker}:{self._claims}"
        now = self._now()
        packed = [self._packed(rule, now) for rule in rules]
        answers = [
            self._link.ask(("claim", packed[start : start + AT_ONCE], name)) for start in range(0, len(packed), AT_ONCE)
        ]
        return Claim(name, self._link.epoch, rules, answers)

    async def owners(self, claim: Claim) -> dict[str, list[Rule]]:
        """Who sums up which of the rules.

        Raises:
            LinkLostError, EpochChangedError: nobody knows; begin all counters anew.
        """
        found: dict[str, list[Rule]] = {}
        names = [name for part in await asyncio.gather(*claim.answers) for name in part]
        for rule, name in zip(claim.rules, names, strict=True):
            found.setdefault(name, []).append(rule)
        return found

    async def publish(self, claim: Claim, totals: Totals) -> None:
        """The ledger's sums, and how far they reach."""
        await self._tell(claim, totals)
        await self._link.command("SET", self._key(claim, "summed", claim.id), totals.offsets, "PX", KEPT_MS)

    async def offsets(self, claim: Claim, owner: str) -> str:
        """How far the sums of `owner` reach.

        Raises:
            TimeoutError: it has not summed up; it may have died.
        """
        async with asyncio.timeout(SUMMED_S):
            while True:
                offsets: bytes | None = await self._link.command("GET", self._key(claim, "summed", owner))
                if offsets is not None:
                    return offsets.decode()
                await asyncio.sleep(POLL_S)

    async def add(self, claim: Claim, owner: str, own: Totals) -> None:
        """What this worker's journal has beyond the sums of `owner`."""
        await self._tell(claim, own)
        said = self._key(claim, "said", owner)
        await self._link.command("SADD", said, self._epoch.worker)
        await self._link.command("PEXPIRE", said, KEPT_MS)

    async def all_said(self, claim: Claim, owners: Sequence[str]) -> None:
        """Wait until every worker has added its part, for a while."""
        until = time.monotonic() + ALL_SAID_S
        for owner in owners:
            while time.monotonic() < until:
                said = set(await self._link.command("SMEMBERS", self._key(claim, "said", owner)))
                if await self._epoch.present() <= said:
                    break
                await asyncio.sleep(POLL_S)

    async def _tell(self, claim: Claim, totals: Totals) -> None:
        if self._link.epoch != claim.epoch or not self._link.open:
            raise LinkLostError("the counters were lost meanwhile")
        for call in self._seeds(totals):
            self._link.post(call)
        await self._link.ask(("returned", ()))  # What was posted before has arrived when this is answered.
        if self._link.epoch != claim.epoch:
            raise EpochChangedError("the counters were made anew meanwhile")

    def _packed(self, rule: Rule, now: float) -> tuple[str, object]:
        if isinstance(rule, BudgetRule):
            return "budget", self._frames.budget(rule, now).packed
        return "limit", self._frames.limit(rule, now).name

    def _key(self, claim: Claim, kind: str, owner: str) -> str:
        return f"{self._epoch.prefix}{claim.epoch}:{kind}:{owner}"
