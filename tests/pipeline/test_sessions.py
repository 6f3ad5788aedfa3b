"""A session between two sides: who may open one, what ends it, and what each side is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from billing.windows import load_zone
from llmgateway.pipeline.errors import APIConnectionError, GatewayError, RateLimitError
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.sessions import Handshake, Lifetime, Session, Sessions
from llmgateway.pipeline.snapshot import Key, Limit
from llmgateway.pipeline.sockets import Frame, RefusedHandshakeError, SocketClosedError, SocketOpener
from llmgateway.pipeline.upstream import Upstream
from providers.adapters.body import RequestHead
from providers.adapters.dialects.registry import get_dialect
from tests.fakes import ScriptedUpstream
from tests.gateways import SECRET, House, alias, deployment, key, snapshot

MAIN = deployment(model="gpt-realtime")
SPARE = deployment("spare", 2, model="gpt-realtime")
SLOT = Limit("limit:1", "1 at a time", "key", 1, 1, "concurrency", "")
IDLE_S, TOTAL_S = 30.0, 100.0
CREATED = {"type": "response.created", "response": {"id": "r1"}}
DONE = {
    "type": "response.done",
    "response": {"id": "r1", "status": "completed", "usage": {"input_tokens": 3, "output_tokens": 2}},
}


class Side:
    """One end of a connection, in memory. `sent` is what it was told."""

    subprotocol: str | None = None

    def __init__(self) -> None:
        self._says: asyncio.Queue[Frame | SocketClosedError] = asyncio.Queue()
        self.sent: list[Any] = []
        self.closed: tuple[int, str] | None = None
        self.reading = asyncio.Event()
        self.reading.set()
        self.aborted = False
        self._told = asyncio.Event()

    def says(self, *events: Any) -> None:
        for event in events:
            self._says.put_nowait(json.dumps(event) if isinstance(event, dict) else event)

    @property
    def waiting(self) -> int:
        return self._says.qsize()

    async def receive(self) -> Frame:
        said = await self._says.get()
        if isinstance(said, SocketClosedError):
            raise said
        return said

    async def send(self, frame: Frame) -> None:
        await self.reading.wait()
        self.sent.append(json.loads(frame) if isinstance(frame, str) else frame)
        self._told.set()

    async def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)

    def abort(self) -> None:
        self.aborted = True

    async def told(self, count: int) -> list[Any]:
        async with asyncio.timeout(2):
            while len(self.sent) < count:
                self._told.clear()
                await self._told.wait()
        return self.sent


class Opener(SocketOpener):
    """Opens what it is told to, and remembers what it was asked."""

    def __init__(self, *script: Side | Exception) -> None:
        super().__init__()
        self._script = list(script)
        self.asked: list[tuple[str, dict[bytes, bytes], list[str]]] = []

    async def open(  # type: ignore[override]  # a side in memory will do
        self, url: str, headers: Sequence[tuple[bytes, bytes]], subprotocols: Sequence[str], *, timeout_s: float
    ) -> Side:
        self.asked.append((url, dict(headers), list(subprotocols)))
        answer = self._script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Room:
    """A gateway whose upstream is in memory, and one session of it."""

    def __init__(self, *script: Side | Exception, who: Key | None = None) -> None:
        load_zone("UTC")  # As the gateway does for every limit over a window, before it listens.
        self.client, self.provider = Side(), Side()
        self.opener = Opener(*(script or (self.provider,)))
        named = alias("voice", MAIN, SPARE)
        self.house = House(ScriptedUpstream(), snapshot(named, who=who, deployments=(MAIN, SPARE)))
        self.house.gateway.upstream = Upstream(self.house.upstream.transport, self.opener)
        self.sessions = Sessions(self.house.gateway, Lifetime(idle_s=IDLE_S, total_s=TOTAL_S))
        self.key = who or key()

    async def open(self, number: int = 1) -> Session:
        clock = self.house.clock
        request = ModelRequest(
            id=f"req_{number}", path="/v1/realtime", dialect=get_dialect("openai.realtime"), body=b"",
            head=RequestHead(model="voice", stream=True), headers=[(b"openai-beta", b"realtime=v1")],
            client_ip="127.0.0.1", client_request_id="", end_user="", started_at=clock.time(),
            received=clock.monotonic(), authenticated=clock.monotonic(), input_estimate=0,
        )  # fmt: skip
        return await self.sessions.open(Handshake(request, SECRET.encode(), "intent=talk", ("realtime",)), self.key)

    async def run(self) -> str:
        async with asyncio.timeout(5):
            return await (await self.open()).run(self.client)

    def later(self, seconds: float) -> None:
        self.house.clock.advance(seconds)
        self.house.gateway.exchanges.tick()

    async def slots(self) -> int:
        return await self.house.store.limit_used(SLOT)


@pytest.fixture
def room() -> Room:
    return Room()


async def test_frames_pass_both_ways_as_they_are(room: Room) -> None:
    running = asyncio.ensure_future(room.run())
    room.client.says('{"type":  "odd"}', b"\0\1")
    room.provider.says(b"\2", CREATED, DONE)

    await room.provider.told(2)
    await room.client.told(3)
    room.client.says(SocketClosedError(4001, "enough"))
    code = await running

    assert room.provider.sent == [{"type": "odd"}, b"\0\1"]
    assert room.client.sent == [b"\2", CREATED, DONE]
    assert (code, room.provider.closed, room.provider.aborted) == ("", (4001, "enough"), True)
    assert room.house.row["cost_pico_usd"] == 3 * 2 + 2 * 10


async def test_the_provider_is_asked_with_our_credential(room: Room) -> None:
    session = await room.open()

    [(url, headers, subprotocols)] = room.opener.asked
    await session.abandon()
    assert url == "http://main.test/v1/realtime?model=gpt-realtime&intent=talk"
    assert headers == {b"openai-beta": b"realtime=v1", b"authorization": b"Bearer provider-secret"}
    assert subprotocols == ["realtime"]


async def test_another_deployment_takes_over_before_the_session_begins() -> None:
    side = Side()
    room = Room(RefusedHandshakeError(503, b"{}"), side)

    session = await room.open()

    assert (session.deployment.name, len(room.opener.asked)) == ("spare", 2)
    await session.abandon()


@pytest.mark.parametrize(
    ("failures", "status", "code"),
    [
        ((RefusedHandshakeError(401, b""),) * 2, 502, "upstream_authentication_failed"),
        ((RefusedHandshakeError(429, b""),) * 2, 429, "rate_limit_exceeded"),
        ((RefusedHandshakeError(302, b""),) * 2, 502, "upstream_connection_failed"),
        ((OSError("refused"),) * 2, 502, "upstream_connection_failed"),
        ((TimeoutError("slow"),) * 2, 504, "upstream_timeout"),
        ((RefusedHandshakeError(400, b'{"error": {"message": "No such voice."}}'),), 400, "invalid_value"),
    ],
)
async def test_who_cannot_be_reached_is_told_and_the_slot_returns(
    failures: tuple[Exception, ...], status: int, code: str
) -> None:
    room = Room(*failures, who=key(limits=(SLOT,)))

    with pytest.raises(GatewayError) as refused:
        await room.open()

    assert (refused.value.status, refused.value.code, await room.slots()) == (status, code, 0)
    assert len(room.house.gateway.exchanges) == 0


async def test_a_session_holds_a_slot_until_it_ends() -> None:
    room = Room(who=key(limits=(SLOT,)))
    running = asyncio.ensure_future(room.run())
    room.client.says({"type": "odd"})
    await room.provider.told(1)

    with pytest.raises(RateLimitError):
        await room.open(2)
    taken = await room.slots()
    room.client.says(SocketClosedError(1000))
    await running

    assert (taken, await room.slots()) == (1, 0)


async def test_the_provider_s_goodbye_is_passed_on_and_what_ran_is_settled(room: Room) -> None:
    running = asyncio.ensure_future(room.run())
    room.client.says({"type": "response.create"})
    await room.provider.told(1)
    room.provider.says(CREATED, SocketClosedError(1011, "it broke"))

    assert await running == ""
    assert room.client.closed == (1011, "it broke")
    assert (room.house.row["status"], room.house.row["usage_source"]) == ("failed", "estimated")


async def test_a_slow_client_is_not_run_over(room: Room) -> None:
    room.client.reading.clear()
    room.provider.says(*[{"type": "odd", "number": number} for number in range(50)])
    running = asyncio.ensure_future(room.run())
    for _ in range(50):
        await asyncio.sleep(0)

    unread = room.provider.waiting
    room.client.reading.set()
    await room.client.told(50)
    room.client.says(SocketClosedError(1000))
    await running

    assert unread == 49
    assert [event["number"] for event in room.client.sent] == list(range(50))


@pytest.mark.parametrize(
    ("waits", "code"), [((IDLE_S + 1,), "session_idle"), ((IDLE_S - 1,) * 3 + (IDLE_S - 15,), "session_expired")]
)
async def test_sessions_end_when_nobody_speaks_and_when_they_are_old(
    room: Room, waits: tuple[float, ...], code: str
) -> None:
    running = asyncio.ensure_future(room.run())
    for number, seconds in enumerate(waits, 1):
        room.client.says({"type": "odd"})
        await room.provider.told(number)
        room.later(seconds)

    assert await running == code
    assert room.client.sent[-1]["error"]["code"] == code
    assert (room.client.closed, room.provider.closed) == ((1001, code), (1000, ""))


async def test_a_response_that_stalls_ends_the_session(room: Room) -> None:
    room.sessions = Sessions(room.house.gateway, Lifetime(idle_s=10_000, total_s=10_000))
    running = asyncio.ensure_future(room.run())
    room.client.says({"type": "response.create"})
    await room.provider.told(1)
    room.provider.says(CREATED)
    await room.client.told(1)
    room.later(MAIN.timeouts.idle_s + 1)

    assert await running == "upstream_timeout"
    assert room.client.closed == (1014, "upstream_timeout")
    assert (room.house.row["status"], room.house.row["error_type"]) == ("failed", "upstream_timeout")


async def test_what_is_refused_never_reaches_the_provider() -> None:
    room = Room(who=key(limits=(Limit("limit:2", "1 request per hour", "key", 1, 1, "requests", "hour"),)))
    running = asyncio.ensure_future(room.run())
    room.client.says({"type": "response.create"})
    await room.provider.told(1)
    room.provider.says(CREATED, DONE)
    await room.client.told(2)
    room.client.says({"type": "response.create", "event_id": "second"})

    assert await running == "rate_limit_exceeded"
    assert len(room.provider.sent) == 1
    assert room.client.sent[-1]["error"]["event_id"] == "second"
    assert room.client.closed == (1008, "rate_limit_exceeded")


async def test_what_began_without_room_is_stopped_and_billed_as_the_provider_says() -> None:
    room = Room(who=key(limits=(Limit("limit:2", "1 request per hour", "key", 1, 1, "requests", "hour"),)))
    running = asyncio.ensure_future(room.run())
    room.provider.says(CREATED, DONE)
    await room.client.told(2)
    room.provider.says({"type": "response.created", "response": {"id": "r2"}})
    stopped = (await room.provider.told(1))[0]
    usage = {"input_tokens": 9, "output_tokens": 1}
    room.provider.says({"type": "response.done", "response": {"id": "r2", "status": "cancelled", "usage": usage}})

    assert await running == "rate_limit_exceeded"
    assert stopped == {"type": "response.cancel", "response_id": "r2"}
    first, second = room.house.ledger.closed
    assert (first["status"], second["status"], second["usage_source"]) == ("completed", "cancelled", "provider")
    assert second["cost_pico_usd"] == 9 * 2 + 1 * 10


async def test_a_process_that_stops_settles_what_runs(room: Room) -> None:
    running = asyncio.ensure_future(room.run())
    room.client.says({"type": "response.create"})
    await room.provider.told(1)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert (room.house.row["status"], room.house.row["error_type"]) == ("cancelled", "shutdown")
    assert room.provider.aborted
    assert len(room.house.gateway.exchanges) == 0


async def test_no_candidate_is_asked_twice() -> None:
    room = Room(OSError("refused"), OSError("refused"))

    with pytest.raises(APIConnectionError):
        await room.open()

    assert [url.split("/")[2] for url, _, _ in room.opener.asked] == ["main.test", "spare.test"]


async def test_refused_handshakes_open_circuits_and_an_opened_one_is_asked_for_no_session() -> None:
    room = Room(RefusedHandshakeError(401, b""), Side())
    opening = await room.open()
    health = room.house.gateway.health
    assert (health.state_of(MAIN).state, health.state_of(MAIN).kind) == ("open", "authentication")
    assert health.state_of(SPARE).state == "healthy"
    assert opening.deployment is SPARE
    await opening.abandon()

    for _ in range(5):
        health.record(SPARE, ok=False, kind="timeout")
    with pytest.raises(GatewayError) as refused:
        await room.open(2)
    assert (refused.value.status, refused.value.code) == (503, "no_healthy_target")
    assert len(room.opener.asked) == 2


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_what_a_caller_did_wrong_opens_nothing(status: int) -> None:
    room = Room(*[RefusedHandshakeError(status, b"{}")] * 12)
    for number in range(6):
        with pytest.raises(GatewayError):
            await room.open(number)

    assert room.house.gateway.health.state_of(MAIN).state == "healthy"
