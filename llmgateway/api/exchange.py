"""One HTTP request and its answer, as the endpoints see it."""

from __future__ import annotations

import msgspec

from llmgateway.api.asgi_types import Receive
from llmgateway.api.inbound import Inbound
from llmgateway.api.responses import DisconnectWatch, Responder
from llmgateway.pipeline.snapshot import Key
from providers.adapters.body import RequestHead


class HttpExchange(msgspec.Struct):
    """What is known of a request so far. Endpoints fill in `key` and `head`, so that a refusal can be logged with them."""

    request_id: str
    method: str
    path: str
    raw_path: str
    """As it was sent, escapes and all."""
    query: bytes
    client_ip: str
    started_at: float
    """Seconds since the epoch."""
    received: float
    """Monotonic seconds."""
    inbound: Inbound
    receive: Receive
    responder: Responder
    body_timeout_s: float
    """How long the body may take to come."""
    authenticated: float = 0.0
    """Monotonic seconds, of endpoints that read the body before they make a request of it."""
    label: str = "(other)"
    """The path for metrics and logs."""
    is_listing: bool = False
    """The answer is a list or a description that the gateway gave itself, and is logged as such."""
    key: Key | None = None
    head: RequestHead | None = None
    watch: DisconnectWatch | None = None
