"""Heads of requests that were parsed before: clients say the same thing each time.

SDKs send the same headers with every request but for the length of the body, on whichever connection. Comparing bytes
takes a tenth of the time that parsing takes, and what follows from the headers need not be worked out again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from llmgateway.api.asgi_types import KNOWN_HEAD, WHOLE_BODY, RawHeaders, Scope
from llmgateway.pipeline.recent import Recent

LARGEST_HEAD = 4096
"""Bytes of a head that is worth it."""
MOST_HEADERS = 64
"""Of such a head."""
MOST_BYTES = 48 * 2**20
"""Memory of heads whose caller is known, and of what follows from them: of more than 10,000 that are as usual."""
MOST_BYTES_OF_STRANGERS = 4 * 2**20
"""The same of all others. Anybody may make heads up, and pushes out none but those of other strangers."""
MOST_SCOPES = 256
"""Methods and paths of which heads share what they say besides headers."""
_EMPTY, _HEADER = 1000, 110
"""Bytes of memory of a head without headers, and of each of those, beside what it says: once as it is, and once as it is read."""
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})\r\n", re.IGNORECASE)
_NAME_END = b"ength: %b\r\n"
"""Of that line, as everybody writes it: after this much of its name all write it in small letters."""
_BEFORE_DIGITS = len(b"ength: ")
_MORE_DIGITS = 10
_OF_CONNECTION = frozenset({"client", "server", "scheme", "headers", "state", "extensions"})
_UNUSUAL = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"x-gateway-provider-key"})
"""The last is a secret of the caller's alone, and such requests are not ordinary."""


class KnownHead:
    """A head, byte for byte but for the digits of its `content-length`, and what it means."""

    __slots__ = ("__weakref__", "_after", "_before", "_scope", "asker", "reading", "weight")

    def __init__(self, before: bytes, after: bytes, scope: Mapping[str, Any], weight: int) -> None:
        self._before = before
        self._after = after
        self._scope = scope
        self.weight = weight
        """Bytes of memory that it takes at most, with all that hangs on it."""
        self.reading: Any = None
        """What the application has read from it; a copy is good for each request."""
        self.asker: Any = None
        """Who asks, for the short way; None: nobody has looked."""

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
        length = b"%d" % len(body)
        return {
            **self._scope,
            **of_connection,
            # They are made again: kept, they would take half of a head's memory, for requests that few are.
            "headers": _headers_in(self._before + length + self._after),
            "extensions": {WHOLE_BODY: body, KNOWN_HEAD: self},
        }


class KnownHeads:
    """Those of one server. They live here alone: connections, of which there are many more, refer to them weakly."""

    def __init__(self) -> None:
        self._of_callers: Recent[tuple[bytes, bytes], KnownHead] = Recent(MOST_BYTES, _weight)
        self._of_strangers: Recent[tuple[bytes, bytes], KnownHead] = Recent(MOST_BYTES_OF_STRANGERS, _weight)
        self._scopes: dict[tuple[str, bytes | None], Mapping[str, Any]] = {}

    def find(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """The head of `data` and its body, if it is one whole request and its head is known; None: it must be parsed.

        All bytes of such a head but its length were parsed before, and the length is the one that is right: written in
        another way it is not found.
        """
        end = data.find(b"\r\n\r\n", 0, LARGEST_HEAD) + 4
        digits = b"%d" % (len(data) - end)
        place = data.find(_NAME_END % digits, 0, end) + _BEFORE_DIGITS
        parts = data[:place], data[place + len(digits) : end]
        head = self._of_callers.get(parts) or self._of_strangers.get(parts)
        return None if head is None else (head, data[end:])

    def learn(
        self, data: bytes, scope: Scope, knows: Callable[[KnownHead, Scope], bool] = lambda *_: False
    ) -> KnownHead | None:
        """The head of `data`, which was parsed into `scope`; None: it is not one whole, ordinary request.

        `knows` tells whether its caller is known, whose heads are kept for longer.
        """
        end = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data, 0, end)
        if length is None or end > LARGEST_HEAD or len(data) - end != int(length[1]):
            return None
        headers = scope["headers"]
        if scope["http_version"] != "1.1" or len(headers) > MOST_HEADERS or headers != _headers_in(data[:end]):
            return None
        names = [name for name, _ in headers]
        if names.count(b"content-length") != 1 or not _UNUSUAL.isdisjoint(names):
            return None
        parts = data[: length.start(1)], data[length.end(1) : end]
        head = self._of_callers.get(parts) or self._of_strangers.get(parts)
        if head is None:
            head = KnownHead(*parts, self._shared(scope), _EMPTY + 2 * end + _HEADER * len(headers))
            kept = self._of_callers if knows(head, scope) else self._of_strangers
            kept.put(parts, head)
        return head

    def _shared(self, scope: Scope) -> Mapping[str, Any]:
        """What a head says besides its headers: with all the same of those that say so too."""
        said = {name: scope[name] for name in scope if name not in _OF_CONNECTION}
        if said.get("query_string"):
            return said  # It may hold a secret.
        asked = said["method"], said.get("raw_path")
        shared = self._scopes.get(asked)
        if shared is None:
            if len(self._scopes) >= MOST_SCOPES:
                return said
            self._scopes[asked] = shared = said
        return shared


def _weight(head: KnownHead) -> int:
    return head.weight


def _headers_in(head: bytes) -> RawHeaders:
    """As the parser finds them, if every line is one header. What is read in another way is not remembered."""
    parted = [line.partition(b":") for line in head.split(b"\r\n")[1:-2]]
    return [(name.lower(), value.lstrip(b" \t")) for name, _, value in parted]
