"""Kept answers in Redis, for several processes or hosts. Redis lets them expire; without it every request is a miss.

On a connection of its own, so that no large answer stands in the way of admissions.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from typing import Any

import msgspec

from llmgateway.pipeline.cached_answers import LARGEST_ANSWER, LEASE_S, KeptAnswer, Standing
from llmgateway.stores.redis_link import LinkLostError, RedisLink

logger = logging.getLogger(__name__)

COMPRESSED_FROM = 4 * 1024
"""Bytes from which on an answer is compressed."""
IN_A_THREAD_FROM = 128 * 1024
"""Bytes from which on that would take longer than other requests should wait."""
LARGEST_PACKED = 2 * LARGEST_ANSWER
ALONE_S = 2.0
"""How long others are told that an answer is not to be kept."""
_PLAIN, _PACKED = b"\x00", b"\x01"
_ALONE = b"-"
# Nothing can come between looking and claiming, or two would lead.
_CLAIM = b"""
if ARGV[3] == '1' then
  local kept = redis.call('GET', KEYS[1])
  if kept then return {'kept', kept} end
end
local holder = redis.call('GET', KEYS[2])
if holder == '-' then return {'alone'} end
if holder and holder ~= ARGV[1] then return {'wait'} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {'lead'}
"""
_RENEW = b"if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end"
_RELEASE = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], '-', 'PX', ARGV[2]) end
"""


class RedisAnswers:
    """Implements `AnswerStore`. Belongs to one event loop; `start` and `stop` it there."""

    byte_count = 0
    """In the memory of this process."""
    entry_count = 0

    def __init__(self, url: str, *, timeout_s: float = 0.25, namespace: str = "gateway") -> None:
        self._namespace = namespace.encode()
        self._link = RedisLink(
            url,
            namespace=namespace,
            timeout_s=timeout_s,
            on_connect=self._connected,
            on_lost=self._lost,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(KeptAnswer).decode

    def start(self) -> None:
        """Begin to connect; until then nothing is kept or found."""
        self._run(self._link.run())

    async def ready(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self) -> None:
        self._ready.set()

    def _lost(self) -> None:
        self._ready.clear()

    async def find(self, digest: bytes) -> KeptAnswer | None:
        try:
            packed = await self._link.command("GET", self._name(b"answer", digest))
        except LinkLostError:
            return None
        return None if packed is None else await self._unpacked(packed)

    def keep(self, digest: bytes, answer: KeptAnswer, ttl_s: float) -> None:
        encoded = self._encode(answer)
        if len(encoded) > LARGEST_PACKED:
            return
        if len(encoded) >= IN_A_THREAD_FROM:
            self._run(self._keep_large(digest, encoded, ttl_s))
        elif len(encoded) >= COMPRESSED_FROM:
            self._set(digest, _PACKED + zlib.compress(encoded, 1), ttl_s)
        else:
            self._set(digest, _PLAIN + encoded, ttl_s)

    async def _keep_large(self, digest: bytes, encoded: bytes, ttl_s: float) -> None:
        self._set(digest, _PACKED + await asyncio.to_thread(zlib.compress, encoded, 1), ttl_s)

    def _set(self, digest: bytes, value: bytes, ttl_s: float) -> None:
        self._tell("SET", self._name(b"answer", digest), value, "PX", max(1, int(ttl_s * 1000)))

    async def claim(self, digest: bytes, token: bytes, youngest: float) -> KeptAnswer | Standing:
        for looks in (b"1", b"0"):
            try:
                said, *kept = await self._eval(
                    _CLAIM, (b"answer", b"lead"), digest, token.hex(), int(LEASE_S * 1000), looks
                )
            except LinkLostError:
                return Standing.LEAD  # Better asked twice than not at all.
            if said != b"kept":
                return Standing(said.decode())
            answer = await self._unpacked(kept[0])
            if answer is not None and answer.stored_at > youngest:
                return answer
        raise AssertionError("the second look is for no answer")

    def renew(self, digest: bytes, token: bytes) -> None:
        self._forget(self._eval(_RENEW, (b"lead",), digest, token.hex(), int(LEASE_S * 1000)))

    def release(self, digest: bytes, token: bytes, *, alone: bool) -> None:
        left = int(ALONE_S * 1000) if alone else ""
        self._forget(self._eval(_RELEASE, (b"lead",), digest, token.hex(), left))

    def forget(self, alias: str | None) -> None:
        """Nothing is in this process; Redis lets it expire."""

    def resize(self, max_bytes: int) -> None:
        """Redis has bounds of its own."""

    def _name(self, kind: bytes, digest: bytes) -> bytes:
        return b"%b:%b:{%b}" % (self._namespace, kind, digest.hex().encode())

    def _eval(
        self, script: bytes, kinds: tuple[bytes, ...], digest: bytes, *arguments: str | bytes | int
    ) -> asyncio.Future[Any]:
        names = [self._name(kind, digest) for kind in kinds]
        return self._link.command("EVAL", script, len(names), *names, *arguments)

    def _tell(self, *words: str | bytes | int) -> None:
        self._forget(self._link.command(*words))

    def _forget(self, answer: asyncio.Future[Any]) -> None:
        """Nobody waits for it. What Redis did not take is a miss later."""
        answer.add_done_callback(_note)

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unpacked(self, packed: bytes) -> KeptAnswer | None:
        """None: it was written by another version, or is damaged."""
        try:
            if packed[:1] == _PLAIN:
                return self._decode(packed[1:])
            if len(packed) >= IN_A_THREAD_FROM:
                return self._decode(await asyncio.to_thread(_inflated, packed[1:]))
            return self._decode(_inflated(packed[1:]))
        except (msgspec.DecodeError, zlib.error) as error:
            logger.info("Redis: a kept answer cannot be read: %s", error)
            return None


def _inflated(packed: bytes) -> bytes:
    """Never more than the largest that is kept."""
    return zlib.decompressobj().decompress(packed, LARGEST_PACKED)


def _note(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        logger.debug("Redis: %s", error)


__all__ = ["RedisAnswers"]
