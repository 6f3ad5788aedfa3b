"""Ordinary requests on ordinary connections, answered where their bytes arrive: `pipeline.express` behind HTTP.

A request comes here if its connection has said the same head before. Whatever is not ordinary about it goes the way of
all others, by itself or from here: then it gets a task, as if it had just come, and goes on where it stands.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmgateway.api.asgi_types import Receive, Scope, Send
from llmgateway.api.calls import call_model
from llmgateway.api.responses import JSON
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.express import Asker, Express
from llmgateway.pipeline.header_lines import HeaderLines, line
from providers.adapters.dialects.base import WireError

if TYPE_CHECKING:
    from llmgateway.api.addresses import ClientAddress
    from llmgateway.api.app import DataPlane
    from llmgateway.api.http_protocol import GatewayProtocol
    from llmgateway.api.inbound import Inbound
    from llmgateway.api.known_heads import KnownHead
    from llmgateway.api.routes import Route
    from llmgateway.pipeline.call import Call
    from llmgateway.pipeline.gateway import Gateway
    from llmgateway.pipeline.lean_connection import Connection

logger = logging.getLogger(__name__)

RawHeaders = Sequence[tuple[bytes, bytes]]
MOST_ADDRESSES = 100
"""Addresses from which the same head comes, of which we remember what follows; then all are looked at again."""


class ExpressDoor:
    """One per process, used from the event loop alone."""

    def __init__(self, data_plane: DataPlane, gateway: Gateway, addresses: ClientAddress) -> None:
        self.data_plane = data_plane
        self.lane = Express(gateway)
        self._addresses = addresses

    def begin(self, server: GatewayProtocol, known: KnownHead, body: bytes) -> bool:
        """Take a request on. False: nothing has happened, and it is for the others."""
        address = server.client[0] if server.client else ""
        try:
            asker = known.askers[address]
        except KeyError:
            asker = self._asker(server, known, address)
        if asker is None:
            return False
        request = ExpressRequest(self, server, known)
        call = self.lane.admit(asker, body, self.data_plane.ids.next(), request)
        if call is None:
            return False
        request.call = call
        server.begin_express(request)
        sent = call.sent = self.lane.send(asker, call)
        if sent is None:
            request.hand_over()
        else:
            sent.connection.watcher = request.has_heard
        return True

    def _asker(self, server: GatewayProtocol, known: KnownHead, address: str) -> Asker | None:
        """None: it says something that must be looked at each time, or nobody has read it yet."""
        inbound: Inbound | None = known.reading
        if inbound is None:
            return None
        if len(known.askers) >= MOST_ADDRESSES:
            known.askers.clear()
        asker = None
        route = self.data_plane.fixed_route(known.scope["path"])
        if route is not None and _is_ordinary(known, route, inbound):
            dialect = route.dialect
            if inbound.speaks:
                dialect = inbound.speaks.get(dialect.name, dialect)
            asker = Asker(
                path=route.label,
                dialect=dialect,
                secret=inbound.secret or b"",
                headers=inbound.forwarded,
                client_ip=self._addresses.of({"client": server.client}, inbound.forwarded_for),
                client_request_id=inbound.client_request_id,
                end_user=inbound.end_user,
                session=inbound.session,
                task_type=inbound.task_type,
            )
        known.askers[address] = asker
        return asker


def _is_ordinary(known: KnownHead, route: Route, inbound: Inbound) -> bool:
    scope = known.scope
    if route.endpoint is not call_model or route.lines or scope["method"] not in route.methods or scope["query_string"]:
        return False
    media_type = inbound.content_type.partition(b";")[0].strip().lower()
    if media_type not in {b"", b"application/json"}:
        return False
    asks_for_more = (
        inbound.strict, inbound.bypass_health, inbound.usage_comment, inbound.timeout_ms, inbound.cache, inbound.model,
        inbound.origin is not None, not inbound.secret,
    )  # fmt: skip
    return not any(asks_for_more)


class ExpressRequest:
    """A request that is under way without a task: the call's `Presence`, its upstream connection's watcher."""

    __slots__ = ("_door", "_known", "_server", "call", "client_left")

    call: Call

    def __init__(self, door: ExpressDoor, server: GatewayProtocol, known: KnownHead) -> None:
        self._door = door
        self._server = server
        self._known = known
        self.client_left = False

    @property
    def task(self) -> Any:
        """Whoever would cancel it gives it one."""
        return self

    def cancel(self) -> None:
        """It has taken too long. The next to look at it finds a task, and cancels that."""
        self.call.exchange.timed_out = False
        self.hand_over()

    def watch(self) -> None:
        """The connection tells by itself when the client leaves."""

    def has_heard(self) -> None:
        """Something has come from the provider, or nothing will."""
        call, lane, server = self.call, self._door.lane, self._server
        assert call.sent is not None
        connection: Connection = call.sent.connection
        if not lane.is_ordinary(call, connection) or not server.takes_answers:
            self.hand_over()
        elif connection.is_complete:
            connection.watcher = None
            try:
                self._answer(200, *lane.settle(call, connection))
            except Exception:
                logger.exception("a request failed inside the gateway", extra={"request_id": call.request.id})
                lane.fail(call)
                error = GatewayError("Something went wrong inside the gateway. Try again.")
                wire = WireError(error.status, error.message, error.type, error.code, error.param)
                self._answer(error.status, [JSON], b"", call.request.dialect.error_body(wire))
            del self.call  # Which holds this object: without the cycle nothing waits for the garbage collector.

    def _answer(self, status: int, headers: RawHeaders, lines: HeaderLines, body: bytes) -> None:
        request = self.call.request
        own = b"%bcontent-length: %d\r\nx-request-id: %b\r\n" % (lines, len(body), request.id.encode())
        if name := request.dialect.request_id_header:
            own += line(name, request.id.encode())
        self._server.answer_express(status, headers, own, body)

    def hand_over(self) -> None:
        """It needs a task after all."""
        call = self.call
        if call.sent is not None:
            call.sent.connection.watcher = None
        self._server.begin_known(self._known, call.request.body, self._resume)

    async def _resume(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door.data_plane.resume(scope, receive, send, self.call)
