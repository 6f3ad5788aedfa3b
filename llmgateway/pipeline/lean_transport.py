"""The lean way to upstreams: an httpx transport of our own for HTTP/1.1, on asyncio protocols with httptools.

It does what the gateway needs and nothing else: pooled connections, TLS, proxies and streams with back-pressure. It
knows no HTTP/2, no redirects, cookies or decompression.
Its contract is that of `transport.PooledTransport` and of `httpcore_transport.HttpcoreTransport`: they pass the same tests.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Iterable
from typing import NamedTuple

from yarl import URL

from llmgateway.http import httpx
from llmgateway.pipeline.departure import OWN_HEADERS, StaleConnectionError, was_sent
from llmgateway.pipeline.lean_connection import Connection
from llmgateway.pipeline.lean_pool import ConnectionPool, Origin
from llmgateway.pipeline.proxies import Proxies, tls_context

RawHeaders = Iterable[tuple[bytes, bytes]]
Headers = list[tuple[bytes, bytes]]
Wire = tuple[RawHeaders, bytes]

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"[!-~]+")
MAX_REMEMBERED = 1000
"""Header names and URLs of which we remember what they mean. More than any sane configuration has."""

# What is done with a header of the request.
_PLAIN, _DROPPED, _HOST, _ACCEPT, _CONNECTION = range(5)
_KINDS = {
    b"host": _HOST,
    b"accept": _ACCEPT,
    b"connection": _CONNECTION,
    **dict.fromkeys(OWN_HEADERS, _DROPPED),
}


class LeanBody(httpx.AsyncByteStream):
    """The body as it arrives. Abandoning it closes the connection; reading it to its end gives it back to the pool."""

    __slots__ = ("_connection", "_data", "_is_cut", "_pool")

    def __init__(self, data: bytes, connection: Connection | None, pool: ConnectionPool) -> None:
        self._data = data
        self._connection = connection
        self._pool = pool
        self._is_cut = False

    def take_whole(self) -> bytes | None:
        """All of it, if it has arrived; the body is empty from then on. None: it must be read."""
        if self._connection is not None or self._is_cut:
            return None
        data, self._data = self._data, b""
        return data

    def __aiter__(self) -> LeanBody:
        return self

    async def __anext__(self) -> bytes:
        if data := self._data:
            self._data = b""
            return data
        connection = self._connection
        if self._is_cut:
            raise httpx.ReadError("The body was closed before its end")
        if connection is None:
            raise StopAsyncIteration
        while not connection.has_pieces:
            if connection.is_complete:
                self._give_back(connection)
                raise StopAsyncIteration
            if connection.error is not None:
                raise connection.error
            await connection.arrival()
        data = connection.take()
        if connection.is_complete:
            self._give_back(connection)
        return data

    async def pour(self, into: Callable[[bytes], bool]) -> bool:
        """Give `into` the pieces as they come, for as long as it returns True, without waking this task for each.

        `into` must not raise. False: that was the end of the body.

        Raises:
            httpx.TransportError: as reading does.
        """
        wants_more, connection = True, self._connection

        def tap() -> bool:
            nonlocal wants_more
            wants_more = connection is not None and into(connection.take())
            return wants_more

        if self._is_cut:
            raise httpx.ReadError("The body was closed before its end")
        if data := self._data:
            self._data = b""
            if not into(data):
                return True
        while (connection := self._connection) is not None and wants_more:
            if connection.has_pieces:
                data = connection.take()
                if connection.is_complete:
                    self._give_back(connection)
                wants_more = into(data)
            elif connection.is_complete:
                self._give_back(connection)
            elif connection.error is not None:
                raise connection.error
            else:
                connection.tap = tap
                try:
                    await connection.arrival()
                finally:
                    connection.tap = None
        return not wants_more

    def _give_back(self, connection: Connection) -> None:
        self._connection = None
        self._pool.release(connection)

    async def aclose(self) -> None:
        connection = self._connection
        # Whoever reads on must not take what is missing for the end.
        self._is_cut = self._is_cut or connection is not None or bool(self._data)
        self._data = b""
        if connection is None:
            return
        if connection.is_complete:
            connection.take()
            self._give_back(connection)
        else:
            connection.abandon(httpx.ReadError("The body was closed before its end"))


class _Kinds(dict[bytes, int]):
    """What is done with a header, by its name as it is written. Names are examined once."""

    def __missing__(self, name: bytes) -> int:
        if not _TOKEN.fullmatch(name):
            raise httpx.LocalProtocolError(f"{name!r} is no header name")
        kind = _KINDS.get(name.lower(), _PLAIN)
        if len(self) < MAX_REMEMBERED:
            self[name] = kind
        return kind


class _Route:
    """What is the same for every request to a URL."""

    __slots__ = ("for_proxy", "host", "origin", "target")

    def __init__(self, url: URL, pool: ConnectionPool) -> None:
        if url.scheme not in {"http", "https"} or not url.host:
            raise httpx.UnsupportedProtocol(f"{url} is no http:// or https:// address")
        target = url.raw_path_qs or "/"
        if not _TARGET.fullmatch(target):
            raise httpx.LocalProtocolError("The address has characters that must be percent-encoded")
        self.origin: Origin = pool.origin(url.raw_host or "", url.port or 0, uses_tls=url.scheme == "https")
        self.target = target.encode()
        self.host = (url.host_port_subcomponent or "").encode()
        self.for_proxy: list[bytes] = []
        """A line for a proxy that reads the request; one that only carries TLS has been told before."""
        proxy = self.origin.proxy
        if proxy is not None and not self.origin.uses_tls:
            self.target = b"http://" + self.host + self.target
            self.for_proxy = [b"Proxy-Authorization: " + proxy.authorization] if proxy.authorization else []


class Endpoint:
    """What is the same for every POST to a URL, as bytes that are ready to go out."""

    __slots__ = ("connect_timeout_s", "end", "has_accept", "origin", "start")

    def __init__(self, route: _Route, fixed: RawHeaders, kinds: _Kinds, *, connect_timeout_s: float | None) -> None:
        self.origin = route.origin
        self.connect_timeout_s = connect_timeout_s
        host, lines = route.host, [b"", *route.for_proxy]
        self.has_accept = False
        for name, value in fixed:
            kind = kinds[name]
            if kind == _HOST:
                host = value
            elif kind in (_PLAIN, _ACCEPT):
                lines.append(name + b": " + value)
                self.has_accept = self.has_accept or kind == _ACCEPT
        self.start = b"POST %b HTTP/1.1\r\nHost: %b" % (route.target, host)
        self.end = b"\r\n".join([*lines, b"Content-Length: "])
        _check_breaks(self.start + self.end, 1 + len(lines))


class Posting(NamedTuple):
    """What is the same for every POST to an endpoint by one and the same client."""

    endpoint: Endpoint
    start: bytes
    """The head up to the length of the body."""


class LeanTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over pooled connections. One per event loop; made anywhere, used and closed on it.

    Request extensions spare work: `prepared_url` (a `yarl.URL` equal to the request's), `client_timeout` (a
    `ClientTimeout`), and `wire` (headers, and the body). Without them the request
    itself says it all, `timeout` included. Later waits are bounded by the caller.
    """

    def __init__(
        self, *, max_connections: int, tls: ssl.SSLContext | None = None, proxies: Proxies | None = None
    ) -> None:
        self._pool = ConnectionPool(max_connections=max_connections, tls=tls or tls_context(), proxies=proxies)
        self._kinds = _Kinds()
        self._routes: dict[URL, _Route] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        extensions = request.extensions
        url = extensions.get("prepared_url") or URL(str(request.url), encoded=True)
        route = self._routes.get(url) or self._new_route(url)
        wire: Wire | None = extensions.get("wire")
        headers, body = wire or (request.headers.raw, await request.aread())
        head, wants_close = self._head(request.method, route, headers, len(body))
        connection = await self._exchange(
            route.origin,
            head,
            body,
            timeout_s=_connect_timeout(request),
            is_head=request.method == "HEAD",
            wants_close=wants_close,
        )
        return httpx.Response(
            connection.status, headers=connection.headers, stream=self._body(connection), request=request
        )

    def endpoint(self, url: URL, fixed: RawHeaders, *, connect_timeout_s: float | None) -> Endpoint:
        """Where `post` posts to; `fixed` are headers of every request, after those of the single one.

        Raises:
            httpx.UnsupportedProtocol, httpx.LocalProtocolError: the URL or a header cannot be sent.
        """
        return Endpoint(_Route(url, self._pool), fixed, self._kinds, connect_timeout_s=connect_timeout_s)

    async def post(self, endpoint: Endpoint, headers: RawHeaders, body: bytes) -> tuple[int, Headers, LeanBody]:
        """Status, headers and body of the answer, as soon as its head is there.

        Raises:
            httpx.TransportError: as `handle_async_request`.
        """
        connection = await self._exchange(
            endpoint.origin,
            b"%b%d\r\n\r\n" % (self.posting(endpoint, headers).start, len(body)),
            body,
            timeout_s=endpoint.connect_timeout_s,
            is_head=False,
            wants_close=False,
        )
        return connection.status, connection.headers, self._body(connection)

    def posting(self, endpoint: Endpoint, headers: RawHeaders) -> Posting:
        """How a POST with these headers begins. Raises `httpx.LocalProtocolError`: one of them cannot be sent."""
        lines, has_accept, kinds = [endpoint.start], endpoint.has_accept, self._kinds
        for name, value in headers:
            kind = kinds[name]
            if not kind:
                lines.append(name + b": " + value)
            elif kind == _ACCEPT:
                lines.append(name + b": " + value)
                has_accept = True
        if not has_accept:
            lines.append(b"Accept: */*")
        head = b"\r\n".join(lines)
        _check_breaks(head, len(lines))
        return Posting(endpoint, head + endpoint.end)

    def idle_connection(self, endpoint: Endpoint) -> Connection | None:
        """One to `send` a request on; None: it must be waited for."""
        return self._pool.take_idle(endpoint.origin)

    async def new_connection(self, endpoint: Endpoint) -> Connection:
        """One to `send` a request on that has been waited for. Raises what `post` does."""
        return await self._pool.acquire(endpoint.origin, timeout_s=endpoint.connect_timeout_s)

    def body_of(self, connection: Connection) -> LeanBody:
        """What is still to be read of the answer on it."""
        return LeanBody(b"", connection, self._pool)

    def release(self, connection: Connection) -> None:
        """Take back one whose answer is complete and taken."""
        self._pool.release(connection)

    async def answer_on(self, connection: Connection, endpoint: Endpoint) -> tuple[int, Headers, LeanBody]:
        """As `post`, of a request that has been sent on a connection that was idle. Raises what `post` does."""
        was_sent.set(True)
        await self._head_on(connection, endpoint.origin)
        return connection.status, connection.headers, self._body(connection)

    async def _exchange(
        self, origin: Origin, head: bytes, body: bytes, *, timeout_s: float | None, is_head: bool, wants_close: bool
    ) -> Connection:
        """A connection on which the head of the answer has arrived."""
        pool = self._pool
        connection = pool.take_idle(origin)
        if connection is None:
            connection = await pool.acquire(origin, timeout_s=timeout_s)
        was_sent.set(True)
        connection.send(head, body, is_head=is_head, wants_close=wants_close)
        await self._head_on(connection, origin)
        return connection

    async def _head_on(self, connection: Connection, origin: Origin) -> None:
        try:
            await connection.head_arrived()
        except httpx.TransportError as error:
            if not connection.is_stale:
                raise
            self._pool.drop_idle(origin)
            raise StaleConnectionError(str(error)) from error

    def _body(self, connection: Connection) -> LeanBody:
        if not connection.is_complete:
            return LeanBody(b"", connection, self._pool)
        # All of it came with the head, as most answers do: the connection is free before anybody reads.
        body = LeanBody(connection.take(), None, self._pool)
        self._pool.release(connection)
        return body

    def _new_route(self, url: URL) -> _Route:
        route = _Route(url, self._pool)
        if len(self._routes) < MAX_REMEMBERED:
            self._routes[url] = route
        return route

    def _head(self, method: str, route: _Route, headers: RawHeaders, body_length: int) -> tuple[bytes, bool]:
        """The request's head, and whether it asks the upstream to close."""
        if method not in _METHODS and not _TOKEN.fullmatch(method.encode("latin-1", "replace")):
            raise httpx.LocalProtocolError(f"{method!r} is no HTTP method")
        lines, wants_close = self._lines(method, route, headers)
        if body_length or method in {"POST", "PUT", "PATCH"}:
            lines.append(b"Content-Length: %d" % body_length)
        head = b"\r\n".join(lines)
        _check_breaks(head, len(lines) - 1)
        return head + b"\r\n\r\n", wants_close

    def _lines(self, method: str, route: _Route, headers: RawHeaders) -> tuple[list[bytes], bool]:
        host = route.host
        has_accept = wants_close = False
        kinds = self._kinds
        lines = [b"%b %b HTTP/1.1" % (method.encode(), route.target), b""]
        for name, value in headers:
            kind = kinds[name]
            if not kind:
                lines.append(name + b": " + value)
            elif kind == _ACCEPT:
                lines.append(name + b": " + value)
                has_accept = True
            elif kind == _HOST:
                host = value
            elif kind == _CONNECTION and b"close" in value.lower():
                wants_close = True
        lines[1] = b"Host: " + host
        lines += route.for_proxy
        if not has_accept:
            lines.append(b"Accept: */*")
        if wants_close:
            lines.append(b"Connection: close")
        return lines, wants_close

    async def aclose(self) -> None:
        self._pool.close()
        await asyncio.sleep(0)  # The event loop closes sockets in its next turn.


def _check_breaks(head: bytes, breaks: int) -> None:
    """Every line break is ours, or somebody hides a header, or a request, in a value."""
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise httpx.LocalProtocolError("A header of the request contains a line break or a NUL")


def _connect_timeout(request: httpx.Request) -> float | None:
    client_timeout = request.extensions.get("client_timeout")
    if client_timeout is not None:
        seconds: float | None = client_timeout.connect
        return seconds
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get("connect")
