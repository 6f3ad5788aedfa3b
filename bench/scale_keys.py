"""Many keys with limits and budgets: what a worker needs to start with them, and how it takes changes of them.

`fill` writes them. `Worker` is a process that runs the data plane as `serve` does, answers a trickle of requests, and
tells how late its event loop woke while this process edits rows.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import wire
from bench.processes import PYTHON, Child

TEAMS = 200
BUDGET_EVERY = 3
"""Each third key has a budget of its own."""
ROWS_AT_ONCE = 5_000
SECRET = "sk-gw-scale00000-0123456789abcdef0123456789abcdef"
"""Of the key that the worker's requests are made with."""
NOTHING = "nothing"


def secret_of(number: int) -> str:
    """What the made-up key with that number is called with."""
    return f"sk-gw-s{number:09}-{hashlib.sha256(b'%d' % number).hexdigest()}"


def spread_secrets(keys: int, most: int) -> list[str]:
    """Those of at most so many keys, evenly spread over all."""
    return [secret_of(number) for number in range(0, keys, max(1, keys // most))][:most]


def fill(keys: int, *, ample: bool = False) -> None:
    """Teams with limits and budgets, and keys of theirs with two limits each and a budget every third.

    `ample`: limits that decide nothing, and a budget for each, so that all keys cost the same.
    """
    from billing.models import Budget
    from llmgateway.conf import conf
    from llmgateway.key_secrets import Pepper
    from llmgateway.models import ApiKey, ConfigChange, RateLimit, Team

    pepper = Pepper(bytes.fromhex(conf.key_peppers[0]))
    teams = Team.objects.bulk_create([Team(name=f"team-{number:03}") for number in range(TEAMS)])
    requests, tokens, budget_every = (10**9, 10**12, 1) if ample else (600, 10_000_000, BUDGET_EVERY)
    RateLimit.objects.bulk_create([RateLimit(team=team, amount=max(1_000_000, requests)) for team in teams])
    Budget.objects.bulk_create([Budget(team=team, name="month", limit_pico_usd=10**16) for team in teams])
    for start in range(0, keys, ROWS_AT_ONCE):
        numbers = range(start, min(start + ROWS_AT_ONCE, keys))
        rows = ApiKey.objects.bulk_create(
            [
                ApiKey(
                    name=f"key-{number:06}",
                    team=teams[number % TEAMS],
                    public_id=f"s{number:09}",
                    digest=pepper.digest(hashlib.sha256(secret_of(number).encode()).digest()).hex(),
                    pepper_id=_pepper_id(),
                    allowed_models=[wire.MODEL] if number % 2 else [],
                )
                for number in numbers
            ],
            batch_size=1000,
        )
        limits = [RateLimit(key=row, amount=requests) for row in rows]
        limits += [RateLimit(key=row, metric="tokens", per="day", amount=tokens) for row in rows]
        RateLimit.objects.bulk_create(limits, batch_size=1000)
        budgets = [Budget(key=row, name="day", window="day", limit_pico_usd=10**14) for row in rows[::budget_every]]
        Budget.objects.bulk_create(budgets, batch_size=1000)
    ConfigChange.objects.all().delete()


def _pepper_id() -> str:
    from llmgateway.conf import conf
    from llmgateway.key_secrets import pepper_fingerprint

    return pepper_fingerprint(bytes.fromhex(conf.key_peppers[0]))


def edits() -> dict[str, Callable[[], object]]:
    """Changes of one row, of a row that all keys share, and of everything, by what they are called."""
    from llmgateway.models import ApiKey, ConfigChange, RateLimit, Team

    return {
        NOTHING: lambda: None,
        "one key": lambda: ApiKey.objects.filter(name="key-000005").update(enabled=False),
        "one key's limit": lambda: RateLimit.objects.filter(key__name="key-000007", metric="tokens").update(amount=5),
        "one team": lambda: Team.objects.filter(name="team-007").update(name="seven"),
        "everyone's new limit": lambda: RateLimit.objects.create(amount=10**9),
        "a reload of everything": lambda: ConfigChange.objects.create(
            table_name="", row_id="", created_at="2026-01-01T00:00:00Z", transaction_id=2**60
        ),
    }


@dataclass(frozen=True, slots=True)
class Started:
    """What a worker needed until it could answer."""

    load_s: float
    load_cpu_s: float
    """Of reading the configuration alone."""
    start_s: float
    start_cpu_s: float
    """Of everything: journals, configuration, counters."""
    empty_mb: float
    """Resident before it knew any key."""
    started_mb: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Change:
    """How a worker took an edit."""

    visible_s: float
    """From the commit until requests see it."""
    gap_ms: float
    """How late the event loop ran at worst."""
    own_gap_ms: float
    """The same without the time in which other processes had the CPUs."""
    gaps: int
    """How many of the worker's own were longer than 20 ms."""
    requests: int
    failed: int


class Worker:
    """The child process, as its parent sees it."""

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        self._child = Child([PYTHON, "-m", "bench.scale_worker"], env=env, output=log, talks=True)
        self.started = Started(**json.loads(self._child.read_line()))

    def change(self, name: str, edit: Callable[[], object]) -> Change:
        self._child.ask(b"mark")
        edit()
        committed = time.time()
        answer = json.loads(self._child.ask(b"idle" if name == NOTHING else b"seen"))
        seen_at = answer.pop("seen_at")
        return Change(visible_s=max(0.0, seen_at - committed) if seen_at else 0.0, **answer)

    def rss_mb(self) -> float:
        return float(self._child.ask(b"rss"))

    def stop(self) -> None:
        self._child.stop()
