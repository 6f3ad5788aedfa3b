"""A made-up past for the demo, written the way real requests are: as journal records, which the drain moves to the ledger.

The same seed gives the same past, so that screenshots of two demos look alike.
"""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from billing.journal import Journal
from billing.pricing import cost, in_force
from llmgateway.conf import Conf
from llmgateway.pipeline.protocols import Record
from llmgateway.pipeline.snapshot import Alias, Deployment, Key, Snapshot
from providers.adapters.types import Usage

DAYS = 8
REQUESTS_A_DAY = 700
SEED = 20


@dataclass(frozen=True, slots=True)
class Habit:
    """What one key's application does all day."""

    key: str
    alias: str
    operation: str
    share: float
    input_tokens: int
    output_tokens: int
    ttft_ms: float
    ms_per_token: float


HABITS = (
    Habit("demo", "demo-chat", "chat", 0.30, 900, 220, 320, 9),
    Habit("demo", "demo-reasoning", "chat", 0.08, 1500, 700, 900, 12),
    Habit("demo-mobile-app", "demo-chat", "chat", 0.34, 350, 140, 280, 9),
    Habit("demo-mobile-app", "demo-embedding", "embeddings", 0.14, 260, 0, 40, 0),
    Habit("demo-notebooks", "demo-large", "chat", 0.14, 6000, 900, 600, 14),
)
ENDINGS = (("completed", 200, "", 0.962), ("cancelled", 200, "", 0.018), ("failed", 503, "upstream_error", 0.02))


def write_history(conf: Conf, snapshot: Snapshot, *, now: float) -> int:
    """Journal the past of `DAYS` days up to `now`; whoever starts next moves it to the ledger. Returns how many requests."""
    journal = Journal(conf.journal_dir, fsync="never", max_bytes=2**40)
    count = 0
    try:
        for opened, closed in requests(snapshot, now=now):
            journal.open(opened)
            journal.close(closed)
            count += 1
    finally:
        journal.stop()
    return count


def requests(snapshot: Snapshot, *, now: float) -> Iterator[tuple[Record, Record]]:
    """Pairs of `open` and `close` records, oldest first."""
    chance = random.Random(SEED)  # noqa: S311  # nobody is to be surprised by it
    keys = {entry.key.name: entry.key for entry in snapshot.keys.values()}
    weights = [habit.share for habit in HABITS]
    for moment in _moments(chance, now):
        habit = chance.choices(HABITS, weights)[0]
        yield _request(chance, habit, keys[habit.key], snapshot.aliases[habit.alias], moment)


def _moments(chance: random.Random, now: float) -> Iterator[float]:
    """Busy days, quiet nights and weekends."""
    start = now - DAYS * 86_400
    moment = start
    while True:
        day_part = (moment % 86_400) / 86_400
        weekday = int(moment // 86_400 + 3) % 7  # The epoch was a Thursday.
        activity = (1.15 - math.cos(2 * math.pi * (day_part - 0.08))) / 1.15 * (0.35 if weekday > 4 else 1.0)
        moment += chance.expovariate(REQUESTS_A_DAY / 86_400 * activity)
        if moment >= now - 30:
            return
        yield moment


def _request(chance: random.Random, habit: Habit, key: Key, alias: Alias, started_at: float) -> tuple[Record, Record]:
    weights = {target.deployment.id: target.weight for target in alias.targets if target.deployment is not None}
    target = chance.choices(alias.deployments, [weights.get(each.id, 1) for each in alias.deployments])[0]
    status, http_status, error_type, _ = chance.choices(ENDINGS, [ending[3] for ending in ENDINGS])[0]
    usage = _usage(chance, habit) if status != "failed" else Usage()
    price = in_force(target.prices, started_at)
    spent = cost(price, usage) if price else 0
    ttft_us = int(habit.ttft_ms * chance.lognormvariate(0, 0.35) * 1000)
    streamed = habit.operation == "chat" and chance.random() < 0.7
    opened: Record = {
        "id": f"demo-{uuid.UUID(int=chance.getrandbits(128)).hex}",
        "started_at": started_at,
        "key_id": key.id,
        "key_name": key.name,
        "team_id": key.team_id,
        "team_name": key.team_name,
        "end_user": f"user-{chance.randint(1, 40)}",
        "operation": habit.operation,
        "alias": alias.name,
        "stream": streamed,
        "held_pico_usd": 0,
        "windows": [],
        "input_estimate": habit.input_tokens,
    }
    closed = {
        **{name: value for name, value in opened.items() if name not in {"windows", "input_estimate"}},
        "status": status,
        "http_status": http_status,
        "error_type": error_type,
        "client_ip": "192.0.2.7",
        **_where(target),
        **_tokens(usage),
        "usage_source": "provider" if status == "completed" else "estimated" if status == "cancelled" else "none",
        "cost_pico_usd": spent,
        "price_id": (price.id or None) if price else None,
        "priced": price is not None and not price.is_default,
        "default_price": price is not None and price.is_default,
        "duration_us": ttft_us + int(usage.output * habit.ms_per_token * chance.uniform(0.8, 1.4) * 1000),
        "ttft_us": ttft_us if status != "failed" else None,
        "overhead_us": int(chance.lognormvariate(0, 0.3) * 450),
        "attempts": [{"deployment": target.name, "status": http_status, "cost_pico_usd": spent}],
    }
    return {**opened, **_where(target)}, closed


def _where(target: Deployment) -> Record:
    return {
        "provider": target.provider,
        "deployment": target.name,
        "model": target.model,
    }


def _usage(chance: random.Random, habit: Habit) -> Usage:
    read = max(1, int(habit.input_tokens * chance.lognormvariate(0, 0.5)))
    cached = read // 128 * 64 if chance.random() < 0.3 else 0
    return Usage(
        input=read - cached,
        cache_read=cached,
        output=int(habit.output_tokens * chance.lognormvariate(0, 0.5)),
    )


def _tokens(usage: Usage) -> Record:
    return {"input": usage.input, "cache_read": usage.cache_read, "output": usage.output}
