"""Ordinary requests on ordinary connections, answered where their bytes arrive: `pipeline.express` behind HTTP.

A request comes here if its head was said before. Whatever is not ordinary about it goes the way of
all others, by itself or from here: then it gets a task, as if it had just come, and goes on where it stands.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from llmgateway.api.asgi_types import Receive, Scope, Send
from llmgateway.api.calls import call_model
from llmgateway.api.responses import JSON
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.express import MOST_BYTES, Asking, Express, Sent, Unsent
from llmgateway.pipeline.express_stream import ExpressStream
from llmgateway.pipeline.express_ways import Asker
from llmgateway.pipeline.header_lines import HeaderLines, line
from llmgateway.pipeline.upstream import RawHeaders
from providers.adapters.dialects.base import WireError

if TYPE_CHECKING:
    from llmgateway.api.addresses import ClientAddress
    from llmgateway.api.app import DataPlane
    from llmgateway.api.http_protocol import GatewayProtocol
    from llmgateway.api.inbound import Inbound, InboundReader
    from llmgateway.api.known_heads import KnownHead
    from llmgateway.api.routes import Route
    from llmgateway.pipeline.call import Call
    from llmgateway.pipeline.gateway import Gateway
    from llmgateway.pipeline.lean_connection import Connection
    from llmgateway.pipeline.protocols import Reservation

logger = logging.getLogger(__name__)

_ODD: Final = object()
"""In place of who asks: there is something about the head that must be looked at each time."""


class ExpressDoor:
    """One per process, used from the event loop alone."""

    def __init__(
        self, data_plane: DataPlane, gateway: Gateway, reader: InboundReader, addresses: ClientAddress
    ) -> None:
        self.data_plane = data_plane
        self.lane = Express(gateway)
        self._gateway = gateway
        self._reader = reader
        self._addresses = addresses

    def knows(self, head: KnownHead, scope: Scope) -> bool:
        """Read a new head, which was parsed into `scope`; whether its secret is that of a key."""
        said = {"headers": scope["headers"], "query_string": scope["query_string"]}
        head.reading = inbound = self._reader.read(said)
        return inbound.secret is not None and self._gateway.known_key(inbound.secret) is not None

    def begin(self, server: GatewayProtocol, known: KnownHead, body: bytes) -> bool:
        """Take a request on. False: nothing has happened, and it is for the others."""
        asker = known.asker
        if asker is None:
            asker = known.asker = self._asker(known)
        if asker is _ODD:
            return False
        address = server.client[0] if server.client else ""
        if asker.address != address:
            asker.move(address, self._addresses.of({"client": server.client}, known.reading.forwarded_for))
        try:
            asking = self.lane.ask(asker, body, self.data_plane.ids.next())
            if asking is None:
                return False
            request = ExpressRequest(self, server, known, asking)
            if self.lane.admit_soon(asking, request.decided):
                server.begin_express(request)
                return True
            call = self.lane.admit(asking, request)
        except Exception:
            logger.exception("the short way failed; a request goes the long one")
            return False
        if call is None:
            return False
        server.begin_express(request)
        request.send(call)
        return True

    def _asker(self, known: KnownHead) -> Asker | object:
        """Of no address yet, or `_ODD`."""
        inbound: Inbound | None = known.reading
        route = self.data_plane.fixed_route(known.scope["path"])
        if inbound is None or route is None or not self.lane.is_open or not _is_ordinary(known, route, inbound):
            return _ODD
        dialect = route.dialect
        if inbound.speaks:
            dialect = inbound.speaks.get(dialect.name, dialect)
        return Asker(
            path=route.label,
            dialect=dialect,
            secret=inbound.secret or b"",
            headers=inbound.forwarded,
            client_request_id=inbound.client_request_id,
            end_user=inbound.end_user,
            session=inbound.session,
            task_type=inbound.task_type,
        )


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

    __slots__ = (
        "_asking", "_decision", "_door", "_is_handed_over", "_known", "_server", "_stream", "call", "client_left",
    )  # fmt: skip

    call: Call
    """Once it is admitted."""

    def __init__(self, door: ExpressDoor, server: GatewayProtocol, known: KnownHead, asking: Asking) -> None:
        self._door = door
        self._server = server
        self._known = known
        self._asking: Asking | None = asking
        """Until it is admitted."""
        self._decision: asyncio.Future[Reservation | None] | None = None
        """What its task waits for, if it has got one before it was admitted, until that takes it."""
        self._stream: ExpressStream | None = None
        """Of its answer, once that has begun."""
        self.client_left = False
        self._is_handed_over = False

    @property
    def task(self) -> Any:
        """Whoever would cancel it gives it one."""
        return self

    def cancel(self) -> None:
        """It has taken too long. Who looks at it next finds a task that has begun, and cancels that."""
        self.call.exchange.timed_out = False
        if not self._is_handed_over:
            self.hand_over()

    def watch(self) -> None:
        """The connection tells by itself when the client leaves."""

    def decided(self, reservation: Reservation | None) -> None:
        """The counters have answered; None: its admission is for the long way."""
        asking, lane = self._asking, self._door.lane
        assert asking is not None
        if self._decision is not None:
            if self._decision.done():  # Its task was cancelled meanwhile, perhaps before it began.
                lane.withdraw(reservation)
            else:
                self._decision.set_result(reservation)
            return
        call = self._begun(asking, reservation)
        if call is None:
            self._server.begin_known(self._known, asking.request.body)
        else:
            self.send(call)

    def _begun(self, asking: Asking, reservation: Reservation | None) -> Call | None:
        try:
            return self._door.lane.begin(asking, reservation, self)
        except Exception:
            logger.exception("the short way failed; a request goes the long one")
            return None

    def send(self, call: Call) -> None:
        """It is admitted."""
        asking, self._asking = self._asking, None
        assert asking is not None
        self.call = call
        try:
            sent = call.sent = self._door.lane.send(asking.posting, call)
        except Exception:
            logger.exception("a request could not be sent the short way", extra={"request_id": call.request.id})
            self.hand_over()
            return
        if isinstance(sent, Sent):
            sent.connection.watcher = self.has_heard
        else:
            sent.opening.add_done_callback(self._send_on)

    def _send_on(self, opening: asyncio.Task[Connection]) -> None:
        """Its connection is open, or cannot be."""
        failed = opening.cancelled() or opening.exception() is not None
        if self._is_handed_over:  # Its task waits for the same.
            return
        unsent = self.call.sent
        if failed or not isinstance(unsent, Unsent):
            self.hand_over()
            return
        connection = opening.result()
        if not connection.is_alive():
            self.hand_over()
            return
        try:
            self.call.sent = self._door.lane.send_on(connection, unsent)
        except Exception:
            logger.exception("a request failed inside the gateway", extra={"request_id": self.call.request.id})
            connection.close()
            self._fail(connection)
        else:
            connection.watcher = self.has_heard

    def has_heard(self) -> None:
        """Something has come from the provider, or nothing will."""
        call = self.call
        assert isinstance(call.sent, Sent)
        connection = call.sent.connection
        try:
            if not self._server.takes_answers:
                self.hand_over()
            elif self._stream is not None:
                self._flow(connection, self._stream)
            elif not self._door.lane.is_ordinary(call, connection):
                self.hand_over()
            elif call.request.head.stream:
                self._begin_stream(connection)
            elif connection.body_length > MOST_BYTES:
                self.hand_over()
            elif connection.is_complete:
                connection.leave()
                self._door.lane.settle(call, connection, self._answer_well)
                self._end()
        except Exception:
            logger.exception("a request failed inside the gateway", extra={"request_id": call.request.id})
            self._fail(connection)

    def _begin_stream(self, connection: Connection) -> None:
        if not connection.has_pieces:
            if connection.is_complete:
                self.hand_over()
            return
        self._stream = stream = self._door.lane.stream(self.call, connection)
        if stream is None:
            self.hand_over()
        else:
            self._flow(connection, stream)

    def _flow(self, connection: Connection, stream: ExpressStream) -> None:
        if stream.flows:
            if connection.error is not None:
                self.hand_over()
                return
            onward = stream.read()
        elif not connection.has_pieces:
            self.hand_over()
            return
        else:
            first = stream.first_words()
            if first is None:
                if stream.is_odd:
                    self.hand_over()
                return
            onward = b""
            self._server.start_express(200, stream.headers, stream.lines() + self._always(), first)
            connection.onward = stream.passer(self._server.flow, self._server.write_alone, self._fail_amid_stream)
        last = stream.settle_what_is_over()
        if onward:
            self._server.send_express(onward)
        if connection.is_complete:
            connection.leave()
            if last:
                self._server.send_express(last)
            self._server.end_express()
            self._door.lane.release(self.call, connection)
            self._end()
        elif connection.error is not None:
            self.hand_over()

    def _fail_amid_stream(self) -> None:
        assert isinstance(self.call.sent, Sent)
        self._fail(self.call.sent.connection)

    def _fail(self, connection: Connection) -> None:
        """The gateway itself has a fault."""
        call, stream = self.call, self._stream
        connection.leave()
        try:
            self._door.lane.fail(call, connection)
        except Exception:
            logger.exception("a request could not be settled", extra={"request_id": call.request.id})
        if stream is not None and stream.flows:
            self._server.break_express()
        elif self._server.express is self:  # Else its answer has left.
            error = GatewayError("Something went wrong inside the gateway. Try again.")
            wire = WireError(error.status, error.message, error.type, error.code, error.param)
            self._answer(error.status, [JSON], b"", call.request.dialect.error_body(wire))
        self._end()

    def _end(self) -> None:
        """The call holds this object: without the cycle nothing waits for the garbage collector."""
        del self.call, self._stream

    def _answer_well(self, headers: RawHeaders, lines: HeaderLines, body: bytes) -> None:
        self._answer(200, headers, lines, body)

    def _answer(self, status: int, headers: RawHeaders, lines: HeaderLines, body: bytes) -> None:
        own = b"%bcontent-length: %d\r\n%b" % (lines, len(body), self._always())
        self._server.answer_express(status, headers, own, body, at_once=self._door.lane.is_quiet)

    def _always(self) -> HeaderLines:
        """What every answer says, as `Responder` has it."""
        request = self.call.request
        lines = b"x-request-id: %b\r\n" % request.id.encode()
        name = request.dialect.request_id_header
        return lines + line(name, request.id.encode()) if name else lines

    def hand_over(self) -> None:
        """It needs a task after all, which goes on where it stands. Once."""
        self._is_handed_over = True
        if self._asking is not None:
            self._decision = asyncio.get_running_loop().create_future()
            begun = self._server.begin_known(self._known, self._asking.request.body, self._begin_decided)
            assert begun.task is not None
            begun.task.add_done_callback(self._withdraw_untaken)
            return
        call, stream = self.call, self._stream
        if isinstance(call.sent, Sent):
            call.sent.connection.leave()
        if stream is not None and stream.flows:
            call.begun = stream.answer()
        elif stream is not None:
            stream.put_back()
        has_begun = call.begun is not None
        begun = self._server.begin_known(self._known, call.request.body, self._resume, has_begun=has_begun)
        if isinstance(call.sent, Unsent):
            assert begun.task is not None
            begun.task.add_done_callback(self._close_untaken)

    async def _resume(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door.data_plane.resume(scope, receive, send, self.call)

    def _close_untaken(self, _: asyncio.Task[None]) -> None:
        """A task that was cancelled before it waited for the connection leaves it to nobody."""
        unsent = self.call.sent
        if isinstance(unsent, Unsent):
            unsent.give_up()

    async def _begin_decided(self, scope: Scope, receive: Receive, send: Send) -> None:
        """In its task from before its admission on: what was asked is waited for, for it may have been taken."""
        asking, decision = self._asking, self._decision
        assert asking is not None
        assert decision is not None
        reservation = await decision
        self._decision = None
        call = self._begun(asking, reservation)
        if call is None:
            await self._door.data_plane(scope, receive, send)
        elif self._server.transport.is_closing():
            self._door.lane.leave(call)
        else:
            await self._door.data_plane.resume(scope, receive, send, call)

    def _withdraw_untaken(self, _: asyncio.Task[None]) -> None:
        """A task that was cancelled before it began, or just when the counters had answered, has taken nothing on."""
        decision = self._decision
        if decision is not None and not decision.cancel() and not decision.cancelled():
            self._door.lane.withdraw(decision.result())
