"""Which addresses reporters may reach: none on a private network unless that was allowed, whatever a name resolves to.

The address is checked when a reporter is saved, and again at every connection: a name may resolve to something else
by then. The connection goes to the very address that was checked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from django.core.exceptions import ValidationError

from llmgateway.http import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[list[Address]]]

_TRANSLATED = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16"))
"""Ranges that lead to an IPv4 address written inside; that may be a private one."""


class PrivateAddressError(Exception):
    """The receiver is on a private network, and its reporter does not allow that."""


def is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.is_site_local or any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def validate_webhook_url(url: str, *, allow_private: bool) -> None:
    parts = _parts(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValidationError({"url": "Write an address that begins with https:// or http://."})
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValidationError({"url": "Leave user, password and fragment out; a password belongs in a header."})
    if not allow_private:
        _refuse_private(parts.hostname)


def validate_database_url(url: str, *, allow_private: bool) -> None:
    parts = _parts(url)
    if parts.scheme == "sqlite":
        if not parts.path.startswith("//"):
            raise ValidationError(
                {"url": "Write the whole path of the file, such as sqlite:////var/lib/usage.sqlite3."}
            )
        if not allow_private:
            raise ValidationError({"url": "A SQLite file lies on this machine; tick “allow private network” for that."})
        return
    if parts.scheme not in {"postgres", "postgresql"} or len(parts.path) < 2:
        raise ValidationError({"url": "Write postgres://user@host:5432/name or sqlite:////path/to/file."})
    if parts.password is not None:
        raise ValidationError({"url": "Leave the password out of the address; it is the secret."})
    # Others would name another server, or a file with passwords.
    unknown = set(parse_qs(parts.query, keep_blank_values=True)) - {"host", "port", "sslmode", "sslrootcert"}
    host = database_host(url)
    if unknown or "," in host:
        raise ValidationError({"url": "Behind the name only one host, port, sslmode and sslrootcert may stand."})
    if not allow_private:
        if not host or host.startswith("/"):
            raise ValidationError({"url": "A socket lies on this machine; tick “allow private network” for that."})
        _refuse_private(host)


def database_host(url: str) -> str:
    """The host of a PostgreSQL URL; a path is the folder of its socket."""
    parts = urlsplit(url)
    given = parse_qs(parts.query).get("host", [""])[0]
    return given or unquote(parts.hostname or "")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # reading it is the check
    except ValueError as error:
        raise ValidationError({"url": "This is no address; check brackets and port."}) from error
    return parts


def _refuse_private(host: str) -> None:
    if any(not is_public(address) for address in resolve_now(host)) or _is_local_name(host):
        raise ValidationError(
            {"url": f"{host} is on a private network; tick “allow private network” if that is intended."}
        )


def _is_local_name(host: str) -> bool:
    return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))


def resolve_now(host: str) -> list[Address]:
    """The addresses of `host`; none if it does not resolve. Blocks."""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        return _addresses(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except OSError:
        return []


async def resolve(host: str, port: int) -> list[Address]:
    """As `resolve_now`, on the event loop. Raises OSError if it does not resolve."""
    loop = asyncio.get_running_loop()
    return _addresses(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def _addresses(found: Sequence[tuple[Any, ...]]) -> list[Address]:
    # A scope (`%eth0`) makes an address of one link; it is none that a name on the internet leads to.
    unique = dict.fromkeys(str(item[4][0]).partition("%")[0] for item in found)
    return [ipaddress.ip_address(text) for text in unique]


class CheckedTransport(httpx.AsyncBaseTransport):
    """Resolves, checks and pins: what is connected to is an address that was just looked at.

    One per reporter, for connections are kept by address and must not serve another receiver's name.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        inner: httpx.AsyncBaseTransport | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        self._allow_private = allow_private
        self._inner = inner or httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=16))
        self._resolve = resolver

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        failure: Exception | None = None
        for address in await self._allowed(request.url):
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=str(address)),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or httpx.ConnectError(f"{host} has no address")

    async def _allowed(self, url: httpx.URL) -> list[Address]:
        try:
            addresses = await self._resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
        except OSError as error:
            raise httpx.ConnectError(f"{url.host} does not resolve") from error
        # One private address is enough: a receiver that answers with both must not get a second try at it.
        if not self._allow_private and any(not is_public(address) for address in addresses):
            raise PrivateAddressError(f"{url.host} leads to a private network, which this reporter does not allow")
        return addresses

    async def aclose(self) -> None:
        await self._inner.aclose()
