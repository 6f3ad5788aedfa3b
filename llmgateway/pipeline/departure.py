"""Whether a request got as far as a connection: set by transports, read by whoever decides what a failure cost."""

from __future__ import annotations

from contextvars import ContextVar

KEEP_ALIVE_S = 50.0
"""How long an idle connection is kept: below the 60 s after which most servers and load balancers close it."""

was_sent: ContextVar[bool] = ContextVar("was_sent", default=False)
"""Whether this task's latest request had a connection to go out on. Whoever sends sets it to False before."""
