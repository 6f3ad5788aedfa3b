"""The line in the access log of a request that the gateway answered itself."""

from __future__ import annotations

from llmgateway.api.exchange import HttpExchange
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.protocols import Record


def log_answer(gateway: Gateway, exchange: HttpExchange, status: int, code: str) -> None:
    """One line, and the count of refusals; `code` is the error's, empty: it was none."""
    key, head, inbound = exchange.key, exchange.head, exchange.inbound
    model = head.model if head is not None and head.model in gateway.snapshot.aliases else ""
    path = exchange.label
    line: Record = {
        "started_at": exchange.started_at,
        "request_id": exchange.request_id,
        "client_request_id": inbound.client_request_id,
        "path": path,
        "http_status": status,
        "status": "refused" if code else "answered",
        "error_type": code,
        "key_id": key.id if key else "",
        "key_name": key.name if key else "",
        "team_id": key.team_id if key else 0,
        "team": key.team_name if key else "",
        "end_user": inbound.end_user,
        "client_ip": exchange.client_ip,
        "alias": model,
        "stream": bool(head and head.stream),
        "duration_ms": (gateway.clock.monotonic() - exchange.received) * 1000,
    }
    gateway.telemetry.answered(path, line)
