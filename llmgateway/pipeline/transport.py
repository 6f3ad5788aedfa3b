"""The way to upstreams: an httpx transport on aiohttp's connection pool, called directly on the hot path.

Compared with `httpx_aiohttp.AiohttpTransport`, whose place it takes, it uses URLs and timeouts that were prepared
once per deployment, hands over what has arrived without joining or splitting it, closes the connection at once when
a body is abandoned, and says so when a kept connection turns out to be dead before any byte of the answer.
"""

from __future__ import annotations

import errno
import functools
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextvars import ContextVar

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.payload import BytesPayload
from aiohttp.typedefs import LooseHeaders
from multidict import CIMultiDict
from yarl import URL

from llmgateway.http import httpx
from llmgateway.pipeline.departure import KEEP_ALIVE_S, OWN_HEADERS, ClientTimeout, StaleConnectionError, was_sent
from llmgateway.pipeline.proxies import Proxies


class _Protocol(ResponseHandler):
    """One connection, which knows whether it has served before, and whether the present answer has begun."""

    has_served = False
    has_begun = False

    def data_received(self, data: bytes) -> None:
        self.has_begun = True
        super().data_received(data)


_protocol: ContextVar[_Protocol | None] = ContextVar("protocol", default=None)
"""What this task's latest request went out on."""


RawHeaders = Sequence[tuple[bytes, bytes]]
Wire = tuple[RawHeaders, bytes]
"""What goes out: headers and body."""


class _Request(ClientRequest):
    """A request whose headers are taken as they are given, plus `Host` and, where absent, `Accept`."""

    def update_headers(self, headers: LooseHeaders | None) -> None:
        self.headers: CIMultiDict[str] = CIMultiDict(headers or ())
        if hdrs.HOST not in self.headers:
            self.headers[hdrs.HOST] = self.url.host_port_subcomponent or ""

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        if hdrs.ACCEPT not in self.headers:
            self.headers[hdrs.ACCEPT] = "*/*"

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if isinstance(conn.protocol, _Protocol):
            conn.protocol.has_begun = False
            _protocol.set(conn.protocol)
        was_sent.set(True)
        return await super().send(conn)


class _Connector(aiohttp.TCPConnector):
    def __init__(self, *, limit: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(limit=limit, keepalive_timeout=KEEP_ALIVE_S, ssl=tls or True)
        self._factory = functools.partial(_Protocol, loop=self._loop)  # type: ignore[assignment]  # A narrower one.


class RawStream(httpx.AsyncByteStream):
    """The body as it arrives. Abandoning it closes the connection; reading it to its end gives it back to the pool."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._response.content
        try:
            while chunk := await content.readany():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(str(error) or type(error).__name__) from error

    async def aclose(self) -> None:
        self._response.close()


class PooledTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over pooled connections. One per event loop; made and closed on it.

    Request extensions spare work: `prepared_url` (a `yarl.URL` equal to the request's), `client_timeout` (a
    `ClientTimeout`), and `wire` (headers, and the body).
    """

    def __init__(
        self, *, max_connections: int, tls: ssl.SSLContext | None = None, proxies: Proxies | None = None
    ) -> None:
        self._max_connections = max_connections
        self._tls = tls
        self._proxies = proxies or Proxies()
        self._session: aiohttp.ClientSession | None = None

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(limit=self._max_connections, tls=self._tls),
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        _protocol.set(None)
        try:
            response = await self._send(request)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            protocol = _protocol.get()
            if protocol is not None and protocol.has_served and not protocol.has_begun and _is_end(error):
                raise StaleConnectionError(str(error) or type(error).__name__) from error
            raise _translated(error) from error
        if (protocol := _protocol.get()) is not None:
            protocol.has_served = True
        return httpx.Response(
            status_code=response.status, headers=response.raw_headers, stream=RawStream(response), request=request
        )

    async def _send(self, request: httpx.Request) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = self._open_session()
        extensions = request.extensions
        wire: Wire | None = extensions.get("wire")
        headers, body = wire or (request.headers.raw, await request.aread())
        url = extensions.get("prepared_url") or URL(str(request.url), encoded=True)
        proxy = self._proxies.to(url.raw_host or "", url.port or 0, uses_tls=url.scheme == "https")
        return await self._session.request(
            request.method,
            url,
            proxy=proxy.url if proxy is not None else None,
            headers=_decoded(headers),
            data=BytesPayload(body) if body else None,
            allow_redirects=False,
            timeout=_timeout(extensions.get("client_timeout"), extensions.get("timeout", {}).get("connect")),
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


def _decoded(headers: RawHeaders) -> CIMultiDict[str]:
    pairs = [(name, value) for name, value in headers if name.lower() not in OWN_HEADERS]
    return CIMultiDict([(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs])


def _timeout(prepared: ClientTimeout | None, connect_s: float | None) -> aiohttp.ClientTimeout:
    connect_s = connect_s if prepared is None else prepared.connect
    return aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s)


def _is_end(error: Exception) -> bool:
    return isinstance(error, aiohttp.ServerDisconnectedError) or (
        isinstance(error, aiohttp.ClientOSError)
        and error.errno in {errno.ECONNRESET, errno.EPIPE, errno.ESHUTDOWN, None}
    )


def _translated(error: Exception) -> httpx.TransportError:
    """aiohttp's error in httpx's words, so that callers know one tree."""
    text = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx.ConnectError(text)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return httpx.ConnectTimeout(text)
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout(text)
    if isinstance(error, aiohttp.InvalidURL):
        return httpx.UnsupportedProtocol(text)
    if not was_sent.get():  # A proxy refused the way, or spoke no HTTP.
        return httpx.ProxyError(text)
    return httpx.RemoteProtocolError(text)
