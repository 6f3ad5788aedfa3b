"""How far a request got on its way to an upstream: told by transports, read by whoever decides what a failure means."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from llmgateway.http import httpx

KEEP_ALIVE_S = 50.0
"""How long an idle connection is kept: below the 60 s after which most servers and load balancers close it."""

OWN_HEADERS = (
    b"content-length",
    b"transfer-encoding",
    b"expect",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authorization",
    b"te",
    b"trailer",
    b"upgrade",
)
"""Headers of a request that are its transport's to say, or meant for one hop. Bodies are sent without asking first."""


class ClientTimeout(NamedTuple):
    """How long a request waits for a connection. Later waits are bounded by the caller, who can tell them apart."""

    connect: float | None
    """Seconds."""


was_sent: ContextVar[bool] = ContextVar("was_sent", default=False)
"""Whether this task's latest request had a connection to go out on. Whoever sends sets it to False before."""


class StaleConnectionError(httpx.ReadError):
    """A kept connection had ended before any byte of the answer: by all appearances before the request.

    The next request goes out on another one. Who sends decides whether this one is worth that, and writes it down.
    """
