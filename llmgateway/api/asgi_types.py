"""The callables that ASGI is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

WHOLE_BODY = "llmgateway.body"
"""In `scope["extensions"]`: the request's body, from a server that had all of it at once. `receive` gives it too."""
KNOWN_HEAD = "llmgateway.known_head"
"""There too: the `KnownHead` of the request, whose headers need not be read again."""
