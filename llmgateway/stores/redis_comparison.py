"""What workers say to each other so that shared counters can be compared with the ledger while requests run.

Whoever is elected begins a comparison, and every worker then notes with each batch it sends how far its journal is.
Counters and notes are read in one step: a settlement that a counter knows lies before its worker's note, every other
behind it. Then each worker adds up what its journal has between the ledger's sums and its note.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec

from llmgateway.stores.redis_epoch import POLL_S
from llmgateway.stores.redis_link import Call, EpochChangedError, LinkLostError, RedisLink

logger = logging.getLogger(__name__)

BEGUN_MS = 8000
"""How long counters of a comparison may be read. Workers note how far they are until then."""
NOTED_S = 5.0
"""How long to wait until every worker has noted how far it is: each looks for a comparison once a second."""
PARTS_S = 10.0
KEPT_MS = 60_000

Place = tuple[int, int]
"""Of a journal: segment and offset."""


class InconclusiveError(Exception):
    """Nothing can be said of the counters now."""


class Comparison(msgspec.Struct):
    """What is compared, in the words of those who count."""

    id: str
    at: float
    """The moment whose windows are meant."""
    budgets: list[int]
    limits: list[str]
    """By their counters."""
    offsets: str
    """How far the ledger's sums reach into every journal."""

    @classmethod
    def of(cls, at: float, budgets: list[int], limits: list[str], offsets: str) -> Comparison:
        return cls(secrets.token_hex(8), at, budgets, limits, offsets)


class Part(msgspec.Struct):
    """What one worker's journal has beyond the ledger's sums."""

    rules: int = 0
    """A checksum of the counters' names: another configuration has others."""
    amounts: dict[str, int] = msgspec.field(default_factory=dict)
    """By counter."""
    reason: str = ""
    """Why it cannot say."""


class Seen(msgspec.Struct):
    """A journal that somebody counts from."""

    worker: str
    age_s: float
    """Since its worker was last heard of."""


class Reading(msgspec.Struct):
    """What the counters said at one moment."""

    budgets: list[int]
    """Pico-dollars settled."""
    limits: list[int]
    """What requests that have ended used."""
    journals: dict[str, Seen]
    workers: list[str]
    """Those that noted how far their journals were, which is all that live."""


class ComparedJournal(Protocol):
    """What comparing asks of this worker's journal."""

    @property
    def name(self) -> str: ...

    def whole_to(self) -> Place | None:
        """Its end; None: a settlement is not written yet. Never waits."""
        ...

    async def beyond_ledger(self, comparison: Comparison, until: Place) -> Part:
        """What it has beyond the sums of `comparison`, up to `until`."""
        ...


class Comparisons:
    """This worker's part in comparing. Everything runs on the event loop."""

    def __init__(
        self, link: RedisLink, *, worker: str, prefix: str, journal: ComparedJournal | None, told: Callable[[], bool]
    ) -> None:
        """`told`: Redis knows of everything that is settled."""
        self._link = link
        self._worker = worker
        self._prefix = prefix
        self._journal = journal
        self._told = told
        self._begun = prefix + "comparing"
        self._taking_part: asyncio.Task[None] | None = None

    # Every worker.

    async def register(self) -> None:
        """Say from which journal this worker counts."""
        if self._journal is not None:
            seconds, _ = await self._link.command("TIME")
            known = f"{self._worker}:{seconds.decode()}"
            await self._link.command("HSET", self._prefix + "journals", self._journal.name, known)

    async def look(self) -> None:
        """Once a second: take part in a comparison that was begun."""
        await self.register()
        if self._journal is None or (self._taking_part is not None and not self._taking_part.done()):
            return
        begun = await self._link.command("GET", self._begun)
        if begun is not None:
            comparison = msgspec.msgpack.decode(begun[16:], type=Comparison)
            self._taking_part = asyncio.create_task(self._take_part(self._journal, comparison))

    async def stop(self) -> None:
        if self._taking_part is not None:
            self._taking_part.cancel()
            await asyncio.gather(self._taking_part, return_exceptions=True)

    async def _take_part(self, journal: ComparedJournal, comparison: Comparison) -> None:
        try:
            until = await self._noted(journal, comparison.id)
            if until is not None:
                part = await journal.beyond_ledger(comparison, until)
                parts = self._key(comparison.id, "parts")
                await self._link.command("HSET", parts, self._worker, msgspec.msgpack.encode(part))
                await self._link.command("PEXPIRE", parts, KEPT_MS)
        except (LinkLostError, EpochChangedError):
            return  # Whoever compares learns nothing, and tries again.
        except Exception:  # The journal cannot be read now.
            logger.exception("What this worker's journal holds could not be told to whoever compares counters")

    async def _noted(self, journal: ComparedJournal, comparison: str) -> Place | None:
        """Notes how far this worker is until the counters were read; its place then, None: they were not."""

        def note(complete: bool) -> tuple[str, str]:
            place = journal.whole_to() if complete and self._told() else None
            return self._worker, f"{comparison}:" if place is None else f"{comparison}:{place[0]}:{place[1]}"

        self._link.note = note
        try:
            while await self._is_begun(comparison):
                self._link.post(("returned", ()))  # Without a request nothing else would be sent.
                place = await self._link.command("HGET", self._key(comparison, "read"), self._worker)
                if place is not None:
                    break
                await asyncio.sleep(POLL_S)
        finally:
            self._link.note = None
        found = await self._link.command("HGET", self._key(comparison, "read"), self._worker)
        return None if found is None else _place(found.decode())

    async def _is_begun(self, comparison: str) -> bool:
        """Whether its counters may still be read. While nobody knows, notes go on: without them others were believed."""
        while True:
            try:
                begun = await self._link.command("GET", self._begun)
            except LinkLostError:
                await asyncio.sleep(POLL_S)
            else:
                return begun is not None and begun[:16] == comparison.encode()

    # Whoever compares.

    async def elected(self, for_s: float) -> bool:
        """Whether this worker compares for a while. Nobody else does until that is over."""
        for_ms = int(for_s * 1000)
        return bool(await self._link.command("SET", self._prefix + "comparer", self._worker, "NX", "PX", for_ms))

    async def stay(self, for_s: float) -> None:
        """Go on being the one who compares, for so long from now on.

        Raises:
            InconclusiveError: another worker is by now.
        """
        if await self._link.command("GET", self._prefix + "comparer") != self._worker.encode():
            raise InconclusiveError("it took so long that another worker compares by now")
        await self._link.command("PEXPIRE", self._prefix + "comparer", int(for_s * 1000))

    async def read(self, comparison: Comparison, windows: Sequence[str], counters: Sequence[str]) -> Reading:
        """What the counters say, once every worker notes how far it is.

        Raises:
            InconclusiveError: not every worker does.
            LinkLostError: Redis is away, or its counters were made anew.
        """
        epoch = self._link.epoch
        begun = comparison.id.encode() + msgspec.msgpack.encode(comparison)
        await self._link.command("SET", self._begun, begun, "PX", BEGUN_MS)
        missing: list[str] = []
        noted = False
        async with _within(NOTED_S, lambda: f"these workers did not say how far they are: {', '.join(missing)}"):
            while True:
                asked = (windows, counters) if noted else ((), ())
                [answer] = await self._link.run_script(epoch, [("compared", comparison.id, *asked)], "")
                if not answer:
                    raise InconclusiveError("it took too long to read the counters")
                notes = _notes(answer[4], comparison.id)
                missing = [worker for worker in answer[2] if worker not in notes]
                if noted and not missing:
                    break
                noted = not missing
                if missing:
                    await asyncio.sleep(POLL_S)
        read = self._key(comparison.id, "read")
        await self._link.command("HSET", read, *[word for note in notes.items() for word in note])
        await self._link.command("PEXPIRE", read, KEPT_MS)
        return Reading([_settled(*window) for window in answer[0]], answer[1], _seen(answer[3], answer[5]), list(notes))

    async def parts(self, comparison: Comparison, workers: Sequence[str]) -> list[Part]:
        """What the journals of all `workers` have beyond the ledger's sums.

        Raises:
            InconclusiveError: one of them cannot say.
        """
        missing = set(workers)
        async with _within(PARTS_S, lambda: f"these workers did not say what they settled: {', '.join(missing)}"):
            while True:
                pairs = _pairs(await self._link.command("HGETALL", self._key(comparison.id, "parts")))
                missing = set(workers) - pairs.keys()
                if not missing:
                    break
                await asyncio.sleep(POLL_S)
        parts = [msgspec.msgpack.decode(pairs[worker], type=Part) for worker in workers]
        for part in parts:
            if part.reason:
                raise InconclusiveError(part.reason)
        return parts

    async def put_right(self, calls: Sequence[Call]) -> list[bool]:
        """Add what counters lack; which were put right. Nothing is, if somebody else compares by now.

        Raises:
            LinkLostError, EpochChangedError: Redis is away, or its counters were made anew.
        """
        asked = [self._link.ask(("put_right", self._worker, *call)) for call in calls]
        return [bool(done) for done in await asyncio.gather(*asked)]

    async def forget(self, journals: Sequence[str]) -> None:
        """Nobody counts from these any more."""
        if journals:
            await self._link.command("HDEL", self._prefix + "journals", *journals)

    def _key(self, comparison: str, kind: str) -> str:
        return f"{self._begun}:{comparison}:{kind}"


@asynccontextmanager
async def _within(seconds: float, otherwise: Callable[[], str]) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise InconclusiveError(otherwise()) from None


def _place(text: str) -> Place:
    segment, offset = text.split(":")
    return int(segment), int(offset)


def _pairs(raw: Any) -> dict[str, bytes]:
    pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
    return {name.decode(): value for name, value in pairs}


def _notes(flat: Sequence[str], comparison: str) -> dict[str, str]:
    """By worker, of those who can say for this comparison how far they are: how far that is."""
    found = {}
    for worker, note in zip(flat[::2], flat[1::2], strict=True):
        about, _, place = note.partition(":")
        if about == comparison and place:
            found[worker] = place
    return found


def _seen(flat: Sequence[str], now: int) -> dict[str, Seen]:
    found = {}
    for journal, known in zip(flat[::2], flat[1::2], strict=True):
        worker, _, seconds = known.partition(":")
        found[journal] = Seen(worker, now - int(seconds))
    return found


def _settled(limit: str | bool, remaining: str, held: str) -> int:
    """Of a budget's window, which may not exist yet."""
    return int(limit) - int(remaining) - int(held) if isinstance(limit, str) else 0


__all__ = ["ComparedJournal", "Comparison", "Comparisons", "InconclusiveError", "Part", "Reading", "Seen"]
