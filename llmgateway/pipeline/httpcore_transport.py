"""The most widely used way to upstreams: httpx's own transport on httpcore's pool, for comparison and as a way out.

It reads what other programs on httpx read, and costs many times more processor time, the more idle connections the
more. What it does worse: it sends all of a request before it reads an answer; it takes an answer that nobody asked for
as that to the next request, if it came with the one before; and it cannot tell whether an answer had begun when a
connection broke, so that a kept one is never said to have been stale. It looks at them before it uses them.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from llmgateway.http import httpx
from llmgateway.pipeline.departure import KEEP_ALIVE_S, OWN_HEADERS, was_sent
from llmgateway.pipeline.proxies import Proxies, Proxy, tls_context
from llmgateway.pipeline.transport import Wire

# At its debug level the library writes every header, our credential included.
logging.getLogger("httpcore").setLevel(logging.WARNING)

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class HttpcoreBody(httpx.AsyncByteStream):
    """The body as it arrives. Abandoning it closes the connection; reading it to its end gives it back to the pool."""

    def __init__(self, stream: httpx.AsyncByteStream, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end
        self._is_over = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _in_httpx_words():
            async for piece in self._stream:
                yield piece
        await self.aclose()

    async def aclose(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        try:
            await self._stream.aclose()
        finally:
            self._on_end()


class HttpcoreTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over pooled connections. One per event loop; made anywhere, used and closed on it.

    Of the request extensions it knows `client_timeout` (of which `connect` counts) and `wire`. `max_connections` counts
    those in use; 0: no limit.
    """

    def __init__(
        self, *, max_connections: int, tls: ssl.SSLContext | None = None, proxies: Proxies | None = None
    ) -> None:
        self._max = max_connections
        # Whoever is cancelled while he waits for httpcore's pool may take a place with him, for ever: so nobody waits there.
        self._places = asyncio.Semaphore(max_connections or 2**31)
        self._tls = tls or tls_context()
        self._proxies = proxies or Proxies()
        self._ways: dict[str, httpx.AsyncHTTPTransport] = {}
        """By the proxy's URL; empty: directly."""
        self._ending: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        was_sent.set(False)
        way = self._way(request.url)
        connect_s = _connect_timeout_s(request)
        sent = await _as_sent(request, connect_s)
        await self._take_place(connect_s)
        try:
            response = await self._answer(way, sent)
        except BaseException:
            self._places.release()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = HttpcoreBody(response.stream, self._places.release)
        if reason := _improper(response):
            await body.aclose()
            raise httpx.RemoteProtocolError(f"The upstream does not speak HTTP/1.1 properly: {reason}")
        return httpx.Response(response.status_code, headers=response.headers.raw, stream=body, request=request)

    def _way(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        uses_tls = url.scheme == "https"
        proxy = self._proxies.to(url.host, url.port or (443 if uses_tls else 80), uses_tls=uses_tls)
        return self._ways.get(proxy.url if proxy else "") or self._open(proxy)

    def _open(self, proxy: Proxy | None) -> httpx.AsyncHTTPTransport:
        through = None
        if proxy is not None:
            through = httpx.Proxy(proxy.url, ssl_context=self._tls if proxy.uses_tls else None)
        # A tunnel in which TLS failed stays in httpcore's pool for ever: as one of a number it would keep out others.
        limits = httpx.Limits(max_keepalive_connections=self._max or None, keepalive_expiry=KEEP_ALIVE_S)
        way = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=limits, proxy=through)
        self._ways[proxy.url if proxy else ""] = way
        return way

    async def _take_place(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._places.acquire()
        except TimeoutError as error:
            message = f"All {self._max} connections are in use. Raise MAX_UPSTREAM_CONNECTIONS if this repeats."
            raise httpx.PoolTimeout(message) from error

    async def _answer(self, way: httpx.AsyncHTTPTransport, sent: httpx.Request) -> httpx.Response:
        """The answer's head. Cancelling ends the exchange as httpcore can bear it: by anyio's scopes, which it shields
        its tidying from.
        """
        context, scope = contextvars.copy_context(), anyio.CancelScope()

        async def asking() -> httpx.Response | None:
            with scope:
                return await way.handle_async_request(sent)
            return None

        task = asyncio.create_task(asking(), context=context)
        try:
            with _in_httpx_words(context):
                response = await asyncio.shield(task)
        except asyncio.CancelledError:
            scope.cancel()
            ending = asyncio.create_task(_given_up(task, sent.extensions["trace"]))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            raise
        finally:
            was_sent.set(context.get(was_sent, False))
        if response is None:
            raise httpx.ReadError("The exchange was ended")
        return response

    async def aclose(self) -> None:
        for way in self._ways.values():
            await way.aclose()


async def _given_up(task: asyncio.Task[httpx.Response | None], course: _Course) -> None:
    """Nobody waits for this answer any more, which may have come in the same moment."""
    await asyncio.wait([task])
    await course.give_up()
    if not task.cancelled() and task.exception() is None and (response := task.result()) is not None:
        await response.aclose()


def _improper(response: httpx.Response) -> str:
    """What httpcore lets pass and nobody should believe; empty: nothing."""
    if response.status_code < 200:
        return f"status {response.status_code}"
    if "transfer-encoding" in response.headers and "content-length" in response.headers:
        return "a length and a transfer encoding"
    return ""


def _connect_timeout_s(request: httpx.Request) -> float | None:
    client_timeout = request.extensions.get("client_timeout")
    seconds: float | None = (
        client_timeout.connect if client_timeout else request.extensions.get("timeout", {}).get("connect")
    )
    return seconds


async def _as_sent(request: httpx.Request, connect_s: float | None) -> httpx.Request:
    """The request with what only a transport says: host, length, how long to wait, and whom to tell that it has left."""
    wire: Wire | None = request.extensions.get("wire")
    given, body = wire or (request.headers.raw, await request.aread())
    headers = [(name, value) for name, value in given if name.lower() not in OWN_HEADERS]
    names = {name.lower() for name, _ in headers}
    if b"host" not in names:
        headers.insert(0, (b"Host", request.url.netloc))
    if b"accept" not in names:
        headers.append((b"Accept", b"*/*"))
    if body or request.method in _WITH_BODY:
        headers.append((b"Content-Length", b"%d" % len(body)))
    # Later waits are bounded by the caller, who can tell them apart.
    timeout = {"connect": connect_s, "pool": connect_s, "read": None, "write": None}
    return httpx.Request(
        request.method,
        request.url,
        headers=headers,
        stream=httpx.ByteStream(body),
        extensions={"timeout": timeout, "trace": _Course()},
    )


class _Course:
    """What httpcore tells of an exchange: when the request leaves, and what it has opened for that."""

    def __init__(self) -> None:
        self._opened: Any = None
        """A connection that no request has gone out on yet."""

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._opened = info["return_value"]
        elif event == "http11.send_request_headers.started" and info["request"].method != b"CONNECT":
            # Asking a proxy for a tunnel is no departure.
            was_sent.set(True)
            self._opened = None

    async def give_up(self) -> None:
        """Close what httpcore leaves open when it is cancelled in a handshake."""
        if self._opened is not None:
            await self._opened.aclose()


@contextmanager
def _in_httpx_words(context: contextvars.Context | None = None) -> Iterator[None]:
    """What the pool lets through of the system's errors, and of a proxy's, in the words that callers know.

    `context` is that of the task which asks; None: the answer has begun.
    """
    try:
        yield
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
        if context is None or context.get(was_sent, False):
            raise
        raise httpx.ProxyError(str(error) or type(error).__name__) from error
    except OSError as error:  # TLS, for instance: the other side refuses us after the handshake.
        raise httpx.ReadError(str(error) or type(error).__name__) from error
