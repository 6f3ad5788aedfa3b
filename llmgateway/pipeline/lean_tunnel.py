"""The first words on a connection to a proxy: `CONNECT`, and its answer. What follows is between the upstream and us."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from llmgateway.http import httpx
from llmgateway.pipeline.proxies import Proxy

MAX_ANSWER_BYTES = 16_384
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([ -~]*))?\r?\n")


class Tunnel(asyncio.Protocol):
    """A protocol that asks for a tunnel and then leaves the connection to another."""

    def __init__(self) -> None:
        self._answer = bytearray()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def open(self, host: str, port: int, proxy: Proxy) -> None:
        """Returns when bytes go to `host`.

        Raises:
            httpx.ProxyError: the proxy refuses, or does not speak HTTP.
            OSError: the connection broke.
        """
        authority = b"[%b]:%d" if ":" in host else b"%b:%d"
        target = authority % (host.encode("idna") if ":" not in host else host.encode(), port)
        lines = [b"CONNECT %b HTTP/1.1" % target, b"Host: " + target]
        if proxy.authorization:
            lines.append(b"Proxy-Authorization: " + proxy.authorization)
        self._transport.write(b"\r\n".join([*lines, b"", b""]))
        await self._done

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._done.done():
            return
        head, end, rest = bytes(self._answer).partition(b"\r\n\r\n")
        if not end:
            if len(self._answer) > MAX_ANSWER_BYTES:
                self._fail(f"The proxy sent over {MAX_ANSWER_BYTES} bytes of headers")
            return
        status = _STATUS_LINE.match(head + b"\r\n")
        if status is None:
            self._fail("The proxy does not speak HTTP/1.1 properly")
        elif not status[1].startswith(b"2"):
            reason = b" ".join(filter(None, status.groups())).decode("ascii")
            self._fail(f"The proxy refused the way to the upstream: {reason}")
        elif rest:
            self._fail("The proxy sent more than its answer")
        else:
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the proxy closed the connection without an answer"))

    def _fail(self, reason: str) -> None:
        self._done.set_exception(httpx.ProxyError(reason))
