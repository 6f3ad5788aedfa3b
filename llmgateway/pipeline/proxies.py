"""The way out: which proxy leads to an upstream, and how TLS towards it is checked. Decided once, at the start. No I/O."""

from __future__ import annotations

import base64
import ipaddress
import ssl
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import msgspec

DEFAULT_PORTS = {"http": 80, "https": 443}


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy. `url` and `authorization` hold a password if there is one; its text shows neither."""

    url: str
    host: str
    port: int
    uses_tls: bool
    authorization: bytes = b""
    """The value of `Proxy-Authorization`; empty: none."""

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"

    @classmethod
    def of(cls, url: str) -> Proxy:
        """Raises ValueError for an address that is none of an HTTP proxy; the message does not repeat it."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError("expected the address of an HTTP proxy, such as http://user:password@proxy.example:3128")
        authorization = b""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + base64.b64encode(pair.encode())
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        return cls(parts.geturl(), parts.hostname, port, parts.scheme == "https", authorization)


class Exceptions:
    """Hosts that are reached directly, as `NO_PROXY` lists them.

    `*` is all, `example.com` and `.example.com` a domain with all below it, `example.com:8443` one port; addresses
    and networks match literally given addresses.
    """

    def __init__(self, text: str, *, loopback: bool) -> None:
        self._loopback = loopback
        self._names: list[tuple[str, int | None]] = []
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for item in filter(None, map(str.strip, text.split(","))):
            try:
                self._networks.append(ipaddress.ip_network(item, strict=False))
            except ValueError:
                name, colon, port = item.rpartition(":")
                has_port = bool(colon) and port.isdigit()
                self._names.append(((name if has_port else item).lower(), int(port) if has_port else None))

    def include(self, host: str, port: int) -> bool:
        host = host.lower().rstrip(".")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if self._loopback and host == "localhost":
                return True
        else:
            if self._loopback and address.is_loopback:
                return True
            if any(address in network for network in self._networks):
                return True
        return any(_matches(host, name) and wanted in (None, port) for name, wanted in self._names)


def _matches(host: str, name: str) -> bool:
    bare = name.removeprefix("*").removeprefix(".")
    return name == "*" or host == bare or (bool(bare) and host.endswith("." + bare))


class Proxies:
    """Which proxy, if any, leads to an upstream."""

    def __init__(
        self, http: Proxy | None = None, https: Proxy | None = None, *, exceptions: Exceptions | None = None
    ) -> None:
        self._http = http
        self._https = https
        self._exceptions = exceptions or Exceptions("", loopback=False)

    @classmethod
    def of(cls, setting: str, environment: Mapping[str, str]) -> Proxies:
        """As `UPSTREAM_PROXY` says: `none`, an address, or `environment` for HTTP_PROXY, HTTPS_PROXY and ALL_PROXY.

        NO_PROXY counts for both; from the environment loopback is excepted too, as other programs do it.

        Raises:
            ValueError: an address is none of a proxy.
        """
        if setting == "none":
            return cls()

        def variable(name: str) -> str:
            return environment.get(name.lower()) or environment.get(name) or ""

        from_environment = setting == "environment"
        exceptions = Exceptions(variable("NO_PROXY"), loopback=from_environment)
        if not from_environment:
            proxy = Proxy.of(setting)
            return cls(proxy, proxy, exceptions=exceptions)
        http, https = [
            Proxy.of(url) if (url := variable(name) or variable("ALL_PROXY")) else None
            for name in ("HTTP_PROXY", "HTTPS_PROXY")
        ]
        return cls(http, https, exceptions=exceptions)

    def to(self, host: str, port: int, *, uses_tls: bool) -> Proxy | None:
        """None: directly."""
        proxy = self._https if uses_tls else self._http
        return None if proxy is None or self._exceptions.include(host, port) else proxy


def tls_context(*, ca_file: str = "", certificate: str = "", key: str = "") -> ssl.SSLContext:
    """How upstreams prove who they are: by the system's authorities and those in `ca_file`.

    `certificate` and `key` are shown to upstreams that ask who we are; a key may lie in the certificate's file.

    Raises:
        OSError: a file cannot be read or holds something else.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file:
        context.load_verify_locations(ca_file)
    if certificate:
        context.load_cert_chain(certificate, key or None)
    return context
