"""What a caller asks, after the protocol surface has read it and before anything has been decided."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.header_lines import HeaderLines
from providers.adapters.body import RequestHead
from providers.adapters.dialects.base import Dialect

if TYPE_CHECKING:
    from llmgateway.pipeline.call import Call
    from llmgateway.pipeline.streaming import Answer


READING = frozenset({"GET", "HEAD", "DELETE"})
"""Methods that call no model."""


class Settlement(Protocol):
    """Looks at a whole answer before the client gets it."""

    async def charge(self, call: Call, content: bytes) -> None:
        """Book on the call what its answer costs."""

    async def onward(self, content: bytes) -> bytes:
        """What the client gets of it."""
        ...


class Witness(Protocol):
    """Sees an answer on its way to the client."""

    def client(self, client: Client, call: Call, answer: Answer) -> Client:
        """`client`, or what stands before it."""
        ...


class State(msgspec.Struct, frozen=True):
    """What a request has to do with responses that somebody keeps."""

    follows: str = ""
    """The response that it goes on from."""
    held_by: str = ""
    """The provider that keeps that one: no other can answer. Empty: its conversation is in the body already."""
    is_kept: bool = False
    """The gateway keeps the answer, if its provider does not."""
    witness: Witness | None = None
    """None: nobody keeps the answer."""


class Verbatim(msgspec.Struct, frozen=True):
    """A call of a provider's own API, whose method, path and query stay the caller's."""

    before_model: str
    """The path and query below the provider's address, up to the model that it names."""
    after_model: str | None = None
    """What follows the model; None: the path names none."""
    method: str = "POST"
    content_type: bytes = b"application/json"
    """Of the body; empty: there is none."""
    costs_nothing: bool = False
    """Whatever the method."""
    settlement: Settlement | None = None
    """What becomes of the answer, besides being passed on."""

    @property
    def is_free(self) -> bool:
        """Whatever the answer says of usage, this call used nothing: it reads what another one has paid for."""
        return self.costs_nothing or self.method in READING

    def target(self, model: str) -> str:
        """The path and query for the provider's `model`."""
        return self.before_model if self.after_model is None else self.before_model + model + self.after_model


class Spending(msgspec.Struct, frozen=True):
    """The most that a caller wants to pay for one request."""

    most_pico_usd: int
    expected_output: int
    """Tokens that the caller expects; by them it is decided whether the request is sent at all."""


class Trailer:
    """What is known of a stream when it has ended, for callers who want to hear it then."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        self.lines: HeaderLines = b""
        """Those that a whole answer has among its headers."""


class ModelRequest(msgspec.Struct, frozen=True):
    """One call of a model. The body stays the caller's bytes; `head` is the little that decisions need."""

    id: str
    """The gateway's own id: never the client's."""
    path: str
    dialect: Dialect
    """In which it is written, and its answer shall be."""
    body: bytes
    head: RequestHead
    headers: Sequence[tuple[bytes, bytes]]
    """Those of the client that may go on: no credentials, nothing hop-by-hop."""
    client_ip: str
    client_request_id: str
    end_user: str
    started_at: float
    """Seconds since the epoch."""
    received: float
    """Monotonic seconds."""
    authenticated: float
    """Monotonic seconds."""
    queued_s: float = 0.0
    """How long it has waited for its turn."""
    provider: str = ""
    """The provider row under whose native prefix it came; its models may be called by their own names there."""
    verbatim: Verbatim | None = None
    """Where it goes at `provider`; None, and at any other provider: where the adapter knows."""
    strict: bool = False
    """Refuse what a provider's dialect cannot say, rather than leave it out and report it."""
    mirror_of: str = ""
    """The request that this one copies; nobody gets its answer."""
    timeout_s: float | None = None
    """How long the caller waits for all of the answer at most; None: as long as the gateway would."""
    input_estimate: int | None = None
    """Tokens of input, where more is known of them than the body says."""
    state: State | None = None
    """None: its dialect knows nothing of kept responses."""
    cache: str = ""
    """What it wants of kept answers: `on`, `off`, `refresh`, or nothing in particular."""
    task_type: str = ""
    """What kind of task it is, such as `summarization`, where the caller says so."""
    session: str = ""
    """Which requests belong together, where the caller says so."""
    bypass_health: bool = False
    """It is to be sent where others are not at present, if its key may."""
    trailer: Trailer | None = None
    """None: nobody wants to hear it."""
    spending: Spending | None = None
    """What the caller would pay for it at most."""


class Client(Protocol):
    """Where the answer goes. All calls may wait for a slow reader, and are cancelled when the reader leaves.

    `headers` are the provider's, `lines` the gateway's own.
    """

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b"") -> None: ...

    async def send(self, chunk: bytes, *, more: bool) -> None: ...

    def send_now(self, chunk: bytes) -> bool:
        """Send a piece that is not the last without waiting. False: that is not possible now, and nothing was sent."""
        ...

    async def whole(
        self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]], lines: HeaderLines = b""
    ) -> None:
        """An answer that is there completely; its length is told to the client."""
        ...

    async def error(self, error: GatewayError, lines: HeaderLines = b"") -> None:
        """An error in the shape of the caller's protocol, in place of an answer."""
        ...


class Presence(Protocol):
    """Whether the client is still there. Its task is cancelled when it leaves, and then this says so."""

    @property
    def client_left(self) -> bool: ...

    @property
    def task(self) -> asyncio.Task[object]:
        """The request's."""
        ...

    def watch(self) -> None:
        """From now on notice it when the client leaves, and at once if it has left already. Once is enough."""
        ...
