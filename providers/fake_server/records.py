"""What the fake provider was sent, what it answered, and what it would bill."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from providers.adapters.types import JSONObject


class Record(msgspec.Struct):
    """One request. Moments are seconds since the epoch; those that never came are None."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    client_port: int
    received_at: float = msgspec.field(default_factory=time.time)
    body: Any = None
    id: str = ""
    """Of the answer."""
    status: int = 0
    headers_sent_at: float | None = None
    pieces_sent: int = 0
    finished_at: float | None = None
    disconnected_at: float | None = None
    """When the client left before its answer was complete."""
    close_code: int | None = None
    """With which the client left a WebSocket."""
    reset_at: float | None = None
    billed: JSONObject | None = None
    """Usage of what was generated, whether or not the client learned of it. None: nothing was."""

    def header(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each == name), None)
