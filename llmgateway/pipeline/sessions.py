"""Realtime sessions: a caller and a provider who talk over WebSockets, with the gateway between them.

`authenticate → take a turn → route → admit → connect → relay → settle`. The session itself holds its turn, for it costs
as much as a request that runs as long, and a slot of every limit on what runs at the same time; what it says is counted
by `SessionMeter`, response by response. Frames pass as they are, each as soon as the one before has been taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from llmgateway.pipeline.admission import Admission
from llmgateway.pipeline.departure import was_sent
from llmgateway.pipeline.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    GatewayError,
    RequestTimeoutError,
    UpstreamAuthenticationError,
)
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.routing import Routed
from llmgateway.pipeline.session_meter import SessionMeter, is_slot, slots_only
from llmgateway.pipeline.snapshot import Alias, Deployment, Key
from llmgateway.pipeline.sockets import Frame, RefusedHandshakeError, Socket, SocketClosedError, UpstreamSocket
from llmgateway.pipeline.upstream import FailureCause, UpstreamError
from providers.adapters.dialects.base import ERROR_CODES, WireError
from providers.adapters.dialects.errors import error_message
from providers.adapters.dialects.openai_realtime import RealtimeEvent, read_event, refusal, with_model
from providers.adapters.types import JSONObject

logger = logging.getLogger(__name__)

ACCESS_S = 1.0
"""How often it is asked whether the key may still be used."""
LAST_WORDS_S = 2.0
"""How long a provider may take to say what a response used that was stopped."""
REFUSED, GOING_AWAY, INTERNAL, BAD_GATEWAY = 1008, 1001, 1011, 1014
"""Close codes, when it is the gateway that ends a session."""
FORBIDDEN = 403
"""What many servers answer where they know no WebSocket: it says nothing of the credential."""
_ACTS = {"session.update", "response.create", "transcription_session.update"}


class Lifetime(msgspec.Struct, frozen=True):
    """Seconds."""

    idle_s: float
    """Without a frame of either side."""
    total_s: float


class Handshake(msgspec.Struct, frozen=True):
    """What a caller asks who wants a session."""

    request: ModelRequest
    secret: bytes | None
    query: str
    """What goes on of the query: neither key nor model."""
    subprotocols: tuple[str, ...]
    """The same of the subprotocols that the caller offers."""


class Ending(msgspec.Struct, frozen=True):
    """Why a session is over, and what the sides that are left are told."""

    code: int
    reason: str = ""
    by: str = "gateway"
    """`client`, `provider` or `gateway`."""
    error: GatewayError | None = None
    event_id: str | None = None
    """The caller's event that could not be passed on."""


class _Presence:
    """The session's task, and whether its caller has left: who is there is known by who sends."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a session runs in a task")
        self.task: asyncio.Task[object] = task
        self.client_left = False

    def watch(self) -> None:
        """Nothing to do: somebody always receives."""


class _AnotherModelError(BadRequestError):
    """An event names another model; it is not passed on, and the session goes on."""


class Sessions:
    """Opens sessions. One per process, used from the event loop alone."""

    def __init__(self, gateway: Gateway, lifetime: Lifetime) -> None:
        self._gateway = gateway
        self._lifetime = lifetime

    async def open(self, asked: Handshake, key: Key) -> Session:
        """A session with the first provider that takes it. Whoever gets it runs it.

        Raises:
            GatewayError: it is refused, or no provider can be reached; nothing is taken then.
        """
        gateway = self._gateway
        if not gateway.turns.take():
            await gateway.turns.wait(key, _Presence())
        try:
            return await self._opened(asked, key)
        except BaseException:
            gateway.turns.give_back()
            raise

    async def _opened(self, asked: Handshake, key: Key) -> Session:
        gateway, request = self._gateway, asked.request
        routed = await gateway.routed(request, key)
        candidates = routed.candidates
        rules = gateway.rules(request, key, routed.alias, routed.via)
        admission = await gateway.desk.admit(
            request,
            rules.keeping(is_slot, lambda _: None),
            tuple(map(slots_only, candidates)),
            gateway.snapshot.admission,
        )
        try:
            return await self._connected(asked, key, routed, admission)
        except BaseException:
            gateway.store.settle(admission.reservation, cost_pico_usd=0, used=None, budgets=())
            raise

    async def _connected(self, asked: Handshake, key: Key, routed: Routed, admission: Admission) -> Session:
        alias, whole = routed.alias, {each.id: each for each in routed.candidates}
        presence = _Presence()
        last: GatewayError | None = None
        for slot in admission.in_order:
            if not await self._gateway.desk.move(admission, slot):
                continue
            deployment = whole[slot.id]
            meter = SessionMeter(
                self._gateway,
                asked.request,
                key,
                alias,
                deployment,
                secret=asked.secret,
                presence=presence,
                via=routed.via.get(deployment.id, ()),
            )
            await meter.check_room()
            if not self._gateway.health.claim(deployment, bypass=key.may_bypass_health and asked.request.bypass_health):
                continue
            try:
                upstream = await self._dialled(asked, deployment)
            except (UpstreamError, RefusedHandshakeError) as error:
                last = _failure(deployment, alias.name, error)
                continue
            return Session(
                self._gateway,
                asked.request,
                upstream=upstream,
                meter=meter,
                admission=admission,
                presence=presence,
                lifetime=self._lifetime,
            )
        raise last or self._gateway.health.refusal(alias.name, routed.candidates)

    async def _dialled(self, asked: Handshake, deployment: Deployment) -> UpstreamSocket:
        """Raises what `Upstream.open_socket` raises; either way the deployment's health knows."""
        health = self._gateway.health
        try:
            upstream = await self._gateway.upstream.open_socket(
                deployment,
                asked.request.dialect,
                query=asked.query,
                headers=asked.request.headers,
                subprotocols=asked.subprotocols,
            )
        except (UpstreamError, RefusedHandshakeError) as error:
            if isinstance(error, RefusedHandshakeError) and error.status == FORBIDDEN:
                health.release(deployment)
            else:
                health.record(deployment, ok=False, kind=_kind_of(deployment, error))
            raise
        except BaseException:
            health.release(deployment)
            raise
        health.record(deployment, ok=True)
        return upstream


def _kind_of(deployment: Deployment, error: UpstreamError | RefusedHandshakeError) -> str:
    """Why there is no session, in one word."""
    if isinstance(error, UpstreamError):
        return error.cause
    if error.status < 400:
        return FailureCause.REDIRECT
    return deployment.adapter.error_kind(error.status, _as_object(error.body))


def _failure(deployment: Deployment, alias: str, error: UpstreamError | RefusedHandshakeError) -> GatewayError:
    """What the caller is told if nobody else can help.

    Raises:
        GatewayError: nobody can, for the provider blames the request.
    """
    provider = deployment.provider
    if isinstance(error, UpstreamError):
        if error.cause is FailureCause.TIMEOUT:
            return APITimeoutError(f"The provider '{provider}' did not answer '{alias}' in time. Try again.")
        if error.cause is FailureCause.NO_TOKEN:
            return UpstreamAuthenticationError(
                f"The provider '{provider}' gave the gateway no token for '{alias}'. Ask an admin to check its credential.",
            )
        return APIConnectionError(
            f"The provider '{provider}' could not be reached for '{alias}'. Try again in a moment."
        )
    if error.status < 400:
        return APIConnectionError(
            f"The provider '{provider}' answered with status {error.status}, not with a session for '{alias}'. "
            "Ask an admin to check its base URL.",
        )
    body = _as_object(error.body)
    kind = deployment.adapter.error_kind(error.status, body)
    if kind.blames_credential:
        return UpstreamAuthenticationError(
            f"The provider '{provider}' refused the gateway's own credential for '{alias}'. Ask an admin to check it.",
        )
    said = error_message(body) or f"The provider '{provider}' answered with status {error.status}, not with a session."
    if kind.worth_another_target:
        return APIConnectionError(said, code=ERROR_CODES[kind], status=error.status)
    raise BadRequestError(said, code=ERROR_CODES[kind], status=error.status)


def _as_object(body: bytes) -> JSONObject | None:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) else None


class Session:
    """One session, connected upstream, until either side leaves or it may not go on. Belongs to the task that opened it."""

    def __init__(
        self,
        gateway: Gateway,
        request: ModelRequest,
        *,
        upstream: UpstreamSocket,
        meter: SessionMeter,
        admission: Admission,
        presence: _Presence,
        lifetime: Lifetime,
    ) -> None:
        self._gateway = gateway
        self._request = request
        self._upstream = upstream
        self._meter = meter
        self._admission = admission
        self._presence = presence
        self._lifetime = lifetime
        self._exchange = gateway.exchanges.begin(request.id, presence, total_s=lifetime.total_s)
        self._heard()

    @property
    def subprotocol(self) -> str | None:
        """Which of the caller's the provider has chosen."""
        return self._upstream.subprotocol

    @property
    def deployment(self) -> Deployment:
        return self._meter.deployment

    @property
    def alias(self) -> Alias:
        return self._meter.alias

    async def run(self, client: Socket) -> str:
        """Relay until the session is over, and settle. Returns the code of the error that ended it, or nothing."""
        was_sent.set(False)  # A request for a token is no response.
        try:
            ending = await self._relay(client)
            self._gateway.exchanges.end(self._exchange)
            self._meter.stop_clocks()
            await self._finish(client, ending)
        finally:
            self._gateway.turns.give_back()
            self._gateway.exchanges.end(self._exchange)
            self._meter.settle_all("shutdown")
            self._upstream.abort()
            self._gateway.store.settle(self._admission.reservation, cost_pico_usd=0, used=None, budgets=())
        return ending.error.code if ending.error is not None else ""

    async def abandon(self) -> None:
        """The caller left before the session could begin."""
        self._gateway.turns.give_back()
        self._gateway.exchanges.end(self._exchange)
        self._gateway.store.settle(self._admission.reservation, cost_pico_usd=0, used=None, budgets=())
        await self._upstream.close(1000, "")

    async def _relay(self, client: Socket) -> Ending:
        """Both ways, until the first thing that ends it."""

        async def from_client(frame: Frame, event: RealtimeEvent) -> Frame | None:
            try:
                return await self._from_client(frame, event)
            except _AnotherModelError as error:
                await client.send(_told(error, event.event_id))
                return None

        ways = [
            asyncio.ensure_future(self._pass(client, self._upstream, from_client, ("client", "provider"))),
            asyncio.ensure_future(self._pass(self._upstream, client, self._from_provider, ("provider", "client"))),
            asyncio.ensure_future(self._watch()),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            return min((way.result() for way in done), key=_urgency)
        except asyncio.CancelledError:
            ending = self._timed_out()
            if ending is None:
                raise
            return ending
        except Exception:
            logger.exception("a session failed inside the gateway", extra={"request_id": self._request.id})
            return Ending(
                INTERNAL, error=GatewayError("Something went wrong inside the gateway. Open another session.")
            )
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(
        self,
        source: Socket,
        sink: Socket,
        gate: Callable[[Frame, RealtimeEvent], Awaitable[Frame | None]],
        names: tuple[str, str],
    ) -> Ending:
        event = None
        try:
            while True:
                try:
                    frame = await source.receive()
                except SocketClosedError as closed:
                    return Ending(closed.code, closed.reason, by=names[0])
                self._heard()
                event = read_event(frame)
                onward = await gate(frame, event)
                if onward is None:
                    continue
                try:
                    await sink.send(onward)
                except SocketClosedError as closed:
                    return Ending(closed.code, closed.reason, by=names[1])
        except GatewayError as error:
            about = event.event_id if event is not None and names[0] == "client" else None
            return Ending(REFUSED, error.code, error=error, event_id=about)

    async def _from_client(self, frame: Frame, event: RealtimeEvent) -> Frame:
        if event.type in _ACTS and isinstance(frame, str):
            named = _models(event)
            known = {self._request.head.model, self._meter.alias.name, self._meter.deployment.model}
            if not named <= known:
                raise _AnotherModelError(
                    f"A session keeps the model that it was opened with, '{self._meter.alias.name}'. Open another session.",
                    param="session.model",
                )
            if named - {self._meter.deployment.model}:
                frame = with_model(frame, self._meter.deployment.model)
        if event.type == "response.create":
            await self._meter.asked_for(event)
        else:
            await self._meter.heard(event, len(frame))
        return frame

    async def _from_provider(self, frame: Frame, event: RealtimeEvent) -> Frame:
        await self._meter.told(event)
        return frame

    async def _watch(self) -> Ending:
        """Ends the session when its key is revoked, or its model is no more."""
        try:
            while True:
                await asyncio.sleep(ACCESS_S)
                await self._meter.check_access()
        except GatewayError as error:
            return Ending(REFUSED, error.code, error=error)

    def _heard(self) -> None:
        self._exchange.wait(self._gateway.clock.monotonic(), self._lifetime.idle_s)

    def _timed_out(self) -> Ending | None:
        """Whose deadline has passed; None: nobody's, the process stops."""
        if self._exchange.take_timeout():
            expired = self._gateway.clock.monotonic() > self._exchange.deadline
            code = "session_expired" if expired else "session_idle"
            longest = self._lifetime.total_s if expired else self._lifetime.idle_s
            why = "A session lasts at most" if expired else "Nothing was said for"
            over = RequestTimeoutError(f"{why} {longest:g} s. Open another session.", code=code)
            self._meter.take_timeout()
            return Ending(GOING_AWAY, code, error=over)
        if self._meter.take_timeout():
            error = APITimeoutError(
                f"The model '{self._meter.alias.name}' fell silent for too long. Open another session."
            )
            return Ending(BAD_GATEWAY, error.code, by="provider", error=error)
        return None

    async def _finish(self, client: Socket, ending: Ending) -> None:
        """Settle, and tell those who are left."""
        if ending.by == "client":
            self._presence.client_left = True
            self._meter.settle_all("client_left")
            await self._upstream.close(ending.code, ending.reason)
            return
        if ending.by == "provider":
            self._meter.settle_all("upstream_timeout" if ending.error else "upstream_error", failed=True)
        await self._tell(client, ending)
        if ending.by == "gateway" and self._meter.busy:
            await self._hear_last_words()
        self._meter.settle_all(ending.error.code if ending.error else "")
        await self._upstream.close(1000, "")

    async def _tell(self, client: Socket, ending: Ending) -> None:
        try:
            if ending.error is not None:
                await client.send(_told(ending.error, ending.event_id))
            await client.close(ending.code, ending.reason)
        except SocketClosedError:
            self._presence.client_left = True

    async def _hear_last_words(self) -> None:
        """Stop what runs, and wait for what it used: it is billed whether or not anybody hears it."""
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                for response_id in self._meter.running:
                    stop = {"type": "response.cancel", "response_id": response_id}
                    await self._upstream.send(msgspec.json.encode(stop).decode())
                while self._meter.busy:
                    await self._hear_one()
        except (TimeoutError, SocketClosedError):
            return

    async def _hear_one(self) -> None:
        try:
            await self._meter.told(read_event(await self._upstream.receive()))
        except GatewayError:
            return  # Nothing more may run, and the caller knows.


def _models(event: RealtimeEvent) -> set[str]:
    """The models that an event of the caller names."""
    named = [part.get("model") for part in (event.session, event.response) if isinstance(part, dict)]
    return {str(model) for model in named if model is not None}


def _told(error: GatewayError, event_id: str | None) -> str:
    return refusal(WireError(error.status, error.message, error.type, error.code, error.param), event_id)


def _urgency(ending: Ending) -> int:
    """Of what came at the same moment, what counts."""
    return ("client", "gateway", "provider").index(ending.by)
