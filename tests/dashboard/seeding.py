"""Realistic ledger rows with the rollups that the drain would write beside them, by the drain's own arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from django.db import connection

from billing.models import UsageRecord
from billing.rollups import add_rollups, sums
from billing.usage_rows import row_of

MODELS = (
    ("gpt-4o-mini", "openai", 150_000, 600_000),
    ("gpt-4o", "openai", 2_500_000, 10_000_000),
    ("claude-sonnet-4", "anthropic", 3_000_000, 15_000_000),
    ("qwen2.5-coder-32b", "vllm", 80_000, 80_000),
)
"""Name, provider, pico-dollars per input and output token."""


@dataclass(frozen=True)
class Traffic:
    """Whose requests, and how many an hour at the busiest."""

    team_id: int
    team_name: str
    keys: tuple[tuple[str, str], ...]
    busiest: int = 6


def row(at: datetime, **fields: Any) -> dict[str, Any]:
    """One ledger row as the journal closes it; `fields` are its columns."""
    model, cost = fields.get("model", "gpt-4o-mini"), fields.get("cost_pico_usd", 0)
    defaults = {
        "id": f"req-{at.timestamp():.6f}",
        "started_at": at.timestamp(),
        "status": "completed",
        "http_status": 200,
        "error_type": "",
        "key_id": "1",
        "key_name": "web-app",
        "team_id": 1,
        "team_name": "platform",
        "end_user": "",
        "client_request_id": "",
        "client_ip": "192.0.2.7",
        "operation": "chat",
        "alias": model,
        "provider": "openai",
        "deployment": f"{model}-main",
        "model": model,
        "response_model": model,
        "stream": False,
        "input": 100,
        "cache_read": 0,
        "cache_write_5m": 0,
        "cache_write_1h": 0,
        "audio_input": 0,
        "image_input": 0,
        "output": 20,
        "reasoning": 0,
        "audio_output": 0,
        "usage_source": "provider",
        "usage_raw": None,
        "cost_pico_usd": cost,
        "held_pico_usd": cost,
        "price_id": None,
        "priced": True,
        "counted": True,
        "duration_us": 900_000,
        "ttft_us": 200_000,
        "overhead_us": 400,
        "attempts": [
            {"deployment": f"{model}-main", "provider": "openai", "model": model, "status": 200, "cause": "completed",
             "duration_us": 899_000, "cost_pico_usd": cost},
        ],
    }  # fmt: skip
    return defaults | fields


def save(rows: Iterable[dict[str, Any]], refused: Iterable[dict[str, Any]] = ()) -> None:
    """Writes ledger rows and rollups as the drain does."""
    kept = list(rows)
    add_rollups(connection, sums(map(row_of, kept), refused))
    UsageRecord.objects.bulk_create([_record(one) for one in kept], batch_size=500)


def _record(one: dict[str, Any]) -> UsageRecord:
    started_at = datetime.fromtimestamp(one["started_at"], UTC)
    return UsageRecord(**(one | {"started_at": started_at, "day": started_at.date()}))


def traffic(who: Traffic, start: datetime, end: datetime, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Requests that are many by day and few by night, with a long tail of durations and a few failures."""
    random = Random(seed)
    hour = start
    while hour < end:
        by_day = 0.15 + 0.85 * max(0.0, 1 - abs(hour.hour - 14) / 8)
        for number in range(random.randint(0, round(who.busiest * by_day))):
            yield _request(who, hour + timedelta(seconds=random.random() * 3599), random, f"{seed}-{number}")
        hour += timedelta(hours=1)


def _request(who: Traffic, at: datetime, random: Random, suffix: str) -> dict[str, Any]:
    model, provider, input_price, output_price = random.choices(MODELS, weights=(9, 4, 3, 4))[0]
    key_id, key_name = random.choice(who.keys)
    failed = random.random() < 0.03
    tokens, answer = random.randint(200, 6000), 0 if failed else random.randint(20, 900)
    duration = int(random.lognormvariate(14.2, 0.6))
    return row(
        at,
        id=f"req-{who.team_id}-{at.timestamp():.4f}-{suffix}",
        team_id=who.team_id,
        team_name=who.team_name,
        key_id=key_id,
        key_name=key_name,
        model=model,
        provider=provider,
        status="failed" if failed else "completed",
        http_status=502 if failed else 200,
        error_type="upstream_connection_failed" if failed else "",
        input=0 if failed else tokens,
        output=answer,
        usage_source="none" if failed else "provider",
        cost_pico_usd=0 if failed else tokens * input_price + answer * output_price,
        duration_us=duration,
        ttft_us=None if failed else duration // random.randint(3, 9),
        overhead_us=int(random.lognormvariate(6, 0.3)),
    )
