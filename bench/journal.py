"""`python -m bench.journal`: what the journal costs per request, what each fsync policy costs, and the drain per row.

Everything runs in one process on a folder that is thrown away; `--folder` puts it on the disk that matters.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICIES = ("never", "interval", "always")
WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one journalled request: its `open` and its `close`."""

    cpu_us: float
    """Of the thread that answers requests."""
    process_cpu_us: float
    """Of all threads, so that synchronising is in it."""
    p50_us: float
    p99_us: float
    per_second: float
    """One after the other, as the event loop writes them."""


def records(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the pipeline writes for a chat request, in size and shape."""
    now = time.time()
    asked = {
        "id": f"req_{number:032x}", "started_at": now, "admitted_at": now, "key_id": str(number % 20),
        "key_name": "application", "team_id": 3, "team_name": "platform", "end_user": "", "client_request_id": "",
        "client_ip": "192.0.2.1", "operation": "chat", "alias": "gpt-4o-mini", "stream": True,
    }  # fmt: skip
    target = {"provider": "openai", "deployment": "openai-main", "model": "gpt-4o-mini"}
    opened = {
        **asked, **target, "held_pico_usd": 629_400_000, "input_estimate": 100, "price_id": 5, "input_price": 150_000,
        "output_price": 600_000, "request_price": 0, "strict_pico_usd": None,
        "windows": [["budget:1:1773446400", 1, 629_400_000], ["budget:2:1772323200", 2, 629_400_000]],
    }  # fmt: skip
    attempt = {**target, "status": 200, "cause": "completed", "duration_us": 412_345, "cost_pico_usd": 30_000_000}
    closed = {
        **asked, **target, "status": "completed", "http_status": 200, "error_type": "",
        "response_model": "gpt-4o-mini-2024-07-18", "input": 90, "cache_read": 10, "cache_write_5m": 0,
        "cache_write_1h": 0, "audio_input": 0, "image_input": 0, "output": 20, "reasoning": 5, "audio_output": 0,
        "usage_source": "provider",
        "usage_raw": {
            "prompt_tokens": 100, "completion_tokens": 25, "total_tokens": 125,
            "prompt_tokens_details": {"cached_tokens": 10}, "completion_tokens_details": {"reasoning_tokens": 5},
        },
        "cost_pico_usd": 30_000_000, "held_pico_usd": 629_400_000, "over_hold": False, "price_id": 5, "priced": True,
        "duration_us": 412_345 + number % 9973, "ttft_us": 90_000 + number % 997, "overhead_us": 300 + number % 97,
        "attempts": [attempt],
    }  # fmt: skip
    return opened, closed


def journal_cost(folder: Path, policy: str, *, requests: int) -> Cost:
    from billing.journal import Journal

    journal = Journal(folder / policy, fsync=policy, max_bytes=2**40)
    pairs = [records(number) for number in range(requests + WARM_UP)]
    for opened, closed in pairs[:WARM_UP]:
        journal.open(opened)
        journal.close(closed)
    took = []
    thread, process, begun = time.thread_time(), time.process_time(), time.perf_counter()
    for opened, closed in pairs[WARM_UP:]:
        before = time.perf_counter()
        journal.open(opened)
        journal.close(closed)
        took.append(time.perf_counter() - before)
    elapsed = time.perf_counter() - begun
    thread, process = time.thread_time() - thread, time.process_time() - process
    journal.stop()
    took.sort()
    return Cost(
        cpu_us=thread / requests * 1e6,
        process_cpu_us=process / requests * 1e6,
        p50_us=statistics.median(took) * 1e6,
        p99_us=took[int(len(took) * 0.99)] * 1e6,
        per_second=requests / elapsed,
    )


def drain_cost(folder: Path, *, rows: int, batch: int) -> float:
    """CPU microseconds per row, rollups included, from the journal to a durable commit."""
    from billing import ledger
    from billing.journal import Journal

    journal = Journal(folder / "drained", fsync="never", max_bytes=2**40)
    drain = ledger.JournalDrain(journal.folder, journal=journal)
    drain.has_own_connection = True  # As in the server.
    spent = 0.0
    for start in range(0, rows, batch):
        for number in range(start, start + batch):
            opened, closed = records(number)
            journal.open(opened)
            journal.close(closed)
        before = time.process_time()
        drain.drain()
        spent += time.process_time() - before
    journal.stop()
    return spent / rows * 1e6


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.journal", description=__doc__)
    made.add_argument("--requests", type=int, default=20_000, help="of each measurement")
    made.add_argument("--rounds", type=int, default=3, help="the fastest counts: others measure the neighbours")
    made.add_argument("--folder", type=Path, help="where the journals are written (default: a temporary folder)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-journal-") as folder:
        _prepare(Path(folder))
        _print(options, Path(folder))
    return 0


def _prepare(folder: Path) -> None:
    os.environ |= {"GATEWAY_DATA_DIR": str(folder / "data"), "DJANGO_SETTINGS_MODULE": "llmgateway.settings"}
    os.environ.pop("DATABASE_URL", None)
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    # As the server does.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _print(options: argparse.Namespace, folder: Path) -> None:
    say = sys.stdout.write
    rounds = range(options.rounds)
    say("| fsync | CPU µs / request | all threads | p50 µs | p99 µs | requests/s |\n|---|--:|--:|--:|--:|--:|\n")
    for policy in POLICIES:
        # A disk that must confirm each record is slow, and says the same after fewer of them.
        count = options.requests if policy != "always" else max(1, options.requests // 10)
        costs = [journal_cost(folder / str(number), policy, requests=count) for number in rounds]
        cost = min(costs, key=lambda each: each.cpu_us)
        say(
            f"| `{policy}` | {cost.cpu_us:.1f} | {cost.process_cpu_us:.1f} | {cost.p50_us:.0f} | {cost.p99_us:.0f} | "
            f"{cost.per_second:,.0f} |\n"
        )
    say("\n| rows per commit | CPU µs / row, SQLite |\n|--:|--:|\n")
    for batch in (1000, 200, 50):
        rows = max(batch, options.requests // batch * batch)
        row = min(_drained(folder / f"{number}-{batch}", rows, batch) for number in rounds)
        say(f"| {batch:,} | {row:.1f} |\n")


def _drained(folder: Path, rows: int, batch: int) -> float:
    from billing.models import JournalOffset, UsageRecord

    UsageRecord.objects.all().delete()
    JournalOffset.objects.all().delete()
    return drain_cost(folder, rows=rows, batch=batch)


if __name__ == "__main__":
    sys.exit(main())
