"""Which counters in Redis are valid, who counts in them, and how lost ones are made anew.

An epoch is one life of the counters. It ends when Redis was emptied, restarted or replaced by a replica; then one
worker sums ledger and journals into new counters, and every worker adds what only it knows: the rest of its own
journal, and the requests that run.

    lost → (lock) summing → reporting: strict budgets and token quotas closed → open
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_link import LARGEST_BATCH, Call, LinkLostError, RedisLink

logger = logging.getLogger(__name__)

LOCK_MS = 5000
POLL_S = 0.05
REPORT_S = 2.0
"""How long strict budgets wait for all workers to say what they hold."""
PRESENT_S = 5.0
"""A worker that was not heard of for so long is gone."""
TRY_AGAIN_S = 0.5


class Totals(msgspec.Struct):
    """What ledger and journals say was used, for counters that begin anew."""

    budgets: Sequence[tuple[BudgetRule, float, int]] = ()
    """Budget, start of the window, pico-dollars settled in it."""
    limits: Sequence[tuple[Limit, float, int]] = ()
    """Limit, start of the window, how much of it was used."""
    offsets: str = ""
    """How far every journal is contained, in words of whoever reads them."""
    idle: bool = False
    """No request ran in the last minutes, so rates begin unused. Otherwise they begin as if used up."""


class Recount(Protocol):
    """What counters are made from when they are lost."""

    async def totals(self) -> Totals:
        """Everything that ledger and journals know. Asked of one worker."""
        ...

    def mark(self) -> Any:
        """Where this worker's journal ends now. Never waits: from here on the counters are told of each settlement."""
        ...

    async def beyond(self, offsets: str, mark: Any) -> Totals:
        """What this worker's journal holds between `offsets` (of `totals`) and `mark`. Asked of every worker."""
        ...


class Counters(Protocol):
    """What the epoch asks of the store."""

    def seeds(self, totals: Totals) -> list[Call]:
        """The calls that make counters say what `totals` says."""
        ...

    def begin(self) -> None:
        """The counters are new: tell them of every request that runs, and nothing of what was settled before."""
        ...

    def resume(self) -> None:
        """The counters are those of before: tell them what happened meanwhile."""
        ...


_OPEN = """
if redis.call('HGET', KEYS[1], 'id') == ARGV[1] then redis.call('HSET', KEYS[1], 'state', 'open') end
"""
_END = """
if redis.call('HGET', KEYS[1], 'id') == ARGV[1] then redis.call('HDEL', KEYS[1], 'run_id') end
"""
_UNLOCK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class Epoch:
    """This worker's part in the life of the counters."""

    def __init__(
        self, link: RedisLink, counters: Counters, recount: Recount | None, worker: str, namespace: str
    ) -> None:
        self._link = link
        self._counters = counters
        self._recount = recount
        self.worker = worker
        self.workers = 1
        """How many were seen last."""
        self.opened = asyncio.Event()
        """Every worker has said what it holds, or had time enough. Until then strict budgets are closed."""
        self._born_us = 0
        self.told = True
        """The counters know what this worker settled before they began."""
        self._untold: tuple[str, Any] | None = None
        """Offsets and mark between which this worker's journal was not added yet."""
        self._run_id = ""
        self._distrusted = False
        self._clearing: asyncio.Task[None] | None = None
        self.prefix = f"{{{namespace}}}:"

    async def join(self) -> None:
        """Count in valid counters from now on; makes them if there are none.

        Raises:
            LinkLostError: Redis went away meanwhile, or may not be written.
        """
        self._run_id = await self._check_server()
        if not self._born_us:
            self._born_us = await self.server_time_us()
        while True:
            await self.register()
            known = await self._known()
            valid = known.get("run_id") == self._run_id
            if valid and self._distrusted and known.get("id") == self._link.epoch:
                await self._link.command("EVAL", _END, 1, self._link.epoch_key, self._link.epoch)
                continue
            if valid:
                self._distrusted = False
                break
            if not await self._make():
                await asyncio.sleep(POLL_S)
        if known["id"] == self._link.epoch:
            self._counters.resume()
            self._link.release()
        else:
            self._begin(known)
        self.opened.clear()
        await self._report()
        await self.finish()

    def end(self, reason: str) -> None:
        """These counters cannot be made right, so that all are made anew, now or when Redis is back."""
        self._distrusted = True
        if self._link.open:
            self._link.break_off(reason)

    async def watch(self) -> None:
        """Once a second: say that this worker lives, and look whether Redis is still the one it was."""
        await self.register()
        if await self._check_server() != self._run_id:
            self._link.break_off("it was restarted or replaced")
        await self._report()

    async def finish(self) -> None:
        """While workers report: open strict budgets when all have, or after a while."""
        known = await self._known()
        if known.get("id") != self._link.epoch:
            self._link.break_off("the counters are gone or were made anew")
            return
        if known["state"] != "open":
            waited_s = (await self.server_time_us() - int(known["since"])) / 1e6
            present = await self.present()
            reported = set(await self._link.command("SMEMBERS", f"{self.prefix}{self._link.epoch}:reported"))
            if waited_s < REPORT_S and not present <= reported:
                return
            await self._link.command("EVAL", _OPEN, 1, self._link.epoch_key, known["id"])
        self.opened.set()

    async def server_time_us(self) -> int:
        seconds, micros = await self._link.command("TIME")
        return int(seconds) * 1_000_000 + int(micros)

    async def register(self) -> None:
        """Say that this worker lives, and count who else does."""
        workers = self.prefix + "workers"
        now_ms = await self.server_time_us() // 1000
        await self._link.command("ZADD", workers, now_ms, self.worker)
        await self._link.command("ZREMRANGEBYSCORE", workers, "-inf", now_ms - int(PRESENT_S * 1000))
        self.workers = max(1, await self._link.command("ZCARD", workers))

    async def present(self) -> set[bytes]:
        """The names of all workers that live."""
        return set(await self._link.command("ZRANGE", self.prefix + "workers", 0, -1))

    async def leave(self) -> None:
        if self._clearing is not None:
            await self._clearing
        await self._link.command("ZREM", self.prefix + "workers", self.worker)

    async def _check_server(self) -> str:
        """What tells its data from any other's: its run, and its history, which is another one after it was a replica.

        A replica's counters are not for counting.
        """
        facts: dict[str, str] = {}
        for section in ("server", "replication"):
            text = (await self._link.command("INFO", section)).decode()
            facts |= dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if facts.get("role") != "master":
            self._link.break_off(f"its role is {facts.get('role')}, and only a master's counters are valid")
            raise LinkLostError("a replica")
        return f"{facts['run_id']}:{facts.get('master_replid', '')}"

    async def _known(self) -> dict[str, str]:
        raw = await self._link.command("HGETALL", self._link.epoch_key)
        pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
        return {name.decode(): value.decode() for name, value in pairs}

    # Making counters anew.

    async def _make(self) -> bool:
        """Sum up and publish; False: another worker does, or it failed and is tried again."""
        lock = self.prefix + "lock"
        if not await self._link.command("SET", lock, self.worker, "NX", "PX", LOCK_MS):
            return False
        try:
            totals = await self._summed(lock)
            if totals is None:
                return False
            await self._publish(totals)
        finally:
            await self._link.command("EVAL", _UNLOCK, 1, lock, self.worker)
        return True

    async def _summed(self, lock: str) -> Totals | None:
        if self._recount is None:
            return Totals(idle=True)
        summing = asyncio.ensure_future(self._recount.totals())
        try:
            while not summing.done():
                await asyncio.wait({summing}, timeout=LOCK_MS / 5000)
                await self._link.command("SET", lock, self.worker, "XX", "PX", LOCK_MS)
                await self.register()
            return summing.result()
        except LinkLostError:
            raise
        except Exception:  # Whatever ails the database, the counters stay closed and it is asked again.
            logger.exception("The counters in Redis cannot be made anew yet; trying again")
            await asyncio.sleep(TRY_AGAIN_S)
            return None
        finally:
            summing.cancel()

    async def _publish(self, totals: Totals) -> None:
        epoch = secrets.token_hex(4)
        seeds = self._counters.seeds(totals)
        for start in range(0, len(seeds), LARGEST_BATCH):
            await self._link.run_script(epoch, seeds[start : start + LARGEST_BATCH], "summing")
        since = await self.server_time_us()
        words: dict[str, str | int] = {
            "id": epoch,
            "run_id": self._run_id,
            "state": "reporting",
            "since": since,
            "offsets": totals.offsets,
            "rates_from": 0 if totals.idle else since,
        }
        before = (await self._known()).get("id")
        await self._link.command("DEL", self._link.epoch_key)
        await self._link.command("HSET", self._link.epoch_key, *[word for pair in words.items() for word in pair])
        if before:
            self._clearing = asyncio.create_task(self._clear(before))
        logger.warning("The counters in Redis were made anew: epoch %s, %d sums", epoch, len(seeds))

    async def _clear(self, epoch: str) -> None:
        """Remove what is left of an epoch that is over; its totals would never expire."""
        cursor = b"0"
        try:
            while True:
                cursor, names = await self._link.command(
                    "SCAN", cursor, "MATCH", f"{self.prefix}{epoch}:*", "COUNT", 1000
                )
                if names:
                    await self._link.command("UNLINK", *names)
                if cursor == b"0":
                    return
        except LinkLostError:
            logger.warning("Counters of the epoch %s are left in Redis; they do no harm but take space", epoch)

    def _begin(self, known: dict[str, str]) -> None:
        """Count in these counters from now on. Nothing may come between these steps.

        What is settled before the mark is in the journal's part, what is settled after it the counters are told.
        """
        first_life = int(known["since"]) < self._born_us
        if self._recount is not None and not first_life:
            self._untold = known["offsets"], self._recount.mark()
        self._link.epoch = known["id"]
        self.told = False
        self._counters.begin()
        self._link.release()

    async def _report(self) -> None:
        """Tell the counters what only this worker knows, and that it has."""
        if self.told:
            return
        if self._untold is not None and self._recount is not None:
            try:
                own = await self._recount.beyond(*self._untold)
            except Exception:  # The journal or the database cannot be read now; asked again by `watch`.
                logger.exception("What this worker settled lately is not counted in Redis yet; trying again")
                return
            self._untold = None
            for call in self._counters.seeds(own):
                self._link.post(call)
        await self._link.ask(("returned", ()))  # What was posted before has arrived when this is answered.
        reported = f"{self.prefix}{self._link.epoch}:reported"
        await self._link.command("SADD", reported, self.worker)
        await self._link.command("PEXPIRE", reported, 3_600_000)
        self.told = True
