"""Streams of ordinary requests, passed on where their pieces arrive. What `obtaining` and `streaming` do in a task."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from llmgateway.pipeline.obtaining import HELD_BACK_BYTES
from llmgateway.pipeline.own_headers import STREAM_LINES, gateway_lines
from llmgateway.pipeline.streaming import Answer, settle_stream, stream_output
from llmgateway.pipeline.translation import Outgoing
from llmgateway.pipeline.upstream import UpstreamAnswer, headers_for_client

if TYPE_CHECKING:
    from llmgateway.pipeline.call import Call
    from llmgateway.pipeline.gateway import Gateway
    from llmgateway.pipeline.header_lines import HeaderLines
    from llmgateway.pipeline.lean_connection import Connection
    from llmgateway.pipeline.upstream import RawHeaders

logger = logging.getLogger(__name__)

Passes = Callable[[bytes, int], bool]
"""Whether the next bytes of a stream, so many of them and framed as a chunk, go on as they are; then they count as fed.
Scanners may have it as `passes`."""


class Flow(Protocol):
    """Of what goes to the client."""

    write_paused: bool


class ExpressStream:
    """One stream, from its head on. First it is held back until it says something, then it flows."""

    __slots__ = (
        "_call",
        "_connection",
        "_exchange",
        "_gateway",
        "_held",
        "_now",
        "_outgoing",
        "_raw",
        "_scanner",
        "_size",
        "flows",
        "headers",
    )

    def __init__(self, gateway: Gateway, call: Call, connection: Connection) -> None:
        head, deployment = call.request.head, call.progress.target
        self._gateway = gateway
        self._call = call
        self._connection = connection
        self._exchange = call.exchange
        self._now = gateway.clock.monotonic
        strips = deployment.inject_usage and not head.asked_for_usage
        self._outgoing = Outgoing(call.request.dialect, b"", (), strip_usage=strips)
        scanner = self._outgoing.scanner()
        if (counter := deployment.estimation.counter) is not None:
            scanner = counter.listening(scanner, call.request.dialect, deployment.id)
        self._scanner = call.progress.scanner = scanner
        self._raw: list[bytes] = []
        self._held: list[bytes] = []
        self._size = 0
        """Of what is held back."""
        self.flows = False
        """The client has been told that it begins."""
        self.headers: RawHeaders = ()
        """Of the provider, as the client gets them."""

    def first_words(self) -> bytes | None:
        """What the client gets first, once the stream says something; None: that is still to come, or `is_odd`."""
        progress, call, scanner = self._call.progress, self._call, self._scanner
        piece = self._connection.take()
        now = call.now()
        if progress.first_chunk is None:
            progress.first_chunk = now
        self._raw.append(piece)
        self._size += len(piece)
        self._held.append(scanner.feed(piece))
        if not scanner.first_token:
            return None
        progress.first_token = now
        progress.upstream_status = progress.http_status = self._connection.status
        deployment = progress.target
        self._gateway.health.record(deployment, ok=True)
        self._gateway.traffic.first_token(deployment, now - progress.attempt_started)
        call.exchange.output_tokens = lambda: stream_output(call, scanner)
        call.exchange.wait(now, call.timeouts(deployment).idle_s)
        self.headers = headers_for_client(self._connection.headers)
        self.flows = True
        held, self._held, self._raw = self._held, [], []
        return held[0] if len(held) == 1 else b"".join(held)

    @property
    def is_odd(self) -> bool:
        """It has ended, failed or gone on for long without saying anything: that is to be looked at."""
        scanner, connection = self._scanner, self._connection
        return (
            scanner.done
            or scanner.error is not None
            or connection.is_complete
            or connection.error is not None
            or self._size > HELD_BACK_BYTES
        )

    def lines(self) -> HeaderLines:
        return STREAM_LINES + gateway_lines(self._call)

    def read(self) -> bytes:
        """What the client gets of what has come since."""
        connection, call = self._connection, self._call
        if not connection.has_pieces:
            return b""
        call.exchange.waiting_since = call.now()
        return self._scanner.feed(connection.take())

    def passer(
        self, flow: Flow, write: Callable[[bytes], None], failed: Callable[[], None]
    ) -> Callable[[bytes, int], bool]:
        """For chunks that nobody else has seen: nearly all there is to do for a piece of a stream that flows.

        What is looked up for each of them is looked up once. `failed` is called where the gateway has a fault.
        """
        exchange, now, scanner = self._exchange, self._now, self._scanner
        passes: Passes | None = getattr(scanner, "passes", None)

        def pass_on(chunk: bytes, size: int) -> bool:
            if flow.write_paused:
                return False
            try:
                exchange.waiting_since = now()
                if passes is not None and passes(chunk, size):
                    write(chunk)
                elif onward := self._read_chunk(chunk, size):
                    write(onward)
            except Exception:
                logger.exception("a stream failed inside the gateway", extra={"request_id": self._call.request.id})
                failed()
            return True

        return pass_on

    def _read_chunk(self, chunk: bytes, size: int) -> bytes:
        """What the client gets, framed. What it ends is settled by then."""
        piece = chunk[-2 - size : -2]
        onward = self._scanner.feed(piece)
        if self._scanner.done:
            settle_stream(self._call, self._scanner, "")
        if onward is piece:
            return chunk
        return b"%x\r\n%b\r\n" % (len(onward), onward) if onward else b""

    def settle_what_is_over(self) -> bytes:
        """Settle the call if the stream has said its last; what the client gets behind all the rest."""
        is_complete = self._connection.is_complete
        last = self._scanner.finish() if is_complete else b""
        if is_complete or self._scanner.done:
            settle_stream(self._call, self._scanner, "")
        return last

    def put_back(self) -> None:
        """Nothing of it has been read: a task begins anew with it."""
        self._connection.put_back(self._raw)
        self._call.progress.first_chunk = self._call.progress.scanner = None

    def answer(self) -> Answer:
        """The rest of it, for a task."""
        body = self._gateway.upstream.body_of(self._connection)
        upstream = UpstreamAnswer(self._connection.status, self._connection.headers, body)
        return Answer(
            upstream, self.headers, outgoing=self._outgoing, rest=body, scanner=self._scanner, has_begun=True
        )  # fmt: skip
