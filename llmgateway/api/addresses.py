"""Where a request comes from, believing only proxies that the operator trusts."""

from __future__ import annotations

from functools import lru_cache

from llmgateway.api.asgi_types import Scope
from llmgateway.pipeline.snapshot import Networks, parse_address


class ClientAddress:
    """Reads `X-Forwarded-For` from right to left, past trusted proxies, to the first address that is not one."""

    def __init__(self, trusted_proxies: tuple[str, ...]) -> None:
        self._trusted = Networks.of(trusted_proxies)
        self._any_trusted = bool(trusted_proxies)

    def of(self, scope: Scope, forwarded_for: bytes | None) -> str:
        """The client's address without port, mapped IPv6 addresses as IPv4; empty for a peer that has none."""
        peer = scope.get("client")
        address = str(peer[0]) if peer else ""
        if not self._any_trusted or forwarded_for is None or parse_address(address) not in self._trusted:
            return _plain(address)
        for hop in reversed(forwarded_for.decode("latin-1").split(",")):
            address = _without_port(hop.strip())
            if parse_address(address) not in self._trusted:
                break
        return _plain(address)


@lru_cache(maxsize=65_536)
def _plain(address: str) -> str:
    parsed = parse_address(address)
    return str(parsed) if parsed is not None else ""


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
