"""Connections to upstreams, kept for reuse: how many there may be, who gets the next, when an idle one is closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator

import aiohappyeyeballs

from llmgateway.http import httpx
from llmgateway.pipeline.departure import KEEP_ALIVE_S
from llmgateway.pipeline.lean_connection import Connection
from llmgateway.pipeline.lean_tunnel import Tunnel
from llmgateway.pipeline.proxies import Proxies, Proxy

SWEEP_S = 5.0
"""How often expired connections are looked for, while there are idle ones."""
SECOND_ADDRESS_S = 0.25
"""How long an address of a host may stay silent before the next is tried beside it."""


class Origin:
    """Scheme, host and port, and the connections to it that wait for work: the latest used is the next to be used."""

    __slots__ = ("host", "idle", "port", "proxy", "uses_tls")

    def __init__(self, host: str, port: int, *, uses_tls: bool, proxy: Proxy | None) -> None:
        self.host = host
        self.port = port
        self.uses_tls = uses_tls
        self.proxy = proxy
        self.idle: dict[Connection, None] = {}


class _Waiter:
    """Somebody for whom there was no connection. Given one, or None: the right to open one."""

    __slots__ = ("future", "origin")

    def __init__(self, origin: Origin, future: asyncio.Future[Connection | None]) -> None:
        self.origin = origin
        self.future = future


class ConnectionPool:
    """The connections of one event loop. `max_connections` counts all of them, used, idle and being opened; 0: no limit.

    While somebody waits nothing is idle: what becomes free goes to whoever waits longest.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        tls: ssl.SSLContext,
        proxies: Proxies | None = None,
    ) -> None:
        self._max = max_connections
        self._tls = tls
        self._proxies = proxies or Proxies()
        self._keep_alive_s = KEEP_ALIVE_S
        self._open = 0
        self._connections: dict[Connection, Origin] = {}
        self._origins: dict[tuple[str, int, bool], Origin] = {}
        self._waiters: deque[_Waiter] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    def origin(self, host: str, port: int, *, uses_tls: bool) -> Origin:
        key = (host, port, uses_tls)
        found = self._origins.get(key)
        if found is None:
            proxy = self._proxies.to(host, port, uses_tls=uses_tls)
            found = self._origins[key] = Origin(host, port, uses_tls=uses_tls, proxy=proxy)
        return found

    def take_idle(self, origin: Origin) -> Connection | None:
        """The connection that was used last, if one is left that should still be good."""
        idle = origin.idle
        while idle:
            connection, _ = idle.popitem()
            if connection.is_alive() and time.monotonic() - connection.idle_since < self._keep_alive_s:
                return connection
            connection.close()
        return None

    def drop_idle(self, origin: Origin) -> None:
        """What killed one kept connection, a restart or a limit perhaps, has killed the others too."""
        for connection in list(origin.idle):
            connection.close()

    async def acquire(self, origin: Origin, *, timeout_s: float | None) -> Connection:
        """A connection for one exchange, to be given back by `release` or by closing it.

        Waiting for a place and connecting may each take `timeout_s`.
        """
        if self._is_closed:
            raise httpx.ConnectError("The transport is closed")
        while self._max and self._open >= self._max and not self._evict_oldest():
            connection = await self._wait(origin, timeout_s)
            if connection is None:
                return await self._connect(origin, timeout_s)
            if connection.is_alive():
                return connection
            connection.close()  # It ended on its way here; its place went to the next in line.
        self._open += 1
        return await self._connect(origin, timeout_s)

    def release(self, connection: Connection) -> None:
        """Take back a connection whose answer is complete."""
        if not connection.is_reusable or connection.is_closed:
            connection.close()
            return
        connection.is_busy = False
        connection.served = True
        if self._waiters:
            self._hand_over(connection)
            return
        connection.idle_since = time.monotonic()
        self._connections[connection].idle[connection] = None
        if self._sweeper is None:
            self._sweep_later()

    def close(self) -> None:
        """Everything, at once, also what is in use."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        closed = httpx.ReadError("The transport was closed")
        for connection in list(self._connections):
            connection.abandon(closed)
        for waiter in self._waiters:
            if not waiter.future.done():
                waiter.future.set_exception(httpx.ConnectError("The transport was closed"))
        self._waiters.clear()

    # Places.

    async def _wait(self, origin: Origin, timeout_s: float | None) -> Connection | None:
        future: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(origin, future)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except BaseException as error:
            self._withdraw(waiter)
            if isinstance(error, TimeoutError):
                message = f"All {self._max} connections are in use. Raise MAX_UPSTREAM_CONNECTIONS if this repeats."
                raise httpx.PoolTimeout(message) from error
            raise

    def _withdraw(self, waiter: _Waiter) -> None:
        """Somebody stopped waiting, perhaps just after being served: then the next in line gets it."""
        future = waiter.future
        if not future.done() or future.cancelled():
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
        elif future.exception() is None:
            connection = future.result()
            if connection is None:
                self._free_place()
            else:
                self.release(connection)

    def _hand_over(self, connection: Connection) -> None:
        """Serve the first in line: with the connection if it leads there, else with its place."""
        waiter = self._next_waiter()
        if waiter is not None and waiter.origin is self._connections[connection]:
            waiter.future.set_result(connection)
            return
        if waiter is not None:
            self._waiters.appendleft(waiter)
            connection.close()
            return
        self.release(connection)

    def _next_waiter(self) -> _Waiter | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                return waiter
        return None

    def _free_place(self) -> None:
        waiter = self._next_waiter()
        if waiter is None:
            self._open -= 1
        else:
            waiter.future.set_result(None)

    def _on_closed(self, connection: Connection) -> None:
        origin = self._connections.pop(connection, None)
        if origin is not None:  # None: it ended while it was being opened, and who opens it frees the place.
            origin.idle.pop(connection, None)
            self._free_place()

    def _evict_oldest(self) -> bool:
        """Make room by closing the connection that has been idle for longest, wherever it leads."""
        candidates = [next(iter(origin.idle)) for origin in self._origins.values() if origin.idle]
        if not candidates:
            return False
        min(candidates, key=lambda connection: connection.idle_since).close()
        return True

    def _sweep(self) -> None:
        self._sweeper = None
        latest_end = time.monotonic() - self._keep_alive_s
        is_any_left = False
        for origin in self._origins.values():
            for connection in list(origin.idle):
                if connection.idle_since > latest_end:
                    is_any_left = True
                    break
                connection.close()
        if is_any_left:
            self._sweep_later()

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(min(SWEEP_S, self._keep_alive_s), self._sweep)

    # Opening.

    async def _connect(self, origin: Origin, timeout_s: float | None) -> Connection:
        """Open a connection in the place that was taken for it, or free the place."""
        try:
            async with _connect_errors(origin), asyncio.timeout(timeout_s):
                connection = await self._open_connection(origin)
        except BaseException:
            self._free_place()
            raise
        self._connections[connection] = origin
        if self._is_closed:
            connection.close()
            raise httpx.ConnectError("The transport was closed")
        return connection

    async def _open_connection(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        nearest = origin.proxy or origin
        addresses = await loop.getaddrinfo(nearest.host, nearest.port, type=socket.SOCK_STREAM)
        plug = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=SECOND_ADDRESS_S, loop=loop)
        made: Connection | None = None
        try:
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if origin.proxy is not None and origin.uses_tls:
                connection = await self._tunnelled(plug, origin, origin.proxy)
            else:
                connection = made = Connection(self._on_closed)
                await loop.create_connection(
                    lambda: connection,
                    sock=plug,
                    ssl=self._tls if nearest.uses_tls else None,
                    server_hostname=nearest.host if nearest.uses_tls else None,
                )
        except BaseException:
            if made is not None:
                made.forget()
            plug.close()
            raise
        if not connection.is_alive():
            connection.close()
            raise ConnectionResetError("closed as soon as it was open")
        return connection

    async def _tunnelled(self, plug: socket.socket, origin: Origin, proxy: Proxy) -> Connection:
        """Through a proxy that sees nothing but bytes: TLS is between the upstream and us."""
        loop = asyncio.get_running_loop()
        outer, tunnel = await loop.create_connection(
            Tunnel,
            sock=plug,
            ssl=self._tls if proxy.uses_tls else None,
            server_hostname=proxy.host if proxy.uses_tls else None,
        )
        try:
            await tunnel.open(origin.host, origin.port, proxy)
            connection = Connection(self._on_closed)
            inner = await loop.start_tls(outer, connection, self._tls, server_hostname=origin.host)
        except BaseException:
            outer.abort()
            raise
        if inner is None:  # The event loop's word for a connection that ended meanwhile.
            raise ConnectionResetError("closed as soon as it was open")
        connection.connection_made(inner)
        return connection


@contextlib.asynccontextmanager
async def _connect_errors(origin: Origin) -> AsyncIterator[None]:
    """The system's errors in httpx's words."""
    where = f"{origin.host}:{origin.port}"
    if origin.proxy is not None:
        where += f" (through the proxy {origin.proxy.host}:{origin.proxy.port})"
    try:
        yield
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"{where} did not take the connection in time") from error
    except (OSError, UnicodeError) as error:  # ssl.SSLError is an OSError; a host that IDNA refuses is the other.
        raise httpx.ConnectError(f"{where}: {error or type(error).__name__}") from error
