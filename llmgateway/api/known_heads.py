"""Heads of requests that were parsed before: a client that keeps its connection says the same thing each time.

SDKs send the same headers with every request but for the length of the body. Comparing bytes takes a tenth of the time
that parsing takes, and what follows from the headers need not be worked out again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

from llmgateway.api.asgi_types import KNOWN_HEAD, WHOLE_BODY, Scope

MOST_HEADS = 1000
"""Heads that are remembered at a time. Connections of the same client share theirs."""
LARGEST_HEAD = 4096
"""Bytes of a head that is worth it. Anybody may send heads: all that are remembered take some 15 MB at most."""
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})\r\n", re.IGNORECASE)
_MORE_DIGITS = 10
_OF_CONNECTION = frozenset({"client", "server", "scheme", "headers", "state", "extensions"})
_UNUSUAL = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"x-gateway-provider-key"})
"""The last is a secret of the caller's alone, and such requests are not ordinary."""


class KnownHead:
    """A head, byte for byte but for the digits of its `content-length`, and what it means."""

    __slots__ = ("__weakref__", "_after", "_before", "_headers", "_place", "_scope", "reading")

    def __init__(self, before: bytes, after: bytes, scope: Scope) -> None:
        self._before = before
        self._after = after
        self._scope: Mapping[str, Any] = {name: scope[name] for name in scope if name not in _OF_CONNECTION}
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._place = next(place for place, (name, _) in enumerate(self._headers) if name == b"content-length")
        self.reading: Any = None
        """What the application has read from it; a copy is good for each request."""

    @property
    def scope(self) -> Mapping[str, Any]:
        """What it says to every request."""
        return self._scope

    def body_in(self, data: bytes) -> bytes | None:
        """The body, if `data` is one whole request that begins with this head; None: it must be parsed."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + _MORE_DIGITS)
        if end < 0 or not data.startswith(after, end):
            return None
        digits = data[start:end]
        body = data[end + len(after) :]
        return body if digits.isdigit() and int(digits) == len(body) else None

    def scope_with(self, body: bytes, of_connection: Mapping[str, Any]) -> MutableMapping[str, Any]:
        """The ASGI scope of a request that brings `body`."""
        headers = self._headers.copy()
        headers[self._place] = (b"content-length", b"%d" % len(body))
        return {
            **self._scope,
            **of_connection,
            "headers": headers,
            "extensions": {WHOLE_BODY: body, KNOWN_HEAD: self},
        }


class KnownHeads:
    """Those of one server. They live here alone: connections, of which there are many more, refer to them weakly."""

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], KnownHead] = {}

    def learn(self, data: bytes, scope: Scope) -> KnownHead | None:
        """The head of `data`, which was parsed into `scope`; None: it is not one whole, ordinary request."""
        end = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data, 0, end)
        if length is None or end > LARGEST_HEAD or len(data) - end != int(length[1]):
            return None
        if scope["http_version"] != "1.1" or any(name in _UNUSUAL for name, _ in scope["headers"]):
            return None
        parts = data[: length.start(1)], data[length.end(1) : end]
        head = self._heads.get(parts)
        if head is None:
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            head = self._heads[parts] = KnownHead(*parts, scope)
        return head
