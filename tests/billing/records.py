"""Journal records as the pipeline writes them."""

from __future__ import annotations

from typing import Any

from billing.journal import Journal
from llmgateway.pipeline.protocols import Record

NOON = 1_773_489_600.0
"""2026-03-14 12:00 UTC."""


def opened(request_id: str, **changes: Any) -> Record:
    return {
        "id": request_id,
        "started_at": NOON,
        "key_id": "7",
        "key_name": "alice-key",
        "team_id": 3,
        "team_name": "red",
        "end_user": "",
        "client_request_id": "",
        "client_ip": "192.0.2.1",
        "operation": "chat",
        "alias": "gpt-4o-mini",
        "stream": True,
        "held_pico_usd": 90_000_000,
        "windows": [["budget:1:0", 1, 1000]],
        "input_estimate": 100,
        "provider": "openai",
        "deployment": "main",
        "model": "gpt-4o-mini",
        "price_id": 5,
        "input_price": 150_000,
        "output_price": 600_000,
        **changes,
    }


def closed(request_id: str, **changes: Any) -> Record:
    return {
        "id": request_id,
        "started_at": NOON,
        "status": "completed",
        "http_status": 200,
        "key_id": "7",
        "key_name": "alice-key",
        "team_id": 3,
        "team_name": "red",
        "operation": "chat",
        "alias": "gpt-4o-mini",
        "provider": "openai",
        "deployment": "main",
        "model": "gpt-4o-mini",
        "stream": True,
        "input": 90,
        "cache_read": 10,
        "output": 20,
        "reasoning": 5,
        "usage_source": "provider",
        "usage_raw": {"prompt_tokens": 100},
        "cost_pico_usd": 30_000_000,
        "held_pico_usd": 90_000_000,
        "price_id": 5,
        "duration_us": 400_000,
        "ttft_us": 90_000,
        "overhead_us": 300,
        "attempts": [{"deployment": "main", "status": 200}],
        **changes,
    }


def write(journal: Journal, *ids: str, **changes: Any) -> None:
    """One finished request for each id."""
    for request_id in ids:
        journal.open(opened(request_id))
        journal.close(closed(request_id, **changes))
