"""The short way of ordinary requests: admitted, sent, metered and settled where bytes arrive, without a task of their own.

Ordinary is what most requests are: text for a model with one plain list of targets, by a key that the snapshot knows,
with no feature on that must wait or look more closely. Everything here is either done at once or not begun: `ask`
returns None before it has taken anything, and the long way of `gateway` says what there is to say. What turns out to be
unusual later (no answer in time, an error, a stream, a client that leaves) goes on there too, as the call that it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from llmgateway.pipeline.admission import Admission
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.errors import BudgetExceededError, LedgerUnavailableError
from llmgateway.pipeline.exchanges import total_s
from llmgateway.pipeline.expected_costs import nobody_knows
from llmgateway.pipeline.express_stream import ExpressStream
from llmgateway.pipeline.express_ways import Asker, Way, Ways
from llmgateway.pipeline.header_lines import HeaderLines
from llmgateway.pipeline.metering import opening
from llmgateway.pipeline.own_headers import gateway_lines, usage_lines
from llmgateway.pipeline.protocols import AdmitsAtOnce, AdmitsSoon, Reservation
from llmgateway.pipeline.requests import ModelRequest, Presence
from llmgateway.pipeline.rules import Rules
from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.streaming import estimated_answer
from llmgateway.pipeline.upstream import RawHeaders, headers_for_client
from providers.adapters.errors import MalformedBodyError

if TYPE_CHECKING:
    import asyncio

    from llmgateway.pipeline.gateway import Gateway
    from llmgateway.pipeline.lean_connection import Connection
    from llmgateway.pipeline.lean_transport import Endpoint, Posting
    from llmgateway.pipeline.rules import BudgetIndex
    from llmgateway.pipeline.snapshot import AdmissionRules
    from llmgateway.pipeline.terms import Ask

MOST_BYTES = 65_536
"""Of a request and of an answer. What is larger is worth a task."""
_TYPE, _ENCODING = len(b"content-type"), len(b"content-encoding")


class Asking(NamedTuple):
    """A request that has its turn and knows what it needs; the counters are asked for it."""

    request: ModelRequest
    way: Way
    rules: Rules
    posting: Posting
    """How its head begins at the first of the chosen."""
    chosen: tuple[Deployment, ...]
    ask: Ask
    settings: AdmissionRules
    budget_index: BudgetIndex
    now: float
    routed: float


class Sent(NamedTuple):
    """A request that has left for its provider."""

    connection: Connection
    endpoint: Endpoint


class Unsent(NamedTuple):
    """A request whose connection is being opened; who waits for that sends it."""

    opening: asyncio.Task[Connection]
    endpoint: Endpoint
    head: bytes
    body: bytes
    connection: None = None

    def give_up(self) -> None:
        """Nobody waits any more: a connection that has opened just now is nobody's."""
        opening = self.opening
        if not opening.cancel() and not opening.cancelled() and opening.exception() is None:
            opening.result().close()


class Express:
    """One per process, used from the event loop alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        store = gateway.store
        self._at_once = store if isinstance(store, AdmitsAtOnce) else None
        self._soon = store if isinstance(store, AdmitsSoon) else None
        self._ways = Ways(gateway)

    @property
    def is_open(self) -> bool:
        """False: its counters must be waited for in a task, so nobody goes this way."""
        return self._at_once is not None or self._soon is not None

    def ask(self, asker: Asker, body: bytes, request_id: str) -> Asking | None:
        """What a request needs, and its turn; for `admit`, or for `admit_soon`. None: the long way is due.

        Nothing has happened then.
        """
        gateway = self._gateway
        clock = gateway.clock
        now, received = clock.time(), clock.monotonic()
        if asker.generation != gateway.generation:
            self._ways.look_up(asker, now)
        key = asker.key
        if key is None or len(body) > MOST_BYTES or not asker.valid_from <= now < asker.valid_until:
            return None
        if self._soon is not None and not self._soon.can_ask:
            return None
        if gateway.is_stale() or not gateway.budgets_ready.is_set():
            return None
        authenticated = clock.monotonic()
        dialect = asker.dialect
        try:
            head = dialect.read_head(body)
        except MalformedBodyError:
            return None
        is_ready = head.model == asker.model or self._ways.turn_to(asker, key, head.model)
        if not is_ready or dialect.may_name_kept(body):
            return None
        way, rules = asker.way, asker.rules
        request = ModelRequest(
            id=request_id,
            path=asker.path,
            dialect=dialect,
            body=body,
            head=head,
            headers=asker.headers,
            client_ip=asker.client_ip,
            client_request_id=asker.client_request_id,
            end_user=asker.end_user or head.end_user,
            started_at=now,
            received=received,
            authenticated=authenticated,
            session=asker.session,
            task_type=asker.task_type,
        )
        chosen = self._chosen(way)
        posting = self._ways.posting(asker.voice, chosen, bool(head.stream))
        if posting is None:
            return None
        routed = clock.monotonic()
        settings = gateway.snapshot.admission
        try:
            ask = gateway.desk.terms.ask(request, rules, chosen[:1], settings, now=now)
        except BudgetExceededError:
            return None
        if not gateway.turns.take():
            return None
        return Asking(request, way, rules, posting, chosen, ask, settings, gateway.budget_index, now, routed)

    def admit(self, asking: Asking, presence: Presence) -> Call | None:
        """A call that is admitted and written down, for `send`. None: nothing is taken, and the long way is due."""
        if self._at_once is None:
            return self.begin(asking, None, presence)
        ask, rules = asking.ask, asking.rules
        try:
            reservation = self._at_once.admit_at_once(
                asking.request.id, demand=ask.demand, limits=rules.limits, budgets=rules.budgets, terms=ask.targets[0]
            )
        except BaseException:
            self.withdraw(None)
            raise
        return self.begin(asking, reservation, presence)

    def admit_soon(self, asking: Asking, decided: Callable[[Reservation | None], None]) -> bool:
        """Ask counters that are kept elsewhere; `decided` is told, for `begin`, and not before this returns.

        False: they need not be asked, and `admit` does it.
        """
        if self._soon is None:
            return False
        ask, rules = asking.ask, asking.rules
        try:
            self._soon.admit_soon(
                asking.request.id,
                demand=ask.demand,
                limits=rules.limits,
                budgets=rules.budgets,
                terms=ask.targets[0],
                decided=decided,
            )
        except BaseException:
            self.withdraw(None)
            raise
        return True

    def begin(self, asking: Asking, reservation: Reservation | None, presence: Presence) -> Call | None:
        """Write down that it was admitted. None: it was not, or cannot be written down; nothing is taken."""
        gateway = self._gateway
        if reservation is None:
            gateway.turns.give_back()
            return None
        way, chosen = asking.way, asking.chosen
        deployment = chosen[0]
        admission = Admission(asking.ask, asking.rules, reservation, deployment, [], asking.settings)
        try:
            call = self._opened(asking, admission, presence)
        except BaseException as error:
            self.withdraw(reservation)
            if isinstance(error, LedgerUnavailableError):
                return None
            raise
        call.others = chosen[1:]
        if reservation.shadowed:
            gateway.count_shadowed(reservation.shadowed)
        if len(chosen) > 1:
            way.balancer.take(way.heads, _number_of(way, deployment), "")
        return call

    def withdraw(self, reservation: Reservation | None) -> None:
        """Nobody goes on with it: what it took is given back, and its turn."""
        if reservation is not None:
            self._gateway.store.settle(reservation, cost_pico_usd=0, used=None, budgets=())
        self._gateway.turns.give_back()

    def _opened(self, asking: Asking, admission: Admission, presence: Presence) -> Call:
        """Raises what the ledger raises; the reservation is the caller's to settle then."""
        gateway, reservation = self._gateway, admission.reservation
        request, way = asking.request, asking.way
        admitted = gateway.clock.monotonic()
        admission.take(reservation, 0)
        patience_s = total_s(request, way.alias, way.able, now=admitted)
        exchange = gateway.exchanges.begin(request.id, presence, total_s=patience_s)
        try:
            call = Call(
                request,
                asking.rules.key,
                way.alias,
                admission,
                gateway=gateway,
                budget_index=asking.budget_index,
                presence=presence,
                exchange=exchange,
                admitted_at=asking.now,
            )
            phases = call.phases
            phases["auth"] = request.authenticated - request.received
            phases["route"] = asking.routed - request.authenticated
            phases["admit"] = admitted - asking.routed
            try:
                attempt = call.begin_attempt(admission.deployment)
                gateway.ledger.open(opening(call.asked, call.held_pico_usd, reservation, attempt))
            except BaseException:
                call.withdraw_attempt()
                raise
        except BaseException:
            gateway.exchanges.end(exchange)
            raise
        phases["ledger"] = gateway.clock.monotonic() - admitted
        return call

    def _chosen(self, way: Way) -> tuple[Deployment, ...]:
        """In order; empty: somebody is not well, and one must look more closely."""
        able, troubled = way.able, self._gateway.health.troubled
        if troubled and any(each.id in troubled for each in able):
            return ()
        if len(able) == 1:
            return able
        return tuple([way.heads[number] for number in way.balancer.order(way.heads, nobody_knows, "")])

    def send(self, posting: Posting, call: Call) -> Sent | Unsent:
        """The request of `call` on its way to its provider, or on its way to a connection."""
        request, deployment = call.request, call.admission.deployment
        body = request.dialect.with_model(request.body, request.head, deployment.model)
        cap = call.admission.output_cap
        if cap is not None:
            fields = deployment.adapter.output_cap_fields(request.dialect)
            body = request.dialect.with_output_cap(body, fields, cap)
        said = request.head
        if said.stream and not said.asked_for_usage and deployment.inject_usage:
            body = request.dialect.with_usage_requested(body, said)
        body = deployment.adapter.adapted(request.dialect, body)
        upstream, endpoint = self._gateway.upstream, posting.endpoint
        head = b"%b%d\r\n\r\n" % (posting.start, len(body))
        connection = upstream.idle_connection(endpoint)
        if connection is None:
            return Unsent(upstream.opening(endpoint), endpoint, head, body)
        connection.send(head, body, is_head=False, wants_close=False, at_once=self.is_quiet)
        return Sent(connection, endpoint)

    def send_on(self, connection: Connection, unsent: Unsent) -> Sent:
        """Its connection is open."""
        connection.send(unsent.head, unsent.body, is_head=False, wants_close=False, at_once=self.is_quiet)
        return Sent(connection, unsent.endpoint)

    @staticmethod
    def is_ordinary(call: Call, connection: Connection) -> bool:
        """Whether what has come so far may be the beginning of an ordinary answer."""
        if connection.error is not None:
            return False
        if not connection.has_head:
            return True
        return connection.status == 200 and _is_as_asked(call.request, connection.headers)

    def stream(self, call: Call, connection: Connection) -> ExpressStream | None:
        """The stream of events that an ordinary answer to `call` is; None: it has another end than its last event."""
        return None if call.progress.target.drain_s else ExpressStream(self._gateway, call, connection)

    def settle(
        self, call: Call, connection: Connection, answer: Callable[[RawHeaders, HeaderLines, bytes], None]
    ) -> None:
        """Meter and settle an answer that is complete and ordinary.

        `answer` is told of its headers for the client, our own, and its body, as soon as its row is written.
        """
        gateway, progress, dialect = self._gateway, call.progress, call.request.dialect
        headers, body = headers_for_client(connection.headers), connection.take()
        gateway.upstream.release(connection)
        progress.upstream_status = progress.http_status = connection.status
        progress.first_chunk = call.now()
        gateway.health.record(progress.target, ok=True)
        raw, response_model = dialect.answer_usage(body)
        call.meter(raw, output_estimate=estimated_answer(call, body, raw, dialect), response_model=response_model)
        call.settle("completed", written=lambda: answer(headers, gateway_lines(call) + usage_lines(call), body))
        self.end(call)

    def release(self, call: Call, connection: Connection) -> None:
        """The stream is over, and settled."""
        self._gateway.upstream.release(connection)
        self.end(call)

    def fail(self, call: Call, connection: Connection) -> None:
        """The gateway itself could not go on with it."""
        if connection.is_busy:
            connection.close()
        try:
            if not call.settled:
                call.progress.http_status = call.progress.http_status or 500
                call.settle("failed", error_type="internal_error")
        finally:
            self.end(call)

    def leave(self, call: Call) -> None:
        """Its client has left before anything was sent."""
        try:
            call.settle_cancelled("client_left")
        finally:
            self.end(call)

    @property
    def is_quiet(self) -> bool:
        """No other request is on its way, so that nothing is gained by writing what leaves together."""
        return len(self._gateway.exchanges) <= 1

    def end(self, call: Call) -> None:
        """It is settled, and nothing of it is left."""
        if self._gateway.exchanges.end(call.exchange):
            self._gateway.turns.give_back()


def _number_of(way: Way, deployment: Deployment) -> int:
    return next(number for number, each in way.heads.items() if each is deployment)


def _is_as_asked(request: ModelRequest, headers: RawHeaders) -> bool:
    """A stream if one was asked for, else none, and nothing is packed."""
    is_stream = False
    for name, value in headers:
        size = len(name)
        if size == _TYPE and name.lower() == b"content-type":
            is_stream = request.dialect.is_stream(value)
        elif size == _ENCODING and name.lower() == b"content-encoding" and value.strip().lower() != b"identity":
            return False
    return is_stream is bool(request.head.stream)
