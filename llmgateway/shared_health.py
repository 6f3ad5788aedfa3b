"""What workers know of deployments' health, shared through Redis in the background: never waited for by a request.

A hash holds circuits and findings of probes, the latest of each wins, and what each worker has seen fail that has opened
no circuit yet; a number beside it says when to read it again. The worker that lets a request try a half-open deployment holds a key meanwhile, and so does the one that
probes. Without Redis every worker goes by what it sees itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable
from typing import Any, Protocol

import msgspec

from llmgateway.pipeline.health import Health
from llmgateway.pipeline.standings import SharedCircuit, SharedProbe, SharedTally
from llmgateway.stores.redis_link import LinkLostError

logger = logging.getLogger(__name__)

POLL_S = 0.4
"""How often it is asked whether others have something to tell."""
TRIAL_LEASE_S = 5.0
"""A trial whose worker was not heard of for so long is over."""
UNUSED_S = 1.0
"""How long a worker may wait for a request that tries, before another may."""
ASK_AGAIN_S = 0.2
KEPT_S = 86_400
TALLY_KEPT_S = 3_600
"""What a worker has seen is of no use to others by then; it may be gone."""
LEAVE_S = 0.3

_TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_GIVE_BACK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class Commands(Protocol):
    """`RedisStore`, as far as it is needed here."""

    def command(self, *words: str | bytes | int) -> Awaitable[Any]:
        """The answer; fails with `LinkLostError`."""
        ...


class _Held(msgspec.Struct):
    """A deployment that this worker may try."""

    since: float
    renewed: float
    used: bool = False


class SharedHealth:
    """Implements `sharing.Sharing` and `probes.Leases`. Belongs to one event loop; `start` and `stop` it there."""

    def __init__(self, redis: Commands, health: Health, *, namespace: str = "gateway") -> None:
        self._redis = redis
        self._health = health
        self._hash = f"{{{namespace}}}:health"
        self._version_key = f"{{{namespace}}}:health:version"
        self._worker = secrets.token_hex(8)
        self._loop = asyncio.get_running_loop()
        self._stir = asyncio.Event()
        self._version: bytes | None = None
        self._away = True
        self._changed: set[int] = set()
        self._counted: set[int] = set()
        self._wanted: set[int] = set()
        self._refused_until: dict[int, float] = {}
        self._held: dict[int, _Held] = {}
        self._freed: set[int] = set()
        self._probing: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._health.sharing = self
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Let others try and probe what this worker did."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._tell()
                for number in self._held.keys() | self._freed:
                    await self._give_back(self._trial_key(number))
                for number in self._probing:
                    await self._give_back(self._prober_key(number))
        except (LinkLostError, TimeoutError):
            logger.info("Redis: left without saying so; other workers probe when this one's turn has run out")

    # `sharing.Sharing`.

    def may_try(self, number: int) -> bool:
        if self._away or number in self._held:
            return True
        if self._refused_until.get(number, 0.0) <= self._loop.time():
            self._wanted.add(number)
            self._stir.set()
        return False

    def trial_began(self, number: int) -> None:
        if (held := self._held.get(number)) is not None:
            held.used = True

    def trial_ended(self, number: int) -> None:
        if self._held.pop(number, None) is not None:
            self._freed.add(number)
            self._stir.set()

    def changed(self, number: int) -> None:
        self._changed.add(number)
        self._stir.set()

    def counted(self, number: int) -> None:
        self._counted.add(number)

    # `probes.Leases`.

    async def may_probe(self, number: int, lease_s: float) -> bool:
        try:
            mine = await self._take(self._prober_key(number), lease_s)
        except LinkLostError:
            return True
        if mine:
            self._probing.add(number)
        else:
            self._probing.discard(number)
        return mine

    # In the background.

    async def _run(self) -> None:
        while True:
            try:
                await self._exchange()
            except LinkLostError:
                self._lost()
                await asyncio.sleep(POLL_S)
            except Exception:  # Without this task the workers would drift apart.
                logger.exception("Redis: sharing the health of deployments met an unexpected error")
                await asyncio.sleep(POLL_S)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._stir.wait()
            except TimeoutError:
                continue

    async def _exchange(self) -> None:
        """Tell, then give back, then ask: whoever gets the next turn knows what came of the last."""
        self._stir.clear()
        if self._away:
            self._changed |= self._health.shared_numbers()
            self._version = None
        await self._tell()
        while self._freed:
            number = self._freed.pop()
            await self._give_back(self._trial_key(number))
        await self._keep()
        await self._ask()
        await self._listen()
        self._away = False

    async def _tell(self) -> None:
        await self._tell_changes()
        told: list[str | bytes] = []
        for number in self._counted:
            if (tally := self._health.shared_tally(number)) is not None:
                told += f"tally:{number}:{self._worker}", msgspec.json.encode(tally)
        if told:
            await self._redis.command("HSET", self._hash, *told)
            await self._redis.command("EXPIRE", self._hash, KEPT_S)
            await self._redis.command("INCR", self._version_key)
        self._counted.clear()

    async def _tell_changes(self) -> None:
        while self._changed:
            number = self._changed.pop()
            told: list[str | bytes] = []
            if (circuit := self._health.shared_circuit(number)) is not None:
                told += f"circuit:{number}", msgspec.json.encode(circuit)
            if (probe := self._health.shared_probe(number)) is not None:
                told += f"probe:{number}", msgspec.json.encode(probe)
            if not told:
                continue
            try:
                await self._redis.command("HSET", self._hash, *told)
                await self._redis.command("EXPIRE", self._hash, KEPT_S)
                await self._redis.command("INCR", self._version_key)
            except LinkLostError:
                self._changed.add(number)
                raise

    async def _listen(self) -> None:
        version = await self._redis.command("GET", self._version_key)
        if self._version is not None and (version is None or int(version) < int(self._version)):
            self._changed |= self._health.shared_numbers()  # Redis was emptied.
            self._stir.set()
        if version is None or version == self._version:
            self._version = version
            return
        found: dict[bytes, bytes] = await self._redis.command("HGETALL", self._hash)
        over: list[bytes] = []
        for name, text in found.items():
            kind, _, number = name.decode().partition(":")
            try:
                if kind == "tally":
                    over += self._hear_tally(number, text) * [name]
                else:
                    self._hear(kind, int(number), text)
            except ValueError as error:  # Another version of the gateway says it otherwise.
                logger.warning("Redis: %s of %s cannot be read: %s", self._hash, name.decode(), error)
        if over:
            await self._redis.command("HDEL", self._hash, *over)
        self._version = version

    def _hear_tally(self, place: str, text: bytes) -> bool:
        """True: it is so old that nobody needs it any more."""
        number, _, worker = place.partition(":")
        told = msgspec.json.decode(text, type=SharedTally)
        if worker != self._worker:
            self._health.take_tally(int(number), worker, told)
        return told.tally.at < time.time() - TALLY_KEPT_S

    def _hear(self, kind: str, number: int, text: bytes) -> None:
        if kind == "probe":
            self._health.take_probe(number, msgspec.json.decode(text, type=SharedProbe))
            return
        told = msgspec.json.decode(text, type=SharedCircuit)
        own = self._health.shared_circuit(number)
        if own is not None and own.mark == told.mark and own.changed_at > told.changed_at:
            self.changed(number)  # What is older has come later.
        else:
            self._health.take_circuit(number, told)

    # Trials.

    async def _ask(self) -> None:
        """Ask for deployments that requests here would like to try."""
        while self._wanted:
            number = self._wanted.pop()
            if not await self._take(self._trial_key(number), TRIAL_LEASE_S):
                self._refused_until[number] = self._loop.time() + ASK_AGAIN_S
                continue
            await self._listen()  # Another may have tried it since; then it is not half-open any more.
            self._refused_until.pop(number, None)
            now = self._loop.time()
            self._held[number] = _Held(now, now)
            self._health.wake()

    async def _keep(self) -> None:
        """Hold on to deployments that are being tried; let go of those that nobody here wants to try after all."""
        now = self._loop.time()
        for number, held in list(self._held.items()):
            if not held.used and now - held.since > UNUSED_S:
                del self._held[number]
                await self._give_back(self._trial_key(number))
            elif now - held.renewed > TRIAL_LEASE_S / 3:
                held.renewed = now
                if not await self._take(self._trial_key(number), TRIAL_LEASE_S):
                    self._held.pop(number, None)

    def _lost(self) -> None:
        self._away = True
        self._held.clear()
        self._freed.clear()
        self._wanted.clear()
        self._health.wake()

    async def _take(self, key: str, lease_s: float) -> bool:
        return bool(await self._redis.command("EVAL", _TAKE, 1, key, self._worker, int(lease_s * 1000)))

    async def _give_back(self, key: str) -> None:
        await self._redis.command("EVAL", _GIVE_BACK, 1, key, self._worker)

    def _trial_key(self, number: int) -> str:
        return f"{self._hash}:trial:{number}"

    def _prober_key(self, number: int) -> str:
        return f"{self._hash}:prober:{number}"
