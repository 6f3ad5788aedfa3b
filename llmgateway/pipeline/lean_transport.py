"""The lean way to upstreams: an httpx transport of our own for HTTP/1.1, on asyncio protocols with httptools.

It does what the gateway needs and nothing else: pooled connections, TLS, streams with back-pressure, and one more try
when a kept connection turns out to be dead. It knows no proxies, no HTTP/2, no redirects, cookies or decompression.
Its contract is that of `transport.PooledTransport`; the two pass the same tests.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterable

from yarl import URL

from llmgateway.http import httpx
from llmgateway.pipeline.departure import was_sent
from llmgateway.pipeline.lean_connection import Connection
from llmgateway.pipeline.lean_pool import ConnectionPool, Origin

RawHeaders = Iterable[tuple[bytes, bytes]]
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
    # The transport's own to say, or meant for one hop.
    **dict.fromkeys(
        (b"content-length", b"transfer-encoding", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
        _DROPPED,
    ),
}


class LeanBody(httpx.AsyncByteStream):
    """The body as it arrives. Abandoning it closes the connection; reading it to its end gives it back to the pool."""

    __slots__ = ("_connection", "_data", "_is_cut", "_pool")

    def __init__(self, data: bytes, connection: Connection | None, pool: ConnectionPool) -> None:
        self._data = data
        self._connection = connection
        self._pool = pool
        self._is_cut = False

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

    __slots__ = ("host", "origin", "target")

    def __init__(self, url: URL, pool: ConnectionPool) -> None:
        if url.scheme not in {"http", "https"} or not url.host:
            raise httpx.UnsupportedProtocol(f"{url} is no http:// or https:// address")
        target = url.raw_path_qs or "/"
        if not _TARGET.fullmatch(target):
            raise httpx.LocalProtocolError("The address has characters that must be percent-encoded")
        self.origin: Origin = pool.origin(url.raw_host or "", url.port or 0, uses_tls=url.scheme == "https")
        self.target = target.encode()
        self.host = (url.host_port_subcomponent or "").encode()


class LeanTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over pooled connections. One per event loop; made anywhere, used and closed on it.

    Request extensions spare work: `prepared_url` (a `yarl.URL` equal to the request's), `client_timeout` (an
    `aiohttp.ClientTimeout`, of which `connect` counts), and `wire` (headers, and the body). Without them the request
    itself says it all, `timeout` included. Later waits are bounded by the caller.
    """

    def __init__(self, *, max_connections: int, tls: ssl.SSLContext | None = None) -> None:
        self._pool = ConnectionPool(max_connections=max_connections, tls=tls or _default_tls())
        self._kinds = _Kinds()
        self._routes: dict[URL, _Route] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        extensions = request.extensions
        url = extensions.get("prepared_url") or URL(str(request.url), encoded=True)
        route = self._routes.get(url) or self._new_route(url)
        wire: Wire | None = extensions.get("wire")
        headers, body = wire or (request.headers.raw, await request.aread())
        head, wants_close = self._head(request.method, route, headers, len(body))
        pool = self._pool
        connection = pool.take_idle(route.origin)
        if connection is None:
            connection = await pool.acquire(route.origin, timeout_s=_connect_timeout(request))
        was_sent.set(True)
        is_head = request.method == "HEAD"
        try:
            await connection.exchange(head, body, is_head=is_head, wants_close=wants_close)
        except httpx.TransportError:
            if not connection.is_stale:
                raise
            connection = await pool.acquire(route.origin, timeout_s=_connect_timeout(request), must_be_new=True)
            await connection.exchange(head, body, is_head=is_head, wants_close=wants_close)
        return httpx.Response(
            connection.status, headers=connection.headers, stream=self._body(connection), request=request
        )

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
        breaks = len(lines) - 1
        # Every line break is ours, or somebody hides a header, or a request, in a value.
        if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
            raise httpx.LocalProtocolError("A header of the request contains a line break or a NUL")
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
        if not has_accept:
            lines.append(b"Accept: */*")
        if wants_close:
            lines.append(b"Connection: close")
        return lines, wants_close

    async def aclose(self) -> None:
        self._pool.close()
        await asyncio.sleep(0)  # The event loop closes sockets in its next turn.


def _default_tls() -> ssl.SSLContext:
    tls = ssl.create_default_context()
    tls.set_alpn_protocols(["http/1.1"])
    return tls


def _connect_timeout(request: httpx.Request) -> float | None:
    client_timeout = request.extensions.get("client_timeout")
    if client_timeout is not None:
        seconds: float | None = client_timeout.connect
        return seconds
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get("connect")
