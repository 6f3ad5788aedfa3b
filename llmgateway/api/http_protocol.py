"""The server's side of HTTP/1.1: uvicorn's httptools protocol with an answer path of our own.

Requests, upgrades and pipelining stay uvicorn's. What differs:

- Answers go the short way of `http_exchange`.
- A request whose head was said before, by this connection or another, is not parsed again (`known_heads`).
- What several requests say in one turn of the event loop is sent one after the other at its end.
- A body that arrived whole with its head is handed over in the scope, so that nobody has to wait for it.

And what a client may take without giving is bounded: how large a head may be, how long it may take (`connections`), how
many requests may wait behind another, and what is kept for a connection between its requests, which is next to nothing.
"""

from __future__ import annotations

import asyncio
import urllib.parse
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl, service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llmgateway.api import early_refusals
from llmgateway.api.asgi_types import WHOLE_BODY, Scope
from llmgateway.api.connections import Bounds, Connections, Verdict
from llmgateway.api.early_refusals import Refusal
from llmgateway.api.http_exchange import Exchange, answer_head
from llmgateway.api.known_heads import KnownHead
from llmgateway.api.socket_protocol import SocketProtocol
from llmgateway.pipeline.header_lines import HeaderLines
from llmgateway.pipeline.outbox import Departing

if TYPE_CHECKING:
    from llmgateway.api.express import ExpressRequest

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 200
MAX_WAITING = 100
"""Requests that a client may send before the first of them is answered."""
FRAMING = 16
"""Bytes around each byte of a chunked body that a client may send, besides `MAX_HEAD_BYTES` of them: `1 CRLF x CRLF` are 5."""
OPERATORS = ("/health", "/metrics", "/admin/", "/manage/", "/static/")
"""Beginnings of paths that are answered when there is no room for anybody else."""

HEAD_TOO_LARGE = early_refusals.head_too_large(MAX_HEADERS, MAX_HEAD_BYTES)

MOST_NEW_HEADS = 32
"""Of a connection that says more heads one after the other, each of them new, few are remembered: they may never come again."""
NEW_HEADS_EACH = 4
"""One in so many is: they may also be those of many clients behind a proxy, which all come again."""

_NOTHING, _HEAD, _BODY, _WHOLE = range(4)
"""How much of a request has arrived."""


class _Nowhere(list[tuple[bytes, bytes]]):
    """Where headers go that come after the body: nobody reads them."""

    def append(self, header: tuple[bytes, bytes]) -> None:
        """Nothing is kept."""


_nowhere = _Nowhere()


_NOBODY: Any = ()
"""Requests that wait behind the one that is answered. Few connections ever have any."""


class _Flow(FlowControl):
    """uvicorn's, with an event only where somebody waits."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False

    @cached_property
    def _is_writable_event(self) -> asyncio.Event:  # type: ignore[override]  # made when it is first asked for
        event = asyncio.Event()
        if not self.write_paused:
            event.set()
        return event


class GatewayProtocol(HttpToolsProtocol):
    """A client's connection. What it has beside uvicorn's stands in slots: an object of more than 30 attributes takes
    another kilobyte for their names, and there may be thousands.
    """

    __slots__ = (
        "_address", "_answering", "_arrival", "_body_came", "_came", "_connections", "_departing", "_first",
        "_has_slow_body", "_is_idle", "_is_slow", "_is_welcome", "_known", "_new_heads", "_stage", "_upgrades", "_verdict",
        "express", "write_alone",
    )  # fmt: skip

    def __init__(self, *arguments: Any, connections: Connections | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.pipeline = _NOBODY
        self._connections = connections or Connections(Bounds(keep_alive_s=self.timeout_keep_alive))
        self._answering: RequestResponseCycle | None = None
        """The request that is being answered; `cycle` is the one that came last."""
        self._departing: Departing
        self.write_alone: Callable[[bytes], None]
        """To the client, while it takes answers, and without waiting for what others write in this turn of the event loop."""
        self._stage = _NOTHING
        self._upgrades = False
        """The present request becomes a WebSocket."""
        self._is_idle = True
        self._is_slow = False
        """It stands among the connections whose head has not come yet."""
        self._has_slow_body = False
        """The same of those whose body has not."""
        self._arrival = self._first = 0
        """Bytes that came together, now and when the present request began."""
        self._came = 0
        """Bytes that came since, whoseever those of its first arrival are."""
        self._body_came = 0
        self._verdict = Verdict.WELCOME
        self._is_welcome = True
        self._address = ""
        self._known: weakref.ref[KnownHead] | None = None
        """The head of the latest request that came whole, if it is still remembered. It is the first that is looked for."""
        self.express: ExpressRequest | None = None
        """The request that is being answered, if it has no task."""
        self._new_heads = 0
        """How many came one after the other that were not known."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        self._departing = Departing(transport)
        self.write_alone = self._departing.write_alone
        super().connection_made(cast("asyncio.Transport", self._departing))
        self.flow = _Flow(self.transport)
        self._address = self.client[0] if self.client else ""
        self._verdict = self._connections.enter(self, self._address)
        self._is_welcome = self._verdict is Verdict.WELCOME
        if self._verdict is Verdict.TURNED_AWAY:
            self._refuse(early_refusals.FULL)

    def eof_received(self) -> None:
        """The event loop closes the connection next; what was said before must be on its way."""
        if self.express is not None:
            self.express.hand_over()  # What it said next would be lost in part: the outbox drops it, `write_alone` does not.
        self._departing.laid_off()

    def handle_websocket_upgrade(self) -> None:
        self.transport = self._departing.laid_off()
        self._stage = _WHOLE
        self._connections.forget(self)
        super().handle_websocket_upgrade()
        socket = self.transport.get_protocol()
        if isinstance(socket, SocketProtocol):
            socket.all, socket.address, socket.verdict = self._connections, self._address, self._verdict

    def _should_upgrade(self) -> bool:
        return self._is_welcome and super()._should_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stage, self._body_came = _HEAD, 0
        self._first, self._came = self._arrival, -self._arrival

    def on_headers_complete(self) -> None:
        """As in uvicorn, with `Exchange` in place of its own cycle."""
        parser, scope = self.parser, cast("Scope", self.scope)
        self._stage = _BODY
        if self._is_slow:
            self._is_slow = False
            self._connections.heads.pop(self, None)
        http_version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if http_version != "1.1":
            scope["http_version"] = http_version
        self._upgrades = parser.should_upgrade() and self._should_upgrade()
        if self._upgrades:
            return
        is_too_large = self._is_head_too_large()
        url = httptools.parse_url(b"/" if is_too_large else self.url)
        raw_path = url.path
        path = raw_path.decode("ascii")
        scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = url.query or b""
        scope["extensions"] = {}
        app = HEAD_TOO_LARGE if is_too_large else self._app_for(path)
        keep_alive = http_version != "1.0" and parser.should_keep_alive()
        before = self.cycle
        self.cycle = Exchange(
            scope,
            self,
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive and self._is_welcome,
        )
        self.headers = _nowhere
        if before is None or before.response_complete:
            self._begin(self.cycle, app)
        elif len(self.pipeline) >= MAX_WAITING:
            self._departing.abort()
        else:
            # A client that does not wait for the answer before its next request.
            self.flow.pause_reading()
            self.pipeline = self.pipeline or deque()
            self.pipeline.appendleft((self.cycle, cast("Any", app)))

    def _app_for(self, path: str) -> Any:
        if self._is_full():
            return service_unavailable
        if self._is_welcome or path.startswith(OPERATORS):
            return self.app
        return early_refusals.TOO_MANY if self._verdict is Verdict.TOO_MANY else early_refusals.FULL

    def _is_head_too_large(self) -> bool:
        if len(self.headers) > MAX_HEADERS:
            return True
        if self._first + self._came + self._arrival <= MAX_HEAD_BYTES:
            return False  # No more than this has come altogether.
        return len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers]) > MAX_HEAD_BYTES

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the request that came last; where others wait behind it, another is being answered."""
        self._connections.leave(self, self._address, self._verdict)
        if self.express is not None:
            self.express.hand_over()
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def _is_full(self) -> bool:
        limit = self.limit_concurrency
        return limit is not None and (len(self.connections) >= limit or len(self.tasks) >= limit)

    def _begin(self, cycle: Exchange, app: Any, *, context: Context | None = None) -> None:
        self._answering = cycle
        task = cycle.task = self.loop.create_task(cycle.run_asgi(app), context=context)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        """As in uvicorn, without asking the parser each time."""
        cycle = self.cycle
        self._body_came += len(body)
        if self._upgrades or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._stage = _WHOLE
        if self._has_slow_body:
            self._has_slow_body = False
            self._connections.bodies.pop(self, None)
        cycle = self.cycle
        if self._upgrades:
            return
        if cycle.response_complete:
            self._connections.leftovers.pop(self, None)
            self._rest()
            return
        cycle.more_body = False
        cycle.message_event.set()
        if len(cycle.body) <= HIGH_WATER_LIMIT:
            cast("Scope", cycle.scope)["extensions"][WHOLE_BODY] = bytes(cycle.body)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._begin(cast("Exchange", cycle), app)
        elif self._stage == _WHOLE:
            self._rest()
        elif self._stage == _BODY:
            self._connections.leftovers[self] = self.loop.time()
        else:
            self._wait_for_head()

    def _rest(self) -> None:
        """No request is on its way. What the last one was is not kept."""
        self._stage = _NOTHING
        self.cycle = self._answering = self.scope = self.headers = None  # type: ignore[assignment]  # as in uvicorn's beginning
        self._is_idle = True
        self._connections.idle[self] = self.loop.time()

    def data_received(self, data: bytes) -> None:
        was_idle = self._is_idle
        if was_idle:
            self._is_idle = False
            self._connections.idle.pop(self, None)
            known = None if self._known is None else self._known()
            body = None if known is None else known.body_in(data)
            if body is None and (found := self._connections.known_heads.find(data)) is not None:
                known, body = found
                self._known = weakref.ref(known)
            if known is not None and body is not None:
                express = self._connections.express
                if express is None or not self._is_welcome or self._is_full() or not express.begin(self, known, body):
                    self.begin_known(known, body)
                return
        elif self.express is not None:
            self.express.hand_over()  # A client that does not wait for the answer before its next request.
        self._arrival = len(data)
        super().data_received(data)
        if was_idle and self._stage == _WHOLE:
            self._learn(data)
        if self._stage != _WHOLE and not self._is_idle and not self.transport.is_closing():
            self._look_at_what_came()

    def begin_express(self, request: ExpressRequest) -> None:
        """One whole request is answered without a task; the parser stands between two requests, and stays there."""
        self.express = request
        self._new_heads = 0
        self._stage = _WHOLE

    def answer_express(
        self,
        status: int,
        headers: Sequence[tuple[bytes, bytes]],
        own: HeaderLines,
        body: bytes,
        *,
        at_once: bool = False,
    ) -> None:
        """The whole answer to it; `own` lines say its length. Only while `takes_answers`."""
        answer = b"%b\r\n%b\r\n%b" % (answer_head(status, headers), own, body)
        self.express = None  # From here on it has left; what cannot be said has raised before.
        write = self.write_alone if at_once else self.transport.write
        write(answer)
        self.server_state.total_requests += 1
        self._rest()

    def start_express(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], own: HeaderLines, piece: bytes
    ) -> None:
        """Begin an answer that comes in pieces, with the first of them."""
        head = b"%b\r\n%btransfer-encoding: chunked\r\n\r\n" % (answer_head(status, headers), own)
        self.transport.write(b"%b%x\r\n%b\r\n" % (head, len(piece), piece) if piece else head)

    def send_express(self, piece: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def break_express(self) -> None:
        """The answer has begun and cannot be ended: the client must see that."""
        self.express = None
        self.transport.close()

    def end_express(self) -> None:
        self.express = None
        self.transport.write(b"0\r\n\r\n")
        self.server_state.total_requests += 1
        self._rest()

    @property
    def takes_answers(self) -> bool:
        """An answer can leave at once."""
        return not (self.flow.write_paused or self.transport.is_closing())

    def begin_known(self, known: KnownHead, body: bytes, app: Any = None, *, has_begun: bool = False) -> Exchange:
        """As if the request had just come. `app` answers it, in a context of its own; None: whoever answers others.

        `has_begun`: the answer comes in pieces, and some of them have been sent.
        """
        self.express = None
        self._new_heads = 0
        self._stage = _WHOLE
        self._upgrades = self.expect_100_continue = False
        of_connection = {
            "client": self.client,
            "server": self.server,
            "scheme": self.scheme,
            "state": self.app_state.copy(),
        }
        scope = known.scope_with(body, of_connection)
        self.scope, self.headers = cast("Any", scope), _nowhere
        self.cycle = cycle = Exchange(scope, self, expect_100_continue=False, keep_alive=self._is_welcome, body=body)
        if has_begun:
            cycle.go_on()
        if app is None:
            self._begin(cycle, self._app_for(scope["path"]))
        else:
            self._begin(cycle, app, context=Context())
        return cycle

    def _learn(self, data: bytes) -> None:
        """Whether what has just been parsed was one whole request, as most clients send it. A WebSocket's has no cycle."""
        if self.cycle is not None and self.cycle.keep_alive and not self.pipeline:
            self._new_heads += 1
            if self._new_heads <= MOST_NEW_HEADS or self._new_heads % NEW_HEADS_EACH == 0:
                heads, express, scope = (
                    self._connections.known_heads,
                    self._connections.express,
                    cast("Scope", self.scope),
                )
                known = heads.learn(data, scope) if express is None else heads.learn(data, scope, express.knows)
                self._known = None if known is None else weakref.ref(known)

    def _look_at_what_came(self) -> None:
        """The present request is incomplete; it may be too much or too slow."""
        self._came += self._arrival
        if self._stage == _BODY:
            if self._came > MAX_HEAD_BYTES + self._body_came * (1 + FRAMING):
                self._refuse(early_refusals.FRAMED_TOO_MUCH)
            elif not self._has_slow_body:
                self._has_slow_body = True
                self._connections.bodies[self] = self.loop.time()
        elif self._came > MAX_HEAD_BYTES or len(self.headers or ()) > MAX_HEADERS:
            self._refuse(HEAD_TOO_LARGE)
        elif self._answering is None or self._answering.response_complete:
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._is_slow = True
        self._connections.heads.setdefault(self, self.loop.time())

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in the application's stead, and close."""
        if self._answering is not None and not self._answering.response_complete:
            self._departing.abort()  # Amid another answer nothing can be said.
            return
        self.transport.write(refusal.raw())
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(400, "invalid_value", msg))

    def shutdown(self) -> None:
        if self.express is not None:
            self.express.hand_over()
        super().shutdown()

    # What `Connections` asks for.

    @property
    def unread(self) -> int:
        return self._departing.get_write_buffer_size()

    def end(self, reason: str) -> None:
        if reason == "slow_head":
            self._refuse(early_refusals.head_too_slow(self._connections.bounds.head_s))
        elif reason in {"stalled", "slow_body", "unread_body"}:
            self._departing.abort()
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connections.stalls(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connections.flows(self)
