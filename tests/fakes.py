"""Small real implementations of what the pipeline asks for. No sockets, no database, no waiting."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmgateway.http import httpx
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.protocols import (
    Clock,
    Ledger,
    Record,
)


class FakeClock:
    """Wall and monotonic time that move only when told."""

    def __init__(self, now: float = 1_773_489_600.0) -> None:
        self.now = now
        self.elapsed = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.elapsed

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.elapsed += seconds


class FakeLedger:
    """Keeps records in lists and checks the order in which a journal must get them. `failing` makes it unavailable."""

    def __init__(self) -> None:
        self.opened: list[Record] = []
        self.attempts: list[tuple[str, Record]] = []
        self.progressed: list[tuple[str, int]] = []
        self.closed: list[Record] = []
        self.refusals: list[Record] = []
        self.failing = False

    def open(self, record: Record) -> None:
        if self.failing:
            raise LedgerUnavailableError("The usage journal cannot be written. Free disk space.")
        assert record["id"] not in self._ids(self.opened), f"{record['id']} was opened twice"
        self.opened.append(_as_written(record))

    def attempt(self, request_id: str, record: Record) -> None:
        self._check_running(request_id)
        self.attempts.append((request_id, _as_written(record)))

    def progress(self, counted: list[tuple[str, int]]) -> None:
        self.progressed += counted

    def close(self, record: Record) -> None:
        self._check_running(record["id"])
        self.closed.append(_as_written(record))

    def refused(self, counts: list[Record]) -> None:
        self.refusals += map(_as_written, counts)

    @property
    def backlog_bytes(self) -> int:
        return sum(len(json.dumps(record)) for record in self.closed)

    @property
    def running(self) -> set[str]:
        """Requests that were opened and not closed."""
        return self._ids(self.opened) - self._ids(self.closed)

    def _check_running(self, request_id: str) -> None:
        assert request_id in self._ids(self.opened), f"{request_id} was never opened"
        assert request_id not in self._ids(self.closed), f"{request_id} is closed already"

    @staticmethod
    def _ids(records: list[Record]) -> set[str]:
        return {record["id"] for record in records}


def _as_written(record: Record) -> Record:
    """What a journal keeps of a record: a copy, made of what JSON can say."""
    copy: Record = json.loads(json.dumps(record))
    return copy


class ScriptedStream(httpx.AsyncByteStream):
    """A body in given pieces. An exception among them is raised in its place; a number waits so many seconds."""

    def __init__(self, pieces: Sequence[bytes | Exception | float]) -> None:
        self._pieces = pieces
        self.closed = False
        self.exhausted = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                yield piece
            else:
                await asyncio.sleep(piece)
        self.exhausted = True

    async def aclose(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Reply:
    """What a scripted upstream answers, after `delay_s`."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    pieces: Sequence[bytes | Exception | float] = ()
    delay_s: float = 0.0

    @classmethod
    def json(cls, content: Any, status: int = 200, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, {"content-type": "application/json", **named}, (json.dumps(content).encode(),))

    @classmethod
    def events(cls, *pieces: bytes | Exception | float) -> Reply:
        return cls(200, {"content-type": "text/event-stream"}, pieces)


class ScriptedUpstream:
    """Answers with its script, in order, and keeps what it was sent. `transport` goes where a real one would.

    An exception in the script (`httpx.ConnectError("refused")`) is raised instead of an answer.

    Example:
        upstream = ScriptedUpstream(Reply.json({"error": {}}, status=503), Reply.json(CHAT))
        gateway = make_gateway(transport=upstream.transport)
        assert len(upstream.requests) == 2
    """

    def __init__(self, *script: Reply | Exception) -> None:
        self._script = deque(script)
        self.requests: list[httpx.Request] = []
        self.streams: list[ScriptedStream] = []
        self.transport = httpx.MockTransport(self._answer)

    def then(self, *script: Reply | Exception) -> None:
        self._script.extend(script)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        assert self._script, f"nothing is scripted for request {len(self.requests)}: {request.url}"
        reply = self._script.popleft()
        if isinstance(reply, Exception):
            raise reply
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        self.streams.append(ScriptedStream(reply.pieces))
        return httpx.Response(reply.status, headers=reply.headers, stream=self.streams[-1], request=request)


if TYPE_CHECKING:
    # A fake that no longer fits its protocol must fail the type check, not a test far away.
    _clock: Clock = FakeClock()
    _ledger: Ledger = FakeLedger()
