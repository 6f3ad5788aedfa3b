"""What tests of the lean transport have in common."""

from __future__ import annotations

import ssl

from llmgateway.pipeline.lean_pool import ConnectionPool
from llmgateway.pipeline.lean_transport import LeanTransport


def pool_of(transport: LeanTransport) -> ConnectionPool:
    return transport._pool


def open_places(transport: LeanTransport) -> tuple[int, int]:
    """Places that are taken, and connections that exist."""
    return pool_of(transport)._open, len(pool_of(transport)._connections)


TLS = ssl.create_default_context()
