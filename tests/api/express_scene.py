"""A data plane behind its real HTTP protocol, on loopback, before an upstream that says exactly what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from llmgateway.api.connections import Bounds, Connections
from llmgateway.api.express import ExpressDoor
from llmgateway.api.http_protocol import GatewayProtocol
from llmgateway.http import httpx
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.exchanges import TICK_S
from llmgateway.pipeline.express import Asking
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.protocols import AdmissionStore, Reservation
from llmgateway.pipeline.requests import Presence
from llmgateway.pipeline.snapshot import Key, Retries, Snapshot
from llmgateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.gateways import CHAT, SECRET, House, alias, deployment, key, snapshot

QUESTION = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}]}
HANG = "hang"
"""In place of an answer: nothing comes, and the connection stays."""


def answer(body: bytes, *, status: int = 200, **headers: str) -> bytes:
    named = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} X\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


OK = answer(json.dumps(CHAT).encode(), x_request_id="up-1")
EVENTS = (
    b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"lo"}}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}\n\n'
    b"data: [DONE]\n\n"
)
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(*events: bytes, ends: bool = True) -> list[bytes]:
    pieces = [_STREAM_HEAD, *[b"%x\r\n%b\r\n" % (len(each), each) for each in events]]
    return [*pieces, b"0\r\n\r\n"] if ends else pieces


STREAM = chunked(EVENTS)


@dataclass
class RawUpstream:
    """Each request gets the next of the script: bytes, several pieces, an empty string to close, or `HANG`."""

    script: deque[Any] = field(default_factory=deque)
    bodies: list[Any] = field(default_factory=list)
    gone: list[asyncio.Event] = field(default_factory=list)
    """For each connection, set when the gateway has closed it."""
    pause_s: float = 0.01
    """After each piece."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = asyncio.Event()
        self.gone.append(gone)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                (length,) = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                self.bodies.append(json.loads(await reader.readexactly(int(length))))
                said = self.script.popleft() if self.script else OK
                if said == HANG:
                    await reader.read()
                    return
                if not said:
                    return
                for piece in [said] if isinstance(said, bytes) else said:
                    if piece == HANG:
                        await reader.read()
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(self.pause_s)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return
        finally:
            gone.set()
            writer.close()


@dataclass
class Scene:
    house: House
    upstream: RawUpstream
    client: httpx.AsyncClient
    state: ServerState
    address: tuple[str, int]
    express: list[str] = field(default_factory=list)
    """Ids of requests that went the short way, whatever became of them."""

    async def ask(self, **changes: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json={**QUESTION, **changes})

    async def warm_up(self) -> None:
        """From now on the client's connection and its head are known, and there is a connection upstream."""
        for _ in range(2):
            assert (await self.ask()).status_code == 200
        assert not self.express

    def swap(self, new: Snapshot) -> None:
        self.house.gateway.use(new, self.house.gateway.budget_index)


async def until(is_so: Callable[[], object]) -> None:
    """Return as soon as something is so, which nobody tells."""
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Transported:
    """What a `House` wants of its upstream."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport


@asynccontextmanager
async def opened(
    *script: Any,
    who: Key | None = None,
    pause_s: float = 0.01,
    counters: Callable[[FakeClock], AdmissionStore] | None = None,
    **of_deployment: Any,
) -> AsyncIterator[Scene]:
    """A warm scene; `script` is what the upstream says from then on."""
    upstream = RawUpstream(pause_s=pause_s)
    provider = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = provider.sockets[0].getsockname()[1]
    transport = LeanTransport(max_connections=0)
    made = deployment(base_url=f"http://127.0.0.1:{port}/v1", **of_deployment)
    known = snapshot(alias("gpt", made), who=who or key(), retries=Retries(attempts=0))
    house = House(cast("Any", Transported(transport)), known, RealClock(), counters=counters or counters_are)
    connections = Connections(Bounds(keep_alive_s=30))
    connections.express = house.app.express
    state, loop = ServerState(), asyncio.get_running_loop()
    config = uvicorn.Config(
        cast("Any", house.app), ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
    )
    config.load()
    server = await loop.create_server(
        lambda: GatewayProtocol(config=config, server_state=state, app_state={}, connections=connections),
        "127.0.0.1",
        0,
    )
    address = server.sockets[0].getsockname()
    limits = httpx.Limits(max_connections=1)
    headers = {"authorization": f"Bearer {SECRET}"}
    url = f"http://{address[0]}:{address[1]}"
    ticking = asyncio.create_task(_ticks(house))
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=10) as client:
            scene = Scene(house, upstream, client, state, address)
            await scene.warm_up()
            _count(house.app.express, scene.express)
            upstream.script.extend(script)
            house.ledger.opened.clear()
            house.ledger.closed.clear()
            yield scene
    finally:
        ticking.cancel()
        server.close()
        await transport.aclose()
        provider.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await until(lambda: not state.connections and all(gone.is_set() for gone in upstream.gone))


class Elsewhere:
    """Counters in memory that answer as others elsewhere do: a moment later, to whoever asked."""

    def __init__(self, clock: FakeClock) -> None:
        self.memory = MemoryStore(clock)
        self.can_ask = True
        self.is_held = False
        """Nothing is answered until `go_on`."""
        self.asked: list[str] = []
        """Ids of requests, of those that were asked for without a task."""
        self._waiting: list[tuple[Callable[[Reservation | None], None], Reservation | None]] = []

    def __getattr__(self, name: str) -> Any:
        if name == "admit_at_once":
            raise AttributeError(name)
        return getattr(self.memory, name)

    def admit_soon(self, request_id: str, *, decided: Callable[[Reservation | None], None], **asked: Any) -> None:
        self.asked.append(request_id)
        reservation = self.memory.admit_at_once(request_id, **asked)  # Taken now; told later.
        self._waiting.append((decided, reservation))
        if not self.is_held:
            asyncio.get_running_loop().call_soon(self.go_on)

    def go_on(self) -> None:
        """Whoever waits is told."""
        waiting, self._waiting = self._waiting, []
        for decided, reservation in waiting:
            decided(reservation)

    def lose(self) -> None:
        """No answer comes to those who wait."""
        waiting, self._waiting = self._waiting, []
        for decided, reservation in waiting:
            if reservation is not None:
                self.memory.settle(reservation, cost_pico_usd=0, used=None, budgets=())
            asyncio.get_running_loop().call_soon(decided, None)


counters_are: Callable[[FakeClock], Any] = MemoryStore
"""Unless a scene says otherwise."""


class RealClock(FakeClock):
    """The event loop's, for what waits here waits for real."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def _count(door: ExpressDoor, taken: list[str]) -> None:
    begin = door.lane.begin

    def counted(asking: Asking, reservation: Reservation | None, presence: Presence) -> Call | None:
        call = begin(asking, reservation, presence)
        if call is not None:
            taken.append("taken")
        return call

    door.lane.begin = counted  # type: ignore[method-assign]


async def _ticks(house: House) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        house.gateway.exchanges.tick()
