"""Calling a deployment: the request that goes out, the answer that comes in, and what failures mean."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec
import websockets
from yarl import URL

from llmgateway.http import httpx
from llmgateway.pipeline.departure import ClientTimeout, StaleConnectionError, was_sent
from llmgateway.pipeline.lean_connection import Connection
from llmgateway.pipeline.lean_transport import MAX_REMEMBERED, Endpoint, LeanBody, LeanTransport, Posting
from llmgateway.pipeline.requests import Verbatim
from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.sockets import SocketOpener, UpstreamSocket
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import Headers, Signer

if TYPE_CHECKING:
    from llmgateway.pipeline.express import Sent, Unsent

RawHeaders = Sequence[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_FOR_CLIENTS = _HOP_BY_HOP | {b"content-length", b"set-cookie", b"server", b"date", b"alt-svc", b"via"}
_RENAMED_PREFIXES = (
    b"x-ratelimit-", b"x-request-id", b"request-id", b"x-gateway-", b"x-budget-", b"x-llm-", b"server-timing",
)  # fmt: skip
LARGEST_PROBE = 2**20
"""Bytes of an answer to a probe that are read."""


TOKEN_S = 15.0
"""How long a request waits for the short-lived token that its credential needs, others who wait for it included."""
MOST_TOKEN_BYTES = 64 * 2**10


class FailureCause(enum.StrEnum):
    """Why an attempt brought no answer."""

    NOT_CONNECTED = "not_connected"
    INEXPRESSIBLE = "inexpressible"
    """Nothing was sent: the provider's dialect cannot say what was asked."""
    BROKEN = "connection_broken"
    UNREADABLE = "unreadable_answer"
    """The answer was there, and cannot be said in the caller's dialect."""
    TIMEOUT = "timeout"
    NO_TOKEN = "no_token"  # noqa: S105  # A cause, no password.
    """Nothing was sent: the credential brought no short-lived token."""
    REDIRECT = "redirect"
    STATUS = "status"


class UpstreamError(Exception):
    """The connection failed before or during the answer. `cause` tells how far it came.

    `is_stale`: it was a kept one, and had ended before the request by all appearances.
    """

    def __init__(self, cause: FailureCause, detail: str, *, is_stale: bool = False) -> None:
        super().__init__(detail)
        self.cause = cause
        self.is_stale = is_stale


class UpstreamAnswer(msgspec.Struct, frozen=True):
    """An answer whose headers are there. Whoever gets it reads or closes `stream`."""

    status: int
    headers: RawHeaders
    """As they came."""
    stream: httpx.AsyncByteStream
    whole: bytes | None = None
    """The body, if all of it is there already; there is nothing to read or close then."""


@dataclass(frozen=True, slots=True)
class _Route:
    """What is the same for every call of an operation at a deployment."""

    endpoint: Endpoint | None
    """For the lean transport; None: it is another."""
    url: httpx.URL
    prepared_url: URL
    headers: tuple[tuple[bytes, bytes], ...]
    timeout: ClientTimeout


class Upstream:
    """Sends requests to deployments through one transport. Belongs to one event loop."""

    def __init__(self, transport: httpx.AsyncBaseTransport, sockets: SocketOpener | None = None) -> None:
        self._transport = transport
        self._sockets = sockets or SocketOpener()
        self._lean = transport if isinstance(transport, LeanTransport) else None
        self._routes: dict[tuple[int, str, bool], tuple[Deployment, _Route]] = {}
        self._token_locks: WeakKeyDictionary[Signer, asyncio.Lock] = WeakKeyDictionary()

    async def send(
        self,
        deployment: Deployment,
        dialect: Dialect,
        *,
        body: bytes,
        headers: RawHeaders,
        streamed: bool,
        verbatim: Verbatim | None = None,
    ) -> UpstreamAnswer:
        """The answer as soon as its headers are there. `body` is written in `dialect`; `verbatim` says where it goes.

        Raises:
            UpstreamError: not connected, or broken off before the headers.
        """
        was_sent.set(False)
        try:
            if verbatim is not None:
                return await self._send_verbatim(deployment, verbatim, body, headers)
            route = self._route(deployment, dialect, stream=streamed)
            if deployment.signer is not None:
                headers = [*headers, *await self._signed(deployment.signer, "POST", str(route.url), body)]
            if self._lean is not None and route.endpoint is not None:
                status, raw_headers, stream = await self._lean.post(route.endpoint, headers, body)
                return UpstreamAnswer(status, raw_headers, stream, stream.take_whole())
            return await self._send(route, body, headers)
        except httpx.TransportError as error:
            raise classified(error) from error

    # For who sends without waiting.

    def posting(self, deployment: Deployment, dialect: Dialect, headers: RawHeaders, *, stream: bool) -> Posting | None:
        """How requests of one client to `deployment` begin; None: another transport is in use, or it cannot be said."""
        if self._lean is None:
            return None
        endpoint = self._route(deployment, dialect, stream=stream).endpoint
        try:
            return None if endpoint is None else self._lean.posting(endpoint, headers)
        except httpx.LocalProtocolError:
            return None

    def idle_connection(self, endpoint: Endpoint) -> Connection | None:
        """One that a request may be sent on at once; None: there is none."""
        return None if self._lean is None else self._lean.idle_connection(endpoint)

    def opening(self, endpoint: Endpoint) -> asyncio.Task[Connection]:
        """One more to `endpoint`, in its turn. Whoever asked for it waits for it, or cancels it."""
        assert self._lean is not None
        return asyncio.get_running_loop().create_task(self._lean.new_connection(endpoint))

    def body_of(self, connection: Connection) -> LeanBody:
        """What is still to be read of the answer on it."""
        assert self._lean is not None
        return self._lean.body_of(connection)

    def release(self, connection: Connection) -> None:
        """Take back one whose answer has been taken."""
        assert self._lean is not None
        self._lean.release(connection)

    async def answer_on(self, departed: Sent | Unsent) -> UpstreamAnswer:
        """As `send`, of a request that is on its way already, or waits for its connection."""
        assert self._lean is not None
        try:
            if departed.connection is not None:
                connection = departed.connection
            else:
                try:
                    connection = await departed.opening
                except asyncio.CancelledError:
                    departed.give_up()
                    raise
                if not connection.is_alive():
                    # Who sends on it would wait for a word that never comes.
                    raise httpx.ConnectError("The upstream closed the connection as soon as it was open")
                connection.send(departed.head, departed.body, is_head=False, wants_close=False)
            status, raw_headers, stream = await self._lean.answer_on(connection, departed.endpoint)
        except httpx.TransportError as error:
            raise classified(error) from error
        return UpstreamAnswer(status, raw_headers, stream, stream.take_whole())

    async def open_socket(
        self, deployment: Deployment, dialect: Dialect, *, query: str, headers: RawHeaders, subprotocols: Sequence[str]
    ) -> UpstreamSocket:
        """A connection that stays. `query` is added to that of the deployment's address.

        Raises:
            RefusedHandshakeError: the provider answered otherwise.
            UpstreamError: it could not be reached.
        """
        url = deployment.adapter.url(deployment.base_url, dialect, deployment.model)
        if query:
            url += ("&" if "?" in url else "?") + query
        sent = [*headers, *deployment.headers]
        if deployment.signer is not None:
            sent += await self._signed(deployment.signer, "GET", url, b"")
        try:
            return await self._sockets.open(url, sent, subprotocols, timeout_s=deployment.timeouts.connect_s)
        except TimeoutError as error:
            raise UpstreamError(FailureCause.TIMEOUT, str(error)) from None
        except (OSError, websockets.WebSocketException) as error:
            raise UpstreamError(FailureCause.NOT_CONNECTED, str(error)) from None
        except httpx.TransportError as error:
            raise classified(error) from error

    async def _send(self, route: _Route, body: bytes, headers: RawHeaders, *, method: str = "POST") -> UpstreamAnswer:
        """Through any httpx transport."""
        sent = [*headers, *route.headers]
        request = httpx.Request(
            method,
            route.url,
            headers=sent,
            # A stream in place of content spares httpx's own preparation; the transport adds host and length.
            stream=httpx.ByteStream(body),
            extensions={
                "prepared_url": route.prepared_url,
                "client_timeout": route.timeout,
                "wire": (sent, body),
            },
        )
        response = await self._transport.handle_async_request(request)
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise TypeError("upstream transports answer with asynchronous streams")
        return UpstreamAnswer(response.status_code, response.headers.raw, response.stream)

    async def _send_verbatim(
        self, deployment: Deployment, verbatim: Verbatim, body: bytes, headers: RawHeaders
    ) -> UpstreamAnswer:
        url = deployment.adapter.native_url(deployment.base_url, verbatim.target(deployment.model))
        fixed: RawHeaders = ((b"accept-encoding", b"identity"), *deployment.headers)
        if verbatim.content_type:
            fixed = ((b"content-type", verbatim.content_type), *fixed)
        if deployment.signer is not None:
            fixed = (*fixed, *await self._signed(deployment.signer, verbatim.method, url, body))
        route = _Route(
            None, httpx.URL(url), URL(url, encoded=True), tuple(fixed), ClientTimeout(deployment.timeouts.connect_s)
        )
        return await self._send(route, body, headers, method=verbatim.method)

    async def probe(self, deployment: Deployment, path: str) -> int:
        """The status of a `GET` below the provider's address. Nothing is asked of a model, so nothing is billed.

        Raises:
            UpstreamError: it could not be reached, or broke off.
        """
        url = deployment.base_url + path
        headers: RawHeaders = ((b"accept-encoding", b"identity"), *deployment.headers)
        try:
            if deployment.signer is not None:
                headers = (*headers, *await self._signed(deployment.signer, "GET", url, b""))
            timeout = ClientTimeout(deployment.timeouts.connect_s)
            route = _Route(None, httpx.URL(url), URL(url, encoded=True), tuple(headers), timeout)
            try:
                answer = await self._send(route, b"", (), method="GET")
            except StaleConnectionError:
                answer = await self._send(route, b"", (), method="GET")
            try:
                size = 0
                async for piece in answer.stream:  # To its end, that the connection can be used again.
                    size += len(piece)
                    if size > LARGEST_PROBE:
                        break
            finally:
                await answer.stream.aclose()
        except httpx.TransportError as error:
            raise classified(error) from error
        return answer.status

    async def _signed(self, signer: Signer, method: str, url: str, body: bytes) -> RawHeaders:
        """The headers that hold for this request alone; first the token that they need, if it is lacking.

        Raises:
            UpstreamError: the token could not be had.
        """
        if signer.token_request(time.time()) is not None:
            try:
                async with asyncio.timeout(TOKEN_S), self._token_locks.setdefault(signer, asyncio.Lock()):
                    await self._fetch_token(signer)
            except TimeoutError:
                raise UpstreamError(FailureCause.NO_TOKEN, f"no token came within {TOKEN_S} s") from None
            finally:
                was_sent.set(False)  # It went to those who give tokens; no model has worked yet.
        return signer.headers(method, url, body, time.time())

    async def _fetch_token(self, signer: Signer) -> None:
        """Unless another request has done so while this one waited."""
        needed = signer.token_request(time.time())
        if needed is None:
            return
        request = httpx.Request("POST", needed.url, headers=list(needed.headers), content=needed.body)
        try:
            answer = await self._transport.handle_async_request(request)
        except StaleConnectionError:
            answer = await self._transport.handle_async_request(request)
        content = bytearray()
        try:
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > MOST_TOKEN_BYTES:
                    raise UpstreamError(FailureCause.NO_TOKEN, f"what came is larger than {MOST_TOKEN_BYTES} bytes")
        finally:
            await answer.aclose()
        try:
            signer.take_token(answer.status_code, bytes(content), time.time())
        except ValueError as error:
            raise UpstreamError(FailureCause.NO_TOKEN, str(error)) from None

    def _route(self, deployment: Deployment, dialect: Dialect, *, stream: bool) -> _Route:
        cached = self._routes.get((deployment.id, dialect.name, stream))
        if cached is not None and cached[0] is deployment:
            return cached[1]
        url = deployment.adapter.url(deployment.base_url, dialect, deployment.model, stream=stream)
        headers: Headers = ((b"accept-encoding", b"identity"), *deployment.headers)
        if dialect.json_requests:
            # Others have a type of their own with each body.
            headers = ((b"content-type", b"application/json"), *headers)
        connect_s = deployment.timeouts.connect_s
        route = _Route(
            endpoint=self._lean.endpoint(URL(url), headers, connect_timeout_s=connect_s) if self._lean else None,
            url=httpx.URL(url),
            prepared_url=URL(url),
            headers=headers,
            timeout=ClientTimeout(deployment.timeouts.connect_s),
        )
        self._routes[deployment.id, dialect.name, stream] = (deployment, route)
        return route

    async def aclose(self) -> None:
        await self._transport.aclose()


def has_reached_provider() -> bool:
    """Whether this task's latest upstream request left on a connection; if not, no provider can have worked for it."""
    return was_sent.get()


def classified(error: httpx.TransportError) -> UpstreamError:
    """Transports differ in how they name the same failure: DNS and refusal are `ConnectError` or `ConnectTimeout`."""
    if isinstance(
        error,
        (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol),
    ):
        return UpstreamError(FailureCause.NOT_CONNECTED, str(error))
    if isinstance(error, httpx.TimeoutException):
        return UpstreamError(FailureCause.TIMEOUT, str(error))
    return UpstreamError(FailureCause.BROKEN, str(error), is_stale=isinstance(error, StaleConnectionError))


class _ClientNames(dict[bytes, bytes | None]):
    """What clients get a provider's header as; None: not at all. Names are examined once."""

    def __missing__(self, raw_name: bytes) -> bytes | None:
        name: bytes | None = raw_name.lower()
        assert name is not None
        if name in _NOT_FOR_CLIENTS or name.startswith(b"access-control-"):
            name = None
        elif name.startswith(_RENAMED_PREFIXES):
            name = b"x-upstream-" + name.removeprefix(b"x-")
        if len(self) < MAX_REMEMBERED:
            self[raw_name] = name
        return name


_client_names = _ClientNames()


def headers_for_client(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """The provider's headers without hop-by-hop ones; names that the gateway speaks itself come as `x-upstream-…`."""
    names = _client_names
    return [(name, value) for raw_name, value in headers if (name := names[raw_name]) is not None]
