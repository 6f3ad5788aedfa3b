"""No test reaches the network. Loopback and Unix sockets are no network."""

from __future__ import annotations

import ipaddress
import socket
import sys
from typing import Any

attempts: list[str] = []
"""What was tried since a test last looked, for code that swallows the error."""

_LOCAL_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost"}


class NetworkBlockedError(OSError):
    """A test tried to leave this machine. An OSError, so that the code under test sees an ordinary failure."""


def install() -> None:
    """For the rest of the process: audit hooks cannot be removed, and see every socket that Python opens."""
    sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event in {"socket.connect", "socket.sendto"}:
        address = args[1]
        if isinstance(address, tuple) and not _is_local(address[0]):
            what = f"connect to {address[0]}:{address[1]}"
            attempts.append(what)
            raise NetworkBlockedError(f"A test tried to {what}. Put a fake transport in its place.")
    elif event == "socket.getaddrinfo" and not _is_local(args[0], literal_is_local=True):
        # As on a machine without a resolver. No offence: forms look up the names they are given.
        raise socket.gaierror(socket.EAI_NONAME, f"{args[0]} is not looked up in tests")


def _is_local(host: object, *, literal_is_local: bool = False) -> bool:
    text = host.decode() if isinstance(host, bytes) else str(host or "")
    if text.lower() in _LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return literal_is_local or address.is_loopback or address.is_unspecified
